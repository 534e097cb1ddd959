//! Frames that are sent back.

/// Turns a UDP datagram in an IPv4 packet in an Ethernet frame round, so that it goes back to its
/// sender: addresses and ports change places, which no checksum minds. False if it is anything else.
pub fn turn_round(frame: &mut [u8]) -> bool {
    const ETHERNET: usize = 14;
    const IP: usize = ETHERNET + 20;
    let is_plain_udp = frame.len() >= IP + 8
        && frame[12..14] == [0x08, 0x00]
        && frame[ETHERNET] == 0x45
        && frame[ETHERNET + 9] == 17;
    if is_plain_udp {
        swap(frame, 0, 6);
        swap(frame, ETHERNET + 12, 4);
        swap(frame, IP, 2);
    }
    is_plain_udp
}

/// Exchanges the `length` bytes at `start` with those behind them.
fn swap(bytes: &mut [u8], start: usize, length: usize) {
    let (first, second) = bytes[start..start + 2 * length].split_at_mut(length);
    first.swap_with_slice(second);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_goes_back_and_nothing_else_does() {
        let mut frame = [0; 46];
        frame[..12].copy_from_slice(&[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = 17;
        frame[26..34].copy_from_slice(&[3, 3, 3, 3, 4, 4, 4, 4]);
        frame[34..38].copy_from_slice(&[5, 5, 6, 6]);
        frame[42] = 7;
        assert!(turn_round(&mut frame));
        assert_eq!(frame[..12], [2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
        assert_eq!(frame[26..38], [4, 4, 4, 4, 3, 3, 3, 3, 6, 6, 5, 5]);
        assert_eq!(frame[42], 7);
        frame[23] = 6;
        assert!(!turn_round(&mut frame));
        assert!(!turn_round(&mut frame[..20]));
        assert!(!turn_round(&mut []));
    }
}
