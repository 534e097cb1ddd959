//! How much may be under way: congestion control for bulk that somebody's page fault has to pass.
//!
//! A model of the path, after BBRv3 (draft-ietf-ccwg-bbr): the rate at which data is delivered and
//! the round trip of the empty path say how much fills the link without a queue. Loss alone says
//! nothing: a long link loses packets that no queue dropped. What differs from BBR follows from two
//! facts: QUIC here is told a window and no pacing rate, and a fault's answer waits behind whatever
//! is queued. So:
//!
//! - the window is 1.0 × rate × round trip, not 2, and a little for what arrives in bunches;
//! - rates are measured over whole round trips, so that bunched acknowledgements, which make BBR's
//!   samples too high, hardly matter;
//! - a probe takes 1.1 × the window for one round trip in eight, and goes on with ever more for as
//!   long as more gets through;
//! - the rate is lowered as soon as two measurements in a row show a queue and deliver less;
//! - where others keep the queue full, so that it never drains, the window is doubled, as BBR's
//!   always is.
//!
//! ```text
//! start ──queue, plateau or heavy loss──▶ drain ─▶ cruise ─▶ probe ──no more gets through──▶ drain
//!   ▲                                                │  ▲       └──more gets through──▶ probe higher
//!   └── everything was lost for long                 └──┴─ six measurements; rest: now and then
//! ```
//!
//! Sans-IO: everything comes in with the moment it happened. See ADR 0016.

mod path;
#[cfg(test)]
mod simulation;

use std::time::{Duration, Instant};

pub use path::PathEstimate;
use path::{Measurement, Path};

/// The least window, in packets: twice what an acknowledgement is kept back for.
const WINDOW_PACKETS_MIN: u64 = 20;
/// How much more than fills the link a probe sends at first, and what each further one multiplies.
const PROBE_GAIN: f64 = 1.1;
const PROBE_GROWTH: f64 = 1.25;
/// A probe that lets so much more through has found more.
const PROBE_FOUND: f64 = 1.03;
/// What is sent after a probe until its queue is gone.
const DRAIN_GAIN: f64 = 0.9;
/// Measurements between probes.
const CRUISE_MEASUREMENTS: u32 = 6;
/// How much more than fills the link is sent beside flows that keep the queue full; also the most
/// that a probe sends.
const COMPETING_GAIN: f64 = 2.0;
/// So many measurements in a row in which the queue never drained: somebody else fills it.
const COMPETING_MEASUREMENTS: u32 = 12;
/// In the start, a round trip that does not deliver so many times what the best one before did is
/// flat; after so many of them in a row the link is full.
const START_GROWTH: f64 = 1.25;
const START_FLAT_MEASUREMENTS: u32 = 3;
/// From this share of loss on, together with a queue, the queue overflows.
const LOSS_WITH_QUEUE: f64 = 0.015;
/// From this share on it is congestion whatever the round trip says.
const LOSS_ALWAYS: f64 = 0.15;
/// What is taken of the window that overflowed.
const LOSS_FACTOR: f64 = 0.9;
/// What the bound by loss grows by with each probe.
const BOUND_GROWTH: f64 = 1.1;
/// The round trip of the empty path is looked for again after this time, if it was not seen.
const REST_AFTER: Duration = Duration::from_secs(10);
/// What is under way meanwhile, and for how long at least.
const REST_GAIN: f64 = 0.5;
const REST: Duration = Duration::from_millis(200);

/// From this part on the window is the limit, whatever is said. Below the other, what is seen says
/// nothing about the link, though there was more to send: it is the sender that is the limit, a pacer
/// that lets little go at once, or a thread that runs late.
const USED_WHOLLY: f64 = 0.9;
const USED_MOSTLY: f64 = 0.6;

/// What the window is used for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// Doubles from round trip to round trip.
    Start { best: f64, flat: u32 },
    /// Empties the queue.
    Drain,
    /// Fills the link.
    Cruise { left: u32 },
    /// Tries whether the link takes more: raises the window, and a round trip later sees what came of
    /// it.
    Probe {
        gain: f64,
        before: f64,
        is_raised: bool,
    },
    /// Looks for the round trip of the empty path.
    Rest { until: Instant },
}

/// Congestion control of one path.
#[derive(Debug, Clone)]
pub struct Congestion {
    state: State,
    path: Path,
    /// Bytes.
    window: f64,
    /// A window that overflowed, a little less.
    bound: f64,
    /// Measurements in a row in which a queue stood.
    queued: u32,
    /// Acknowledged in the present batch.
    acked: u64,
    packet: u64,
    initial_window: u64,
}

impl Congestion {
    /// For a path about which nothing is known.
    pub fn new(initial_window: u64, packet: u64, now: Instant) -> Self {
        Self {
            state: State::Start { best: 0.0, flat: 0 },
            path: Path::new(now),
            window: initial_window as f64,
            bound: f64::INFINITY,
            queued: 0,
            acked: 0,
            packet,
            initial_window,
        }
    }

    /// Bytes that may be under way.
    pub fn window(&self) -> u64 {
        (self.window as u64).max(WINDOW_PACKETS_MIN * self.packet)
    }

    /// The window before anything is known.
    pub fn initial_window(&self) -> u64 {
        self.initial_window
    }

    /// What is known of the path.
    pub fn estimate(&self) -> PathEstimate {
        self.path.estimate()
    }

    /// The largest packet that the path takes, in bytes.
    pub fn set_packet(&mut self, bytes: u64) {
        self.packet = bytes;
    }

    /// A packet sent at `sent` was acknowledged.
    pub fn acked(&mut self, sent: Instant, bytes: u64) {
        self.acked += bytes;
        self.path.acked(sent, bytes);
    }

    /// So much was lost of what was under way. `for_long`: nothing got through for long.
    pub fn lost(&mut self, bytes: u64, for_long: bool) {
        self.path.lost(bytes);
        if for_long {
            self.window = (self.window / 4.0).max(self.initial_window as f64);
            self.state = State::Start { best: 0.0, flat: 0 };
        }
    }

    /// The path marked packets: its queue is too long.
    pub fn marked(&mut self) {
        self.path.marked();
    }

    /// All acknowledgements of a batch were told. `in_flight`: what is still under way, in bytes.
    pub fn batch_ended(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let acked = std::mem::take(&mut self.acked);
        if acked == 0 {
            return;
        }
        let in_flight_before = in_flight + acked;
        let used = in_flight_before as f64 / self.window;
        let is_limited_by_window = !app_limited || used > USED_WHOLLY;
        let is_used = is_limited_by_window && used > USED_MOSTLY;
        self.path.batch_ended(now, in_flight_before, is_used);
        if let State::Start { .. } = self.state
            && self.path.heed_persistent_queue(now)
        {
            self.leave_start();
        }
        if let Some(measurement) = self.path.measure(now) {
            self.learn(&measurement, now);
        }
        self.approach_target(acked, in_flight_before, is_limited_by_window);
    }

    fn is_starting(&self) -> bool {
        matches!(self.state, State::Start { .. })
    }

    fn learn(&mut self, measurement: &Measurement, now: Instant) {
        self.heed_loss(measurement);
        self.queued = match measurement.has_queue {
            true => self.queued + 1,
            false => 0,
        };
        if self.queued >= 2 && !self.is_starting() && !self.is_competing() {
            self.path.lower_rate();
        }
        self.state = match self.state {
            State::Start { best, flat } => self.judge_start(measurement, best, flat),
            State::Rest { until } if now < until => self.state,
            State::Rest { .. } => self.cruise(),
            _ if self.path.is_round_trip_old(now, REST_AFTER) => self.rest(now),
            State::Drain if measurement.has_queue && self.queued < 4 => State::Drain,
            State::Drain => self.cruise(),
            State::Cruise { left: 0 } => self.probe(PROBE_GAIN),
            State::Cruise { left } => State::Cruise { left: left - 1 },
            State::Probe {
                gain,
                before,
                is_raised: false,
            } => State::Probe {
                gain,
                before,
                is_raised: true,
            },
            State::Probe { gain, before, .. } => self.judge_probe(measurement, gain, before),
        };
    }

    fn judge_start(&mut self, measurement: &Measurement, best: f64, flat: u32) -> State {
        if !measurement.is_full {
            return State::Start { best, flat };
        }
        if measurement.rate >= best * START_GROWTH {
            let best = measurement.rate;
            return State::Start { best, flat: 0 };
        }
        if flat + 1 >= START_FLAT_MEASUREMENTS {
            self.leave_start();
            return self.state;
        }
        State::Start {
            best,
            flat: flat + 1,
        }
    }

    fn leave_start(&mut self) {
        self.state = State::Drain;
        self.queued = 0;
    }

    fn cruise(&self) -> State {
        State::Cruise {
            left: CRUISE_MEASUREMENTS,
        }
    }

    fn probe(&mut self, gain: f64) -> State {
        self.bound *= BOUND_GROWTH;
        State::Probe {
            gain,
            before: self.path.rate(),
            is_raised: false,
        }
    }

    fn judge_probe(&mut self, measurement: &Measurement, gain: f64, before: f64) -> State {
        if measurement.rate > before * PROBE_FOUND && !measurement.has_queue {
            return self.probe((gain * PROBE_GROWTH).min(COMPETING_GAIN));
        }
        // The link was full, or nobody had more to send: either way old rates may go.
        if measurement.is_full {
            self.path.forget_old_rates();
        }
        State::Drain
    }

    fn rest(&mut self, now: Instant) -> State {
        let until = now + REST.max(self.path.round_trip());
        self.path.look_for_round_trip(now);
        State::Rest { until }
    }

    fn heed_loss(&mut self, measurement: &Measurement) {
        let overflows = measurement.loss >= LOSS_WITH_QUEUE && measurement.has_queue;
        let overflows = overflows || measurement.is_marked;
        if overflows || measurement.loss >= LOSS_ALWAYS {
            let overflowed = measurement.in_flight_max as f64;
            self.bound = (overflowed * LOSS_FACTOR).max(self.path.product());
            if self.is_starting() {
                self.leave_start();
            }
        }
    }

    /// Whether somebody else keeps the queue full.
    fn is_competing(&self) -> bool {
        self.queued >= COMPETING_MEASUREMENTS
    }

    fn target(&self) -> f64 {
        let gain = match self.state {
            State::Start { .. } => return f64::INFINITY,
            State::Rest { .. } => return REST_GAIN * self.path.product(),
            _ if self.is_competing() => COMPETING_GAIN,
            State::Drain => DRAIN_GAIN,
            State::Cruise { .. } => 1.0,
            State::Probe { gain, .. } => gain,
        };
        (gain * self.path.product() + self.path.bunched()).min(self.bound)
    }

    /// Grows and shrinks by what was acknowledged: at most doubled in a round trip, and never so
    /// fast that what is urgent could not be sent.
    fn approach_target(&mut self, acked: u64, in_flight: u64, is_limited_by_window: bool) {
        let target = self.target();
        let (acked, in_flight) = (acked as f64, in_flight as f64);
        if target > self.window {
            if is_limited_by_window && 2.0 * in_flight >= self.window {
                self.window = (self.window + acked).min(target);
            }
        } else {
            // What is not used goes at once.
            let used = self.window.min(in_flight.max(target));
            self.window = (used - acked / 2.0).max(target);
        }
        self.window = self.window.max((WINDOW_PACKETS_MIN * self.packet) as f64);
    }
}
