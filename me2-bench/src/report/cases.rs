//! Experiments without a migration: paging, probes, transport, codec.

use maud::{Markup, html};

use super::{
    chart,
    kept::Run,
    parts::{self, against, figure, legend, spread, table, verdict},
};
use crate::{
    cases,
    codec::{Cell, Measured},
    target::Target,
    transport,
};

const HEAD: [&str; 4] = ["Case", "Figure", "Median (smallest–largest)", "Target"];

/// Figures: first those that have a target.
#[derive(Default)]
struct Rows {
    judged: Vec<Vec<Markup>>,
    others: Vec<Vec<Markup>>,
}

impl Rows {
    fn add(&mut self, target: Target, row: Vec<Markup>) {
        match target {
            Target::None => self.others.push(row),
            _ => self.judged.push(row),
        }
    }

    fn tables(self) -> Markup {
        let others = self.others.len();
        html! {
            @if !self.judged.is_empty() { (table(&HEAD, self.judged)) }
            @if others > 0 { details { summary { "Figures without a target: " (others) } (table(&HEAD[..3], self.others)) } }
        }
    }
}

pub(super) fn figures(run: &Run, kept: &cases::Kept) -> Markup {
    let mut rows = Rows::default();
    for case in &kept.cases {
        for (name, told) in kept.told(case) {
            let target = told.target_max.map_or(Target::None, Target::AtMost);
            rows.add(
                target,
                vec![
                    html! { strong { (case.name) } " " small { (case.what()) } },
                    html! { (unit_last(name)) },
                    html! { (spread(Some(told.spread), 1.0)) },
                    against(target, told.is_met),
                ],
            );
        }
    }
    html! {
        p { (parts::capital(&parts::runs(run))) ". What limits the figures: " (kept.limit) "." }
        (rows.tables())
        (parts::manifest(run))
    }
}

/// `fault_p50_us` as `fault p50, µs`.
pub(super) fn unit_last(name: &str) -> String {
    let units = [
        ("_us", "µs"),
        ("_ms", "ms"),
        ("_percent", "%"),
        ("_per_second", "1/s"),
    ];
    let found = units
        .iter()
        .find_map(|(suffix, unit)| Some((name.strip_suffix(suffix)?, unit)));
    match found {
        Some((name, unit)) => format!("{}, {unit}", name.replace('_', " ")),
        None => name.replace('_', " "),
    }
}

pub(super) fn transport(run: &Run, kept: &transport::Kept) -> Markup {
    let mut rows = Rows::default();
    for case in kept.cases() {
        for (name, told) in kept.told(case) {
            rows.add(
                told.target,
                vec![
                    html! { strong { (case) } " " small { (kept.what(case)) } },
                    html! { (name) },
                    html! { (spread(Some(told.spread), 1.0)) },
                    against(told.target, told.is_met()),
                ],
            );
        }
    }
    let bin_s = transport::BIN.as_secs_f64();
    let strips = kept.strips();
    html! {
        p { (parts::capital(&parts::runs(run))) ". Shares are of what a link's rate leaves for payload; requests are beside bulk at full rate, \
             like faults." }
        (rows.tables())
        (legend(&[("ours", "first connection"), ("ours-otherwise", "second connection"), ("rival", "TCP")]))
        div.grid.wide { (figure("What arrived over time.", "(means of half a second, as a part of the link's rate; the first run of \
            each case)", chart::flows(bin_s, &strips))) }
        (parts::manifest(run))
    }
}

pub(super) fn codec(run: &Run, measured: &Measured) -> Markup {
    let targets = measured.targets.iter().map(|target| {
        let population = target.population.as_deref();
        let cell = population.and_then(|population| measured.cell(&target.codec, population));
        vec![
            html! { strong { (target.codec) } },
            html! { (population.unwrap_or("–")) },
            html! { (spread(cell.map(|cell| cell.speed_by_memcpy), 1.0)) },
            html! { "≥ " (target.speed_by_memcpy_min) " " (verdict(target.is_met)) },
        ]
    });
    let populations = measured.populations();
    let mut head = vec!["Codec", "Slowest on"];
    head.extend(&populations);
    let rows = |cell: &dyn Fn(&Cell) -> String| {
        let each = measured.codecs.iter().map(|codec| {
            let mut row = vec![
                html! { strong { (codec.codec) } },
                html! { (codec.worst_population) },
            ];
            row.extend(populations.iter().map(|population| {
                let told = measured.cell(&codec.codec, population).map(cell);
                html! { (told.unwrap_or_else(|| "–".to_owned())) }
            }));
            row
        });
        each.collect::<Vec<_>>()
    };
    html! {
        p { (parts::capital(&parts::runs(run))) ". Speeds are ratios to memcpy of the same pages right before, one thread; sizes are ratios to raw \
             pages." }
        (table(&["Codec", "On", "Speed by memcpy's", "Target"], targets.collect()))
        details { summary { "Speed of each codec on each kind of pages, by memcpy's" }
            (table(&head, rows(&|cell| spread(Some(cell.speed_by_memcpy), 1.0)))) }
        details { summary { "Size of each codec on each kind of pages, by raw pages" }
            (table(&head, rows(&|cell| cell.size_by_raw.map_or_else(|| "–".to_owned(), |size| format!("{size:.3}"))))) }
        (parts::manifest(run))
    }
}
