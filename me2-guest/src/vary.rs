//! Contents like those of another page, and yet equal to none.
//!
//! Every byte is replaced by another, the same one for equal bytes; zero stays zero. What repeats within the
//! page repeats as before, each value is as frequent as before, so a codec packs the copy like the original.
//! But no run of bytes other than zeros is common to the two, nor to two copies with different keys: neither a
//! search for equal pages nor a long window finds the one by the other. Neighbouring pages copied with
//! one key go on having in common what they had.
//!
//! ```text
//! byte → step 1 to 254 on, round the 255 bytes that are not zero → fold: XOR with itself, 1 to 3 bits to the right
//!      → turn by 0 to 7 bits → step on again
//! ```
//! That makes some 1.5 million copies of a page, at eight bytes in a few operations. (Turning is doubling
//! modulo 255: without the fold, all would be one multiplication and one addition, and most copies equal.)

/// Which of the copies.
#[derive(Debug, Clone, Copy)]
pub struct Variation {
    /// The same byte eight times, as are all words here.
    step_before: u64,
    fold: u32,
    /// The bits that a fold leaves in their byte.
    folded: u64,
    turn: u32,
    /// The bits that a turn leaves in their byte.
    stay: u64,
    step_after: u64,
}

impl Variation {
    /// The copy of this key; any 64 bits.
    pub const fn new(key: u64) -> Self {
        let key = crate::scatter(key);
        let fold = 1 + (key >> 8) as u32 % 3;
        let turn = (key >> 16) as u32 % 8;
        Self {
            step_before: EACH * (1 + (key >> 24) % 254),
            fold,
            folded: EACH * (0xff >> fold),
            turn,
            stay: EACH * ((0xff << turn) & 0xff),
            step_after: EACH * (1 + (key >> 44) % 254),
        }
    }

    /// Changes words, each by itself.
    pub fn apply(&self, words: &mut [u64]) {
        for word in words {
            *word = self.word(*word);
        }
    }

    #[inline]
    fn word(&self, word: u64) -> u64 {
        let stepped = step(word, self.step_before);
        let folded = stepped ^ ((stepped >> self.fold) & self.folded);
        let turned = (folded << self.turn) & self.stay | (folded >> (8 - self.turn)) & !self.stay;
        step(turned, self.step_after)
    }
}

/// One in each byte.
const EACH: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = EACH << 7;
const LOW: u64 = !HIGH;

/// Adds bytes modulo 255, counting from 1; leaves zeros. `by` has no zero byte and none of 255.
#[inline]
fn step(word: u64, by: u64) -> u64 {
    let sum = ((word & LOW) + (by & LOW)) ^ ((word ^ by) & HIGH);
    let carried = ((word & by) | ((word | by) & !sum)) & HIGH;
    // Where it carried, the sum is below 255.
    let wrapped = sum + (carried >> 7);
    let occupied = (((word & LOW) + LOW) | word) & HIGH;
    wrapped & (occupied | (occupied - (occupied >> 7)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a byte becomes, by the description.
    fn byte(variation: &Variation, byte: u8) -> u8 {
        let step = |byte: u8, by: u64| match byte {
            0 => 0,
            _ => ((u64::from(byte) - 1 + (by & 0xff)) % 255 + 1) as u8,
        };
        let stepped = step(byte, variation.step_before);
        let turned = (stepped ^ stepped >> variation.fold).rotate_left(variation.turn);
        step(turned, variation.step_after)
    }

    #[test]
    fn each_byte_has_its_own_replacement() {
        for key in 0..200 {
            let variation = Variation::new(key);
            let mut seen = [false; 256];
            for value in 0..=255u8 {
                let expected = byte(&variation, value);
                assert!(!seen[usize::from(expected)], "key {key}: {expected} twice");
                seen[usize::from(expected)] = true;
                // Its neighbours do not matter, nor where it stands.
                for at in 0..8 {
                    let mut bytes = [0xff, 1, 0, 0x80, 0x7f, 0xfe, 0, 0xff];
                    bytes[at] = value;
                    let mut words = [u64::from_le_bytes(bytes)];
                    variation.apply(&mut words);
                    assert_eq!(
                        words[0].to_le_bytes(),
                        bytes.map(|old| byte(&variation, old))
                    );
                }
            }
            assert_eq!(byte(&variation, 0), 0);
        }
    }

    #[test]
    fn copies_have_no_word_in_common() {
        let original: Vec<u64> = (0..1000)
            .map(|index| crate::scatter(index) | EACH)
            .collect();
        let copies: Vec<Vec<u64>> = (0..50)
            .map(|key| {
                let mut words = original.clone();
                Variation::new(key).apply(&mut words);
                words
            })
            .collect();
        let mut all: Vec<u64> = original
            .iter()
            .chain(copies.iter().flatten())
            .copied()
            .collect();
        all.sort_unstable();
        let equal = all.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert_eq!(equal, 0);
    }
}
