//! How fast the guest works, by the counts that it reports every tenth of a second.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::outputs::{GuestLine, Line};

/// The speed that counts as "as before", a part of the speed before.
const RECOVERED: f64 = 0.9;
/// How long it must be kept, on average.
const KEPT: Duration = Duration::from_millis(500);
/// How finely the moment is looked for.
const STEP: Duration = Duration::from_millis(10);

/// Each CPU's operations over time.
#[derive(Debug, Default)]
pub(super) struct Speed {
    cpus: BTreeMap<u8, Vec<(Instant, u64)>>,
}

impl Speed {
    pub(super) fn of(lines: &[Line]) -> Self {
        let mut speed = Self::default();
        for line in lines {
            if let Some(told) = GuestLine::parse(&line.text) {
                let counts = speed.cpus.entry(told.cpu).or_default();
                counts.push((line.at, told.operations));
            }
        }
        speed
    }

    /// What each CPU told, and when.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u8, &[(Instant, u64)])> {
        let cpus = self.cpus.iter();
        cpus.map(|(cpu, counts)| (*cpu, counts.as_slice()))
    }

    /// Operations a second of all CPUs; `None` where nothing was told around that time.
    pub(super) fn rate(&self, from: Instant, until: Instant) -> Option<f64> {
        let seconds = until.checked_duration_since(from)?.as_secs_f64();
        let done = self.operations(until)? - self.operations(from)?;
        (seconds > 0.0).then(|| done / seconds)
    }

    /// Rates in windows one after the other, each with its beginning in seconds since `zero`.
    pub(super) fn windows(
        &self,
        from: Instant,
        until: Instant,
        length: Duration,
        zero: Instant,
    ) -> Vec<(f64, f64)> {
        let mut windows = Vec::new();
        let mut at = from;
        while at + length <= until {
            if let Some(rate) = self.rate(at, at + length) {
                let since = (at - from).as_secs_f64() - (zero - from).as_secs_f64();
                windows.push(((since * 1e3).round() / 1e3, rate.round()));
            }
            at += length;
        }
        windows
    }

    /// The end of the first window after `from` in which the guest works as before and goes on so.
    pub(super) fn recovered(&self, from: Instant, before: f64, until: Instant) -> Option<Instant> {
        let enough = |rate: Option<f64>| rate.is_some_and(|rate| rate >= RECOVERED * before);
        let mut at = from;
        while at + KEPT <= until {
            let end = at + super::WINDOW;
            if enough(self.rate(at, end)) && enough(self.rate(at, at + KEPT)) {
                return Some(end);
            }
            at += STEP;
        }
        None
    }

    /// Completed until then: between two reports, as if evenly.
    fn operations(&self, at: Instant) -> Option<f64> {
        let each = self.cpus.values().map(|counts| interpolated(counts, at));
        let sum = each.sum::<Option<f64>>();
        sum.filter(|_| !self.cpus.is_empty())
    }
}

fn interpolated(counts: &[(Instant, u64)], at: Instant) -> Option<f64> {
    let next = counts.partition_point(|(told, _)| *told < at);
    let (until, after) = *counts.get(next)?;
    if until == at {
        return Some(after as f64);
    }
    let (from, before) = *counts.get(next.checked_sub(1)?)?;
    let part = (at - from).as_secs_f64() / (until - from).as_secs_f64();
    Some(before as f64 + part * (after as f64 - before as f64))
}
