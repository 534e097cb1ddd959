//! A run of an experiment with migrations: what is compared in it, then every figure.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    chart::{self, Stack, View},
    kept::{Migrations, Run},
    parts::{self, change, figure, legend, ratio, table},
    sweep,
};
use crate::{
    experiments::HYBRID,
    plots::{QUANTITIES, typical, value},
    results::Experiment,
    summary::CellKey,
};

/// Cells of which there are drawings; more than these are in the tables alone.
const CELLS_MAX: usize = 40;
const CODECS: [&str; 6] = ["zero", "reference", "delta", "rle", "zstd", "raw"];

pub(super) fn section(run: &Run, migrations: &Migrations) -> Markup {
    let experiment = migrations.manifest.experiment;
    html! {
        (failures(migrations))
        p { (parts::capital(&parts::runs(run))) "." }
        @match experiment {
            Experiment::Me2 => (against_precopy(&migrations.summary)),
            Experiment::Qemu => (against_qemu(&migrations.summary)),
            Experiment::Ablation => (parts_of_me2(&migrations.summary)),
            Experiment::Codecs => (codecs(&migrations.summary)),
            Experiment::Wan => (sweep::section(migrations)),
        }
        @if matches!(experiment, Experiment::Wan | Experiment::Qemu) { (sweep::targets(migrations)) }
        (bars(run, migrations))
        (by_codec(run, migrations))
        (over_time(run, migrations))
        (every_figure(migrations))
        (parts::manifest(run))
    }
}

/// What went wrong, in full.
fn failures(migrations: &Migrations) -> Markup {
    html! { @if !migrations.problems.is_empty() {
        ul.problems { @for problem in &migrations.problems { li { (problem) } } }
    } }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("–").to_owned()
}

fn listed<'a>(document: &'a Value, name: &str) -> &'a [Value] {
    document[name].as_array().map_or(&[], Vec::as_slice)
}

fn place(cell: &Value) -> Markup {
    html! { strong { (text(&cell["link"])) " " (text(&cell["guest"])) } }
}

fn against_precopy(summary: &Value) -> Markup {
    const MEASURES: [&str; 4] = [
        "data_reduction_percent",
        "total_time_reduction_percent",
        "downtime_reduction_percent",
        "guest_silence_reduction_percent",
    ];
    let mut rows = Vec::new();
    for cell in listed(summary, "cells") {
        for (name, against) in [("all", "all memory"), ("useful", "useful memory")] {
            if cell[name].is_object() {
                let mut row = vec![place(cell), html! { (against) }];
                row.extend(MEASURES.map(|measure| html! { (change(&cell[name][measure])) }));
                rows.push(row);
            }
        }
    }
    let head = [
        "Link, guest",
        "Against pre-copy of",
        "Data",
        "Time",
        "Downtime",
        "Silence",
    ];
    let honest = listed(summary, "baseline").iter().map(|cell| {
        vec![
            place(cell),
            html! { (ratio(&cell["total_time_ratio"])) },
            html! { (ratio(&cell["data_ratio"])) },
            parts::verdict(cell["within_10_percent"].as_bool()),
        ]
    });
    let honest: Vec<_> = honest.collect();
    html! {
        p { "Hybrid me2 as it differs from plain pre-copy by me2: minus is less. Ratios of medians. "
            @for worst in listed(summary, "worst") {
                "Worst in " (text(&worst["measure"]).replace('_', " ")) ", against all memory: "
                (place(&worst["cell"])) " with " (change(&worst["reduction_percent"])) ". "
            }
        }
        (table(&head, rows))
        @if !honest.is_empty() {
            p { "Is that pre-copy an honest one? Beside QEMU's it must be within 10% in time and data:" }
            (table(&["Link, guest", "Time, ratio to QEMU's", "Data, ratio to QEMU's", "Within 10%"], honest))
        }
    }
}

fn against_qemu(summary: &Value) -> Markup {
    const MEASURES: [&str; 4] = ["total_time", "data", "downtime", "guest_silence"];
    let rows = listed(summary, "cells").iter().map(|cell| {
        let mut row = vec![place(cell)];
        row.extend(MEASURES.map(|measure| {
            let measured = &cell[measure];
            match measured["best"].as_str() {
                Some(best) => html! { (ratio(&measured["ratio"])) " " small { "to " (best) } },
                None => html! { "no mode converged" },
            }
        }));
        row
    });
    let average = &summary["average"];
    html! {
        p { "Hybrid me2 as a ratio to the best of QEMU's modes in the same cell that moved every time; the best may be \
             another one for each measure. Below 1 is less. "
            @for measure in MEASURES {
                @let worst = &average[format!("{measure}_worst")];
                (measure.replace('_', " ")) ": geometric mean " (ratio(&average[format!("{measure}_ratio")]))
                ", worst " (ratio(&worst["ratio"])) " in " (place(&worst["cell"])) ". "
            }
        }
        (table(&["Link, guest", "Time", "Data", "Downtime", "Silence"], rows.collect()))
    }
}

fn parts_of_me2(summary: &Value) -> Markup {
    let rows = listed(summary, "parts").iter().map(|part| {
        let cells = listed(part, "cells").iter();
        let times = cells.filter_map(|cell| Some((cell, cell["total_time_ratio"].as_f64()?)));
        let most = times.max_by(|(_, one), (_, other)| one.total_cmp(other));
        vec![
            html! { strong { (text(&part["without"])) } },
            html! { (ratio(&part["total_time_ratio"])) },
            html! { (ratio(&part["data_ratio"])) },
            html! { (ratio(&part["guest_silence_ratio"])) },
            html! { @if let Some((cell, ratio)) = most { (place(cell)) " " (format!("{ratio:.2}")) } @else { "–" } },
        ]
    });
    let head = [
        "Without",
        "Time",
        "Data",
        "Silence",
        "Time where it matters most",
    ];
    html! {
        p { "Each part switched off, as a ratio to everything on; geometric means over the cells. Above 1 the part helps, \
             below 1 it costs." }
        (table(&head, rows.collect()))
    }
}

fn codecs(summary: &Value) -> Markup {
    let rows = listed(summary, "cells").iter().map(|cell| {
        vec![
            place(cell),
            html! { (ratio(&cell["speed_of_auto_to_best_fixed"])) },
            html! { (text(&cell["best_fixed"])) },
        ]
    });
    html! {
        p { "The adaptive choice of codecs against the best fixed one of each cell, by total time: 1 is as fast, above 1 \
             faster. Worst: " (ratio(&summary["speed_of_auto_to_best_fixed_min"])) "." }
        (table(&["Link, guest", "Speed of the choice", "To the fixed codec"], rows.collect()))
    }
}

/// The cells of which there are drawings.
fn drawn(migrations: &Migrations) -> Vec<&CellKey> {
    let cells: Vec<&CellKey> = match migrations.manifest.experiment {
        Experiment::Wan => sweep::closely(&migrations.table),
        _ => migrations.table.cells().collect(),
    };
    cells.into_iter().take(CELLS_MAX).collect()
}

fn bars(run: &Run, migrations: &Migrations) -> Markup {
    let cells = drawn(migrations);
    html! {
        (legend(&[("ours", "hybrid me2"), ("ours-otherwise", "me2 otherwise"), ("rival", "QEMU")]))
        p { "Bars: medians; lines: smallest to largest. Each cell has a scale of its own." }
        div.grid.wide { @for quantity in &QUANTITIES {
            (figure(quantity.title, &format!("({})", parts::how_many(run)), chart::bars(quantity, &migrations.table, &cells)))
        } }
    }
}

/// Pages by codec, and what became of their bytes, of hybrid me2.
fn by_codec(run: &Run, migrations: &Migrations) -> Markup {
    let (mut stacks, mut bytes_of) = (Vec::new(), Vec::new());
    let mut rows = Vec::new();
    for cell in drawn(migrations) {
        let Some(sample) = typical(cell, HYBRID, &migrations.samples) else {
            continue;
        };
        let each = |told: &Value| CODECS.map(|name| told[name].as_f64().unwrap_or(0.0));
        let pages = each(&sample.report["codec"]);
        let sum: f64 = pages.iter().sum();
        if sum <= 0.0 {
            continue;
        }
        let mib = |bytes: f64| value(bytes / f64::from(1 << 20));
        let bytes = each(&sample.report["encoding"]["by_codec"]);
        if bytes.iter().any(|bytes| *bytes > 0.0) {
            bytes_of.push(Stack {
                name: format!("link {}, guest {}", cell.link, cell.guest),
                told: format!("{} MiB encoded", mib(bytes.iter().sum())),
                pieces: bytes.into(),
            });
        }
        let of_encoding = |name: &str| {
            sample.report["encoding"][name]
                .as_f64()
                .map_or("–".into(), mib)
        };
        stacks.push(Stack {
            name: format!("link {}, guest {}", cell.link, cell.guest),
            told: format!(
                "{sum:.0} pages, {} MiB on the link",
                mib(sample.link_bytes.sum() as f64)
            ),
            pieces: pages.into(),
        });
        let mut row = vec![html! { strong { (cell.link) " " (cell.guest) } }];
        row.extend(pages.map(|pages| html! { (format!("{pages:.0}")) }));
        row.extend(
            [of_encoding("plain_bytes"), of_encoding("encoded_bytes")].map(|mib| html! { (mib) }),
        );
        row.push(html! { (mib(sample.link_bytes.sum() as f64)) });
        rows.push(row);
    }
    let head = [
        &["Link, guest"][..],
        &CODECS,
        &[
            "Before compression, MiB",
            "Encoded, MiB",
            "On the link, MiB",
        ],
    ]
    .concat();
    let names = [
        "piece-0", "piece-1", "piece-2", "piece-3", "piece-4", "piece-5",
    ];
    let entries: Vec<_> = names.into_iter().zip(CODECS).collect();
    html! { @if !stacks.is_empty() {
        h4 { "Bytes and pages by codec" }
        p { "Of hybrid me2, in each cell the run with the median time (" (parts::how_many(run)) "). Pages are compressed many at a \
             time: the bytes of each codec are a part of these, by what its pages have before that. Older reports do not tell bytes \
             by codec." }
        (legend(&entries))
        @if !bytes_of.is_empty() {
            div.grid.wide { (figure("Bytes that travelled, by codec", "(parts of all)", chart::stacks("Bytes by codec", &bytes_of))) }
        }
        div.grid.wide { (figure("Pages that travelled, by codec", "(parts of all)", chart::stacks("Pages by codec", &stacks))) }
        details { summary { "Pages and bytes" } (table(&head, rows)) }
    } }
}

/// The guest's speed across the move, cell by cell.
fn over_time(run: &Run, migrations: &Migrations) -> Markup {
    let cells = drawn(migrations);
    let drawing = |view, cell| chart::speed(view, cell, &migrations.table, &migrations.samples);
    let is_open = migrations.manifest.experiment != Experiment::Ablation;
    html! { details.over-time open[is_open] {
        summary { "The guest's speed over time" }
        p { "Operations of all vCPUs, as a part of those in the second before: the whole move in windows of 100 ms since the \
             request, and what is around the stop in bins of 10 ms, with its zero at the stop. Of each scheme the run with the \
             median time (" (parts::how_many(run)) "); at the right how long that took." }
        (legend(&[("phase-setup", "set-up"), ("phase-precopy", "explore, pre-copy"), ("phase-stop", "stopped"),
            ("phase-postcopy", "post-copy")]))
        @for cell in cells {
            div.grid.wide {
                @if let Some(whole) = drawing(View::Whole, cell) {
                    (figure(&format!("Link {}, guest {}", cell.link, cell.guest), "(the whole move, seconds since the request)", whole))
                }
                @if let Some(around) = drawing(View::AroundStop, cell) {
                    (figure(&format!("Link {}, guest {}", cell.link, cell.guest), "(seconds since the stop)", around))
                }
            }
        }
    } }
}

fn every_figure(migrations: &Migrations) -> Markup {
    let head = [
        "Link, guest",
        "Scheme",
        "Moved",
        "Time, s",
        "Data, MiB",
        "Downtime, ms",
        "Silence, ms",
        "90% again after, s",
        "Speed during",
    ];
    let [time, data, silence, recovery] = &QUANTITIES;
    let rows = migrations.table.rows().map(|((cell, scheme), figures)| {
        vec![
            html! { strong { (cell.link) " " (cell.guest) } },
            html! { (scheme) },
            html! { (figures.moved_of()) },
            html! { (parts::quantity(time, figures)) },
            html! { (parts::quantity(data, figures)) },
            html! { (parts::spread(figures.downtime_ms, 1.0)) },
            html! { (parts::quantity(silence, figures)) },
            html! { (parts::quantity(recovery, figures)) },
            html! { (parts::spread(figures.speed_during, 1.0)) },
        ]
    });
    html! { details { summary { "Every figure: medians (smallest–largest)" }
        p { "NC: did not converge in its time, and was given up." }
        (table(&head, rows.collect()))
    } }
}
