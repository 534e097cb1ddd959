//! Where both ends of a migration are: an emulated link, or a network without any limit.

mod loopback;
pub(crate) mod tcp;

use std::{net::IpAddr, process::Command};

use anyhow::Context;
use me2_link::{End, Link, LinkSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::process::bound_to_us;
use loopback::Loopback;

/// A link by the name that people give it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum,
)]
pub(crate) enum LinkName {
    /// 1 Gbit/s, round trip 1 ms
    #[value(name = "A")]
    A,
    /// 100 Mbit/s, round trip 50 ms
    #[value(name = "B")]
    B,
    /// 200 Mbit/s, round trip 100 ms, 0.1% of the packets lost
    #[value(name = "C")]
    C,
    /// Loopback: no limit but the machine's
    #[value(name = "unlimited")]
    #[serde(rename = "unlimited")]
    Unlimited,
}

impl LinkName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
            Self::Unlimited => "unlimited",
        }
    }

    fn spec(self) -> Option<LinkSpec> {
        match self {
            Self::A => Some(LinkSpec::a()),
            Self::B => Some(LinkSpec::b()),
            Self::C => Some(LinkSpec::c()),
            Self::Unlimited => None,
        }
    }

    /// Bits a second; `None` without limit.
    pub(crate) fn rate(self) -> Option<u64> {
        self.spec().map(|spec| spec.rate_bits_per_second)
    }

    /// What is on its way when the link is full, there and back; 0 without limit.
    fn bandwidth_delay_bytes(self) -> u64 {
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

/// Bytes of IP packets that the link carried.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LinkBytes {
    /// From the source to the destination.
    pub(crate) forth: u64,
    pub(crate) back: u64,
    /// Packets that found the queue full, both ways; they are not among the bytes.
    pub(crate) queue_drops: u64,
}

impl LinkBytes {
    pub(crate) fn sum(self) -> u64 {
        self.forth + self.back
    }

    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            forth: self.forth.saturating_sub(before.forth),
            back: self.back.saturating_sub(before.back),
            queue_drops: self.queue_drops.saturating_sub(before.queue_drops),
        }
    }
}

/// Two places for processes, and what joins them; the source is at [`End::A`].
pub(crate) enum Network {
    Emulated(Link),
    Loopback(Loopback),
}

impl Network {
    /// Sets it up, with TCP as a good operator would have it; all of it goes away when dropped.
    pub(crate) fn start(name: LinkName) -> anyhow::Result<Self> {
        let network = match name.spec() {
            Some(spec) => {
                let link = Link::start(spec);
                Self::Emulated(
                    link.with_context(|| format!("cannot emulate link {}", name.as_str()))?,
                )
            }
            None => Self::Loopback(Loopback::start()?),
        };
        tcp::tune(&network, name.bandwidth_delay_bytes())?;
        Ok(network)
    }

    /// A command that runs at this end and dies with this process.
    pub(crate) fn command(&self, end: End, program: &str) -> Command {
        bound_to_us(program, |wrapper| match self {
            Self::Emulated(link) => link.command(end, wrapper),
            Self::Loopback(loopback) => loopback.command(wrapper),
        })
    }

    pub(crate) fn address(&self, end: End) -> IpAddr {
        match self {
            Self::Emulated(link) => link.address(end),
            Self::Loopback(_) => loopback::ADDRESS.into(),
        }
    }

    /// What it has carried so far.
    pub(crate) fn bytes(&self) -> anyhow::Result<LinkBytes> {
        match self {
            Self::Emulated(link) => {
                let stats = link.stats();
                Ok(LinkBytes {
                    forth: stats.a_to_b.bytes,
                    back: stats.b_to_a.bytes,
                    queue_drops: stats.a_to_b.queue_drops + stats.b_to_a.queue_drops,
                })
            }
            Self::Loopback(loopback) => loopback.bytes(),
        }
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
}
