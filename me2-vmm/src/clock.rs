//! The clock by which downtime is measured.

/// Nanoseconds of `CLOCK_MONOTONIC`: the same for all processes of one host, and meaningless on
/// any other (see [`boot_id`]).
pub fn monotonic_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` lives across the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0;
    assert!(!failed, "CLOCK_MONOTONIC exists on every Linux");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Identifies this boot of this host: where it is equal, [`monotonic_ns`] and the time stamp
/// counter are the same clock. All zero where the kernel tells nothing.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    let mut id = [0; 16];
    if digits.len() == 32 {
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
    }
    id
}

/// Whether this host's wall clock follows a reference, by what the kernel was told last.
///
/// # Errors
/// Where the kernel does not tell.
pub fn is_synchronised() -> std::io::Result<bool> {
    // SAFETY: all zeros are a valid `timex`, and one that asks for no change.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` lives across the call.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => Err(std::io::Error::last_os_error()),
        _ => Ok(state.status & libc::STA_UNSYNC == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_the_clock_follows_another_is_told_to_everybody() {
        assert_eq!(is_synchronised().unwrap(), is_synchronised().unwrap());
    }

    #[test]
    fn the_boot_is_identified() {
        assert_ne!(boot_id(), [0; 16]);
        assert_eq!(boot_id(), boot_id());
    }

    #[test]
    fn time_goes_on() {
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before && before > 0);
    }
}
