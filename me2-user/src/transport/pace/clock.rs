//! A virtual clock: when everything that was booked will have been sent at the capped rate. After
//! the generic cell rate algorithm (ITU-T I.371).
//!
//! Two words of nanoseconds of the monotonic clock, in a file if processes share it. A process that
//! ends, however it ends, leaves nothing behind but the time that it had booked.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    },
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use anyhow::Context;
use me2_vmm::mapping::SharedMapping;

/// The file in the runtime folder.
const FILE_NAME: &str = "bandwidth";
/// Its length, in bytes: a page is what can be mapped.
const FILE_BYTES: usize = 4096;

/// Where everything is booked, and the urgent part as if there were nothing else: bytes from the
/// beginning of the file.
const ALL: usize = 0;
const URGENT: usize = 8;

/// Time that was not used may be used later, if it is not longer ago: timers and threads are late,
/// and the cap is to be reached all the same.
const LATE_MAX: Duration = Duration::from_millis(5);

/// The furthest ahead that is booked. What is further is not of this boot, or no time at all.
const AHEAD_MAX: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Clock(Words);

#[derive(Debug)]
enum Words {
    Shared(SharedMapping),
    Own([AtomicU64; 2]),
}

impl Clock {
    /// A clock that nobody else knows.
    pub(super) fn own() -> Self {
        Self(Words::Own(Default::default()))
    }

    /// The clock of all that use this folder.
    pub(super) fn shared(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE_NAME);
        let words = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| open(&path))
            .and_then(|file| SharedMapping::new(file.as_fd(), FILE_BYTES))
            .with_context(|| format!("cannot use {}", path.display()))?;
        Ok(Self(Words::Shared(words)))
    }

    /// Books time after everything that is booked, and says when it begins: now, or later.
    pub(super) fn book(&self, takes_ns: u64, now_ns: u64) -> u64 {
        self.0.book(ALL, takes_ns, now_ns)
    }

    /// Books time after what is urgent, and says when it begins. All else is later by as much.
    pub(super) fn book_urgent(&self, takes_ns: u64, now_ns: u64) -> u64 {
        self.0.book(ALL, takes_ns, now_ns);
        self.0.book(URGENT, takes_ns, now_ns)
    }
}

impl Words {
    fn book(&self, word: usize, takes_ns: u64, now_ns: u64) -> u64 {
        let latest = now_ns.saturating_add(nanoseconds(AHEAD_MAX));
        let mut booked = self.load(word);
        loop {
            let known = if booked > latest { 0 } else { booked };
            let begins = known.max(now_ns.saturating_sub(nanoseconds(LATE_MAX)));
            let ends = begins.saturating_add(takes_ns).min(latest);
            match self.exchange(word, booked, ends) {
                Ok(()) => return begins.max(now_ns),
                Err(other) => booked = other,
            }
        }
    }

    fn load(&self, word: usize) -> u64 {
        match self {
            Self::Shared(words) => words.load_u64(word),
            Self::Own(words) => words[word / 8].load(Ordering::Relaxed),
        }
    }

    fn exchange(&self, word: usize, current: u64, new: u64) -> Result<(), u64> {
        match self {
            Self::Shared(words) => words.compare_exchange_u64(word, current, new),
            Self::Own(words) => words[word / 8]
                .compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed)
                .map(drop),
        }
    }
}

/// Opens the file for this user alone, and makes it as long as it must be. It is never removed:
/// another process may be about to map it.
fn open(path: &Path) -> std::io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.len() < FILE_BYTES as u64 {
        // Written, so that there is room on the disk. Whoever is first at the same time loses a
        // booking: a few milliseconds of the cap, once.
        file.write_all_at(&[0; FILE_BYTES], 0)?;
    }
    Ok(file)
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1000 * MS;

    #[test]
    fn one_after_the_other() {
        let clock = Clock::own();
        let now = 100 * SECOND;
        clock.book(5 * MS, now);
        assert_eq!(clock.book(10 * MS, now), now);
        assert_eq!(clock.book(10 * MS, now), now + 10 * MS);
        assert_eq!(clock.book(1, now + 3 * MS), now + 20 * MS);
    }

    #[test]
    fn a_little_of_the_past_can_be_used_but_not_more() {
        let clock = Clock::own();
        let now = 100 * SECOND;
        assert_eq!(clock.book(5 * MS, now), now, "in the past");
        assert_eq!(clock.book(MS, now), now);
        assert_eq!(clock.book(MS, now), now + MS);
    }

    #[test]
    fn the_urgent_is_ahead_and_counts() {
        let clock = Clock::own();
        let now = 100 * SECOND;
        clock.book(SECOND, now);
        assert_eq!(clock.book_urgent(100 * MS, now), now, "not behind the rest");
        let second = clock.book_urgent(100 * MS, now);
        assert_eq!(second, now + 95 * MS, "behind the urgent");
        let rest = clock.book(1, now);
        assert_eq!(rest, now + 1195 * MS, "behind all");
    }

    #[test]
    fn what_cannot_be_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let now = 100 * SECOND;
        for stale in [u64::MAX, now + 31 * SECOND, now - SECOND, 0] {
            let bytes = [stale.to_ne_bytes(), stale.to_ne_bytes()].concat();
            std::fs::write(folder.path().join(FILE_NAME), bytes).unwrap();
            let clock = Clock::shared(folder.path()).unwrap();
            assert_eq!(clock.book(MS, now), now, "{stale}");
            assert_eq!(clock.book_urgent(MS, now), now, "{stale}");
        }
    }

    #[test]
    fn nothing_is_booked_further_ahead_than_is_believed() {
        let clock = Clock::own();
        let now = 100 * SECOND;
        clock.book(u64::MAX, now);
        assert_eq!(clock.book(MS, now), now + 30 * SECOND);
    }

    #[test]
    fn the_file_outlives_whoever_used_it() {
        let folder = tempfile::tempdir().unwrap();
        let now = 100 * SECOND;
        let clock = Clock::shared(folder.path()).unwrap();
        clock.book(25 * MS, now);
        drop(clock);
        let next = Clock::shared(folder.path()).unwrap();
        assert_eq!(next.book(MS, now), now + 20 * MS);
    }

    #[test]
    fn without_a_folder_there_is_no_shared_clock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = format!("{:#}", Clock::shared(file.path()).unwrap_err());
        assert!(error.contains("bandwidth"), "{error}");
    }
}
