//! Sizes and durations as people write and read them.

use std::time::Duration;

/// One mebibyte, bytes.
pub(crate) const MIB: u64 = 1 << 20;

/// Bytes: `512M`, `1G`; K, M and G are powers of 1024. Not 0.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let expected = || "expected a size such as 512M or 1G (K, M, G: powers of 1024)".to_owned();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let scale = match unit {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => MIB,
        "G" | "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    number
        .checked_mul(scale)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(expected)
}

/// A size as `me2` and QEMU take it: whole mebibytes, `512M`.
pub(crate) fn size_argument(bytes: u64) -> String {
    format!("{}M", bytes / MIB)
}

/// A length of time for people: `45 s`, `12 min`, `1 h 5 min`.
pub(crate) fn human_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        assert_eq!(size_argument(parse_size("512M").unwrap()), "512M");
        for bad in ["", "M", "0", "1X", "-1M", "99999999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_are_short() {
        let human = |seconds| human_duration(Duration::from_secs(seconds));
        assert_eq!(human(45), "45 s");
        assert_eq!(human(121), "3 min");
        assert_eq!(human(7500), "2 h 5 min");
    }
}
