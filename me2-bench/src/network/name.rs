//! Links by the names that people give them.

use std::{fmt, str::FromStr, time::Duration};

use me2_link::{End, LinkSpec, Loss, Queue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A link: one of those with a name of their own, or any other by its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum LinkName {
    /// 1 Gbit/s, round trip 1 ms.
    A,
    /// 100 Mbit/s, round trip 50 ms.
    B,
    /// 200 Mbit/s, round trip 100 ms, 0.1% of the packets lost.
    C,
    /// Loopback: no limit but the machine's.
    Unlimited,
    /// Never parameters that have a name of their own: [`LinkName::of`] sees to it.
    Other(LinkParameters),
}

/// What links differ in; as a name `rtt100-rate200-loss0.1` or `rtt50-rate50-bursts1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkParameters {
    pub(crate) rtt_ms: u32,
    /// Mbit/s.
    pub(crate) rate_mbit: u32,
    pub(crate) loss: LinkLoss,
}

/// Which packets are lost, each way; shares in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LinkLoss {
    /// Each by itself.
    Random { ppm: u32 },
    /// In bursts of [`BURST_PACKETS`] on average.
    Bursts { ppm: u32 },
}

impl LinkLoss {
    pub(crate) const NONE: Self = Self::Random { ppm: 0 };

    pub(crate) fn ppm(self) -> u32 {
        match self {
            Self::Random { ppm } | Self::Bursts { ppm } => ppm,
        }
    }
}

/// Mean length of a burst in which every packet is lost: some milliseconds of a link.
const BURST_PACKETS: f64 = 20.0;
/// Of 1%.
const PPM: f64 = 10_000.0;
/// A link's queue has one bandwidth-delay product, but not less than this: as link A.
const QUEUE_BYTES_MIN: u64 = 256 << 10;
const RTT_MS_MAX: u32 = 10_000;
const RATE_MBIT_MAX: u32 = 10_000;

impl LinkName {
    /// The link with these parameters.
    pub(crate) fn of(parameters: LinkParameters) -> Self {
        let named = [Self::A, Self::B, Self::C];
        let mut same = named
            .into_iter()
            .filter(|link| link.parameters() == Some(parameters));
        same.next().unwrap_or(Self::Other(parameters))
    }

    /// `None` without any.
    pub(crate) fn parameters(self) -> Option<LinkParameters> {
        let (rtt_ms, rate_mbit, ppm) = match self {
            Self::A => (1, 1000, 0),
            Self::B => (50, 100, 0),
            Self::C => (100, 200, 1000),
            Self::Unlimited => return None,
            Self::Other(parameters) => return Some(parameters),
        };
        Some(LinkParameters {
            rtt_ms,
            rate_mbit,
            loss: LinkLoss::Random { ppm },
        })
    }

    pub(super) fn spec(self) -> Option<LinkSpec> {
        match self {
            Self::A => Some(LinkSpec::a()),
            Self::B => Some(LinkSpec::b()),
            Self::C => Some(LinkSpec::c()),
            Self::Unlimited => None,
            Self::Other(parameters) => Some(parameters.spec()),
        }
    }

    /// Bits a second; `None` without limit.
    pub(crate) fn rate(self) -> Option<u64> {
        self.spec().map(|spec| spec.rate_bits_per_second)
    }

    /// What is on its way when the link is full, there and back; 0 without limit.
    pub(super) fn bandwidth_delay_bytes(self) -> u64 {
        self.spec().map_or(0, |spec| {
            let round_trip_us = u64::try_from(spec.round_trip().as_micros()).unwrap_or(u64::MAX);
            spec.rate_bits_per_second.saturating_mul(round_trip_us) / 8_000_000
        })
    }

    /// What was configured, for the manifest.
    pub(crate) fn describe(self) -> Value {
        let Some(spec) = self.spec() else {
            return json!({ "kind": "loopback" });
        };
        let mut value = serde_json::to_value(&spec).unwrap_or(Value::Null);
        value["rtt_ms"] = json!(spec.round_trip().as_secs_f64() * 1e3);
        value["queue_limit_bytes"] = json!(spec.queue_limit_bytes(End::A));
        value
    }
}

impl LinkParameters {
    fn spec(self) -> LinkSpec {
        let probability = f64::from(self.loss.ppm()) / 1e6;
        let mut spec = LinkSpec {
            rate_bits_per_second: u64::from(self.rate_mbit) * 1_000_000,
            delay: Duration::from_millis(u64::from(self.rtt_ms)) / 2,
            loss: match self.loss {
                LinkLoss::NONE => Loss::None,
                LinkLoss::Random { .. } => Loss::Random { probability },
                LinkLoss::Bursts { .. } => Loss::bursts(probability, BURST_PACKETS),
            },
            queue: Queue::BandwidthDelay(1.0),
            ..LinkSpec::default()
        };
        if spec.queue_limit_bytes(End::A) < QUEUE_BYTES_MIN {
            spec.queue = Queue::Bytes(QUEUE_BYTES_MIN);
        }
        spec
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A => f.write_str("A"),
            Self::B => f.write_str("B"),
            Self::C => f.write_str("C"),
            Self::Unlimited => f.write_str("unlimited"),
            Self::Other(parameters) => parameters.fmt(f),
        }
    }
}

impl fmt::Display for LinkParameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rtt_ms,
            rate_mbit,
            loss,
        } = self;
        let kind = match loss {
            LinkLoss::Random { .. } => "loss",
            LinkLoss::Bursts { .. } => "bursts",
        };
        let percent = f64::from(loss.ppm()) / PPM;
        write!(f, "rtt{rtt_ms}-rate{rate_mbit}-{kind}{percent}")
    }
}

impl FromStr for LinkName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = [Self::A, Self::B, Self::C, Self::Unlimited];
        let mut same = named.into_iter().filter(|link| link.to_string() == text);
        let link = same.next().or_else(|| parsed(text).map(Self::of));
        link.ok_or_else(|| {
            format!(
                "{text} is no link: A, B, C, unlimited, or as rtt100-rate200-loss0.1 or \
                 rtt50-rate50-bursts1 (ms, Mbit/s, percent)"
            )
        })
    }
}

fn parsed(text: &str) -> Option<LinkParameters> {
    let mut words = text.splitn(3, '-');
    let rtt_ms: u32 = words.next()?.strip_prefix("rtt")?.parse().ok()?;
    let rate_mbit: u32 = words.next()?.strip_prefix("rate")?.parse().ok()?;
    let loss = words.next()?;
    let (is_random, percent) = match (loss.strip_prefix("loss"), loss.strip_prefix("bursts")) {
        (Some(percent), _) => (true, percent),
        (_, percent) => (false, percent?),
    };
    let percent: f64 = percent.parse().ok()?;
    let in_bounds = rtt_ms <= RTT_MS_MAX
        && (1..=RATE_MBIT_MAX).contains(&rate_mbit)
        && (0.0..100.0).contains(&percent);
    let ppm = (percent * PPM).round() as u32;
    in_bounds.then_some(LinkParameters {
        rtt_ms,
        rate_mbit,
        // No bursts are none.
        loss: match is_random || ppm == 0 {
            true => LinkLoss::Random { ppm },
            false => LinkLoss::Bursts { ppm },
        },
    })
}

impl From<LinkName> for String {
    fn from(link: LinkName) -> Self {
        link.to_string()
    }
}

impl TryFrom<String> for LinkName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_links_hold_more() {
        let held = [LinkName::A, LinkName::B, LinkName::C, LinkName::Unlimited];
        let held = held.map(LinkName::bandwidth_delay_bytes);
        assert_eq!(held, [125_000, 625_000, 2_500_000, 0]);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "A",
            "unlimited",
            "rtt200-rate50-loss0",
            "rtt20-rate1000-loss0.1",
            "rtt50-rate50-bursts1",
        ] {
            let link: LinkName = name.parse().unwrap();
            assert_eq!(link.to_string(), name);
        }
        assert_eq!("rtt100-rate200-loss0.1".parse(), Ok(LinkName::C));
        for bad in [
            "D",
            "rtt1",
            "rtt1-rate0-loss0",
            "rtt1-rate1-loss100",
            "rtt1-rate1-x1",
            "rtt99999-rate1-loss0",
        ] {
            assert!(bad.parse::<LinkName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn links_with_a_name_are_as_their_parameters_say() {
        for link in [LinkName::A, LinkName::B, LinkName::C] {
            let by_parameters = link.parameters().unwrap().spec();
            let (one, other) = (link.spec().unwrap(), by_parameters);
            assert_eq!(one.round_trip(), other.round_trip(), "{link}");
            assert_eq!(one.rate_bits_per_second, other.rate_bits_per_second);
            assert_eq!(one.loss, other.loss);
            assert_eq!(
                one.queue_limit_bytes(End::A),
                other.queue_limit_bytes(End::A)
            );
        }
    }

    #[test]
    fn bursts_lose_as_much_as_they_say() {
        let link: LinkName = "rtt50-rate50-bursts1".parse().unwrap();
        let lost = link.spec().unwrap().loss.average();
        assert!((lost - 0.01).abs() < 1e-9, "{lost}");
    }
}
