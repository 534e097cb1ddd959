//! Pages with words left out: zeros, or repeats of the word before. A format of our own.
//!
//! ```text
//! mode u8 │ top u8 │ middle bytes │ mask bytes │ words
//!   mode 1  zeros     a word that is left out is zero
//!   mode 2  repeats   a word that is left out equals the one before (before the first: zero)
//! ```
//!
//! A bit of a mask byte says of one of the 512 words that it is there: bit b of mask byte m (0–63)
//! stands for word 8 × m + b. Mask bytes of 0 are left out in turn: bit b of middle byte j (0–7)
//! says that mask byte 8 × j + b is there. And so are middle bytes of 0, by the bits of the top
//! byte. A byte of 0 that is there all the same is invalid, so that a page has one encoding for
//! each mode.
//!
//! A page of one repeated word takes 13 bytes, one that does not compress at all would take 4170.
//! Time hardly depends on the content: no branch is taken for a single word.

use me2_simd::{GATHER_SLACK_BYTES, Mask, Simd, count};

use crate::PAGE_SIZE;

/// Bytes in a word.
const WORD: usize = 8;
/// Bytes in a whole mask.
const MASK_BYTES: usize = size_of::<Mask>();

/// Longest encoded page, in bytes.
pub const ENCODED_BYTES_MAX: usize = 2 + 8 + MASK_BYTES + PAGE_SIZE;

/// An encoded page that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RleError {
    /// The input ends before the page is full.
    #[error("run-length encoded page is cut short")]
    Truncated,
    /// A mode that is not known.
    #[error("invalid run-length mode {0}")]
    Mode(u8),
    /// A byte of a mask that should have been left out.
    #[error("empty byte in a run-length mask")]
    EmptyMaskByte,
    /// More than a page.
    #[error("run-length encoded page is longer than a page")]
    TooLong,
}

/// Which words are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    Zeros = 1,
    Repeats = 2,
}

/// How a page would be encoded, before it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    mode: Mode,
    mask: Mask,
    length: usize,
}

/// Appends the encoded page to `out` and gives its length in bytes, or `None`, with `out` as it
/// was, if it would take `limit` bytes or more: it does not pay.
pub fn encode(page: &[u8; PAGE_SIZE], limit: usize, out: &mut Vec<u8>) -> Option<usize> {
    encode_with(Simd::best(), page, limit, out)
}

/// The same, with the vector instructions of choice.
pub fn encode_with(
    simd: Simd,
    page: &[u8; PAGE_SIZE],
    limit: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let plan = Plan::shortest(simd, page, simd.nonzero(page));
    (plan.length < limit).then(|| {
        plan.write(simd, page, out);
        plan.length
    })
}

/// Decodes a page, with not a byte left over. On error, `page` holds anything.
pub fn decode(input: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), RleError> {
    decode_with(Simd::best(), input, page)
}

/// The same, with the vector instructions of choice.
pub fn decode_with(simd: Simd, input: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), RleError> {
    let (mode, rest) = input.split_first().ok_or(RleError::Truncated)?;
    let (mask, words) = read_mask(rest)?;
    match words.len().cmp(&(count(&mask) * WORD)) {
        std::cmp::Ordering::Less => return Err(RleError::Truncated),
        std::cmp::Ordering::Greater => return Err(RleError::TooLong),
        std::cmp::Ordering::Equal => {}
    }
    match mode {
        1 => simd.scatter(&mask, words, page),
        2 => simd.scatter_repeating(&mask, words, page),
        unknown => return Err(RleError::Mode(*unknown)),
    }
    Ok(())
}

impl Plan {
    /// Leaves zeros out, of a page with these other words.
    pub(crate) fn zeros(nonzero: Mask) -> Self {
        Self::new(Mode::Zeros, nonzero)
    }

    /// Leaves out zeros or repeats, whatever takes less.
    pub(crate) fn shortest(simd: Simd, page: &[u8; PAGE_SIZE], nonzero: Mask) -> Self {
        let zeros = Self::zeros(nonzero);
        let repeats = Self::new(Mode::Repeats, simd.changes(page));
        if repeats.length < zeros.length {
            repeats
        } else {
            zeros
        }
    }

    fn new(mode: Mode, mask: Mask) -> Self {
        let middle = mask.map(nonzero_bytes);
        let middle_bytes = middle.iter().filter(|byte| **byte != 0).count();
        let length = 2 + middle_bytes + ones(&middle) + count(&mask) * WORD;
        Self { mode, mask, length }
    }

    /// Length of the encoded page in bytes.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Appends the encoded page.
    pub(crate) fn write(&self, simd: Simd, page: &[u8; PAGE_SIZE], out: &mut Vec<u8>) {
        let middle = self.mask.map(nonzero_bytes);
        let top = nonzero_bytes(u64::from_le_bytes(middle));
        let start = out.len();
        out.resize(start + self.length + GATHER_SLACK_BYTES, 0);
        let to = &mut out[start..];
        to[0] = self.mode as u8;
        to[1] = top;
        let mut at = 2 + pack(&middle, &mut to[2..]);
        for (bytes, present) in self.mask.iter().zip(middle) {
            if present == 0xff {
                to[at..at + 8].copy_from_slice(&bytes.to_le_bytes());
                at += 8;
            } else if present != 0 {
                at += pack(&bytes.to_le_bytes(), &mut to[at..]);
            }
        }
        simd.gather(page, &self.mask, &mut to[at..]);
        out.truncate(start + self.length);
    }
}

/// Writes those of the bytes that are not zero, with room for all of them and one more.
fn pack(bytes: &[u8; 8], out: &mut [u8]) -> usize {
    let out: &mut [u8; 9] = out.first_chunk_mut().expect("the slack");
    let mut written = 0;
    for byte in bytes {
        out[written & 15] = *byte;
        written += usize::from(*byte != 0);
    }
    written
}

/// Which of the 8 bytes are not zero, a bit for each, the lowest byte first.
fn nonzero_bytes(bytes: u64) -> u8 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let tops = (((bytes & LOW) + LOW) | bytes) & !LOW;
    // Brings the top bit of each byte into the highest byte.
    ((tops >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

/// Reads what [`Plan::write`] wrote behind the mode, up to the words.
fn read_mask(input: &[u8]) -> Result<(Mask, &[u8]), RleError> {
    let (top, rest) = input.split_first().ok_or(RleError::Truncated)?;
    let (packed, mut rest) = rest
        .split_at_checked(top.count_ones() as usize)
        .ok_or(RleError::Truncated)?;
    let middle = unpack(*top, packed)?.to_le_bytes();
    let mut mask = Mask::default();
    for (bytes, present) in mask.iter_mut().zip(middle) {
        if present != 0 {
            let packed;
            (packed, rest) = rest
                .split_at_checked(present.count_ones() as usize)
                .ok_or(RleError::Truncated)?;
            *bytes = unpack(present, packed)?;
        }
    }
    Ok((mask, rest))
}

/// Puts bytes in the places of the bits, zeros in the others. There are as many as bits.
fn unpack(present: u8, packed: &[u8]) -> Result<u64, RleError> {
    let bytes = match packed.first_chunk::<8>() {
        Some(all) => u64::from_le_bytes(*all),
        None => {
            let mut next = packed.iter();
            (0..8)
                .filter(|bit| present >> bit & 1 == 1)
                .fold(0, |bytes, bit| {
                    bytes | u64::from(*next.next().expect("one for each bit")) << (8 * bit)
                })
        }
    };
    if nonzero_bytes(bytes) == present {
        Ok(bytes)
    } else {
        Err(RleError::EmptyMaskByte)
    }
}

fn ones(bytes: &[u8; 8]) -> usize {
    u64::from_le_bytes(*bytes).count_ones() as usize
}

#[cfg(test)]
mod tests;
