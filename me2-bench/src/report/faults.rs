//! How long faults wait: what was measured of them, and what was not.

use std::collections::BTreeMap;

use maud::{Markup, html};
use serde_json::Value;

use super::{
    chart::{self, Quantiles},
    kept::{Kept, Migrations, Run, What},
    parts::{self, figure},
};
use crate::{
    experiments::HYBRID,
    results::{Came, Sample},
    summary, transport,
};

/// Migrations that are drawn.
const ROWS_MAX: usize = 24;

pub(super) fn section(kept: &Kept) -> Markup {
    let newest = kept.of(transport::EXPERIMENT).next();
    html! {
        @match newest.map(|run| (run, &run.what)) {
            Some((run, What::Transport(transport))) => (requests(run, transport)),
            _ => p { "No run of the transport is here: " code { "cargo xtask bench transport" } " makes one, and with it the \
                distribution of what a fault waits on a full link." },
        }
        (of_migrations(kept))
    }
}

/// The distribution of requests like faults, case by case.
fn requests(run: &Run, kept: &transport::Kept) -> Markup {
    let drawings = kept.cases().into_iter().filter_map(|case| {
        let of_case = kept.samples.iter().filter(|sample| sample.case == case);
        let runs: Vec<_> = of_case
            .map(|sample| points(&sample.seen.requests_us))
            .filter(|points| points.len() > 1)
            .collect();
        let first = runs.iter().filter_map(|points| Some(points.first()?.1));
        let fastest = first.reduce(f64::min)?;
        let from_ms = kept.round_trip_ms(case).map_or(0.0, |rtt| rtt.min(fastest));
        let caption = format!("({} runs, a line each; from the round trip on)", runs.len());
        let drawing = chart::distribution(&format!("Latency of requests, {case}"), from_ms, &runs);
        Some(figure(&format!("{case}."), &caption, drawing))
    });
    html! {
        p { "What a fault waits for on a link that is full: requests of 100 bytes, answered by 4 KiB, beside bulk at full \
             rate; shares of all requests that took at most so long, drawn so that the tail can be seen; from " code { (run.name) } "." }
        div.grid { @for drawing in drawings { (drawing) } }
    }
}

/// Shares and ms; of the thousandths every twentieth, and the last all.
fn points(thousandths_us: &[u64]) -> Vec<(f64, f64)> {
    let last = thousandths_us.len().saturating_sub(1).max(1);
    let shown = |index: &usize| index.is_multiple_of(20) || index * 100 >= last * 98;
    let each = thousandths_us.iter().enumerate();
    each.filter(|(index, _)| shown(index))
        .map(|(index, us)| (index as f64 / last as f64, *us as f64 / 1e3))
        .collect()
}

/// What reports tell of migrations with faults that had to wait for the source: all waits, or, of older
/// ones, three quantiles.
fn of_migrations(kept: &Kept) -> Markup {
    let all = || {
        let each = kept.migrations();
        each.flat_map(|(run, migrations)| {
            let moved = migrations
                .samples
                .iter()
                .filter(|sample| sample.came == Came::Moved);
            moved.map(move |sample| (run, migrations, sample))
        })
    };
    let hybrid = all().filter(|(_, _, sample)| sample.scheme == HYBRID);
    let hybrid: Vec<_> = hybrid.collect();
    let without = hybrid
        .iter()
        .filter(|(_, _, sample)| sample.report["postcopy"]["faults"] == 0);
    let whole = distributions(all());
    let shown = whole.get(..ROWS_MAX).unwrap_or(&whole);
    let older = all().filter(|(_, _, sample)| steps(&sample.report).is_empty());
    let mut rows: Vec<_> = older.filter_map(|(_, _, sample)| row(sample)).collect();
    rows.sort_by(|one, other| other.beyond().total_cmp(&one.beyond()));
    let drawn = rows.get(..ROWS_MAX).unwrap_or(&rows);
    html! {
        p { "Of " (hybrid.len()) " migrations of hybrid me2 that moved, " (without.count()) " had no fault that had to wait for \
             the source. Of those that had any, reports tell the whole distribution, or, older ones, three quantiles of it. \
             QEMU does not tell." }
        @if !whole.is_empty() {
            p { "All waits of each migration, as shares of those that took at most so long"
                @if shown.len() < whole.len() { " (the newest " (ROWS_MAX) " of " (whole.len()) " cells)" } ":" }
            div.grid { @for drawing in shown { (drawing) } }
        }
        @if !rows.is_empty() { div.grid.wide {
            p { "Three quantiles, of " (rows.len()) " migrations" @if drawn.len() < rows.len() { " (the " (ROWS_MAX) " worst)" } ":" }
            (figure("Faults of migrations.", "(marks: p50, p99, longest; strokes: the targets of p50 and p99; a line each, that which is furthest beyond its targets first)",
                chart::quantiles(drawn)))
        } }
        (local(kept))
    }
}

/// A drawing for each run, link, guest and scheme, with a line for each migration; the newest run first.
fn distributions<'a>(
    migrations: impl Iterator<Item = (&'a Run, &'a Migrations, &'a Sample)>,
) -> Vec<Markup> {
    let mut cells: BTreeMap<_, Vec<Vec<(f64, f64)>>> = BTreeMap::new();
    for (run, _, sample) in migrations {
        let steps = steps(&sample.report);
        if !steps.is_empty() && sample.scheme.starts_with("me2-") {
            let name = format!("{} {}, {}", sample.link, sample.guest, sample.scheme);
            cells.entry((&run.name, name)).or_default().push(steps);
        }
    }
    let drawings = cells.into_iter().rev().map(|((run, name), lines)| {
        let first = lines.iter().flatten().map(|(_, ms)| *ms);
        let from_ms = first.fold(f64::INFINITY, f64::min);
        let caption = match lines.len() {
            1 => format!("({run}; one migration)"),
            count => format!("({run}; {count} migrations, a line each)"),
        };
        let drawing = chart::distribution(&format!("Waits of faults, {name}"), from_ms, &lines);
        figure(&format!("{name}."), &caption, drawing)
    });
    drawings.collect()
}

/// The distribution of the waits in a report, in steps: shares and ms. Empty if there are none, or it
/// does not tell.
fn steps(report: &Value) -> Vec<(f64, f64)> {
    let told = &report["postcopy"]["fault_latency_us"]["buckets"];
    let told = told.as_array().map_or(&[][..], Vec::as_slice);
    let bucket = |pair: &Value| Some((pair[0].as_f64()? / 1e3, pair[1].as_f64()?));
    let buckets: Vec<_> = told.iter().filter_map(bucket).collect();
    let all: f64 = buckets.iter().map(|(_, count)| count).sum();
    let mut before = 0.0;
    let each = buckets.into_iter().flat_map(|(ms, count)| {
        let step = [(before / all, ms), ((before + count) / all, ms)];
        before += count;
        step
    });
    each.collect()
}

fn row(sample: &Sample) -> Option<Quantiles> {
    let postcopy = &sample.report["postcopy"];
    let faults = postcopy["faults"].as_u64();
    let faults = faults.filter(|faults| *faults > 0 && sample.scheme.starts_with("me2-"))?;
    let ms = |quantile: &str| Some(postcopy["fault_latency_us"][quantile].as_f64()? / 1e3);
    let kept = summary::Kept::of(sample)?;
    let [_, _, _, p50, p99, _] = kept.figures;
    let targets = [p50.target.value(), p99.target.value()];
    let (link, guest, scheme) = (sample.link, &sample.guest, &sample.scheme);
    Some(Quantiles {
        name: match faults {
            1 => format!("{link} {guest}, {scheme}: 1 fault"),
            _ => format!("{link} {guest}, {scheme}: {faults} faults"),
        },
        class: chart::class(scheme),
        p50: ms("p50")?,
        p99: ms("p99")?,
        max: ms("max")?,
        targets,
    })
}

/// What the destination needs for a fault by itself, without a link.
fn local(kept: &Kept) -> Markup {
    let newest = kept
        .of(crate::paging::NAME)
        .find_map(|run| match &run.what {
            What::Cases(cases) => Some((run, cases)),
            _ => None,
        });
    html! { @if let Some((run, cases)) = newest {
        p { "Without a link, a page that waits at the destination already (" code { (run.name) } ", "
            (parts::how_many(run)) "):" }
        ul { @for case in &cases.cases {
            @let told = cases.told(case);
            @let faults: Vec<_> = told.iter().filter(|(name, _)| *name == "fault_p50_us" || *name == "fault_p99_us").collect();
            @if !faults.is_empty() { li { strong { (case.name) } ": " @for (name, told) in faults {
                (name.replace("fault_", "").replace("_us", "")) " " (parts::spread(Some(told.spread), 1.0)) " µs; " } } }
        } }
    } }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn waits_are_drawn_in_steps_up_to_all() {
        let older = json!({ "postcopy": { "fault_latency_us": { "p50": 1 } } });
        assert!(steps(&older).is_empty());
        let buckets = json!([[100_000, 3], [150_000, 1]]);
        let report = json!({ "postcopy": { "fault_latency_us": { "buckets": buckets } } });
        assert_eq!(
            steps(&report),
            [(0.0, 100.0), (0.75, 100.0), (0.75, 150.0), (1.0, 150.0)]
        );
    }

    #[test]
    fn the_tail_of_a_distribution_is_drawn_finely() {
        let thousandths: Vec<u64> = (1..=1001).map(|us| us * 1000).collect();
        let points = points(&thousandths);
        assert_eq!(points[0], (0.0, 1.0));
        assert_eq!(points[1], (0.02, 21.0));
        assert_eq!(points[points.len() - 1], (1.0, 1001.0));
        assert!(points.len() < 80, "{}", points.len());
        assert!(super::points(&[]).is_empty());
    }
}
