//! The WAN sweep as small multiples, and what each migration of hybrid me2 is to keep to.

use maud::{Markup, html};
use serde_json::Value;

use super::{
    chart,
    kept::Migrations,
    parts::{figure, legend, ratio, table, verdict},
};
use crate::{
    experiments::{self, HYBRID},
    network::LinkName,
    plots::{QUANTITIES, most_measured},
    results::Sample,
    summary::{CellKey, Figure, Kept, Table},
};

pub(super) fn section(migrations: &Migrations) -> Markup {
    let table = &migrations.table;
    let guest = most_measured(table).unwrap_or_default();
    let drawings = QUANTITIES.each_ref().map(|quantity| {
        let (drawing, rival) = chart::multiples(quantity, table, &guest)?;
        Some((quantity.title, drawing, rival))
    });
    let drawings: Vec<_> = drawings.into_iter().flatten().collect();
    let average = &migrations.summary["average"];
    let left_out = &migrations.manifest.left_out;
    html! {
        @if let Some((_, _, rival)) = drawings.first() {
            p { "Hybrid me2 and " (rival) " move the guest " strong { (guest) } " over links of all kinds. Of the rival, where both \
                 moved every time (geometric means): " (ratio(&average["total_time_ratio"])) " of the time, "
                (ratio(&average["data_ratio"])) " of the data, " (ratio(&average["longest_gap_ratio"])) " of the longest gap. "
                (worst(migrations)) }
            (legend(&[("ours", HYBRID), ("rival", rival)]))
            div.grid.wide { @for (title, drawing, _) in &drawings {
                (figure(title, "(over the round trip, in equal steps; values are logarithmic; mark: median, line: smallest to largest, \
                    cross: did not move)", drawing.clone()))
            } }
        } @else {
            p { "No link of the sweep was measured with both hybrid me2 and a rival." }
        }
        @if !left_out.is_empty() {
            details { summary { "Left out for lack of time: " (left_out.len()) }
                ul { @for line in left_out { li { (line) } } } }
        }
    }
}

/// The links on which least is gained.
fn worst(migrations: &Migrations) -> Markup {
    let worst = migrations.summary["worst"].as_array();
    let text = |value: &Value| value.as_str().unwrap_or("–").replace('_', " ");
    html! { @for worst in worst.into_iter().flatten().filter(|worst| worst.is_object()) {
        "Worst " (text(&worst["measure"])) ": " (ratio(&worst["ratio"])) " on "
        strong { (text(&worst["link"])) " " (text(&worst["guest"])) } ". "
    } }
}

/// Cells of the links that are looked at closely.
pub(super) fn closely(table: &Table) -> Vec<&CellKey> {
    let mut links: Vec<LinkName> = table.cells().map(|cell| cell.link).collect();
    links.dedup();
    let links = experiments::closely(&links);
    let cells = table.cells();
    cells.filter(|cell| links.contains(&cell.link)).collect()
}

/// Migrations of hybrid me2 with their figures, in the order of links and guests.
pub(super) fn judged(migrations: &Migrations) -> Vec<(&Sample, Kept)> {
    let own = migrations
        .samples
        .iter()
        .filter(|sample| sample.scheme == HYBRID);
    let mut judged: Vec<_> = own
        .filter_map(|sample| Some((sample, Kept::of(sample)?)))
        .collect();
    judged.sort_by_key(|(sample, _)| (sample.link, sample.guest.clone(), sample.run));
    judged
}

/// Each migration of hybrid me2 beside its targets.
pub(super) fn targets(migrations: &Migrations) -> Markup {
    let judged = judged(migrations);
    let count = |is_met| {
        let figures = judged.iter().flat_map(|(_, kept)| &kept.figures);
        figures
            .filter(|figure| figure.is_met() == Some(is_met))
            .count()
    };
    let head = [
        "Link, guest, run",
        "Longest gap, ms",
        "90% again after, s",
        "Speed until the stop",
        "Faults",
        "Fault p50, ms",
        "Fault p99, ms",
        "There when first touched",
    ];
    let rows = judged.iter().map(|(sample, kept)| {
        let [gap, recovered, speed, p50, p99, present] = &kept.figures;
        vec![
            html! { strong { (sample.link) " " (sample.guest) " " (sample.run) } },
            told(gap, 1),
            told(recovered, 2),
            told(speed, 2),
            html! { (kept.faults.map_or_else(|| "–".to_owned(), |faults| faults.to_string())) },
            told(p50, 1),
            told(p99, 1),
            told(present, 3),
        ]
    });
    html! { @if !judged.is_empty() { details { summary {
            "Each migration of hybrid me2 beside its targets: " (count(true)) " met, " (count(false)) " missed" }
        p { "Gap: half a round trip, 10 ms and the final set's time on the link; or 1.5 round trips and 10 ms if there was a \
             fault. Faults: p50 1.1 round trips and 0.5 ms, p99 1.5 round trips where at most 0.1% is lost." }
        (table(&head, rows.collect()))
    } } }
}

fn told(figure: &Figure, digits: usize) -> Markup {
    html! { (figure.told(digits)) @if figure.is_met().is_some() { " " (verdict(figure.is_met())) } }
}
