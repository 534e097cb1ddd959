//! When a source whose link broke after the handover connects again by itself: soon, then less and
//! less often, and not for ever.

use std::time::Duration;

/// The first wait.
const DELAY_MIN: Duration = Duration::from_millis(200);
/// The longest one.
const DELAY_MAX: Duration = Duration::from_secs(10);

/// Attempts to connect again, since the last one that brought a page across. Time is what the
/// caller says it is.
#[derive(Debug, Clone)]
pub struct Recovery {
    limit: Duration,
    since: Duration,
    attempts: u32,
    missing: u64,
}

impl Recovery {
    /// The link has broken for the first time, with so many pages missing; without progress, it is
    /// given up after `limit`.
    pub fn new(limit: Duration, now: Duration, missing: u64) -> Self {
        Self {
            limit,
            since: now,
            attempts: 0,
            missing,
        }
    }

    /// The link is broken, or could not be made: how long to wait until the next attempt. `None`: it
    /// is time to give up. Fewer pages missing than ever before is progress, and begins it anew.
    /// `jitter`, from 0 to 1, keeps many sources from connecting at the same moment.
    pub fn broke(&mut self, now: Duration, missing: u64, jitter: f64) -> Option<Duration> {
        if missing < self.missing {
            *self = Self::new(self.limit, now, missing);
        }
        let doubled = DELAY_MIN.saturating_mul(1 << self.attempts.min(16));
        let delay = doubled.min(DELAY_MAX).mul_f64(1.0 - jitter / 2.0);
        self.attempts = self.attempts.saturating_add(1);
        (delay < self.left(now)).then_some(delay)
    }

    /// Attempts since the last progress, with the one that was decided on last.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How long it is until it is given up.
    pub fn left(&self, now: Duration) -> Duration {
        (self.since + self.limit).saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    /// The waits of a link that stays broken, where each attempt takes a second.
    fn waits(jitter: f64) -> Vec<Duration> {
        let mut now = Duration::from_secs(7);
        let mut recovery = Recovery::new(LIMIT, now, 10);
        let mut waits = Vec::new();
        while let Some(delay) = recovery.broke(now, 10, jitter) {
            waits.push(delay);
            now += delay + Duration::from_secs(1);
        }
        assert_eq!(recovery.attempts() as usize, waits.len() + 1);
        assert!(now <= Duration::from_secs(7) + LIMIT + Duration::from_secs(1));
        waits
    }

    #[test]
    fn waits_double_up_to_a_limit_and_end() {
        let ms: Vec<_> = waits(0.0).iter().map(Duration::as_millis).collect();
        assert_eq!(ms[..8], [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert!((25..40).contains(&ms.len()), "{ms:?}");
    }

    #[test]
    fn jitter_shortens_by_half_at_most() {
        for (whole, half) in waits(0.0).iter().zip(waits(1.0)) {
            assert_eq!(*whole / 2, half);
        }
    }

    #[test]
    fn a_page_more_begins_it_anew() {
        let mut recovery = Recovery::new(LIMIT, Duration::ZERO, 10);
        for _ in 0..5 {
            recovery.broke(Duration::ZERO, 10, 0.0).unwrap();
        }
        let late = LIMIT * 2;
        assert_eq!(recovery.broke(late, 9, 0.0), Some(DELAY_MIN));
        assert_eq!(recovery.left(late), LIMIT);
        assert_eq!(recovery.broke(late * 2, 9, 0.0), None, "no progress");
    }

    #[test]
    fn without_time_there_is_no_attempt() {
        let mut recovery = Recovery::new(Duration::ZERO, Duration::ZERO, 10);
        assert_eq!(recovery.broke(Duration::ZERO, 10, 0.5), None);
    }
}
