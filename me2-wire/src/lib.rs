//! What travels between two me2 processes, as bytes: frames, page records, range lists, state
//! blobs, control messages. No socket, no clock, no thread: everything works on slices, and
//! whatever a peer may have written is bounded and checked here, once, before it is used.
//!
//! ```text
//! stream ─ preface ─ frame ─ frame ─ …      frame.rs
//!                      ├─ Message            message.rs (postcard), with range.rs and blob.rs
//!                      └─ Pages              page.rs: records, whose payload is by rle.rs
//! ```
//!
//! Numbers are little-endian. Zero is never a valid kind, codec or token, so that a hole in what
//! was read cannot pass for something. `docs/protocol.md` describes the same for other
//! implementations.
//!
//! Not here: which page is sent when (me2-engine), and how bytes reach the peer (me2-user).

#![forbid(unsafe_code)]

pub mod blob;
pub mod frame;
pub mod message;
pub mod page;
pub mod range;
pub mod rle;

/// Bytes in a guest page.
pub const PAGE_SIZE: usize = 4096;

/// A guest page by its dense number: RAM pages in ascending guest-physical order, counted without
/// the hole below 4 GiB. A VM has at most `PageIndex::MAX` pages (16 TiB).
pub type PageIndex = u32;

/// Version of a page's content, larger for newer. 0: never written, never sent; such a page is a
/// hole and reads as zero.
pub type Version = u32;

/// Oldest protocol version that this crate speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;

/// Newest protocol version that this crate speaks.
pub const PROTOCOL_VERSION_MAX: u16 = 1;

/// [`page_hash`] of a page of zeros.
pub const ZERO_PAGE_HASH: u64 = 0x93d7_6fe1_48c6_89ba;

/// The hash that guards a page on its way: XXH3 with 64 bits, seed 0. It finds accidents, not
/// forgeries (the peer is authenticated by the transport).
pub fn page_hash(page: &[u8; PAGE_SIZE]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(page)
}

/// Whether a page is all zeros; quick to say no.
pub fn is_zero_page(page: &[u8; PAGE_SIZE]) -> bool {
    // Blocks are long enough for vector instructions, and short enough to stop early.
    let (blocks, _) = page.as_chunks::<64>();
    blocks.iter().all(|block| {
        let (words, _) = block.as_chunks::<8>();
        words
            .iter()
            .fold(0, |all, word| all | u64::from_le_bytes(*word))
            == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_bit_of_a_page_escapes_the_zero_test() {
        let mut page = [0; PAGE_SIZE];
        assert!(is_zero_page(&page));
        for bit in 0..PAGE_SIZE * 8 {
            page[bit / 8] = 1 << (bit % 8);
            assert!(!is_zero_page(&page), "bit {bit}");
            page[bit / 8] = 0;
        }
    }

    #[test]
    fn zero_page_hash_is_what_the_function_gives() {
        assert_eq!(page_hash(&[0; PAGE_SIZE]), ZERO_PAGE_HASH);
    }
}
