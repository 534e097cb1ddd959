//! What me2 saves against plain pre-copy by itself, and whether that pre-copy is an honest one.

use serde::Serialize;
use serde_json::json;

use super::{
    CellKey, Measure, Table, Verdict,
    table::{Text, percent, ratio},
};
use crate::{
    experiments::{ALL, HYBRID, PLAIN, USEFUL},
    statistics::{geometric_mean, reduction_percent},
};

/// QEMU's way to do the same.
const QEMU: &str = "qemu-precopy";
/// How far the two may be from each other, as a part.
const HONEST: f64 = 0.10;

/// What a scheme saves against another, percent; negative: what it costs. Null: one of them did not
/// move every time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Reductions {
    data_reduction_percent: Option<f64>,
    total_time_reduction_percent: Option<f64>,
    downtime_reduction_percent: Option<f64>,
    guest_silence_reduction_percent: Option<f64>,
}

/// The paper's averages against Xen's pre-copy.
const PAPER: [(&str, f64); 3] = [
    ("data_reduction_percent", 50.5),
    ("total_time_reduction_percent", 48.2),
    ("downtime_reduction_percent", 47.6),
];

impl Reductions {
    fn of(ratio: impl Fn(Measure) -> Option<f64>) -> Self {
        let saved = |measure| ratio(measure).map(reduction_percent);
        Self {
            data_reduction_percent: saved(Measure::Data),
            total_time_reduction_percent: saved(Measure::TotalTime),
            downtime_reduction_percent: saved(Measure::Downtime),
            guest_silence_reduction_percent: saved(Measure::Silence),
        }
    }

    fn text(&self) -> [String; 4] {
        [
            self.data_reduction_percent,
            self.total_time_reduction_percent,
            self.downtime_reduction_percent,
            self.guest_silence_reduction_percent,
        ]
        .map(|saved| percent(saved.map(|saved| -saved)))
    }
}

pub(super) fn verdict(table: &Table) -> Verdict {
    let mut verdict = Verdict::default();
    for (old, average, worst) in [
        (ALL, "average", "worst"),
        (USEFUL, "average_useful", "worst_useful"),
    ] {
        let (reductions, missing) = averages(table, old);
        verdict.field(average, json!(reductions));
        verdict.field(worst, json!(worst_of(table, old)));
        verdict
            .lines
            .push(format!("{HYBRID} against {old}, geometric means:"));
        let [data, time, downtime, silence] = reductions.text();
        verdict.lines.push(format!(
            "  data {data}, time {time}, downtime {downtime}, silence {silence}"
        ));
        for cell in missing {
            verdict.problems.push(format!(
                "{}: no ratio of {HYBRID} to {old}",
                cell.describe()
            ));
        }
    }
    let paper: serde_json::Map<_, _> = PAPER
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .into_iter()
        .collect();
    verdict.field("paper", paper.into());
    verdict.lines.push(
        "the paper, against Xen's pre-copy: data -50.5%, time -48.2%, downtime -47.6%".into(),
    );
    cells(table, &mut verdict);
    check_baseline(table, &mut verdict);
    verdict
}

fn ratio_to(table: &Table, cell: &CellKey, old: &str, measure: Measure) -> Option<f64> {
    measure.ratio(table.get(cell, HYBRID), table.get(cell, old))
}

/// Cells in which both were measured.
fn compared<'a>(table: &'a Table, old: &'a str) -> impl Iterator<Item = &'a CellKey> {
    let both =
        move |cell: &&CellKey| table.get(cell, HYBRID).is_some() && table.get(cell, old).is_some();
    table.cells().filter(both)
}

/// Geometric means over all cells, and the cells that are missing in them.
fn averages<'a>(table: &'a Table, old: &'a str) -> (Reductions, Vec<&'a CellKey>) {
    let mean = |measure| {
        let ratios = compared(table, old).filter_map(|cell| ratio_to(table, cell, old, measure));
        geometric_mean(ratios)
    };
    let missing = compared(table, old)
        .filter(|cell| ratio_to(table, cell, old, Measure::TotalTime).is_none());
    (Reductions::of(mean), missing.collect())
}

/// The cell in which least is saved, for each measure.
#[derive(Debug, Serialize)]
struct Worst {
    measure: &'static str,
    cell: CellKey,
    reduction_percent: f64,
}

fn worst_of(table: &Table, old: &str) -> Vec<Worst> {
    let measures = [
        ("data", Measure::Data),
        ("total_time", Measure::TotalTime),
        ("downtime", Measure::Downtime),
    ];
    let worst = measures.into_iter().filter_map(|(name, measure)| {
        let ratios = compared(table, old)
            .filter_map(|cell| Some((cell, ratio_to(table, cell, old, measure)?)));
        let (cell, ratio) = ratios.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
        Some(Worst {
            measure: name,
            cell: cell.clone(),
            reduction_percent: reduction_percent(ratio),
        })
    });
    worst.collect()
}

fn cells(table: &Table, verdict: &mut Verdict) {
    let mut listed = Vec::new();
    let mut worse = Vec::new();
    let mut text = Text::new(&[
        "link", "guest", "against", "data", "time", "downtime", "silence",
    ]);
    for cell in compared(table, HYBRID) {
        let against = |old: &str| {
            table.get(cell, old)?;
            Some(Reductions::of(|measure| {
                ratio_to(table, cell, old, measure)
            }))
        };
        let (all, useful) = (against(ALL), against(USEFUL));
        for (name, reductions) in [(ALL, all), (USEFUL, useful)] {
            let Some(reductions) = reductions else {
                continue;
            };
            let head = [cell.link.to_string(), cell.guest.clone(), name.to_owned()];
            text.row(head.into_iter().chain(reductions.text()));
            let counted = [
                reductions.data_reduction_percent,
                reductions.total_time_reduction_percent,
            ];
            if counted.iter().flatten().any(|saved| *saved < 0.0) {
                worse.push(format!("{} against {name}", cell.describe()));
            }
        }
        listed
            .push(json!({ "link": cell.link, "guest": cell.guest, "all": all, "useful": useful }));
    }
    verdict.field("cells", json!(listed));
    verdict.field("worse_than_precopy", json!(worse));
    verdict.lines.push(String::new());
    verdict.lines.push(text.finish());
    for cell in worse {
        verdict
            .lines
            .push(format!("worse than plain pre-copy: {cell}"));
    }
}

/// The baseline must be as good as QEMU's pre-copy, or what is saved against it says nothing.
fn check_baseline(table: &Table, verdict: &mut Verdict) {
    let mut listed = Vec::new();
    for cell in table.cells() {
        let (Some(own), Some(other)) = (table.get(cell, PLAIN), table.get(cell, QEMU)) else {
            continue;
        };
        let of = |measure: Measure| measure.ratio(Some(own), Some(other));
        let (time, data) = (of(Measure::TotalTime), of(Measure::Data));
        let is_near = |ratio: Option<f64>| ratio.is_some_and(|ratio| (ratio - 1.0).abs() <= HONEST);
        let is_honest = is_near(time) && is_near(data);
        let told = format!(
            "{}: {PLAIN} to {QEMU}: time {}, data {}",
            cell.describe(),
            ratio(time),
            ratio(data)
        );
        if !is_honest {
            verdict
                .problems
                .push(format!("the baseline is not honest: {told}"));
        }
        verdict.lines.push(told);
        listed.push(json!({
            "link": cell.link, "guest": cell.guest, "total_time_ratio": time, "data_ratio": data,
            "within_10_percent": is_honest,
        }));
    }
    verdict.field("baseline", json!(listed));
}
