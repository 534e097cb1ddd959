//! Makes chunks.

use std::fmt;

use me2_simd::Simd;
use zstd::{bulk::Compressor, zstd_safe::compress_bound};

use super::{
    BODY_BYTES_MAX, CHUNK_HEADER_BYTES, ChunkKind, Codec, RECORD_HEADER_BYTES_MAX, RECORDS_MAX,
    RLE_PAYS_BELOW_BYTES, Source, columns::Columns,
};
use crate::{
    PAGE_SIZE, PageIndex, Version, ZERO_PAGE_HASH, delta,
    frame::{FrameKind, HEADER_BYTES, Header},
    page_hash,
    rle::Plan,
};

/// Room for all headers before the payloads, in bytes: so the body is made in one piece.
const HEADROOM: usize = HEADER_BYTES + CHUNK_HEADER_BYTES + RECORDS_MAX * RECORD_HEADER_BYTES_MAX;

/// By how many bytes a difference must be shorter than the page without it, since finding the base
/// costs the destination time.
const DELTA_PAYS_BY_BYTES: usize = 64;

/// Which codecs a writer uses; all of them, normally. A page of a kind that is not used goes as
/// it is instead, for comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodecSet {
    /// [`Codec::Zero`].
    pub zero: bool,
    /// [`Codec::Rle`].
    pub rle: bool,
}

/// An older version of a page, which the destination holds.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// The version; not 0, and less than that of the page.
    pub version: Version,
    /// The page in that version.
    pub content: &'a [u8; PAGE_SIZE],
}

/// What is done to a whole chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Nothing.
    None,
    /// zstd, if it makes the chunk smaller.
    Zstd {
        /// By zstd's own numbers, negative ones too: larger is smaller, and slower.
        level: i32,
    },
}

/// What became of a page in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// How it was encoded.
    pub codec: Codec,
    /// [`page_hash`] of the page.
    pub hash: u64,
    /// Length of its record with its payload, in bytes, before any compression of the chunk.
    pub bytes: usize,
}

/// What a chunk is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkCounts {
    /// Pages.
    pub pages: PerCodec,
    /// Their records, in bytes, before any compression, without the chunk's header.
    pub bytes: PerCodec,
}

/// A number for each codec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PerCodec {
    /// Of [`Codec::Zero`].
    pub zero: u64,
    /// Of [`Codec::Rle`].
    pub rle: u64,
    /// Of [`Codec::Raw`].
    pub raw: u64,
    /// Of [`Codec::Delta`].
    pub delta: u64,
    /// Of [`Codec::Reference`].
    pub reference: u64,
}

/// A finished chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The frame with its header, ready to be written to a stream.
    pub bytes: Vec<u8>,
    /// Whether zstd made it smaller.
    pub is_compressed: bool,
    /// Length that `bytes` would have without compression.
    pub plain_bytes: usize,
}

/// Writes pages into chunks, one after another, in buffers that are used again.
pub struct ChunkWriter {
    codecs: CodecSet,
    simd: Simd,
    counts: ChunkCounts,
    columns: Columns,
    /// Payloads, behind room for everything that goes before them.
    buffer: Vec<u8>,
    /// The difference of a page from its base.
    difference: Box<[u8; PAGE_SIZE]>,
    compressor: Option<(Compressor<'static>, i32)>,
    compressed: Vec<u8>,
}

impl Default for CodecSet {
    fn default() -> Self {
        Self {
            zero: true,
            rle: true,
        }
    }
}

impl PerCodec {
    /// All together.
    pub fn sum(&self) -> u64 {
        self.zero + self.rle + self.raw + self.delta + self.reference
    }

    /// What becomes of each.
    pub fn map(&self, become_of: impl Fn(u64) -> u64) -> Self {
        Self {
            zero: become_of(self.zero),
            rle: become_of(self.rle),
            raw: become_of(self.raw),
            delta: become_of(self.delta),
            reference: become_of(self.reference),
        }
    }

    fn of_mut(&mut self, codec: Codec) -> &mut u64 {
        match codec {
            Codec::Zero => &mut self.zero,
            Codec::Rle => &mut self.rle,
            Codec::Raw => &mut self.raw,
            Codec::Delta => &mut self.delta,
            Codec::Reference => &mut self.reference,
        }
    }
}

impl ChunkWriter {
    /// A writer that uses all codecs.
    pub fn new() -> Self {
        Self::with_codecs(CodecSet::default())
    }

    /// A writer that uses these codecs.
    pub fn with_codecs(codecs: CodecSet) -> Self {
        Self {
            codecs,
            simd: Simd::best(),
            counts: ChunkCounts::default(),
            columns: Columns::default(),
            buffer: vec![0; HEADROOM],
            difference: Box::new([0; PAGE_SIZE]),
            compressor: None,
            compressed: Vec::new(),
        }
    }

    /// Appends a page, encoded the cheapest way: as a page of zeros, by [`Codec::Rle`], as it is,
    /// or, if a base is given and it pays, as the difference from that. `page` is a snapshot, not
    /// the guest's memory: what is hashed must be what is sent. The chunk must not be full.
    pub fn push(
        &mut self,
        index: PageIndex,
        version: Version,
        page: &[u8; PAGE_SIZE],
        base: Option<Base<'_>>,
    ) -> Encoded {
        self.push_with(index, version, page, base, || page_hash(page))
    }

    /// The same for a page whose [`page_hash`] is known already, perhaps as the lower half of its
    /// [`page_identity`](crate::page_identity).
    pub fn push_hashed(
        &mut self,
        index: PageIndex,
        version: Version,
        page: &[u8; PAGE_SIZE],
        base: Option<Base<'_>>,
        hash: u64,
    ) -> Encoded {
        debug_assert_eq!(hash, page_hash(page));
        self.push_with(index, version, page, base, || hash)
    }

    /// Appends a page whose content, with that hash, the destination holds. The chunk must not be
    /// full.
    pub fn push_reference(
        &mut self,
        index: PageIndex,
        version: Version,
        source: Source,
        hash: u64,
    ) -> Encoded {
        assert!(source.version != 0, "version 0 is a hole");
        let itself = Source {
            page: index,
            version,
        };
        assert!(source != itself, "a page is not its own source");
        self.push_record(index, version, Codec::Reference, Some(source), hash, 0)
    }

    /// Whether no further page fits.
    pub fn is_full(&self) -> bool {
        self.counts.pages.sum() as usize == RECORDS_MAX
    }

    /// Whether there is no page in it: nothing to send.
    pub fn is_empty(&self) -> bool {
        self.counts.pages.sum() == 0
    }

    /// What is in it.
    pub fn counts(&self) -> ChunkCounts {
        self.counts
    }

    /// Empties the chunk and keeps its buffers.
    pub fn clear(&mut self) {
        self.counts = ChunkCounts::default();
        self.columns.clear();
        self.buffer.truncate(HEADROOM);
    }

    /// The frame, its header included; the writer is empty afterwards. It must not be empty now.
    pub fn take_frame(&mut self, compression: Compression) -> Frame {
        let body_at = self.finish_body();
        let body_bytes = self.buffer.len() - body_at;
        let plain_bytes = HEADER_BYTES + CHUNK_HEADER_BYTES + body_bytes;
        let is_compressed = match compression {
            Compression::None => false,
            Compression::Zstd { level } => self.compress(body_at, level),
        };
        let (kind, body) = if is_compressed {
            (ChunkKind::Zstd, &self.compressed[..])
        } else {
            (ChunkKind::Plain, &self.buffer[body_at..])
        };
        let header = Header::new(FrameKind::Pages, CHUNK_HEADER_BYTES + body.len())
            .expect("a chunk is bounded by its number of records");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + CHUNK_HEADER_BYTES + body.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(&[kind as u8, 0]);
        bytes.extend_from_slice(&(self.counts.pages.sum() as u16).to_le_bytes());
        bytes.extend_from_slice(&(body_bytes as u32).to_le_bytes());
        bytes.extend_from_slice(body);
        self.clear();
        Frame {
            bytes,
            is_compressed,
            plain_bytes,
        }
    }

    fn push_with(
        &mut self,
        index: PageIndex,
        version: Version,
        page: &[u8; PAGE_SIZE],
        base: Option<Base<'_>>,
        hash: impl FnOnce() -> u64,
    ) -> Encoded {
        assert!(!self.is_full(), "the caller sends a full chunk");
        let nonzero = self.simd.nonzero(page);
        if nonzero.iter().all(|words| *words == 0) {
            if self.codecs.zero {
                return self.push_record(index, version, Codec::Zero, None, ZERO_PAGE_HASH, 0);
            }
            self.buffer.extend_from_slice(page);
            return self.push_record(index, version, Codec::Raw, None, ZERO_PAGE_HASH, PAGE_SIZE);
        }
        let own = self
            .codecs
            .rle
            .then(|| Plan::shortest(self.simd, page, nonzero))
            .filter(|plan| plan.length() < RLE_PAYS_BELOW_BYTES);
        let own_bytes = own.map_or(PAGE_SIZE, |plan| plan.length());
        let delta = base.and_then(|base| {
            let plan = delta::plan(self.simd, page, base.content, &mut self.difference);
            (plan.length() + DELTA_PAYS_BY_BYTES < own_bytes).then_some((plan, base.version))
        });
        let (codec, source, bytes) = match (delta, own) {
            (Some((plan, version)), _) => {
                plan.write(self.simd, &self.difference, &mut self.buffer);
                let source = Source {
                    page: index,
                    version,
                };
                (Codec::Delta, Some(source), plan.length())
            }
            (None, Some(plan)) => {
                plan.write(self.simd, page, &mut self.buffer);
                (Codec::Rle, None, plan.length())
            }
            (None, None) => {
                self.buffer.extend_from_slice(page);
                (Codec::Raw, None, PAGE_SIZE)
            }
        };
        self.push_record(index, version, codec, source, hash(), bytes)
    }

    fn push_record(
        &mut self,
        index: PageIndex,
        version: Version,
        codec: Codec,
        source: Option<Source>,
        hash: u64,
        payload_bytes: usize,
    ) -> Encoded {
        assert!(!self.is_full(), "the caller sends a full chunk");
        assert!(version != 0, "version 0 is a hole, which is not sent");
        let before = self.columns.bytes();
        self.columns
            .push(index, version, codec, source, hash, payload_bytes);
        let bytes = self.columns.bytes() - before + payload_bytes;
        *self.counts.pages.of_mut(codec) += 1;
        *self.counts.bytes.of_mut(codec) += bytes as u64;
        Encoded { codec, hash, bytes }
    }

    /// Puts the columns right before the payloads, and says where the body begins.
    fn finish_body(&mut self) -> usize {
        assert!(!self.is_empty(), "an empty chunk is not sent");
        let body_at = HEADROOM - self.columns.bytes();
        let mut at = body_at;
        for column in self.columns.in_order() {
            self.buffer[at..at + column.len()].copy_from_slice(column);
            at += column.len();
        }
        debug_assert!(self.buffer.len() - body_at <= BODY_BYTES_MAX);
        body_at
    }

    /// Compresses the body, and says whether that made it smaller.
    fn compress(&mut self, body_at: usize, level: i32) -> bool {
        let body = &self.buffer[body_at..];
        let (compressor, current) = self.compressor.get_or_insert_with(|| {
            let compressor = Compressor::new(level).expect("memory for zstd's context");
            (compressor, level)
        });
        if *current != level {
            compressor
                .set_compression_level(level)
                .expect("zstd limits the level by itself");
            *current = level;
        }
        self.compressed.clear();
        self.compressed.reserve(compress_bound(body.len()));
        compressor
            .compress_to_buffer(body, &mut self.compressed)
            .is_ok_and(|length| length < body.len())
    }
}

impl Default for ChunkWriter {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ChunkWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkWriter")
            .field("codecs", &self.codecs)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
