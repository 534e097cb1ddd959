//! How far it is, on stderr.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::Job;
use crate::{
    results::{Came, Sample},
    units::human_duration,
};

/// Around a migration: starting the guest, a second of steady work, watching it afterwards.
const AROUND: Duration = Duration::from_secs(11);

/// Counts migrations, and estimates what is left.
pub(super) struct Progress {
    /// What is still to come.
    left: Vec<Job>,
    total: usize,
    /// How long a cell took, by what a person calls it.
    seen: BTreeMap<String, Duration>,
    since: Instant,
}

impl Progress {
    pub(super) fn new(jobs: &[Job]) -> Self {
        let progress = Self {
            left: jobs.iter().rev().cloned().collect(),
            total: jobs.len(),
            seen: BTreeMap::new(),
            since: Instant::now(),
        };
        let left = human_duration(progress.estimate());
        eprintln!("{} migrations, roughly {left}", progress.total);
        progress
    }

    pub(super) fn passed_over(&mut self, job: &Job) {
        self.left.pop();
        let what = job.cell.describe();
        eprintln!("{} {what}: not again, it does not converge", self.count());
        self.since = Instant::now();
    }

    pub(super) fn done(&mut self, job: &Job, sample: &Sample) {
        self.left.pop();
        let what = job.cell.describe();
        self.seen.insert(what.clone(), self.since.elapsed());
        self.since = Instant::now();
        let left = human_duration(self.estimate());
        eprintln!(
            "{} {what}, run {}: {} — {left} left",
            self.count(),
            job.run,
            told(sample)
        );
    }

    fn count(&self) -> String {
        format!("[{}/{}]", self.total - self.left.len(), self.total)
    }

    fn estimate(&self) -> Duration {
        self.left.iter().map(|job| self.expected(job)).sum()
    }

    /// As long as the last time, or as sending its memory once takes, half the limit at most.
    fn expected(&self, job: &Job) -> Duration {
        if let Some(seen) = self.seen.get(&job.cell.describe()) {
            return *seen;
        }
        let bits = job.cell.guest.memory_bytes * 8;
        let rate = job
            .cell
            .link
            .rate()
            .filter(|rate| *rate > 0)
            .unwrap_or(4_000_000_000);
        let once = Duration::from_secs(bits / rate);
        once.min(job.cell.time_limit / 2) + AROUND
    }
}

fn told(sample: &Sample) -> String {
    let seconds = sample.total_time_ms / 1e3;
    let mebibytes = sample.link_bytes.sum() as f64 / (1 << 20) as f64;
    let silence = sample.fared.guest_silence_ms_max;
    let silence = silence.map_or_else(|| "unknown".into(), |ms| format!("{ms:.0} ms"));
    match sample.came {
        Came::Moved => format!("{seconds:.2} s, {mebibytes:.1} MiB, silence {silence}"),
        Came::DidNotConverge => format!("did not converge in {seconds:.0} s"),
        Came::Failed => {
            let error = sample.error.as_deref().unwrap_or("no reason known");
            format!("FAILED: {error}")
        }
    }
}
