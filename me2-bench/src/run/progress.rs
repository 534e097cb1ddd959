//! How far it is, on stderr.

use std::time::{Duration, Instant};

use super::{
    Job,
    budget::{Budget, Estimates, listed},
    plan::Settled,
};
use crate::{
    results::{Came, Sample},
    units::human_duration,
};

/// Counts migrations, and estimates what is left.
pub(super) struct Progress {
    /// What is still to come.
    left: Vec<Job>,
    total: usize,
    estimates: Estimates,
    budget: Budget,
    began: Instant,
    /// When the last one ended.
    since: Instant,
}

impl Progress {
    /// Says how much there is; with a limit also what it leaves room for and what not, by what can
    /// be known beforehand.
    pub(super) fn new(jobs: &[Job], limit: Option<Duration>) -> Self {
        let estimates = Estimates::default();
        let budget = Budget::new(limit);
        let (fits, duration) = budget.planned(jobs, &estimates);
        let told = human_duration(duration);
        let counted = fits.iter().filter(|fits| **fits).count();
        match limit.map(human_duration) {
            None => eprintln!("{} migrations, roughly {told}", jobs.len()),
            Some(limit) => {
                eprintln!(
                    "{counted} of {} migrations within {limit}, roughly {told}, in this order:",
                    jobs.len()
                );
                let which = |wanted| {
                    let each = jobs.iter().zip(&fits);
                    listed(each.filter_map(move |(job, fits)| (*fits == wanted).then_some(job)))
                };
                which(true).iter().for_each(|line| eprintln!("  {line}"));
                let left_out = which(false);
                if !left_out.is_empty() {
                    eprintln!("left out for lack of time, unless it goes faster than thought:");
                    left_out.iter().for_each(|line| eprintln!("  {line}"));
                }
            }
        }
        let now = Instant::now();
        Self {
            left: jobs.iter().rev().cloned().collect(),
            total: jobs.len(),
            estimates,
            budget,
            began: now,
            since: now,
        }
    }

    /// Whether the budget has room for one more.
    pub(super) fn has_time_for(&self, job: &Job) -> bool {
        let expected = self.estimates.of(job);
        self.budget.has_room(self.began.elapsed(), expected)
    }

    pub(super) fn left_out(&mut self) {
        self.left.pop();
    }

    pub(super) fn passed_over(&mut self, job: &Job, settled: Settled) {
        self.left.pop();
        let what = job.cell.describe();
        let why = match settled {
            Settled::DoesNotConverge => "does not converge",
            Settled::TakesLong => "takes long",
        };
        eprintln!("{} {what}: not again, it {why}", self.count());
        self.since = Instant::now();
    }

    pub(super) fn done(&mut self, job: &Job, sample: &Sample) {
        self.left.pop();
        self.estimates.learn(job, self.since.elapsed());
        self.since = Instant::now();
        let left = human_duration(self.estimate());
        eprintln!(
            "{} {}, run {}: {} — {left} left",
            self.count(),
            job.cell.describe(),
            job.run,
            told(sample)
        );
    }

    fn count(&self) -> String {
        format!("[{}/{}]", self.total - self.left.len(), self.total)
    }

    /// Of what is left, as far as there is time for it.
    fn estimate(&self) -> Duration {
        let all = self.left.iter().map(|job| self.estimates.of(job)).sum();
        self.budget.left(self.began.elapsed()).min(all)
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
