//! What travels between two me2 processes, as bytes: frames, page records, range lists, state
//! blobs, control messages. No socket, no clock, no thread: everything works on slices, and
//! whatever a peer may have written is bounded and checked here, once, before it is used.
//!
//! ```text
//! stream ─ preface ─ frame ─ frame ─ …      frame.rs
//!                      ├─ Message            message.rs (postcard), with range.rs and blob.rs
//!                      └─ Pages              page.rs: records, whose payload is by rle.rs or
//!                                            delta.rs; a whole chunk perhaps by zstd
//! ```
//!
//! Numbers are little-endian. Zero is never a valid kind, codec or token, so that a hole in what
//! was read cannot pass for something. `docs/protocol.md` describes the same for other
//! implementations.
//!
//! Not here: which page is sent when (me2-engine), and how bytes reach the peer (me2-user).

#![forbid(unsafe_code)]

pub mod blob;
pub mod delta;
pub mod frame;
pub mod message;
mod number;
pub mod page;
pub mod range;
pub mod rle;

pub use me2_simd::Simd;

/// Bytes in a guest page.
pub const PAGE_SIZE: usize = 4096;

/// A guest page by its dense number: RAM pages in ascending guest-physical order, counted without
/// the hole below 4 GiB. A VM has at most `PageIndex::MAX` pages (16 TiB).
pub type PageIndex = u32;

/// Version of a page's content, larger for newer. 0: never written, never sent; such a page is a
/// hole and reads as zero.
pub type Version = u32;

/// Oldest protocol version that this crate speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 4;

/// Newest protocol version that this crate speaks.
pub const PROTOCOL_VERSION_MAX: u16 = 5;

/// The first version with [`message::ToSource::FaultWaits`].
pub const FAULT_WAITS_SINCE: u16 = 5;

/// [`page_hash`] of a page of zeros.
pub const ZERO_PAGE_HASH: u64 = 0x93d7_6fe1_48c6_89ba;

/// The hash that guards a page on its way: XXH3 with 64 bits, seed 0. It finds accidents, not
/// forgeries (the peer is authenticated by the transport).
pub fn page_hash(page: &[u8; PAGE_SIZE]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(page)
}

/// What a page is recognised by among others of the same content: XXH3 with 128 bits, seed 0. Its
/// lower half is [`page_hash`], so that who has the one need not compute the other.
pub fn page_identity(page: &[u8; PAGE_SIZE]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(page)
}

/// Whether a page is all zeros; quick to say no.
pub fn is_zero_page(page: &[u8; PAGE_SIZE]) -> bool {
    Simd::best().is_zero(page)
}

/// The vector instructions in use: `portable`, `avx2` or `avx512`.
pub fn simd_level() -> &'static str {
    Simd::best().name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_page_hash_is_what_the_function_gives() {
        assert_eq!(page_hash(&[0; PAGE_SIZE]), ZERO_PAGE_HASH);
    }

    #[test]
    fn the_identity_has_the_hash_in_it() {
        for byte in 0..=255 {
            let page = [byte; PAGE_SIZE];
            assert_eq!(page_identity(&page) as u64, page_hash(&page));
        }
    }
}
