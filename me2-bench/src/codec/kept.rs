//! What is kept of the experiment: manifest, samples, summary and plot.

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::{
    measured::{Measured, Sample},
    memory::{last_level_cache_bytes, population_bytes},
    plot,
    population::Population,
};
use crate::results::{Build, Folder, Host, SCHEMA_VERSION, timestamp};

/// Its name, as in the manifest and in the name of the folder.
pub(crate) const EXPERIMENT: &str = "codec";

/// A folder of results, and what will be its manifest.
pub(super) struct Kept {
    folder: Folder,
    manifest: Manifest,
}

/// `manifest.json`.
#[derive(Debug, Serialize)]
struct Manifest {
    schema_version: u32,
    experiment: &'static str,
    /// UTC, ISO 8601.
    started: String,
    command: String,
    me2: Build,
    host: Host,
    /// Vector instructions in use.
    simd: &'static str,
    last_level_cache_bytes: u64,
    population_bytes: u64,
    populations: BTreeMap<&'static str, Value>,
    runs: u32,
    notes: &'static str,
}

impl Kept {
    /// Makes the folder.
    pub(super) fn new(asked: Option<&Path>, runs: u32) -> Result<Self> {
        let folder = Folder::create(asked, EXPERIMENT)?;
        let arguments: Vec<String> = env::args().skip(1).collect();
        let manifest = Manifest {
            schema_version: SCHEMA_VERSION,
            experiment: EXPERIMENT,
            started: timestamp(),
            command: format!("cargo xtask bench {}", arguments.join(" ")),
            me2: Build::of_this_tree(),
            host: Host::of_this_machine(),
            simd: me2_wire::simd_level(),
            last_level_cache_bytes: last_level_cache_bytes(),
            population_bytes: population_bytes(),
            populations: BTreeMap::new(),
            runs,
            notes: "one thread; each run of a codec right after a memcpy of the same pages",
        };
        Ok(Self { folder, manifest })
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a population is made of.
    pub(super) fn add_population(&mut self, population: Population, description: Value) {
        self.manifest
            .populations
            .insert(population.name(), description);
    }

    /// Writes everything.
    pub(super) fn finish(&self, samples: &[Sample], measured: &Measured) -> Result<()> {
        self.folder.write("manifest.json", &self.manifest)?;
        let path = self.folder.file("samples.jsonl");
        write_lines(&path, samples).with_context(|| format!("cannot write {}", path.display()))?;
        conclude(&self.folder, measured)
    }
}

/// A run cannot take less or more, and speeds stay numbers.
const SECONDS: std::ops::Range<f64> = 1e-9..1e9;

/// What was measured, from the samples of a folder.
pub(crate) fn read(folder: &Folder) -> Result<Measured> {
    let samples: Vec<Sample> = folder.samples()?;
    for sample in &samples {
        let took = [sample.seconds, sample.memcpy_seconds];
        let is_good = sample.pages > 0 && took.iter().all(|s| SECONDS.contains(s));
        ensure!(
            is_good,
            "samples.jsonl has a run of {} on {} without pages or time",
            sample.codec,
            sample.population
        );
    }
    Ok(Measured::of(&samples))
}

/// Summary and plot.
pub(super) fn conclude(folder: &Folder, measured: &Measured) -> Result<()> {
    folder.write("summary.json", measured)?;
    plot::draw(measured, &folder.file("speed.svg"))
}

fn write_lines(path: &Path, samples: &[Sample]) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for sample in samples {
        serde_json::to_writer(&mut file, sample)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}
