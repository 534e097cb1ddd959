//! What is in the folders of results.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::Value;

use crate::{
    cases,
    codec::{self, Measured},
    paging, probes,
    results::{Experiment, Folder, Manifest, Sample},
    summary::{self, Table},
    transport,
};

/// All of it, the newest first.
pub(super) struct Kept {
    pub(super) runs: Vec<Run>,
    pub(super) problems: Vec<Problem>,
}

/// A run of an experiment: a folder.
pub(super) struct Run {
    /// The name of the folder.
    pub(super) name: String,
    /// As it is written.
    pub(super) manifest: Value,
    pub(super) what: What,
}

/// What was measured.
pub(super) enum What {
    Migrations(Box<Migrations>),
    /// `paging` or `probes`.
    Cases(cases::Kept),
    Transport(transport::Kept),
    Codec(Measured),
}

/// One migration after the other.
pub(super) struct Migrations {
    pub(super) manifest: Manifest,
    pub(super) samples: Vec<Sample>,
    pub(super) table: Table,
    /// As `summary.json`.
    pub(super) summary: Value,
    pub(super) problems: Vec<String>,
}

/// A folder that cannot be shown.
pub(super) struct Problem {
    pub(super) folder: String,
    pub(super) reason: String,
}

/// More folders than anybody looks at on one page.
const FOLDERS_MAX: usize = 1000;

impl Kept {
    /// Folders that cannot be shown are no failure; that there is nothing to read is.
    pub(super) fn read(results: &Path) -> anyhow::Result<Self> {
        let entries = fs::read_dir(results)
            .with_context(|| format!("cannot read the folder {}", results.display()))?;
        let mut folders = Vec::new();
        for entry in entries.take(FOLDERS_MAX) {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            }
        }
        folders.sort();
        let (mut runs, mut problems) = (Vec::new(), Vec::new());
        for path in folders {
            let folder = path.file_name().unwrap_or_default();
            let folder = folder.to_string_lossy().into_owned();
            match read(&path) {
                Ok((manifest, what)) => runs.push(Run {
                    name: folder,
                    manifest,
                    what,
                }),
                Err(error) => problems.push(Problem {
                    folder,
                    reason: format!("{error:#}"),
                }),
            }
        }
        let started = |run: &Run| run.manifest["started"].as_str().unwrap_or("").to_owned();
        runs.sort_by_key(|run| std::cmp::Reverse(started(run)));
        Ok(Self { runs, problems })
    }

    /// Runs of one experiment.
    pub(super) fn of<'a>(&'a self, experiment: &'a str) -> impl Iterator<Item = &'a Run> {
        self.runs
            .iter()
            .filter(move |run| run.manifest["experiment"] == experiment)
    }

    /// Migrations of all experiments, with the name of their folder.
    pub(super) fn migrations(&self) -> impl Iterator<Item = (&Run, &Migrations)> {
        self.runs.iter().filter_map(|run| match &run.what {
            What::Migrations(migrations) => Some((run, &**migrations)),
            _ => None,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<(Value, What)> {
    let folder = Folder::at(path);
    let manifest: Value = folder.manifest()?;
    let what = match folder.experiment()?.as_str() {
        transport::EXPERIMENT => What::Transport(transport::Kept::read(&folder)?),
        codec::EXPERIMENT => What::Codec(codec::read(&folder)?),
        probes::NAME | paging::NAME => What::Cases(cases::Kept::read(&folder)?),
        name if Experiment::is_known(name) => What::Migrations(Box::new(migrations(path)?)),
        name => anyhow::bail!("an experiment called {name:?} is not known here"),
    };
    Ok((manifest, what))
}

fn migrations(path: &Path) -> anyhow::Result<Migrations> {
    let (_, manifest, samples) = Folder::open(path)?;
    let summary = summary::of(&manifest, &samples);
    Ok(Migrations {
        table: Table::of(&manifest, &samples),
        summary: summary.document,
        problems: summary.problems,
        manifest,
        samples,
    })
}
