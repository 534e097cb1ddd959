//! Values with units, as people write them.

use std::ops::Range;
use std::time::Duration;

use me2_link::{Loss, Queue};

/// Bits per second: `100M`, `1G`, `2.5Gbit/s`, `64k`, `none`. Prefixes are decimal.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    let (number, unit) = split(text)?;
    let unit = unit
        .trim_end_matches("bit/s")
        .trim_end_matches("bps")
        .trim_end_matches("bit");
    let factor = match unit {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => {
            return Err(format!(
                "no unit of a rate: `{unit}`; write such as 100M or 1G"
            ));
        }
    };
    Ok((number * factor).round() as u64)
}

/// A time: `10m`, `2s`, `25ms`, `500us`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text)?;
    let seconds = match unit {
        "h" => 3600.0,
        "m" | "min" => 60.0,
        "s" => 1.0,
        "ms" => 1e-3,
        "us" | "µs" => 1e-6,
        _ => {
            return Err(format!(
                "no unit of time: `{unit}`; write such as 25ms or 10s"
            ));
        }
    };
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

/// A share: `0.1%` or `0.001`.
pub(crate) fn share(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text)?;
    let share = match unit {
        "%" => number / 100.0,
        "" => number,
        _ => return Err(format!("no share: `{text}`; write such as 0.1%")),
    };
    if share > 1.0 {
        return Err(format!("`{text}` is more than all; write such as 0.1%"));
    }
    Ok(share)
}

/// A queue: `256K` (KiB), `2M` (MiB), `1500B`, `50ms`, `1bdp`.
pub(crate) fn queue(text: &str) -> Result<Queue, String> {
    let (number, unit) = split(text)?;
    let bytes = |factor: f64| Queue::Bytes((number * factor).round() as u64);
    match unit {
        "" | "B" => Ok(bytes(1.0)),
        "k" | "K" | "KiB" => Ok(bytes(1024.0)),
        "M" | "MiB" => Ok(bytes(1024.0 * 1024.0)),
        "bdp" => Ok(Queue::BandwidthDelay(number)),
        _ => duration(text)
            .map(|time| Queue::Milliseconds(time.as_secs_f64() * 1000.0))
            .map_err(|_| format!("no queue: `{text}`; write such as 256K, 50ms or 1bdp")),
    }
}

/// A span of time: `10s..12s`.
pub(crate) fn span(text: &str) -> Result<Range<Duration>, String> {
    let (from, to) = text
        .split_once("..")
        .ok_or("write a span such as 10s..12s")?;
    let span = duration(from)?..duration(to)?;
    if span.is_empty() {
        return Err(format!("`{text}` ends before it begins"));
    }
    Ok(span)
}

/// A rate from a time on: `10s=80M`.
pub(crate) fn rate_at(text: &str) -> Result<(Duration, u64), String> {
    let (at, rate_then) = text
        .split_once('=')
        .ok_or("write a change such as 10s=80M")?;
    Ok((duration(at)?, rate(rate_then)?))
}

/// Loss by a share, in bursts of a mean length if there is one.
pub(crate) fn loss(share: f64, burst: Option<f64>) -> Result<Loss, String> {
    match burst {
        None => Ok(Loss::Random { probability: share }),
        Some(length) if length >= 1.0 && share < 1.0 => Ok(Loss::bursts(share, length)),
        Some(_) => Err("bursts are 1 packet long at least, and lose less than all".into()),
    }
}

fn split(text: &str) -> Result<(f64, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number = number.parse().map_err(|_| format!("no number: `{text}`"))?;
    Ok((number, unit.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_understood() {
        assert_eq!(rate("100M"), Ok(100_000_000));
        assert_eq!(rate("2.5Gbit/s"), Ok(2_500_000_000));
        assert_eq!(rate("none"), Ok(0));
        assert_eq!(duration("25ms"), Ok(Duration::from_millis(25)));
        assert_eq!(duration("0.5 s"), Ok(Duration::from_millis(500)));
        assert_eq!(share("0.1%"), Ok(0.001));
        assert_eq!(queue("256K"), Ok(Queue::Bytes(256 << 10)));
        assert_eq!(queue("50ms"), Ok(Queue::Milliseconds(50.0)));
        assert_eq!(queue("1.5bdp"), Ok(Queue::BandwidthDelay(1.5)));
        assert_eq!(
            span("10s..12s"),
            Ok(Duration::from_secs(10)..Duration::from_secs(12))
        );
        assert_eq!(rate_at("1s=80M"), Ok((Duration::from_secs(1), 80_000_000)));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(rate("fast").is_err() && rate("10X").is_err() && rate("").is_err());
        assert!(duration("10").is_err() && duration("-1s").is_err());
        assert!(share("101%").is_err() && queue("3 apples").is_err());
        assert!(span("2s..1s").is_err() && span("2s").is_err() && rate_at("1s").is_err());
        assert!(loss(0.1, Some(0.5)).is_err());
    }
}
