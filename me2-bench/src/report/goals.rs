//! What has a target, and what was measured of it.

use serde_json::Value;

use super::{
    cases::unit_last,
    kept::{Kept, Migrations, Run, What},
    sweep,
};
use crate::{
    results::Experiment,
    target::Target::{self, AtLeast, AtMost},
};

/// A figure that has a target.
pub(super) struct Goal {
    pub(super) folder: String,
    pub(super) what: String,
    pub(super) value: f64,
    pub(super) target: Target,
}

impl Goal {
    pub(super) fn is_met(&self) -> Option<bool> {
        self.target.is_met(self.value)
    }
}

/// Of geometric means: what hybrid me2 is to save against plain pre-copy, percent.
const SAVED: [(&str, &str, f64); 4] = [
    ("average", "data_reduction_percent", 80.0),
    ("average", "total_time_reduction_percent", 80.0),
    ("average_useful", "data_reduction_percent", 60.0),
    ("average_useful", "total_time_reduction_percent", 60.0),
];

/// Link by link: what hybrid me2 is to be at most, by the best of QEMU's modes.
pub(super) const BY_QEMU: [(&str, &str, f64); 7] = [
    ("A", "total_time", 1.0),
    ("A", "data", 1.0),
    ("B", "total_time", 0.5),
    ("B", "data", 0.85),
    ("C", "total_time", 1.0),
    ("C", "data", 1.0),
    ("C", "guest_silence", 0.25),
];

/// What is told, measured and aimed at.
type Judged = (String, f64, Target);

/// All of them, experiment after experiment.
pub(super) fn goals(kept: &Kept) -> Vec<Goal> {
    let mut goals = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for run in &kept.runs {
        let experiment = text(&run.manifest["experiment"]);
        // QEMU's runs have different cells.
        if seen.contains(&experiment) && experiment != Experiment::Qemu.name() {
            continue;
        }
        seen.push(experiment);
        let judged = of_run(run).into_iter();
        let judged = judged.filter(|(.., target)| *target != Target::None);
        goals.extend(judged.map(|(what, value, target)| Goal {
            folder: run.name.clone(),
            what,
            value,
            target,
        }));
    }
    goals.extend(by_qemu(kept));
    goals
}

fn of_run(run: &Run) -> Vec<Judged> {
    match &run.what {
        What::Migrations(migrations) => match migrations.manifest.experiment {
            Experiment::Me2 => saved(&migrations.summary),
            Experiment::Wan | Experiment::Qemu => kept_to(migrations),
            _ => Vec::new(),
        },
        What::Cases(kept) => {
            let each = kept.cases.iter().flat_map(|case| {
                let told = kept.told(case).into_iter();
                told.filter_map(|(name, told)| {
                    let what = format!("{}: {}", case.name, unit_last(name));
                    Some((what, told.spread.median, AtMost(told.target_max?)))
                })
            });
            each.collect()
        }
        What::Transport(kept) => {
            let each = kept.cases().into_iter().flat_map(|case| {
                let told = kept.told(case).into_iter();
                told.map(move |(name, told)| {
                    (format!("{case}: {name}"), told.spread.median, told.target)
                })
            });
            each.collect()
        }
        What::Codec(measured) => {
            let each = measured.targets.iter().filter_map(|target| {
                let what = format!("{}, by memcpy's speed", target.codec);
                Some((
                    what,
                    target.speed_by_memcpy?,
                    AtLeast(target.speed_by_memcpy_min),
                ))
            });
            each.collect()
        }
    }
}

/// Means of what is saved against plain pre-copy, and cells that are worse than it.
fn saved(summary: &Value) -> Vec<Judged> {
    let means = SAVED.iter().filter_map(|(average, field, least)| {
        let against = if *average == "average" {
            "all memory"
        } else {
            "useful memory"
        };
        let measure = field
            .trim_end_matches("_reduction_percent")
            .replace('_', " ");
        let saved = summary[average][field].as_f64()?;
        Some((
            format!("saved against pre-copy of {against}: {measure}, %"),
            saved,
            AtLeast(*least),
        ))
    });
    let mut saved: Vec<_> = means.collect();
    if let Some(worse) = summary["worse_than_precopy"].as_array() {
        let what = "cells that are worse than plain pre-copy".to_owned();
        saved.push((what, worse.len() as f64, AtMost(0.0)));
    }
    saved
}

/// Of each figure that migrations of hybrid me2 have a target for: how many keep to it, and that which
/// is furthest from it.
fn kept_to(migrations: &Migrations) -> Vec<Judged> {
    let judged = sweep::judged(migrations);
    let names = judged.first().map(|(_, kept)| kept.figures);
    let each = names.into_iter().flatten().enumerate();
    let told = each.filter_map(|(index, figure)| {
        let all = judged
            .iter()
            .map(|(sample, kept)| (sample, kept.figures[index]));
        let all: Vec<_> = all
            .filter_map(|(sample, figure)| Some((sample, figure, figure.beyond()?)))
            .collect();
        let (sample, worst, _) = all
            .iter()
            .max_by(|(.., one), (.., other)| one.total_cmp(other))?;
        let met = all
            .iter()
            .filter(|(_, figure, _)| figure.is_met() == Some(true))
            .count();
        let what = format!(
            "{}: {met} of {} migrations keep to it, worst {} {}, run {}",
            unit_last(figure.name),
            all.len(),
            sample.link,
            sample.guest,
            sample.run
        );
        Some((what, worst.value?, worst.target))
    });
    told.collect()
}

fn by_qemu(kept: &Kept) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (run, cell) in qemu_cells(kept) {
        for (link, measure, most) in BY_QEMU {
            let value = cell[measure]["ratio"]
                .as_f64()
                .filter(|_| cell["link"] == link);
            goals.extend(value.map(|value| Goal {
                folder: run.name.clone(),
                what: format!(
                    "{link} {}: {}, by QEMU's best",
                    text(&cell["guest"]),
                    measure.replace('_', " ")
                ),
                value,
                target: AtMost(most),
            }));
        }
    }
    goals
}

/// Every cell that was compared with QEMU, in its newest run.
pub(super) fn qemu_cells(kept: &Kept) -> Vec<(&Run, &Value)> {
    let mut cells: Vec<(&Run, &Value)> = Vec::new();
    for run in kept.of(Experiment::Qemu.name()) {
        let What::Migrations(migrations) = &run.what else {
            continue;
        };
        for cell in migrations.summary["cells"].as_array().into_iter().flatten() {
            let is_same =
                |other: &Value| other["link"] == cell["link"] && other["guest"] == cell["guest"];
            if !cells.iter().any(|(_, other)| is_same(other)) {
                cells.push((run, cell));
            }
        }
    }
    cells.sort_by_key(|(_, cell)| {
        (
            text(&cell["link"]).to_owned(),
            text(&cell["guest"]).to_owned(),
        )
    });
    cells
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}
