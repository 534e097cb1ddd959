//! What a link shall be like.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::LinkError;
use crate::loss::Loss;

/// Largest IP packet that the link carries, in bytes.
pub const MTU: u16 = 1500;

/// Longest one-way delay and longest jitter that a link may have.
pub const DELAY_MAX: Duration = Duration::from_secs(10);

/// Highest rate, in bits per second. The emulator keeps up with about a tenth of it.
pub const RATE_MAX: u64 = 100_000_000_000;

/// One of the two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// The end with the lower address.
    A,
    /// The end with the higher address.
    B,
}

impl End {
    /// The address of this end. It is the same on every link: each has network namespaces of its
    /// own.
    pub fn address(self) -> IpAddr {
        IpAddr::V4(match self {
            End::A => Ipv4Addr::new(10, 77, 0, 1),
            End::B => Ipv4Addr::new(10, 77, 0, 2),
        })
    }

    /// The opposite end.
    pub fn other(self) -> End {
        match self {
            End::A => End::B,
            End::B => End::A,
        }
    }
}

/// A link between two network namespaces. The plain fields hold for both directions, unless
/// `b_to_a` gives the direction from B to A properties of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LinkSpec {
    /// Rate of IP bytes in bits per second; 0: unlimited.
    pub rate_bits_per_second: u64,
    /// One-way delay, after the last bit has been transmitted.
    #[serde(rename = "delay_ms", with = "milliseconds")]
    pub delay: Duration,
    /// The delay of each packet varies evenly by up to this in either direction. Packets keep their
    /// order.
    #[serde(rename = "jitter_ms", with = "milliseconds")]
    pub jitter: Duration,
    /// Which packets are lost on their way.
    pub loss: Loss,
    /// Share of packets that are held back by `reorder_by`, and so overtaken: 0 to 1.
    pub reorder: f64,
    /// For how long a packet is held back.
    #[serde(rename = "reorder_by_ms", with = "milliseconds")]
    pub reorder_by: Duration,
    /// How much may wait for transmission before further packets are dropped (at the tail).
    pub queue: Queue,
    /// What changes while the link is there, in the order of time.
    pub schedule: Vec<Change>,
    /// Properties of the direction from B to A, where they differ. It then has its own schedule.
    pub b_to_a: Option<DirectionSpec>,
    /// Seed of everything random: the same packets at the same times meet the same fate.
    pub seed: u64,
    /// How the link is made.
    pub backend: Backend,
    /// Time between two samples of [`Link::history`](crate::Link::history).
    #[serde(rename = "sample_interval_ms", with = "milliseconds")]
    pub sample_interval: Duration,
}

impl Default for LinkSpec {
    /// Without limit, delay and loss; a queue of 256 KiB.
    fn default() -> Self {
        let one_way = DirectionSpec::default();
        Self {
            rate_bits_per_second: one_way.rate_bits_per_second,
            delay: one_way.delay,
            jitter: one_way.jitter,
            loss: one_way.loss,
            reorder: one_way.reorder,
            reorder_by: one_way.reorder_by,
            queue: one_way.queue,
            schedule: one_way.schedule,
            b_to_a: None,
            seed: 1,
            backend: Backend::Auto,
            sample_interval: Duration::from_millis(100),
        }
    }
}

impl LinkSpec {
    /// A data centre: 1 Gbit/s, round trip 1 ms, queue 256 KiB.
    pub fn a() -> Self {
        Self {
            rate_bits_per_second: 1_000_000_000,
            delay: Duration::from_micros(500),
            queue: Queue::Bytes(256 << 10),
            ..Self::default()
        }
    }

    /// A wide-area link: 100 Mbit/s, round trip 50 ms, queue one bandwidth-delay product.
    pub fn b() -> Self {
        Self {
            rate_bits_per_second: 100_000_000,
            delay: Duration::from_millis(25),
            queue: Queue::BandwidthDelay(1.0),
            ..Self::default()
        }
    }

    /// A long and lossy link: 200 Mbit/s, round trip 100 ms, 0.1% random loss each way, queue one
    /// bandwidth-delay product.
    pub fn c() -> Self {
        Self {
            rate_bits_per_second: 200_000_000,
            delay: Duration::from_millis(50),
            loss: Loss::Random { probability: 0.001 },
            queue: Queue::BandwidthDelay(1.0),
            ..Self::default()
        }
    }

    /// The properties of the direction away from `from`.
    pub fn direction(&self, from: End) -> DirectionSpec {
        match (&self.b_to_a, from) {
            (Some(own), End::B) => own.clone(),
            _ => DirectionSpec {
                rate_bits_per_second: self.rate_bits_per_second,
                delay: self.delay,
                jitter: self.jitter,
                loss: self.loss.clone(),
                reorder: self.reorder,
                reorder_by: self.reorder_by,
                queue: self.queue,
                schedule: self.schedule.clone(),
            },
        }
    }

    /// The round trip of a small packet on an empty link, without the time of transmission.
    pub fn round_trip(&self) -> Duration {
        self.direction(End::A).delay + self.direction(End::B).delay
    }

    /// The queue limit of the direction away from `from`, in bytes, at its first rate.
    pub fn queue_limit_bytes(&self, from: End) -> u64 {
        let one_way = self.direction(from);
        let rate = one_way.rate_bits_per_second;
        one_way.queue.limit_bytes(rate, self.round_trip())
    }

    /// Refuses what cannot be emulated.
    pub fn check(&self) -> Result<(), LinkError> {
        self.direction(End::A).check()?;
        self.direction(End::B).check()?;
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.sample_interval) {
            return Err(LinkError::Spec("sample interval must be 1 ms to 1 h"));
        }
        Ok(())
    }
}

/// One direction of a link; the fields are those of [`LinkSpec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DirectionSpec {
    /// Rate of IP bytes in bits per second; 0: unlimited.
    pub rate_bits_per_second: u64,
    /// One-way delay.
    #[serde(rename = "delay_ms", with = "milliseconds")]
    pub delay: Duration,
    /// The delay varies evenly by up to this in either direction.
    #[serde(rename = "jitter_ms", with = "milliseconds")]
    pub jitter: Duration,
    /// Which packets are lost on their way.
    pub loss: Loss,
    /// Share of packets that are held back: 0 to 1.
    pub reorder: f64,
    /// For how long a packet is held back.
    #[serde(rename = "reorder_by_ms", with = "milliseconds")]
    pub reorder_by: Duration,
    /// How much may wait for transmission.
    pub queue: Queue,
    /// What changes while the link is there, in the order of time.
    pub schedule: Vec<Change>,
}

impl Default for DirectionSpec {
    fn default() -> Self {
        Self {
            rate_bits_per_second: 0,
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Loss::None,
            reorder: 0.0,
            reorder_by: Duration::from_millis(1),
            queue: Queue::Bytes(256 << 10),
            schedule: Vec::new(),
        }
    }
}

impl DirectionSpec {
    pub(crate) fn check(&self) -> Result<(), LinkError> {
        let rates = self
            .schedule
            .iter()
            .filter_map(|change| match change.action {
                Action::Rate { bits_per_second } => Some(bits_per_second),
                Action::Cut | Action::Mend => None,
            });
        for rate in rates.chain([self.rate_bits_per_second]) {
            if rate != 0 && !(1000..=RATE_MAX).contains(&rate) {
                return Err(LinkError::Spec(
                    "rate must be 1 kbit/s to 100 Gbit/s, or 0 for none",
                ));
            }
        }
        if self.delay > DELAY_MAX || self.jitter > DELAY_MAX || self.reorder_by > DELAY_MAX {
            return Err(LinkError::Spec(
                "delay, jitter and hold-back must be at most 10 s",
            ));
        }
        if self.jitter > self.delay {
            return Err(LinkError::Spec("jitter must not exceed the delay"));
        }
        if !(0.0..=1.0).contains(&self.reorder) {
            return Err(LinkError::Spec(
                "the share of reordered packets must be 0 to 1",
            ));
        }
        if !self.schedule.is_sorted_by_key(|change| change.at) {
            return Err(LinkError::Spec("the schedule must be in the order of time"));
        }
        self.queue.check()?;
        self.loss.check()
    }
}

/// How much may wait for transmission. The packet in transmission counts, and a packet that finds
/// the queue empty is always taken.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queue {
    /// A number of bytes.
    Bytes(u64),
    /// As much as the rate, as it is at that moment, transmits in this many milliseconds.
    Milliseconds(f64),
    /// A multiple of the bandwidth-delay product: the first rate times the round trip of the link.
    /// Like a router's memory, it does not change with the rate.
    BandwidthDelay(f64),
}

impl Queue {
    /// The limit in bytes at a rate (0: unlimited).
    pub fn limit_bytes(self, rate_bits_per_second: u64, round_trip: Duration) -> u64 {
        let of_time = |seconds: f64| (rate_bits_per_second as f64 / 8.0 * seconds) as u64;
        match self {
            Queue::Bytes(bytes) => bytes,
            Queue::Milliseconds(milliseconds) => of_time(milliseconds / 1000.0),
            Queue::BandwidthDelay(factor) => of_time(factor * round_trip.as_secs_f64()),
        }
    }

    fn check(self) -> Result<(), LinkError> {
        let in_bounds = match self {
            Queue::Bytes(_) => true,
            Queue::Milliseconds(milliseconds) => (0.0..=60_000.0).contains(&milliseconds),
            Queue::BandwidthDelay(factor) => (0.0..=1000.0).contains(&factor),
        };
        in_bounds
            .then_some(())
            .ok_or(LinkError::Spec("queue must be at most 60 s or 1000 bdp"))
    }
}

/// Something that happens to a link at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// When, after the start of the link.
    #[serde(rename = "at_ms", with = "milliseconds")]
    pub at: Duration,
    /// What.
    pub action: Action,
}

/// What can happen to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Everything on the link is lost, and whatever enters it from now on.
    Cut,
    /// The link carries packets again.
    Mend,
    /// Another rate from now on, for what already waits as well.
    Rate {
        /// Bits per second; 0: unlimited.
        bits_per_second: u64,
    },
}

/// How a link is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// netem where the kernel has it, or else the emulator.
    #[default]
    Auto,
    /// In this process, between two TUN devices.
    Emulator,
    /// In the kernel: a veth pair, with the netem queueing discipline at both ends. What is
    /// different from the emulator:
    /// - the queue's limit holds for packets, as many as there would be at full size;
    /// - jitter reorders, and a reordered packet is one that skips the delay;
    /// - UDP segments that the sender bundles (GSO) are delayed and lost together;
    /// - randomness has no seed, and what is on its way when the link is cut still arrives;
    /// - lost packets are counted as queue drops and not as carried, packets carried once they have
    ///   left, and those on their way count as queued.
    Netem,
}

/// Durations as a number of milliseconds.
mod milliseconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(duration.as_nanos() as f64 / 1e6)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let milliseconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(milliseconds / 1000.0).map_err(D::Error::custom)
    }
}
