//! How me2 compares, and which targets are met and missed.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    goals::{BY_QEMU, goals, qemu_cells},
    kept::{Kept, What},
    parts::{against, change, ratio, runs, table, value},
};
use crate::{
    results::{Came, Experiment},
    target::Target::{self, AtMost},
};

pub(super) fn section(kept: &Kept) -> Markup {
    html! {
        (counts(kept))
        h3 { "Against the paper's figures" }
        (against_the_paper(kept))
        h3 { "Against QEMU" }
        (against_qemu(kept))
        h3 { "Targets" }
        (targets(kept))
    }
}

fn counts(kept: &Kept) -> Markup {
    let samples = || {
        kept.migrations()
            .flat_map(|(_, migrations)| &migrations.samples)
    };
    let came = |what| samples().filter(|sample| sample.came == what).count();
    let mismatched =
        samples().filter_map(|sample| sample.report["verify"]["mismatched_pages"].as_u64());
    html! { p.counts {
        (kept.runs.len()) " experiments, " (samples().count()) " migrations: " (came(Came::Moved)) " moved, "
        (came(Came::DidNotConverge)) " did not converge in their time, "
        span class=(if came(Came::Failed) == 0 { "met" } else { "missed" }) { (came(Came::Failed)) " failed" }
        " (so would one whose guest found an error in its memory). Pages that differed at the end: "
        (mismatched.fold(0, u64::saturating_add)) "."
    } }
}

/// The newest run of the experiment.
fn against_the_paper(kept: &Kept) -> Markup {
    let measured = kept
        .of(Experiment::Me2.name())
        .find_map(|run| match &run.what {
            What::Migrations(migrations) => Some((run, &migrations.summary)),
            _ => None,
        });
    let Some((run, summary)) = measured else {
        return html! { p { "Not measured: " code { "cargo xtask bench me2" } " does." } };
    };
    let measures = [
        ("Data", "data", "data_reduction_percent"),
        ("Total time", "total_time", "total_time_reduction_percent"),
        ("Downtime", "downtime", "downtime_reduction_percent"),
    ];
    let rows = measures.map(|(told, name, field)| {
        let worst = summary["worst"].as_array().into_iter().flatten();
        let worst = worst.into_iter().find(|worst| worst["measure"] == name);
        vec![
            html! { strong { (told) } },
            html! { (change(&summary["paper"][field])) },
            html! { (change(&summary["average"][field])) },
            html! { (change(&summary["average_useful"][field])) },
            html! { @if let Some(worst) = worst { (text(&worst["cell"]["link"])) " " (text(&worst["cell"]["guest"])) ": "
                (change(&worst["reduction_percent"])) } @else { "–" } },
        ]
    });
    let head = [
        "Measure",
        "The paper, against Xen's pre-copy",
        "Here, against pre-copy of all memory",
        "Here, against pre-copy of useful memory",
        "Worst cell, against all memory",
    ];
    html! {
        p { "Geometric means over all links and guests of " code { (run.name) } ", " (runs(run)) ". Minus is less. The paper is \
             ME2, IEEE CLUSTER 2012: other machines, links and guests than here." }
        (table(&head, rows.into()))
    }
}

/// Each cell in its newest run.
fn against_qemu(kept: &Kept) -> Markup {
    let rows: Vec<_> = qemu_cells(kept)
        .into_iter()
        .map(|(run, cell)| {
            let measure = |name: &str| {
                let target = BY_QEMU
                    .iter()
                    .find(|(link, measure, _)| cell["link"] == *link && *measure == name);
                let target = target.map_or(Target::None, |(_, _, most)| AtMost(*most));
                let is_met = cell[name]["ratio"]
                    .as_f64()
                    .and_then(|ratio| target.is_met(ratio));
                html! { (ratio(&cell[name]["ratio"])) " " small { (text(&cell[name]["best"])) }
                @if is_met.is_some() { " " (against(target, is_met)) } }
            };
            vec![
                html! { strong { (text(&cell["link"])) " " (text(&cell["guest"])) } },
                measure("total_time"),
                measure("data"),
                measure("guest_silence"),
                html! { (run.manifest["runs"]) },
                html! { code { (run.name) } },
            ]
        })
        .collect();
    let head = [
        "Link, guest",
        "Time",
        "Data",
        "Longest silence",
        "Runs",
        "From",
    ];
    html! {
        @if rows.is_empty() { p { "Not measured: " code { "cargo xtask bench qemu" } " does." } } @else {
            p { "Hybrid me2 as a ratio to the best of QEMU's modes that moved every time on the same link with the same guest, \
                 medians; which mode that is stands beside it. Below 1 is less. Worst cells: " (worst(kept)) }
            (table(&head, rows))
        }
    }
}

fn worst(kept: &Kept) -> Markup {
    let cells = qemu_cells(kept);
    let worst = |name: &str| {
        let ratios = cells
            .iter()
            .filter_map(|(_, cell)| Some((cell, cell[name]["ratio"].as_f64()?)));
        ratios.max_by(|(_, one), (_, other)| one.total_cmp(other))
    };
    html! { @for (name, told) in [("total_time", "time"), ("data", "data"), ("guest_silence", "silence")] {
        @if let Some((cell, ratio)) = worst(name) {
            (told) " " (format!("{ratio:.2}")) " (" (text(&cell["link"])) " " (text(&cell["guest"])) "). "
        }
    } }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}

fn targets(kept: &Kept) -> Markup {
    let goals = goals(kept);
    let of = |is_met| {
        goals
            .iter()
            .filter(move |goal| goal.is_met() == Some(is_met))
    };
    let list = |is_met| {
        let rows = of(is_met).map(|goal| {
            vec![
                html! { strong { (goal.what) } },
                html! { (value(goal.value)) },
                against(goal.target, goal.is_met()),
                html! { code { (goal.folder) } },
            ]
        });
        table(&["Figure", "Measured", "Target", "From"], rows.collect())
    };
    let (met, missed) = (of(true).count(), of(false).count());
    html! {
        p { strong { (met) " met, " (missed) " missed" } " in the newest run of each experiment (of QEMU: of each cell); medians, \
             and of what each migration is to keep to the worst one." }
        @if missed > 0 { h4 { "Missed" } (list(false)) }
        @if met > 0 { details { summary { "Met: " (met) } (list(true)) } }
    }
}
