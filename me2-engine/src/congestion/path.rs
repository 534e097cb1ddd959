//! What acknowledgements tell about the path: its rate, its round trip, and whether a queue stands.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A measurement takes a round trip, and at least this time: shorter ones would measure when threads
/// run rather than what the path does.
const MEASUREMENT_MIN: Duration = Duration::from_millis(10);
/// Round trips are collected for so long; a low one of them counts, not the least: a thread that
/// reads late makes single ones far too small.
const BUCKET: Duration = Duration::from_millis(100);
const BUCKET_SAMPLES_MAX: usize = 256;
const LOW: f64 = 0.1;
/// So many buckets are remembered: 10 s.
const BUCKETS_MAX: usize = 100;
/// A round trip is longer than the empty path's by so much, or by this part of it: a queue.
const QUEUE_MIN: Duration = Duration::from_millis(2);
const QUEUE_PART: u32 = 8;
/// A queue in the start must stand for this part of a round trip.
const PERSISTENT_PART: u32 = 5;
/// At most so much more than fills the link is under way because acknowledgements come in bunches.
const BUNCHED_MAX: Duration = Duration::from_millis(3);
/// The estimate of bunches shrinks by this part with each measurement.
const BUNCHED_DECAY: f64 = 0.1;

/// What is known of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathEstimate {
    /// Delivered, in bytes a second; 0 if not yet known.
    pub rate: f64,
    /// Of the empty path.
    pub round_trip: Duration,
}

impl PathEstimate {
    /// What fills the path without a queue, in bytes.
    pub fn product(&self) -> f64 {
        self.rate * self.round_trip.as_secs_f64()
    }
}

/// What was seen over a round trip.
#[derive(Debug)]
pub(super) struct Measurement {
    /// Delivered, bytes a second.
    pub rate: f64,
    /// Share of the bytes that were lost.
    pub loss: f64,
    /// Whether a queue stood.
    pub has_queue: bool,
    /// Whether the window was used.
    pub is_full: bool,
    /// Whether the path said that its queue is too long.
    pub is_marked: bool,
    pub in_flight_max: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Path {
    round_trips: RoundTrips,
    present: Present,
    queue: Option<Queue>,
    /// The highest rate since old ones were forgotten last, and before.
    rate: f64,
    rate_before: f64,
    /// Of the last two measurements.
    recent: [f64; 2],
    /// Bytes that were acknowledged at once, the most of late.
    bunched: f64,
}

/// The measurement under way.
#[derive(Debug, Clone)]
struct Present {
    begun: Instant,
    /// When the newest packet was sent that had been acknowledged at the beginning.
    sent_before: Option<Instant>,
    newest_sent: Option<Instant>,
    delivered: u64,
    lost: u64,
    is_marked: bool,
    /// Of the batch at hand.
    batch: u64,
    in_flight_max: u64,
    batches: u32,
    full_batches: u32,
    samples: Vec<Duration>,
}

/// A queue that stands, and what was delivered meanwhile.
#[derive(Debug, Clone)]
struct Queue {
    since: Instant,
    delivered: u64,
}

#[derive(Debug, Clone)]
struct RoundTrips {
    /// Low round trips of the past, each with its time.
    lows: VecDeque<(Instant, Duration)>,
    samples: Vec<Duration>,
    begun: Instant,
    least: Option<Duration>,
    least_seen: Instant,
}

impl Path {
    pub fn new(now: Instant) -> Self {
        Self {
            round_trips: RoundTrips::new(now),
            present: Present::new(now, None),
            queue: None,
            rate: 0.0,
            rate_before: 0.0,
            recent: [0.0; 2],
            bunched: 0.0,
        }
    }

    pub fn estimate(&self) -> PathEstimate {
        PathEstimate {
            rate: self.rate(),
            round_trip: self.round_trip(),
        }
    }

    /// Bytes a second.
    pub fn rate(&self) -> f64 {
        self.rate.max(self.rate_before)
    }

    pub fn round_trip(&self) -> Duration {
        self.round_trips.least.unwrap_or_default()
    }

    /// What fills the path without a queue, in bytes.
    pub fn product(&self) -> f64 {
        self.estimate().product()
    }

    pub fn bunched(&self) -> f64 {
        self.bunched.min(self.rate() * BUNCHED_MAX.as_secs_f64())
    }

    pub fn acked(&mut self, sent: Instant, bytes: u64) {
        let present = &mut self.present;
        present.batch += bytes;
        present.newest_sent = present.newest_sent.max(Some(sent));
    }

    pub fn lost(&mut self, bytes: u64) {
        self.present.lost += bytes;
    }

    pub fn marked(&mut self) {
        self.present.is_marked = true;
    }

    pub fn batch_ended(&mut self, now: Instant, in_flight_before: u64, is_full: bool) {
        let present = &mut self.present;
        let batch = std::mem::take(&mut present.batch);
        present.delivered += batch;
        present.in_flight_max = present.in_flight_max.max(in_flight_before);
        present.batches += 1;
        present.full_batches += u32::from(is_full);
        let Some(sent) = present.newest_sent else {
            return;
        };
        let round_trip = now.saturating_duration_since(sent);
        if present.samples.len() < BUCKET_SAMPLES_MAX {
            present.samples.push(round_trip);
        }
        self.round_trips.add(now, round_trip);
        self.queue = match (self.is_queue(round_trip), self.queue.take()) {
            (false, _) => None,
            (true, None) => Some(Queue {
                since: now,
                delivered: 0,
            }),
            (true, Some(queue)) => Some(Queue {
                delivered: queue.delivered + batch,
                ..queue
            }),
        };
        self.note_bunch(batch);
    }

    /// Ends the measurement at hand if it has taken long enough.
    pub fn measure(&mut self, now: Instant) -> Option<Measurement> {
        let elapsed = now.saturating_duration_since(self.present.begun);
        let newest = self.present.newest_sent?;
        if elapsed < MEASUREMENT_MIN || newest < self.present.begun {
            return None;
        }
        let rate = self.present_rate(now);
        let present = std::mem::replace(&mut self.present, Present::new(now, Some(newest)));
        let is_full = present.full_batches * 2 > present.batches;
        if is_full || rate > self.rate() {
            self.rate = self.rate.max(rate);
        }
        if is_full {
            self.recent = [rate, self.recent[0]];
        }
        self.bunched *= 1.0 - BUNCHED_DECAY;
        let sent = present.delivered + present.lost;
        Some(Measurement {
            rate,
            loss: present.lost as f64 / (sent as f64).max(1.0),
            has_queue: low(&present.samples).is_some_and(|low| self.is_queue(low)),
            is_full,
            is_marked: present.is_marked,
            in_flight_max: present.in_flight_max,
        })
    }

    /// If a queue has stood for so long that it is no chance: what was delivered meanwhile, which is
    /// what the link takes, counts.
    pub fn heed_persistent_queue(&mut self, now: Instant) -> bool {
        let least = (self.round_trip() / PERSISTENT_PART).max(MEASUREMENT_MIN / 2);
        let Some(queue) = &self.queue else {
            return false;
        };
        let stood = now.saturating_duration_since(queue.since);
        if stood < least {
            return false;
        }
        self.rate = queue.delivered as f64 / stood.as_secs_f64();
        true
    }

    /// A queue stands, so what is delivered now is the link's rate.
    pub fn lower_rate(&mut self) {
        let delivered = self.recent[0].max(self.recent[1]);
        if delivered > 0.0 && delivered < self.rate() {
            self.rate = delivered;
            self.rate_before = 0.0;
        }
    }

    pub fn forget_old_rates(&mut self) {
        self.rate_before = self.rate;
        self.rate = 0.0;
    }

    pub fn is_round_trip_old(&self, now: Instant, after: Duration) -> bool {
        now.saturating_duration_since(self.round_trips.least_seen) > after
    }

    /// Only what is seen from now on counts.
    pub fn look_for_round_trip(&mut self, now: Instant) {
        self.round_trips.look_again(now);
    }

    /// Bytes a second in the measurement at hand: neither faster than acknowledgements came, nor
    /// than the packets had been sent.
    fn present_rate(&self, now: Instant) -> f64 {
        let present = &self.present;
        let acked_in = now.saturating_duration_since(present.begun);
        let sent_in = match (present.newest_sent, present.sent_before) {
            (Some(newest), Some(before)) => newest.saturating_duration_since(before),
            _ => Duration::ZERO,
        };
        let time = acked_in.max(sent_in).as_secs_f64();
        if time > 0.0 {
            present.delivered as f64 / time
        } else {
            0.0
        }
    }

    fn is_queue(&self, round_trip: Duration) -> bool {
        let least = self.round_trip();
        round_trip > least + (least / QUEUE_PART).max(QUEUE_MIN)
    }

    /// What is acknowledged at once has to be under way besides what fills the link.
    fn note_bunch(&mut self, batch: u64) {
        self.bunched = self.bunched.max(batch as f64);
    }
}

impl Present {
    fn new(now: Instant, sent_before: Option<Instant>) -> Self {
        Self {
            begun: now,
            sent_before,
            newest_sent: sent_before,
            delivered: 0,
            lost: 0,
            is_marked: false,
            batch: 0,
            in_flight_max: 0,
            batches: 0,
            full_batches: 0,
            samples: Vec::new(),
        }
    }
}

impl RoundTrips {
    fn new(now: Instant) -> Self {
        Self {
            lows: VecDeque::new(),
            samples: Vec::new(),
            begun: now,
            least: None,
            least_seen: now,
        }
    }

    fn add(&mut self, now: Instant, round_trip: Duration) {
        if self.samples.len() < BUCKET_SAMPLES_MAX {
            self.samples.push(round_trip);
        }
        if self.lows.is_empty() {
            // Nothing better is known yet.
            self.least = low(&self.samples);
            self.least_seen = now;
        }
        if now.saturating_duration_since(self.begun) >= BUCKET {
            self.end_bucket(now);
        }
    }

    fn end_bucket(&mut self, now: Instant) {
        let Some(low) = low(&self.samples) else {
            return;
        };
        self.samples.clear();
        self.begun = now;
        if self.lows.len() == BUCKETS_MAX {
            self.lows.pop_front();
        }
        self.lows.push_back((now, low));
        let least = self.lows.iter().map(|(_, low)| *low).min();
        // What comes within a tenth of it has seen it.
        if least.is_some_and(|least| low <= least + least / 10) {
            self.least_seen = now;
        }
        self.least = least;
    }

    fn look_again(&mut self, now: Instant) {
        self.lows.clear();
        self.samples.clear();
        self.begun = now;
        self.least_seen = now;
    }
}

/// A low one of these.
fn low(samples: &[Duration]) -> Option<Duration> {
    let mut sorted = samples.to_vec();
    let at = (LOW * sorted.len() as f64) as usize;
    (!sorted.is_empty()).then(|| *sorted.select_nth_unstable(at).1)
}
