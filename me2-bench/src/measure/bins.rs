//! The guest's operations in short times.
//!
//! It tells its counts ten times a second, and a beat for each millisecond in which it completed
//! something. So the operations between two counts are laid where the beats were.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::speed::Speed;
use crate::outputs::Beat;

const BIN: Duration = Duration::from_millis(10);

/// Completed operations of all CPUs, bin after bin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Operations {
    /// When the first bin begins, seconds since the request.
    pub(crate) from_s: f64,
    pub(crate) bin_ms: f64,
    pub(crate) completed: Vec<u32>,
}

impl Operations {
    /// `from` until `until`; times are told since `zero`, which is not before `from`.
    pub(super) fn of(
        speed: &Speed,
        beats: &[Beat],
        from: Instant,
        until: Instant,
        zero: Instant,
    ) -> Self {
        let length = until.saturating_duration_since(from).as_nanos() / BIN.as_nanos();
        let mut shares = vec![0.0; usize::try_from(length).unwrap_or(0)];
        let mut add = |at: Instant, share: f64| {
            let bin = at.checked_duration_since(from).and_then(|since| {
                let bin = usize::try_from(since.as_nanos() / BIN.as_nanos()).ok()?;
                shares.get_mut(bin)
            });
            if let Some(bin) = bin {
                *bin += share;
            }
        };
        for (cpu, counts) in speed.counts() {
            let beats: Vec<&Beat> = beats.iter().filter(|beat| beat.cpu == cpu).collect();
            for pair in counts.windows(2) {
                let [(began, before), (ended, after)] = [pair[0], pair[1]];
                let first = beats.partition_point(|beat| beat.at <= began);
                let last = beats.partition_point(|beat| beat.at <= ended);
                let done = after.saturating_sub(before) as f64;
                let within = &beats[first..last.max(first)];
                // The count itself is a sign of life, if it is the only one.
                match within.len() {
                    0 => add(ended, done),
                    beats => within
                        .iter()
                        .for_each(|beat| add(beat.at, done / beats as f64)),
                }
            }
        }
        Self {
            from_s: -zero.saturating_duration_since(from).as_secs_f64(),
            bin_ms: BIN.as_secs_f64() * 1e3,
            completed: whole(&shares),
        }
    }

    /// Seconds since the request, and operations a second in the bin from there on.
    pub(crate) fn rates(&self) -> impl Iterator<Item = (f64, f64)> {
        let bin_s = self.bin_ms / 1e3;
        let bins = (0_u32..).zip(&self.completed);
        bins.map(move |(bin, completed)| {
            let at = self.from_s + f64::from(bin) * bin_s;
            (at, f64::from(*completed) / bin_s)
        })
    }
}

/// Whole numbers with the same sums from the beginning on.
fn whole(shares: &[f64]) -> Vec<u32> {
    let mut sum = 0.0;
    let mut told = 0.0;
    let each = shares.iter().map(|share| {
        sum += share;
        let own = f64::round(sum) - told;
        told += own;
        own as u32
    });
    each.collect()
}
