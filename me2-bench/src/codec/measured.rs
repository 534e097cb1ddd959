//! Medians, targets, and the worst population of each codec.

use std::collections::BTreeMap;

use me2_wire::PAGE_SIZE;
use serde::{Deserialize, Serialize};

use crate::statistics::{Spread, geometric_mean};

/// A line of `samples.jsonl`: one run of a codec, and the memcpy before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) schema_version: u32,
    pub(super) population: String,
    pub(super) codec: String,
    /// Which repetition, from 1.
    pub(super) run: u32,
    /// Pages that took part.
    pub(super) pages: u64,
    pub(super) seconds: f64,
    pub(super) memcpy_seconds: f64,
    /// What the pages are encoded; 0 if nothing is made of them.
    pub(super) encoded_bytes: u64,
}

/// The result: `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Measured {
    pub(crate) schema_version: u32,
    pub(crate) cells: Vec<Cell>,
    pub(crate) codecs: Vec<CodecSummary>,
    pub(crate) targets: Vec<Target>,
}

/// A codec on a population.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Cell {
    pub(crate) codec: String,
    pub(crate) population: String,
    /// Speed by memcpy's, of pairs of runs.
    pub(crate) speed_by_memcpy: Spread,
    /// Raw pages a second, 10⁶ bytes.
    pub(crate) megabytes_per_second: Spread,
    /// Encoded by raw size; null if nothing is made of the pages.
    pub(crate) size_by_raw: Option<f64>,
}

/// A codec over all populations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CodecSummary {
    pub(crate) codec: String,
    pub(crate) speed_by_memcpy_geometric_mean: Option<f64>,
    pub(crate) speed_by_memcpy_worst: f64,
    /// The population on which it is slowest.
    pub(crate) worst_population: String,
}

/// A speed that a codec must have.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Target {
    pub(crate) codec: String,
    /// The population that counts: the one named by the target, else the worst; null if not measured.
    pub(crate) population: Option<String>,
    pub(crate) speed_by_memcpy_min: f64,
    pub(crate) speed_by_memcpy: Option<f64>,
    /// Null if it was not measured.
    pub(crate) is_met: Option<bool>,
}

/// Codec, population (none: the worst), least speed by memcpy's.
const TARGETS: [(&str, Option<&str>, f64); 3] = [
    ("zero_scan", Some("zero"), 0.8),
    ("rle_encode", None, 0.35),
    ("rle_decode", None, 0.6),
];

impl Measured {
    /// Of samples, codecs and populations in their order.
    pub(super) fn of(samples: &[Sample]) -> Self {
        let mut cells: Vec<Cell> = Vec::new();
        let mut groups: BTreeMap<(&str, &str), Vec<&Sample>> = BTreeMap::new();
        let mut order = Vec::new();
        for sample in samples {
            let key = (sample.codec.as_str(), sample.population.as_str());
            let group = groups.entry(key).or_default();
            if group.is_empty() {
                order.push(key);
            }
            group.push(sample);
        }
        cells.extend(order.iter().map(|key| Cell::of(&groups[key])));
        let mut names: Vec<&str> = Vec::new();
        for (codec, _) in &order {
            if !names.contains(codec) {
                names.push(codec);
            }
        }
        Self {
            schema_version: crate::results::SCHEMA_VERSION,
            codecs: names
                .iter()
                .map(|codec| CodecSummary::of(codec, &cells))
                .collect(),
            targets: TARGETS.map(|target| Target::of(target, &cells)).into(),
            cells,
        }
    }

    pub(crate) fn cell(&self, codec: &str, population: &str) -> Option<&Cell> {
        let is_it = |cell: &&Cell| cell.codec == codec && cell.population == population;
        self.cells.iter().find(is_it)
    }

    /// Populations in the order in which they were measured.
    pub(crate) fn populations(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if !names.contains(&cell.population.as_str()) {
                names.push(&cell.population);
            }
        }
        names
    }
}

impl Cell {
    fn of(samples: &[&Sample]) -> Self {
        let first = samples[0];
        let raw = |sample: &Sample| (sample.pages * PAGE_SIZE as u64) as f64;
        let speeds = samples
            .iter()
            .map(|sample| sample.memcpy_seconds / sample.seconds);
        let rates = samples
            .iter()
            .map(|sample| raw(sample) / sample.seconds / 1e6);
        let has_size = first.encoded_bytes > 0;
        Self {
            codec: first.codec.clone(),
            population: first.population.clone(),
            speed_by_memcpy: Spread::of(speeds).expect("a cell has samples"),
            megabytes_per_second: Spread::of(rates).expect("a cell has samples"),
            size_by_raw: has_size.then(|| first.encoded_bytes as f64 / raw(first)),
        }
    }
}

impl CodecSummary {
    fn of(codec: &str, cells: &[Cell]) -> Self {
        let worst = worst_of(codec, cells).expect("a codec has cells");
        let cells = cells.iter().filter(|cell| cell.codec == codec);
        Self {
            codec: codec.to_owned(),
            speed_by_memcpy_geometric_mean: geometric_mean(
                cells.map(|cell| cell.speed_by_memcpy.median),
            ),
            speed_by_memcpy_worst: worst.speed_by_memcpy.median,
            worst_population: worst.population.clone(),
        }
    }
}

impl Target {
    fn of((codec, population, least): (&str, Option<&str>, f64), cells: &[Cell]) -> Self {
        let cell = match population {
            Some(name) => cells
                .iter()
                .find(|cell| cell.codec == codec && cell.population == name),
            None => worst_of(codec, cells),
        };
        let speed = cell.map(|cell| cell.speed_by_memcpy.median);
        Self {
            codec: codec.to_owned(),
            population: cell.map(|cell| cell.population.clone()),
            speed_by_memcpy_min: least,
            speed_by_memcpy: speed,
            is_met: speed.map(|speed| speed >= least),
        }
    }
}

fn worst_of<'a>(codec: &str, cells: &'a [Cell]) -> Option<&'a Cell> {
    let cells = cells.iter().filter(|cell| cell.codec == codec);
    cells.min_by(|a, b| {
        a.speed_by_memcpy
            .median
            .total_cmp(&b.speed_by_memcpy.median)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Runs of a codec at so many times the time of memcpy, on 100 pages that become 40,960 bytes.
    pub(in super::super) fn samples(
        codec: &str,
        population: &str,
        slowness: &[f64],
    ) -> Vec<Sample> {
        let runs = (1..).zip(slowness).map(|(run, slowness)| Sample {
            schema_version: 1,
            population: population.into(),
            codec: codec.into(),
            run,
            pages: 100,
            seconds: 0.01 * slowness,
            memcpy_seconds: 0.01,
            encoded_bytes: 40_960,
        });
        runs.collect()
    }

    #[test]
    fn medians_and_the_worst_population() {
        let mut all = samples("rle_encode", "zero", &[1.0, 1.0, 4.0]);
        all.extend(samples("rle_encode", "files", &[4.0, 2.0, 5.0]));
        let measured = Measured::of(&all);
        let cell = measured.cell("rle_encode", "files").unwrap();
        assert_eq!(cell.speed_by_memcpy.median, 0.25);
        assert!((cell.size_by_raw.unwrap() - 0.1).abs() < 1e-12);
        let [summary] = &measured.codecs[..] else {
            panic!("{measured:?}")
        };
        assert_eq!(summary.worst_population, "files");
        assert_eq!(summary.speed_by_memcpy_geometric_mean, Some(0.5));
        assert_eq!(measured.populations(), ["zero", "files"]);
    }

    #[test]
    fn targets_are_met_missed_or_unknown() {
        let mut all = samples("zero_scan", "zero", &[1.0]);
        all.extend(samples("zero_scan", "files", &[9.0]));
        all.extend(samples("rle_encode", "files", &[3.0]));
        let met: Vec<_> = Measured::of(&all)
            .targets
            .iter()
            .map(|target| target.is_met)
            .collect();
        assert_eq!(met, [Some(true), Some(false), None]);
    }
}
