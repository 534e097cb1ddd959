//! What fits into the time that an experiment may take.

use std::{collections::BTreeMap, time::Duration};

use super::Job;

/// How long jobs take: as long as the same did, or as their cell expects, corrected by how far that
/// was off for the same scheme.
#[derive(Debug, Default)]
pub(super) struct Estimates {
    /// By what a person calls the cell.
    seen: BTreeMap<String, Duration>,
    /// By scheme: what was expected, and what it took.
    sums: BTreeMap<String, (Duration, Duration)>,
}

impl Estimates {
    pub(super) fn of(&self, job: &Job) -> Duration {
        if let Some(seen) = self.seen.get(&job.cell.describe()) {
            return *seen;
        }
        let expected = job.cell.expected();
        match self.sums.get(&job.cell.scheme.name) {
            Some((then, took)) => expected.mul_f64(took.as_secs_f64() / then.as_secs_f64()),
            None => expected,
        }
    }

    pub(super) fn learn(&mut self, job: &Job, took: Duration) {
        let sums = self.sums.entry(job.cell.scheme.name.clone()).or_default();
        sums.0 += job.cell.expected();
        sums.1 += took;
        self.seen.insert(job.cell.describe(), took);
    }
}

/// Time that is spent, of that which may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// `None`: there is no limit.
    limit: Option<Duration>,
}

impl Budget {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit }
    }

    /// Whether a job that is expected to take so long can begin now. So the limit is passed by one
    /// job at most, and only by as much as that takes longer than expected.
    pub(super) fn has_room(self, spent: Duration, expected: Duration) -> bool {
        self.limit.is_none_or(|limit| spent + expected <= limit)
    }

    /// What is left of it.
    pub(super) fn left(self, spent: Duration) -> Duration {
        self.limit
            .map_or(Duration::MAX, |limit| limit.saturating_sub(spent))
    }

    /// Which jobs fit, in their order, if all take as long as expected; and how long these take. A
    /// job that does not fit makes room for shorter ones behind it.
    pub(super) fn planned(self, jobs: &[Job], estimates: &Estimates) -> (Vec<bool>, Duration) {
        let mut spent = Duration::ZERO;
        let fits = jobs.iter().map(|job| {
            let expected = estimates.of(job);
            let fits = self.has_room(spent, expected);
            if fits {
                spent += expected;
            }
            fits
        });
        (fits.collect(), spent)
    }
}

/// Jobs in few words: a line for each scheme and guest, with its links in their order.
pub(super) fn listed<'a>(jobs: impl Iterator<Item = &'a Job>) -> Vec<String> {
    let mut lines: Vec<(String, Vec<String>)> = Vec::new();
    for job in jobs {
        let what = format!("{} {}", job.cell.scheme.name, job.cell.guest.name);
        let link = job.cell.link.to_string();
        match lines.iter_mut().find(|(other, _)| *other == what) {
            Some((_, links)) if links.contains(&link) => {}
            Some((_, links)) => links.push(link),
            None => lines.push((what, vec![link])),
        }
    }
    let lines = lines.into_iter();
    lines
        .map(|(what, links)| format!("{what}: {}", links.join(" ")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::plan::tests::job;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_fits_is_planned_and_no_more() {
        // 200 Mbit/s: 100 MB of it take 4 s, and 11 s around that; 1 GB takes 40 s.
        let jobs = [
            job("rtt0-rate200-loss0", 100_000_000),
            job("rtt0-rate200-loss0", 1_000_000_000),
            job("rtt0-rate200-loss0", 100_000_000),
        ];
        let planned = |limit| Budget::new(limit).planned(&jobs, &Estimates::default());
        assert_eq!(planned(None), (vec![true; 3], seconds(15 + 51 + 15)));
        let all = Some(seconds(81));
        assert_eq!(planned(all), (vec![true; 3], seconds(81)));
        let fits = planned(Some(seconds(80)));
        assert_eq!(fits, (vec![true, true, false], seconds(66)));
        let fits = planned(Some(seconds(30)));
        assert_eq!(fits, (vec![true, false, true], seconds(30)));
        assert_eq!(planned(Some(seconds(14))), (vec![false; 3], seconds(0)));
    }

    #[test]
    fn a_job_does_not_begin_when_the_time_is_over() {
        let budget = Budget::new(Some(seconds(60)));
        assert!(budget.has_room(seconds(40), seconds(20)));
        assert!(!budget.has_room(seconds(41), seconds(20)));
        assert!(!budget.has_room(seconds(61), seconds(0)));
    }

    #[test]
    fn estimates_learn_from_the_same_scheme() {
        let (short, long) = (
            job("rtt0-rate200-loss0", 100_000_000),
            job("rtt0-rate200-loss0.1", 1_000_000_000),
        );
        let mut estimates = Estimates::default();
        assert_eq!(estimates.of(&long), seconds(51));
        estimates.learn(&short, seconds(30));
        assert_eq!(estimates.of(&short), seconds(30), "as the last time");
        assert_eq!(estimates.of(&long), seconds(102), "twice what was thought");
    }

    #[test]
    fn jobs_are_listed_by_scheme_and_guest() {
        let jobs = [job("A", 1), job("B", 1), job("A", 1)];
        assert_eq!(listed(jobs.iter()), ["qemu-precopy kv: A B"]);
    }
}
