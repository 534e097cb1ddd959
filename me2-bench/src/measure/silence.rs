//! How long the guest showed no sign of life.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::outputs::{Beat, Recording};

/// When the guest stopped at the source, and was first seen to work at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) stopped: Instant,
    pub(super) resumed: Instant,
    /// The longest of all CPUs between their last beat here and their first there.
    pub(super) silence: Duration,
}

/// `None` if either end has no sign of life of a CPU that the other has.
pub(super) fn stop(source: &Recording, destination: &Recording) -> Option<Stop> {
    let mut last = BTreeMap::new();
    for beat in &source.beats {
        last.insert(beat.cpu, beat.at);
    }
    let mut first = BTreeMap::new();
    for beat in &destination.beats {
        first.entry(beat.cpu).or_insert(beat.at);
    }
    let gaps = last.iter().map(|(cpu, stopped)| {
        let resumed = first.get(cpu)?;
        Some(resumed.saturating_duration_since(*stopped))
    });
    let gaps: Option<Vec<Duration>> = gaps.collect();
    Some(Stop {
        stopped: *last.values().max()?,
        resumed: *first.values().min()?,
        silence: gaps?.into_iter().max()?,
    })
}

/// Times without a sign of life.
pub(super) struct Silence;

impl Silence {
    /// The longest silence of any CPU that reaches into the time from `from` to `until`; what lies
    /// after `until` does not count. `None` without any beat. `beats` are in order.
    pub(super) fn longest(beats: &[Beat], from: Instant, until: Instant) -> Option<Duration> {
        let mut last = BTreeMap::<u8, Instant>::new();
        let mut longest = None;
        for beat in beats {
            let Some(before) = last.insert(beat.cpu, beat.at) else {
                continue;
            };
            if beat.at >= from && before < until {
                longest = longest.max(Some(beat.at.min(until) - before));
            }
        }
        // Silent ever since.
        let since = last.values().map(|at| until.saturating_duration_since(*at));
        longest.max(since.max())
    }
}
