//! Reads chunks.

use std::{fmt, slice};

use zstd::{bulk::Decompressor, zstd_safe::find_frame_compressed_size};

use super::{
    BODY_BYTES_MAX, CHUNK_HEADER_BYTES, ChunkKind, Codec, PageError, RECORDS_MAX, Source,
    columns::{RecordHeader, read_columns},
};
use crate::{
    PAGE_SIZE, PageIndex, Version, delta, page_hash,
    rle::{self, RleError},
};

/// Reads chunks, one after another, in buffers that are used again.
pub struct ChunkDecoder {
    total_pages: PageIndex,
    /// The body of a chunk that came compressed.
    body: Vec<u8>,
    headers: Vec<RecordHeader>,
    decompressor: Decompressor<'static>,
}

/// The records of a chunk, in order.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    headers: slice::Iter<'a, RecordHeader>,
    payloads: &'a [u8],
}

/// A page record, its payload still encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The page.
    pub index: PageIndex,
    /// The version of its content; never 0.
    pub version: Version,
    /// How the payload is encoded.
    pub codec: Codec,
    /// [`page_hash`] of the decoded page.
    pub hash: u64,
    source: Option<Source>,
    payload: &'a [u8],
}

impl ChunkDecoder {
    /// A decoder for a VM with so many pages.
    pub fn new(total_pages: PageIndex) -> Self {
        Self {
            total_pages,
            body: Vec::new(),
            headers: Vec::new(),
            decompressor: Decompressor::new().expect("memory for zstd's context"),
        }
    }

    /// Reads the payload of a `Pages` frame: decompresses it, if need be, and checks everything
    /// but the payloads of the records. Holds at most [`BODY_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// If any record is malformed; none can be had then.
    pub fn open<'a>(&'a mut self, payload: &'a [u8]) -> Result<Records<'a>, PageError> {
        let (header, body) = payload
            .split_first_chunk::<CHUNK_HEADER_BYTES>()
            .ok_or(PageError::Truncated)?;
        let [kind, reserved, count_low, count_high, length @ ..] = *header;
        let records = usize::from(u16::from_le_bytes([count_low, count_high]));
        let body_bytes = u32::from_le_bytes(length) as usize;
        if reserved != 0 {
            return Err(PageError::ChunkHeader);
        }
        if !(1..=RECORDS_MAX).contains(&records) {
            return Err(PageError::RecordCount(records));
        }
        if body_bytes > BODY_BYTES_MAX {
            return Err(PageError::BodyLength(body_bytes));
        }
        let body = match kind {
            kind if kind == ChunkKind::Plain as u8 => body,
            kind if kind == ChunkKind::Zstd as u8 => {
                decompress(&mut self.decompressor, body, body_bytes, &mut self.body)?;
                &self.body
            }
            unknown => return Err(PageError::ChunkKind(unknown)),
        };
        match body.len() {
            length if length < body_bytes => return Err(PageError::Truncated),
            length if length > body_bytes => return Err(PageError::Trailing),
            _ => {}
        }
        let payloads = read_columns(body, records, self.total_pages, &mut self.headers)?;
        Ok(Records {
            headers: self.headers.iter(),
            payloads,
        })
    }

    /// What the buffer for bodies takes.
    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.body.capacity()
    }
}

/// Decompresses exactly one zstd frame, to exactly that length.
fn decompress(
    decompressor: &mut Decompressor<'_>,
    input: &[u8],
    length: usize,
    output: &mut Vec<u8>,
) -> Result<(), PageError> {
    if find_frame_compressed_size(input) != Ok(input.len()) {
        return Err(PageError::Decompression);
    }
    output.clear();
    output.reserve_exact(length);
    match decompressor.decompress_to_buffer(input, output) {
        Ok(decompressed) if decompressed == length => Ok(()),
        _ => Err(PageError::Decompression),
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.headers.next()?;
        let payload;
        (payload, self.payloads) = self.payloads.split_at(header.payload_bytes);
        Some(Record {
            index: header.index,
            version: header.version,
            codec: header.codec,
            hash: header.hash,
            source: header.source,
            payload,
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.headers.size_hint()
    }
}

impl ExactSizeIterator for Records<'_> {}

impl Record<'_> {
    /// The content that [`decode`](Self::decode) needs: for [`Codec::Delta`] the same page in the
    /// base version, for [`Codec::Reference`] the page referred to.
    pub fn source(&self) -> Option<Source> {
        self.source
    }

    /// Decodes the page and checks its hash. `source` is the content of [`source`](Self::source);
    /// without one it is ignored. On error `page` holds anything, and nothing of it may be
    /// installed.
    pub fn decode(
        &self,
        source: Option<&[u8; PAGE_SIZE]>,
        page: &mut [u8; PAGE_SIZE],
    ) -> Result<(), PageError> {
        match self.codec {
            Codec::Zero => page.fill(0),
            Codec::Rle => self.payload_result(rle::decode(self.payload, page))?,
            Codec::Raw => page.copy_from_slice(self.payload),
            Codec::Delta => {
                self.payload_result(delta::decode(self.payload, self.require(source)?, page))?
            }
            Codec::Reference => *page = *self.require(source)?,
        }
        if self.codec == Codec::Zero || page_hash(page) == self.hash {
            Ok(())
        } else {
            Err(PageError::Hash { page: self.index })
        }
    }

    fn payload_result(&self, result: Result<(), RleError>) -> Result<(), PageError> {
        result.map_err(|source| PageError::Rle {
            page: self.index,
            source,
        })
    }

    fn require<'s>(
        &self,
        source: Option<&'s [u8; PAGE_SIZE]>,
    ) -> Result<&'s [u8; PAGE_SIZE], PageError> {
        source.ok_or_else(|| PageError::SourceMissing {
            page: self.index,
            source_content: self.source.expect("a codec that builds on one"),
        })
    }
}

impl fmt::Debug for ChunkDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChunkDecoder")
            .field("total_pages", &self.total_pages)
            .finish_non_exhaustive()
    }
}
