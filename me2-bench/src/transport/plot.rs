//! The plot of the experiment, from its manifest and samples alone.

use anyhow::Result;

use super::{
    ends::{BIN, Seen},
    kept::Kept,
};
use crate::{
    plots::{Strip, draw_flows},
    results::Folder,
};

/// Bins that a mean is taken of: what waits for one lost packet arrives at once when that is there.
const MEAN_BINS: usize = 5;

/// Draws it into the folder.
pub(super) fn draw(folder: &Folder, kept: &Kept) -> Result<()> {
    let path = folder.file("flows.svg");
    draw_flows(&path, BIN.as_secs_f64(), &kept.strips())
}

impl Kept {
    /// What arrived over time, in the first run of each case.
    pub(crate) fn strips(&self) -> Vec<Strip> {
        let first = self.samples.iter().filter(|sample| sample.run == 1);
        first
            .map(|sample| strip(&sample.case, &sample.seen, self.rate(&sample.case)))
            .collect()
    }
}

fn strip(name: &str, seen: &Seen, rate: f64) -> Strip {
    let shares = |bins: &[u64]| {
        let share = |bytes: f64| bytes * 8.0 / BIN.as_secs_f64() / rate;
        let means = bins.windows(MEAN_BINS.min(bins.len()).max(1));
        let means = means.map(|bins| bins.iter().sum::<u64>() as f64 / bins.len() as f64);
        means.map(share).collect::<Vec<_>>()
    };
    let flow = |index: usize| {
        let flow = seen.flows.get(index);
        shares(flow.map_or(&[], Vec::as_slice))
    };
    let is_other_tcp = !seen.tcp.is_empty();
    Strip {
        first: flow(0),
        other: match is_other_tcp {
            true => shares(&seen.tcp),
            false => flow(1),
        },
        is_other_tcp,
        name: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_parts_of_the_rate() {
        let strip = |flows, tcp| {
            let seen = Seen {
                flows,
                tcp,
                requests_us: vec![],
            };
            strip("B", &seen, 1e8)
        };
        // 100 Mbit/s are 1.25 MB in a tenth of a second.
        let mut first = vec![1_250_000; 6];
        first[5] = 0;
        let two = strip(vec![first, vec![625_000]], vec![]);
        assert_eq!((two.first, two.other), (vec![1.0, 0.8], vec![0.5]));
        assert!(!two.is_other_tcp);
        let beside = strip(vec![vec![0]], vec![312_500]);
        assert_eq!((beside.other, beside.is_other_tcp), (vec![0.25], true));
    }
}
