//! Numbers of variable length: 7 bits a byte, least significant first, the top bit set in all but
//! the last byte, in as few bytes as possible. So each number has one encoding.

/// Longest encoding of a `u32`.
pub(crate) const NUMBER_BYTES_MAX: usize = 5;

/// Bytes that are no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NumberError {
    /// The bytes end within it.
    Truncated,
    /// Superfluous bytes, or beyond 32 bits.
    Malformed,
}

pub(crate) fn write_number(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Takes a number off the beginning of `bytes`.
pub(crate) fn read_number(bytes: &mut &[u8]) -> Result<u32, NumberError> {
    let mut number = 0u64;
    for at in 0..NUMBER_BYTES_MAX {
        let byte = *bytes.get(at).ok_or(NumberError::Truncated)?;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            let superfluous = byte == 0 && at > 0;
            *bytes = &bytes[at + 1..];
            return u32::try_from(number)
                .ok()
                .filter(|_| !superfluous)
                .ok_or(NumberError::Malformed);
        }
    }
    Err(NumberError::Malformed)
}

/// Writes how far `number` is from `expected`, up or down: short where that is little.
pub(crate) fn write_difference(bytes: &mut Vec<u8>, number: u32, expected: u32) {
    let difference = number.wrapping_sub(expected).cast_signed();
    write_number(bytes, (difference << 1 ^ difference >> 31).cast_unsigned());
}

/// Reads what [`write_difference`] wrote.
pub(crate) fn read_difference(bytes: &mut &[u8], expected: u32) -> Result<u32, NumberError> {
    let folded = read_number(bytes)?;
    let difference = folded >> 1 ^ (folded & 1).wrapping_neg();
    Ok(expected.wrapping_add(difference))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_encoding_of_differences_is_fixed() {
        for (number, expected, bytes) in [
            (7, 7, &[0][..]),
            (6, 7, &[1]),
            (8, 7, &[2]),
            (71, 7, &[0x80, 1]),
            (0x8000_0000, 0, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ] {
            let mut written = Vec::new();
            write_difference(&mut written, number, expected);
            assert_eq!(written, bytes);
        }
    }

    proptest! {
        #[test]
        fn every_difference_round_trips(number in any::<u32>(), expected in any::<u32>()) {
            let mut written = Vec::new();
            write_difference(&mut written, number, expected);
            prop_assert!(written.len() <= NUMBER_BYTES_MAX);
            let mut bytes = &written[..];
            prop_assert_eq!(read_difference(&mut bytes, expected), Ok(number));
            prop_assert!(bytes.is_empty());
        }
    }
}
