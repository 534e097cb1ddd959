//! The bandwidth cap of a migration, in every phase.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// How far ahead of the clock bytes may be sent.
const BURST: Duration = Duration::from_millis(5);

/// Lets so many bytes a second through. Without a cap it never waits.
#[derive(Debug)]
pub struct Pacer {
    bytes_per_second: Option<f64>,
    /// When what was let through so far will have been sent at the capped rate.
    busy_until: Mutex<Instant>,
}

impl Pacer {
    /// A pacer with a cap, or without.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second: bytes_per_second.map(|rate| rate as f64),
            busy_until: Mutex::new(Instant::now()),
        }
    }

    /// Waits until `bytes` more may be sent.
    pub async fn admit(&self, bytes: usize) {
        if let Some(at) = self.reserve(bytes, Instant::now()) {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// Books `bytes` that cannot wait: what comes after them waits the longer.
    pub fn admit_urgent(&self, bytes: usize) {
        self.reserve(bytes, Instant::now());
    }

    /// Books `bytes` and says when they may go; `None`: at once.
    fn reserve(&self, bytes: usize, now: Instant) -> Option<Instant> {
        let rate = self.bytes_per_second?;
        let mut busy_until = self.busy_until.lock().expect("no panics under this lock");
        let start = (*busy_until).max(now);
        *busy_until = start + Duration::from_secs_f64(bytes as f64 / rate);
        (start > now + BURST).then(|| start - BURST)
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
}
