//! The bandwidth cap of a migration, in every phase.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// How far ahead of the clock bytes may be sent.
const BURST: Duration = Duration::from_millis(5);

/// Lets so many bytes a second through: what is urgent first, the rest in what it leaves. Without
/// a cap it never waits.
#[derive(Debug)]
pub struct Pacer {
    bytes_per_second: Option<f64>,
    busy: Mutex<Busy>,
}

/// When what was let through so far will have been sent at the capped rate.
#[derive(Debug)]
struct Busy {
    /// The urgent part, as if there were nothing else.
    urgent_until: Instant,
    /// All of it.
    until: Instant,
}

impl Pacer {
    /// A pacer with a cap, or without.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            bytes_per_second: bytes_per_second.map(|rate| rate as f64),
            busy: Mutex::new(Busy {
                urgent_until: now,
                until: now,
            }),
        }
    }

    /// Waits until `bytes` more may be sent.
    pub async fn admit(&self, bytes: usize) {
        sleep_until(self.reserve(bytes, Instant::now())).await;
    }

    /// Waits until `bytes` that a vCPU waits for may be sent: behind others such, before all else.
    pub async fn admit_urgent(&self, bytes: usize) {
        sleep_until(self.reserve_urgent(bytes, Instant::now())).await;
    }

    /// Books `bytes` that leave at once: what comes after them waits the longer.
    pub fn book(&self, bytes: usize) {
        self.reserve_urgent(bytes, Instant::now());
    }

    /// Books `bytes` and says when they may go; `None`: at once.
    fn reserve(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let takes = self.time_of(bytes)?;
        let mut busy = self.busy.lock().expect("no panics under this lock");
        let start = busy.until.max(now);
        busy.until = start + takes;
        (start > now + BURST).then(|| start - BURST)
    }

    fn reserve_urgent(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let takes = self.time_of(bytes)?;
        let mut busy = self.busy.lock().expect("no panics under this lock");
        let start = busy.urgent_until.max(now);
        busy.urgent_until = start + takes;
        busy.until = busy.until.max(now) + takes;
        (start > now + BURST).then(|| start - BURST)
    }

    fn time_of(&self, bytes: usize) -> Option<Duration> {
        self.bytes_per_second
            .map(|rate| Duration::from_secs_f64(bytes as f64 / rate))
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept() {
        let now = Instant::now();
        let pacer = Pacer::new(Some(1_000_000));
        assert_eq!(pacer.reserve(100_000, now), None);
        for _ in 0..8 {
            pacer.reserve(100_000, now);
        }
        let tenth = pacer.reserve(100_000, now).unwrap().duration_since(now);
        assert!((0.89..0.91).contains(&tenth.as_secs_f64()), "{tenth:?}");
        assert_eq!(Pacer::new(None).reserve(usize::MAX, now), None);
    }

    #[test]
    fn the_urgent_goes_first_and_counts() {
        let now = Instant::now();
        let pacer = Pacer::new(Some(1_000_000));
        pacer.reserve(1_000_000, now);
        assert_eq!(
            pacer.reserve_urgent(100_000, now),
            None,
            "not behind the rest"
        );
        let second = pacer
            .reserve_urgent(100_000, now)
            .unwrap()
            .duration_since(now);
        assert!(
            (0.09..0.11).contains(&second.as_secs_f64()),
            "{second:?}: behind the urgent"
        );
        let rest = pacer.reserve(1, now).unwrap().duration_since(now);
        assert!(
            (1.19..1.21).contains(&rest.as_secs_f64()),
            "{rest:?}: behind all"
        );
    }
}
