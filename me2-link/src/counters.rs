//! What a link has carried.

use serde::Serialize;

/// Counts of one direction since the start of the link. Bytes are those of IP packets, headers
/// included.
///
/// What enters is dropped by the cut, or by the queue, or else *carried*: that is what travelled,
/// as a meter behind the sender's router would show it. Of that, some is lost on the way, and the
/// rest delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Packets carried: accepted at the entrance, behind the drops by the queue.
    pub packets: u64,
    /// Bytes of the packets carried.
    pub bytes: u64,
    /// Packets that have arrived.
    pub delivered_packets: u64,
    /// Bytes of the packets that have arrived.
    pub delivered_bytes: u64,
    /// Packets dropped at the entrance because the queue was full.
    pub queue_drops: u64,
    /// Packets carried, but lost by the model of loss.
    pub loss_drops: u64,
    /// Packets lost to a cut: those that entered during it, and those on their way when it began.
    pub cut_drops: u64,
    /// Bytes that wait for transmission now, the packet in transmission included.
    pub queue_bytes: u64,
    /// Most bytes that have ever waited.
    pub queue_bytes_max: u64,
}

/// Counts of both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkStats {
    /// From A to B.
    pub a_to_b: Counters,
    /// From B to A.
    pub b_to_a: Counters,
}

impl LinkStats {
    /// The direction away from `from`.
    pub fn direction(&self, from: crate::End) -> &Counters {
        match from {
            crate::End::A => &self.a_to_b,
            crate::End::B => &self.b_to_a,
        }
    }

    /// Bytes carried in both directions.
    pub fn bytes(&self) -> u64 {
        self.a_to_b.bytes + self.b_to_a.bytes
    }
}

/// The counts at one moment. They are sums since the start: subtract neighbours for what happened
/// in between.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Time since the start of the link, in milliseconds.
    pub at_ms: f64,
    /// Both directions.
    #[serde(flatten)]
    pub stats: LinkStats,
}
