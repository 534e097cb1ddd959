//! How long it will be until no page exists only at the source, and whether that is longer than it
//! should be.

use std::{collections::VecDeque, time::Duration};

/// How far back arrivals are looked at.
const WINDOW: Duration = Duration::from_secs(5);
/// Samples closer to each other tell nothing more.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// What has come by then says how long all of it should take.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// So many times as long as it seemed at first is late.
const LATE_FACTOR: u32 = 2;
/// Nothing is late before.
const LATE_MIN: Duration = Duration::from_secs(10);
/// Nothing coming for so long is late, however much time there is.
const STANDSTILL: Duration = Duration::from_secs(5);

/// Watches missing pages become fewer. Time is what the caller says it is.
#[derive(Debug, Clone)]
pub struct Forecast {
    begun: Duration,
    missing_at_first: u64,
    samples: VecDeque<(Duration, u64)>,
    missing: u64,
    last_arrival: Duration,
    /// When all of it should be there.
    due: Option<Duration>,
}

impl Forecast {
    /// Begins with so many pages missing.
    pub fn new(now: Duration, missing: u64) -> Self {
        Self {
            begun: now,
            missing_at_first: missing,
            samples: VecDeque::from([(now, missing)]),
            missing,
            last_arrival: now,
            due: None,
        }
    }

    /// So many are missing now.
    pub fn observe(&mut self, now: Duration, missing: u64) {
        if missing < self.missing {
            self.last_arrival = now;
        }
        self.missing = missing;
        let (latest, _) = *self.samples.back().expect("never empty");
        if now.saturating_sub(latest) >= SAMPLE_INTERVAL {
            self.samples.push_back((now, missing));
            // The oldest one that is kept is at the window's beginning, or before it.
            while self.samples.len() > 2 && now.saturating_sub(self.samples[1].0) >= WINDOW {
                self.samples.pop_front();
            }
        }
        let elapsed = now.saturating_sub(self.begun);
        if self.due.is_none() && elapsed >= FIRST_LOOK && missing < self.missing_at_first {
            let arrived = self.missing_at_first - missing;
            let whole = elapsed.mul_f64(self.missing_at_first as f64 / arrived as f64);
            self.due = Some(self.begun + (whole * LATE_FACTOR).max(LATE_MIN));
        }
    }

    /// How long it will take at the pace of late; `None` while nothing comes.
    pub fn left(&self) -> Option<Duration> {
        let (since, before) = *self.samples.front().expect("never empty");
        let (until, now) = *self.samples.back().expect("never empty");
        let (span, arrived) = (until - since, before.saturating_sub(now));
        if self.missing == 0 {
            return Some(Duration::ZERO);
        }
        (arrived > 0).then(|| span.mul_f64(self.missing as f64 / arrived as f64))
    }

    /// Whether it takes longer than it should: than what it seemed to take at first, by far, or
    /// because nothing comes.
    pub fn is_late(&self, now: Duration) -> bool {
        let is_over = self.due.is_some_and(|due| now > due);
        let stands_still = now.saturating_sub(self.last_arrival) >= STANDSTILL;
        self.missing > 0 && (is_over || stands_still)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// So many pages a second, from `from` to `until`.
    fn run(forecast: &mut Forecast, missing: &mut f64, rate: f64, from: f64, until: f64) {
        let mut now = from;
        while now < until {
            now += 0.05;
            *missing = (*missing - rate * 0.05).max(0.0);
            forecast.observe(seconds(now), *missing as u64);
        }
    }

    #[test]
    fn a_steady_pace_is_foretold_and_never_late() {
        let mut missing = 100_000.0;
        let mut forecast = Forecast::new(Duration::ZERO, 100_000);
        assert_eq!(forecast.left(), None);
        run(&mut forecast, &mut missing, 1000.0, 0.0, 20.0);
        let left = forecast.left().unwrap().as_secs_f64();
        assert!((left - 80.0).abs() < 1.0, "{left}");
        run(&mut forecast, &mut missing, 1000.0, 20.0, 101.0);
        assert!(!forecast.is_late(seconds(101.0)));
        assert_eq!(forecast.left(), Some(Duration::ZERO));
        assert!(!forecast.is_late(seconds(10_000.0)), "all is there");
    }

    #[test]
    fn the_pace_of_late_counts() {
        let mut missing = 100_000.0;
        let mut forecast = Forecast::new(Duration::ZERO, 100_000);
        run(&mut forecast, &mut missing, 5000.0, 0.0, 10.0);
        run(&mut forecast, &mut missing, 500.0, 10.0, 20.0);
        let left = forecast.left().unwrap().as_secs_f64();
        assert!((left - 90.0).abs() < 2.0, "{left}");
        assert!(!forecast.is_late(seconds(20.0)));
        run(&mut forecast, &mut missing, 500.0, 20.0, 41.0);
        assert!(forecast.is_late(seconds(41.0)), "twice the 20 s it seemed");
    }

    #[test]
    fn a_standstill_is_late_at_once_until_it_goes_on() {
        let mut missing = 1000.0;
        let mut forecast = Forecast::new(Duration::ZERO, 1000);
        assert!(!forecast.is_late(seconds(4.9)));
        assert!(forecast.is_late(seconds(5.0)), "nothing ever came");
        run(&mut forecast, &mut missing, 10.0, 5.0, 7.0);
        assert!(!forecast.is_late(seconds(7.0)));
        for step in 0..200 {
            forecast.observe(seconds(7.0 + f64::from(step) / 10.0), missing as u64);
        }
        assert_eq!(forecast.left(), None, "no pace, no end");
        assert!(forecast.is_late(seconds(27.0)));
    }
}
