//! How many operations are due at a given rate.

const SECOND: u64 = 1_000_000_000;

/// The highest rate that can be paced, per second.
pub const RATE_MAX: u64 = 1_000_000_000;

/// What is made up for after a pause, nanoseconds. A machine that stood still for longer goes on at its
/// rate instead of rushing, so its rate tells when it works as before.
const BACKLOG_NS: u64 = 20_000_000;

/// Doles out operations evenly.
#[derive(Debug, Clone)]
pub struct Pacer {
    per_second: u64,
    last_ns: u64,
    /// Billionths of an operation.
    credit: u64,
}

impl Pacer {
    /// `per_second` operations (at most [`RATE_MAX`]; 0: none, ever) from `now_ns` on.
    pub fn new(per_second: u64, now_ns: u64) -> Self {
        assert!(
            per_second <= RATE_MAX,
            "rates are checked where they are read"
        );
        Self {
            per_second,
            last_ns: now_ns,
            credit: 0,
        }
    }

    /// How many operations are due at `now_ns`, and not yet taken.
    pub fn due(&mut self, now_ns: u64) -> u64 {
        let elapsed = now_ns.saturating_sub(self.last_ns).min(SECOND);
        self.last_ns = now_ns;
        let limit = (BACKLOG_NS * self.per_second).max(SECOND);
        self.credit = (self.credit + elapsed * self.per_second).min(limit);
        self.credit / SECOND
    }

    /// Takes `operations` of those that are due.
    pub fn take(&mut self, operations: u64) {
        self.credit -= operations * SECOND;
    }

    /// When the next operation will be due, as of the last [`Pacer::due`].
    pub fn next_ns(&self) -> u64 {
        if self.per_second == 0 {
            return u64::MAX;
        }
        self.last_ns + SECOND.saturating_sub(self.credit).div_ceil(self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_whatever_the_steps() {
        let mut pacer = Pacer::new(12_345, 500);
        let (mut now, mut done, mut step) = (500, 0, 1);
        while now < 500 + 10 * SECOND {
            now += step % 3_000_000;
            step += 7_919;
            let due = pacer.due(now);
            pacer.take(due);
            done += due;
        }
        let expected = (now - 500) * 12_345 / SECOND;
        assert!(expected - done <= 1, "{done} of {expected}");
    }

    #[test]
    fn it_says_when_to_come_back() {
        let mut pacer = Pacer::new(100, 0);
        assert_eq!(pacer.due(0), 0);
        assert_eq!(pacer.next_ns(), 10_000_000);
        assert_eq!(pacer.due(9_999_999), 0);
        assert_eq!(pacer.due(10_000_000), 1);
        assert_eq!(pacer.next_ns(), 10_000_000);
        pacer.take(1);
        assert_eq!(pacer.next_ns(), 20_000_000);
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let mut pacer = Pacer::new(10_000, 0);
        assert_eq!(pacer.due(60 * SECOND), 200);
        let mut slow = Pacer::new(1, 0);
        assert_eq!(slow.due(60 * SECOND), 1);
    }

    #[test]
    fn none_is_never() {
        let mut pacer = Pacer::new(0, 0);
        assert_eq!((pacer.due(SECOND), pacer.next_ns()), (0, u64::MAX));
    }

    #[test]
    fn the_highest_rate_does_not_overflow() {
        assert_eq!(Pacer::new(RATE_MAX, 0).due(u64::MAX), 20_000_000);
    }
}
