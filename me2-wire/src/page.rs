//! Page records: the content of guest pages in a given version, the cheapest way.
//!
//! ```text
//! record, 24 bytes and the payload:
//!   page u32 │ version u32 │ base u32 │ hash u64 │ codec u8 │ 0 │ payload length u16 │ payload
//! chunk: the payload of a `Pages` frame, 1 to 512 records one after another
//! ```
//!
//! A record stands for itself: streams are not ordered among each other, so it says which version
//! it carries and guards it with a hash of the decoded page. Installing only what is newer, and
//! final, is the reader's business.
//!
//! `base` is the version that a difference applies to. The codecs so far need none, so it is 0;
//! codec 4 is set aside for differences, and those above for what comes later.

use crate::{
    PAGE_SIZE, PageIndex, Version, ZERO_PAGE_HASH,
    frame::{FrameKind, HEADER_BYTES, Header, PAGES_BYTES_MAX},
    is_zero_page, page_hash,
    rle::{self, RleError},
};

/// Length of a record without its payload, in bytes.
pub const RECORD_HEADER_BYTES: usize = 24;

/// Most records in a chunk.
pub const RECORDS_MAX: usize = 512;

/// A page that run-length encoding does not bring below this is sent as it is, in bytes: decoding
/// costs time too, on the path of a page fault.
pub const RLE_PAYS_BELOW_BYTES: usize = PAGE_SIZE * 3 / 4;

/// Longest frame that a [`ChunkWriter`] makes.
const FRAME_BYTES_MAX: usize = HEADER_BYTES + RECORDS_MAX * (RECORD_HEADER_BYTES + PAGE_SIZE);
const _: () = assert!(FRAME_BYTES_MAX - HEADER_BYTES <= PAGES_BYTES_MAX as usize);

/// How a page is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// All zeros; no payload.
    Zero = 1,
    /// Runs of words, see [`crate::rle`].
    Rle = 2,
    /// The page as it is.
    Raw = 3,
}

/// A page record, its payload still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The page.
    pub index: PageIndex,
    /// The version of its content; never 0.
    pub version: Version,
    /// The version that the payload builds on; 0, since no codec does so yet.
    pub base: Version,
    /// [`page_hash`] of the decoded page.
    pub hash: u64,
    /// How the payload is encoded.
    pub codec: Codec,
    /// The encoded page.
    pub payload: &'a [u8],
}

/// A chunk that is none, or a record that does not give the page it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The chunk ends within a record.
    #[error("page record is cut short")]
    Truncated,
    /// More records than a chunk may have.
    #[error("more than {RECORDS_MAX} records in a chunk")]
    TooMany,
    /// A codec that this version does not know: the peer is newer than agreed, or hostile.
    #[error("page codec {0} is not supported")]
    UnsupportedCodec(u8),
    /// Codec 0, or a reserved byte, or a base where there is none.
    #[error("malformed record of page {0}")]
    Malformed(PageIndex),
    /// A payload length that the codec cannot have.
    #[error("payload of {length} bytes for page {page} does not fit its codec")]
    PayloadLength {
        /// The page.
        page: PageIndex,
        /// Length that the record gives.
        length: usize,
    },
    /// A page beyond the memory.
    #[error("page {page} is beyond the memory of {total_pages} pages")]
    BeyondMemory {
        /// The page.
        page: PageIndex,
        /// Pages of memory.
        total_pages: PageIndex,
    },
    /// A payload that cannot be decoded.
    #[error("page {page} cannot be decoded")]
    Rle {
        /// The page.
        page: PageIndex,
        /// What is wrong with the payload.
        #[source]
        source: RleError,
    },
    /// The decoded page is not the one that was hashed.
    #[error("page {page} does not have the hash of its record")]
    Hash {
        /// The page.
        page: PageIndex,
    },
}

/// What became of a page in a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded {
    /// How it was encoded.
    pub codec: Codec,
    /// [`page_hash`] of the page.
    pub hash: u64,
    /// Length of its record, in bytes.
    pub bytes: usize,
}

/// What a chunk is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkCounts {
    /// Pages encoded as [`Codec::Zero`].
    pub zero: u64,
    /// Pages encoded as [`Codec::Rle`].
    pub rle: u64,
    /// Pages encoded as [`Codec::Raw`].
    pub raw: u64,
    /// All records together, in bytes, without the frame header.
    pub bytes: u64,
}

/// Writes pages into a `Pages` frame, in a buffer that is used again for the next one.
#[derive(Debug)]
pub struct ChunkWriter {
    /// Room for the frame header, then the records.
    frame: Vec<u8>,
    counts: ChunkCounts,
}

impl ChunkCounts {
    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.zero + self.rle + self.raw
    }
}

impl std::ops::AddAssign for ChunkCounts {
    fn add_assign(&mut self, other: Self) {
        self.zero += other.zero;
        self.rle += other.rle;
        self.raw += other.raw;
        self.bytes += other.bytes;
    }
}

impl ChunkWriter {
    /// An empty chunk.
    pub fn new() -> Self {
        Self {
            frame: vec![0; HEADER_BYTES],
            counts: ChunkCounts::default(),
        }
    }

    /// Appends a page, encoded the cheapest way. `page` is a snapshot, not the guest's memory:
    /// what is hashed must be what is sent. The chunk must not be full, nor the version 0.
    pub fn push(&mut self, index: PageIndex, version: Version, page: &[u8; PAGE_SIZE]) -> Encoded {
        assert!(!self.is_full(), "the caller sends a full chunk");
        assert!(version != 0, "version 0 is a hole, which is not sent");
        let at = self.frame.len();
        self.frame.resize(at + RECORD_HEADER_BYTES, 0);
        let (codec, hash) = self.push_payload(page);
        let payload_length = self.frame.len() - at - RECORD_HEADER_BYTES;
        let header = &mut self.frame[at..at + RECORD_HEADER_BYTES];
        header[0..4].copy_from_slice(&index.to_le_bytes());
        header[4..8].copy_from_slice(&version.to_le_bytes());
        header[12..20].copy_from_slice(&hash.to_le_bytes());
        header[20] = codec as u8;
        header[22..24].copy_from_slice(&(payload_length as u16).to_le_bytes());
        let bytes = self.frame.len() - at;
        self.counts.bytes += bytes as u64;
        Encoded { codec, hash, bytes }
    }

    fn push_payload(&mut self, page: &[u8; PAGE_SIZE]) -> (Codec, u64) {
        if is_zero_page(page) {
            self.counts.zero += 1;
            return (Codec::Zero, ZERO_PAGE_HASH);
        }
        let hash = page_hash(page);
        if rle::encode(page, RLE_PAYS_BELOW_BYTES, &mut self.frame).is_some() {
            self.counts.rle += 1;
            return (Codec::Rle, hash);
        }
        self.frame.extend_from_slice(page);
        self.counts.raw += 1;
        (Codec::Raw, hash)
    }

    /// Whether no further page fits.
    pub fn is_full(&self) -> bool {
        self.counts.pages() as usize == RECORDS_MAX
    }

    /// Whether there is no page in it: nothing to send.
    pub fn is_empty(&self) -> bool {
        self.counts.pages() == 0
    }

    /// What is in it.
    pub fn counts(&self) -> ChunkCounts {
        self.counts
    }

    /// The frame, its header included, ready to be written to a stream. Must not be empty.
    pub fn frame(&mut self) -> &[u8] {
        self.write_header();
        &self.frame
    }

    /// The same, given away; the writer is empty afterwards, with a new buffer.
    pub fn take_frame(&mut self) -> Vec<u8> {
        self.write_header();
        std::mem::take(self).frame
    }

    /// Empties the chunk and keeps its buffer.
    pub fn clear(&mut self) {
        self.frame.truncate(HEADER_BYTES);
        self.counts = ChunkCounts::default();
    }

    fn write_header(&mut self) {
        let header = Header::new(FrameKind::Pages, self.frame.len() - HEADER_BYTES);
        let header = header.expect("a chunk is not empty, and bounded by its number of records");
        self.frame[..HEADER_BYTES].copy_from_slice(&header.encode());
    }
}

impl Default for ChunkWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads the records of a chunk. After an error there is nothing more.
#[derive(Debug, Clone)]
pub struct ChunkReader<'a> {
    rest: &'a [u8],
    total_pages: PageIndex,
    records: usize,
}

impl<'a> ChunkReader<'a> {
    /// Reads the payload of a `Pages` frame, for a VM with so many pages.
    pub fn new(chunk: &'a [u8], total_pages: PageIndex) -> Self {
        Self {
            rest: chunk,
            total_pages,
            records: 0,
        }
    }

    fn read(&mut self) -> Result<Record<'a>, PageError> {
        if self.records == RECORDS_MAX {
            return Err(PageError::TooMany);
        }
        let (header, rest) = self.rest.split_first_chunk().ok_or(PageError::Truncated)?;
        let (mut record, length) = read_header(header, self.total_pages)?;
        (record.payload, self.rest) = rest.split_at_checked(length).ok_or(PageError::Truncated)?;
        self.records += 1;
        Ok(record)
    }
}

/// Checks everything that can be checked without the payload, and gives its length.
fn read_header<'a>(
    header: &[u8; RECORD_HEADER_BYTES],
    total_pages: PageIndex,
) -> Result<(Record<'a>, usize), PageError> {
    let (words, _) = header.as_chunks::<4>();
    let word = |at: usize| u32::from_le_bytes(words[at]);
    let (index, version, base) = (word(0), word(1), word(2));
    let hash = u64::from(word(3)) | u64::from(word(4)) << 32;
    let [codec, reserved, length @ ..] = words[5];
    let length = usize::from(u16::from_le_bytes(length));
    if index >= total_pages {
        return Err(PageError::BeyondMemory {
            page: index,
            total_pages,
        });
    }
    let (codec, fits) = match codec {
        0 => return Err(PageError::Malformed(index)),
        1 => (Codec::Zero, length == 0),
        2 => (Codec::Rle, (1..PAGE_SIZE).contains(&length)),
        3 => (Codec::Raw, length == PAGE_SIZE),
        unknown => return Err(PageError::UnsupportedCodec(unknown)),
    };
    if version == 0 || base != 0 || reserved != 0 {
        return Err(PageError::Malformed(index));
    }
    if !fits {
        return Err(PageError::PayloadLength {
            page: index,
            length,
        });
    }
    Ok((
        Record {
            index,
            version,
            base,
            hash,
            codec,
            payload: &[],
        },
        length,
    ))
}

impl<'a> Iterator for ChunkReader<'a> {
    type Item = Result<Record<'a>, PageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.read();
        if record.is_err() {
            self.rest = &[];
        }
        Some(record)
    }
}

impl Record<'_> {
    /// Decodes the page and checks its hash. On error `page` holds anything, and nothing of it may
    /// be installed.
    pub fn decode(&self, page: &mut [u8; PAGE_SIZE]) -> Result<(), PageError> {
        let hash = match self.codec {
            Codec::Zero => {
                page.fill(0);
                ZERO_PAGE_HASH
            }
            Codec::Rle => {
                rle::decode(self.payload, page).map_err(|source| PageError::Rle {
                    page: self.index,
                    source,
                })?;
                page_hash(page)
            }
            Codec::Raw => {
                // The length was checked by the reader; a record made by hand may have another.
                let length = self.payload.len();
                let payload = <&[u8; PAGE_SIZE]>::try_from(self.payload).map_err(|_| {
                    PageError::PayloadLength {
                        page: self.index,
                        length,
                    }
                })?;
                page.copy_from_slice(payload);
                page_hash(page)
            }
        };
        if hash == self.hash {
            Ok(())
        } else {
            Err(PageError::Hash { page: self.index })
        }
    }
}

#[cfg(test)]
mod tests;
