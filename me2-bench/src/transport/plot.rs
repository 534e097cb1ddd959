//! The plot of the experiment, from its manifest and samples alone.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::ends::{BIN, Seen};
use crate::{
    plots::{Strip, draw_flows},
    results::Folder,
};

/// Bins that a mean is taken of: what waits for one lost packet arrives at once when that is there.
const MEAN_BINS: usize = 5;

/// What of a sample is drawn.
#[derive(Deserialize)]
struct Kept {
    case: String,
    run: u32,
    seen: Seen,
}

/// Draws it into the folder.
pub(super) fn draw(folder: &Folder) -> Result<()> {
    let manifest: Value = serde_json::from_slice(&fs::read(folder.file("manifest.json"))?)?;
    let mut strips = Vec::new();
    for line in BufReader::new(File::open(folder.file("samples.jsonl"))?).lines() {
        let kept: Kept = serde_json::from_str(&line?).context("samples.jsonl")?;
        if kept.run == 1 {
            let rate = manifest["links"][&kept.case]["rate_bits_per_second"].as_f64();
            let rate = rate.with_context(|| format!("no link of case {}", kept.case))?;
            strips.push(strip(kept, rate));
        }
    }
    draw_flows(&folder.file("flows.svg"), BIN.as_secs_f64(), &strips)
}

fn strip(kept: Kept, rate: f64) -> Strip {
    let shares = |bins: &[u64]| {
        let share = |bytes: f64| bytes * 8.0 / BIN.as_secs_f64() / rate;
        let means = bins.windows(MEAN_BINS.min(bins.len()).max(1));
        let means = means.map(|bins| bins.iter().sum::<u64>() as f64 / bins.len() as f64);
        means.map(share).collect::<Vec<_>>()
    };
    let flow = |index: usize| {
        let flow = kept.seen.flows.get(index);
        shares(flow.map_or(&[], Vec::as_slice))
    };
    let is_other_tcp = !kept.seen.tcp.is_empty();
    Strip {
        first: flow(0),
        other: match is_other_tcp {
            true => shares(&kept.seen.tcp),
            false => flow(1),
        },
        is_other_tcp,
        name: kept.case,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_are_parts_of_the_rate() {
        let kept = |flows, tcp| Kept {
            case: "B".into(),
            run: 1,
            seen: Seen {
                flows,
                tcp,
                requests_us: vec![],
            },
        };
        // 100 Mbit/s are 1.25 MB in a tenth of a second.
        let mut first = vec![1_250_000; 6];
        first[5] = 0;
        let two = strip(kept(vec![first, vec![625_000]], vec![]), 1e8);
        assert_eq!((two.first, two.other), (vec![1.0, 0.8], vec![0.5]));
        assert!(!two.is_other_tcp);
        let beside = strip(kept(vec![vec![0]], vec![312_500]), 1e8);
        assert_eq!((beside.other, beside.is_other_tcp), (vec![0.25], true));
    }
}
