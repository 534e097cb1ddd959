//! Sizes, rates and times as people write them.

use std::time::Duration;

/// Bytes: `512M`, `1G`; K, M, G and T are powers of 1024, none means bytes. Not 0.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let expected = "expected a size such as 512M or 1G (K, M, G, T: powers of 1024)";
    let (number, unit) = split(text, expected)?;
    let scale = match unit {
        "" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        _ => return Err(expected.to_owned()),
    };
    scaled(number, scale)
}

/// Bits a second as networks count them, `100M`: K, M, G and T are powers of
/// 1000. Gives whole **bytes** a second, at least 1.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let expected = "expected bits per second such as 100M or 1G (K, M, G, T: powers of 1000)";
    let (number, unit) = split(text, expected)?;
    let scale = match unit {
        "" => 1,
        "K" | "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return Err(expected.to_owned()),
    };
    match scaled(number, scale)? / 8 {
        0 => Err("less than one byte per second".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A time with its unit: `300ms`, `10s`, `5m`, `2h`. Not 0.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a time with its unit, such as 300ms, 10s, 5m or 2h";
    let (number, unit) = split(text, expected)?;
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected.to_owned()),
    };
    scaled(number, scale).map(Duration::from_millis)
}

/// A time with its unit, in whole seconds.
pub fn parse_whole_seconds(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time.subsec_millis() == 0 => Ok(time),
        _ => Err("expected whole seconds, such as 90s or 10m".to_owned()),
    }
}

/// The digits in front, and what follows them.
fn split<'a>(text: &'a str, expected: &str) -> Result<(u64, &'a str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    match digits.parse() {
        Ok(0) => Err("must not be 0".to_owned()),
        Ok(number) => Ok((number, unit)),
        Err(_) if digits.is_empty() => Err(expected.to_owned()),
        Err(_) => Err("too large".to_owned()),
    }
}

fn scaled(number: u64, scale: u64) -> Result<u64, String> {
    number
        .checked_mul(scale)
        .ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(parse_size("1"), Ok(1));
        assert_eq!(parse_size("4K"), Ok(4096));
        assert_eq!(parse_size("256M"), Ok(256 << 20));
        assert_eq!(parse_size("4GiB"), Ok(4 << 30));
        assert_eq!(parse_size("2T"), Ok(2 << 40));
    }

    #[test]
    fn rates_are_decimal_bits_and_given_as_bytes() {
        assert_eq!(parse_rate("100M"), Ok(12_500_000));
        assert_eq!(parse_rate("1G"), Ok(125_000_000));
        assert_eq!(parse_rate("64K"), Ok(8_000));
        assert_eq!(parse_rate("8"), Ok(1));
        assert!(parse_rate("7").is_err());
    }

    #[test]
    fn times_have_a_unit() {
        assert_eq!(parse_duration("300ms"), Ok(Duration::from_millis(300)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(parse_duration("300").is_err());
        assert_eq!(parse_whole_seconds("2000ms"), Ok(Duration::from_secs(2)));
        assert!(parse_whole_seconds("1500ms").is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "",
            "0",
            "0M",
            "M",
            "-1M",
            "+1M",
            "1.5G",
            "1X",
            " 1M",
            "1M ",
            "1GB",
            "1 G",
            "é",
            "99999999999999999999",
            "99999999999999T",
        ] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
            assert!(parse_rate(bad).is_err(), "{bad:?}");
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
