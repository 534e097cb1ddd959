//! Choices, taken from the bytes of an input; when it ends, all are 0.

use me2_wire::PAGE_SIZE;

/// Reads an input from its beginning.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(crate) fn number(&mut self) -> u32 {
        u32::from(self.short()) | u32::from(self.short()) << 16
    }
}

/// A page of noise (xorshift64, Marsaglia), which no encoding makes small.
pub(crate) fn noise(seed: u64) -> [u8; PAGE_SIZE] {
    let mut state = seed | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}
