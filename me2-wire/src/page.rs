//! Page records: the content of guest pages in a given version, the cheapest way.
//!
//! ```text
//! chunk, the payload of a `Pages` frame:
//!   kind u8 │ 0 │ number of records u16 │ length of the body u32 │ body
//!     kind 1  plain   the body as it is
//!     kind 2  zstd    the body as one zstd frame
//! body, in columns:
//!   codecs │ page indices │ versions │ sources │ payload lengths │ hashes │ payloads
//! ```
//!
//! A record stands for itself: streams are not ordered among each other, so it says which version
//! it carries, and what other content it builds on, and guards it with a hash of the decoded page.
//! Installing only what is newer, and final, is the reader's business, and so is knowing what it
//! holds.
//!
//! `page/writer.rs` makes chunks, `page/decoder.rs` reads them, `page/columns.rs` has the headers of
//! records for both. `docs/protocol.md` has every byte.

mod columns;
mod decoder;
mod writer;

pub use decoder::{ChunkDecoder, Record, Records};
pub use writer::{Base, ChunkCounts, ChunkWriter, CodecSet, Compression, Encoded, Frame, PerCodec};

use crate::{
    PAGE_SIZE, PageIndex, Version,
    frame::{HEADER_BYTES, PAGES_BYTES_MAX},
    number::NUMBER_BYTES_MAX,
    rle::RleError,
};

/// Most records in a chunk.
pub const RECORDS_MAX: usize = 512;

/// Length of a chunk's own header, in bytes.
pub const CHUNK_HEADER_BYTES: usize = 8;

/// What a record takes at most besides its payload, in bytes: codec, index, version, source (of
/// two numbers), length, hash.
pub const RECORD_HEADER_BYTES_MAX: usize = 1 + 4 * NUMBER_BYTES_MAX + 2 + 8;

/// Longest body of a chunk, in bytes.
pub const BODY_BYTES_MAX: usize = RECORDS_MAX * (RECORD_HEADER_BYTES_MAX + PAGE_SIZE);

/// A page that run-length encoding does not bring below this is sent as it is, in bytes: decoding
/// costs time too, on the path of a page fault.
pub const RLE_PAYS_BELOW_BYTES: usize = PAGE_SIZE * 7 / 8;

const _: () =
    assert!(HEADER_BYTES + CHUNK_HEADER_BYTES + BODY_BYTES_MAX <= PAGES_BYTES_MAX as usize);

/// What the body of a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum ChunkKind {
    Plain = 1,
    Zstd = 2,
}

/// How a page is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// All zeros; no payload, no hash.
    Zero = 1,
    /// Without its zeros or repeats, see [`crate::rle`].
    Rle = 2,
    /// The page as it is.
    Raw = 3,
    /// The difference from an older version of the same page: page XOR base, as by [`Codec::Rle`].
    Delta = 4,
    /// The content of another page, or of an older version of this one; no payload.
    Reference = 5,
}

/// Content that the destination holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source {
    /// The page.
    pub page: PageIndex,
    /// The version of its content; never 0.
    pub version: Version,
}

/// A chunk that is none, or a record that does not give the page it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// The chunk ends within its header, or a column.
    #[error("page chunk is cut short")]
    Truncated,
    /// Bytes behind the last record.
    #[error("page chunk goes on behind its last record")]
    Trailing,
    /// A kind that this version does not know.
    #[error("page chunk of unknown kind {0}")]
    ChunkKind(u8),
    /// A reserved byte that is not zero.
    #[error("malformed header of a page chunk")]
    ChunkHeader,
    /// No record, or more than a chunk may have.
    #[error("{0} records in a chunk, 1 to {RECORDS_MAX} are allowed")]
    RecordCount(usize),
    /// A body longer than a chunk may have.
    #[error("page chunk with {0} bytes, at most {BODY_BYTES_MAX} are allowed")]
    BodyLength(usize),
    /// The body is no zstd frame, or not of the length that the header promises.
    #[error("page chunk cannot be decompressed")]
    Decompression,
    /// A codec that this version does not know: the peer is newer than agreed, or hostile.
    #[error("page codec {0} is not supported")]
    UnsupportedCodec(u8),
    /// A number in more bytes than it needs, or beyond 32 bits.
    #[error("malformed number in a page chunk")]
    Number,
    /// Version 0, or a source that cannot be one.
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
    /// The record builds on content that was not given.
    #[error("page {page} builds on version {} of page {}, which is not here", source_content.version, source_content.page)]
    SourceMissing {
        /// The page.
        page: PageIndex,
        /// What it builds on.
        source_content: Source,
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

#[cfg(test)]
mod tests;
