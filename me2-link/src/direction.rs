//! One direction of an emulated link: what happens to each packet, and when. No clock, no socket:
//! time is an argument.
//!
//! ```text
//!  offer ──cut?──full?──▶ waiting ──rate──lost?──▶ in flight ──delay, jitter──▶ pop_due
//!           │      │                       │      └▶ held back ──────────────▶
//!           ▼      ▼                       ▼
//!                    discarded (take_discarded)
//! ```
//!
//! Transmission follows a virtual clock: a packet begins when it has arrived and the one before it
//! has left, and takes its bytes over the rate. A late call therefore changes nothing: departures
//! are worked out for the times at which they were due, and so are changes of the schedule.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use crate::counters::Counters;
use crate::loss::LossProcess;
use crate::spec::{Action, Change, DirectionSpec};

/// A time in nanoseconds since the start of the link.
pub type Nanoseconds = u64;

/// What the caller calls a packet. It gets each token back exactly once: from
/// [`Direction::pop_due`] or from [`Direction::take_discarded`].
pub type Token = u32;

/// The emulation of one direction. It knows the latest time passed in, and does not go back.
#[derive(Debug)]
pub struct Direction {
    spec: DirectionSpec,
    schedule: VecDeque<Change>,
    round_trip: Duration,
    first_rate: u64,
    cut: bool,
    /// The latest time passed in.
    latest: Nanoseconds,
    random: fastrand::Rng,
    loss: LossProcess,
    waiting: VecDeque<Waiting>,
    /// When the first of `waiting` will have left.
    departure: Nanoseconds,
    flying: VecDeque<Flying>,
    /// Packets that others overtake, the earliest first.
    held_back: BinaryHeap<Reverse<Flying>>,
    /// Nothing in order may arrive before this.
    last_due: Nanoseconds,
    discarded: Vec<Token>,
    counters: Counters,
}

#[derive(Debug)]
struct Waiting {
    token: Token,
    bytes: u32,
    arrived: Nanoseconds,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Flying {
    due: Nanoseconds,
    token: Token,
    bytes: u32,
}

impl Direction {
    /// An empty direction at time 0. `round_trip` is that of the whole link, for queues in terms of
    /// the bandwidth-delay product.
    pub fn new(spec: DirectionSpec, round_trip: Duration, seed: u64) -> Self {
        Self {
            schedule: spec.schedule.iter().copied().collect(),
            round_trip,
            first_rate: spec.rate_bits_per_second,
            cut: false,
            latest: 0,
            random: fastrand::Rng::with_seed(seed),
            loss: LossProcess::new(spec.loss.clone()),
            spec,
            waiting: VecDeque::new(),
            departure: 0,
            flying: VecDeque::new(),
            held_back: BinaryHeap::new(),
            last_due: 0,
            discarded: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// A packet enters. A time that has already passed by means the latest one seen.
    pub fn offer(&mut self, now: Nanoseconds, token: Token, bytes: u32) {
        self.advance(now);
        let now = self.latest;
        if self.cut {
            self.counters.cut_drops += 1;
            self.discarded.push(token);
            return;
        }
        let queued = self.counters.queue_bytes + u64::from(bytes);
        if !self.waiting.is_empty() && queued > self.queue_limit_bytes() {
            self.refuse();
            self.discarded.push(token);
            return;
        }
        self.counters.packets += 1;
        self.counters.bytes += u64::from(bytes);
        self.counters.queue_bytes = queued;
        self.counters.queue_bytes_max = self.counters.queue_bytes_max.max(queued);
        if self.waiting.is_empty() {
            self.departure = now + self.transmission_time(bytes);
        }
        self.waiting.push_back(Waiting {
            token,
            bytes,
            arrived: now,
        });
        self.transmit_until(now);
    }

    /// Counts a packet that the caller has no room for, as one dropped by the queue.
    pub fn refuse(&mut self) {
        self.counters.queue_drops += 1;
    }

    /// Lets time pass, with everything that is scheduled.
    pub fn advance(&mut self, now: Nanoseconds) {
        self.latest = self.latest.max(now);
        while let Some(change) = self.schedule.front()
            && nanoseconds(change.at) <= now
        {
            let Change { at, action } = *change;
            self.schedule.pop_front();
            self.change(nanoseconds(at), action);
        }
        self.transmit_until(now);
    }

    /// Changes the link now.
    ///
    /// A time that has already passed by means the latest one that this direction has seen.
    pub fn apply(&mut self, now: Nanoseconds, action: Action) {
        self.advance(now);
        self.change(self.latest, action);
    }

    /// The next packet that has arrived by now, and its bytes.
    pub fn pop_due(&mut self, now: Nanoseconds) -> Option<(Token, u32)> {
        let in_order = self.flying.front().map(|packet| packet.due);
        let held_back = self.held_back.peek().map(|Reverse(packet)| packet.due);
        let held_back_first = match (in_order, held_back) {
            (Some(in_order), Some(held_back)) => held_back < in_order,
            (in_order, _) => in_order.is_none(),
        };
        if (if held_back_first { held_back } else { in_order })? > now {
            return None;
        }
        let packet = if held_back_first {
            self.held_back.pop().map(|Reverse(packet)| packet)
        } else {
            self.flying.pop_front()
        }?;
        self.counters.delivered_packets += 1;
        self.counters.delivered_bytes += u64::from(packet.bytes);
        Some((packet.token, packet.bytes))
    }

    /// When to call [`advance`](Self::advance) and [`pop_due`](Self::pop_due) again, if nothing
    /// enters meanwhile. Never later than the next arrival.
    pub fn next_event(&self) -> Option<Nanoseconds> {
        let in_order = self.flying.front().map(|packet| packet.due);
        let held_back = self.held_back.peek().map(|Reverse(packet)| packet.due);
        let earliest = nanoseconds(self.spec.delay - self.spec.jitter);
        let waiting = (!self.waiting.is_empty()).then_some(self.departure + earliest);
        let change = self.schedule.front().map(|change| nanoseconds(change.at));
        [in_order, held_back, waiting, change]
            .into_iter()
            .flatten()
            .min()
    }

    /// A packet that will not arrive, to be called until there is none.
    pub fn take_discarded(&mut self) -> Option<Token> {
        self.discarded.pop()
    }

    /// Whether packets arrive in the order in which they entered.
    pub fn keeps_order(&self) -> bool {
        self.spec.reorder == 0.0
    }

    /// The one-way delay.
    pub fn delay(&self) -> Nanoseconds {
        nanoseconds(self.spec.delay)
    }

    /// What has happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn change(&mut self, now: Nanoseconds, action: Action) {
        self.transmit_until(now);
        match action {
            Action::Cut => {
                self.cut = true;
                self.discard_undelivered(now);
            }
            Action::Mend => self.cut = false,
            Action::Rate { bits_per_second } => self.change_rate(now, bits_per_second),
        }
    }

    fn queue_limit_bytes(&self) -> u64 {
        let rate = match self.spec.queue {
            crate::Queue::BandwidthDelay(_) => self.first_rate,
            _ => self.spec.rate_bits_per_second,
        };
        self.spec.queue.limit_bytes(rate, self.round_trip)
    }

    fn transmission_time(&self, bytes: u32) -> Nanoseconds {
        const BIT_NANOSECONDS_PER_BYTE: u64 = 8 * 1_000_000_000;
        match self.spec.rate_bits_per_second {
            0 => 0,
            rate => (u64::from(bytes) * BIT_NANOSECONDS_PER_BYTE + rate / 2) / rate,
        }
    }

    fn transmit_until(&mut self, now: Nanoseconds) {
        while self.departure <= now
            && let Some(packet) = self.waiting.pop_front()
        {
            let departure = self.departure;
            if let Some(next) = self.waiting.front() {
                self.departure = departure.max(next.arrived) + self.transmission_time(next.bytes);
            }
            self.counters.queue_bytes -= u64::from(packet.bytes);
            if self.loss.next(&mut self.random) {
                self.counters.loss_drops += 1;
                self.discarded.push(packet.token);
            } else {
                self.fly(departure, packet);
            }
        }
    }

    fn fly(&mut self, departure: Nanoseconds, packet: Waiting) {
        let Waiting { token, bytes, .. } = packet;
        let (delay, jitter) = (nanoseconds(self.spec.delay), nanoseconds(self.spec.jitter));
        let jittered = if jitter == 0 {
            0
        } else {
            self.random.u64(0..=2 * jitter)
        };
        let due = (departure + delay - jitter + jittered).max(self.last_due);
        if self.spec.reorder > 0.0 && self.random.f64() < self.spec.reorder {
            let due = due + nanoseconds(self.spec.reorder_by);
            self.held_back.push(Reverse(Flying { due, token, bytes }));
        } else {
            self.last_due = due;
            self.flying.push_back(Flying { due, token, bytes });
        }
    }

    /// What has already begun is finished at the new rate.
    fn change_rate(&mut self, now: Nanoseconds, bits_per_second: u64) {
        let old = u128::from(self.spec.rate_bits_per_second);
        self.spec.rate_bits_per_second = bits_per_second;
        if !self.waiting.is_empty() {
            let left = u128::from(self.departure - now) * old;
            let left = left.checked_div(u128::from(bits_per_second)).unwrap_or(0);
            self.departure = now + u64::try_from(left).unwrap_or(u64::MAX / 2);
            self.transmit_until(now);
        }
    }

    fn discard_undelivered(&mut self, now: Nanoseconds) {
        let before = self.discarded.len();
        self.discarded
            .extend(self.waiting.drain(..).map(|packet| packet.token));
        self.counters.queue_bytes = 0;
        let arrived = self.flying.partition_point(|packet| packet.due <= now);
        self.discarded
            .extend(self.flying.drain(arrived..).map(|packet| packet.token));
        let discarded = &mut self.discarded;
        self.held_back.retain(|Reverse(packet)| {
            let arrived = packet.due <= now;
            if !arrived {
                discarded.push(packet.token);
            }
            arrived
        });
        self.counters.cut_drops += (self.discarded.len() - before) as u64;
        self.last_due = now;
    }
}

/// A time of the specification as one of the emulation.
pub(crate) fn nanoseconds(time: Duration) -> Nanoseconds {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}
