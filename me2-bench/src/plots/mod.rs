//! Plots, from manifest and samples alone.

mod bars;
mod flows;
mod multiples;
mod paint;
mod speed;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    experiments::closely,
    network::LinkName,
    results::{Experiment, Folder, Manifest, Sample},
    summary::{Figures, Table},
};
use bars::Quantity;
pub(crate) use flows::{Strip, draw_flows};
use speed::View;

/// What there are bars of, one plot each.
const QUANTITIES: [Quantity; 4] = [
    Quantity {
        file: "total-time.svg",
        title: "Total time of a migration, seconds",
        unit: "s",
        scale: 1e-3,
        of: |figures: &Figures| figures.total_time_ms,
    },
    Quantity {
        file: "data.svg",
        title: "Data on the link, both ways, MiB",
        unit: "MiB",
        scale: 1.0 / (1 << 20) as f64,
        of: |figures: &Figures| figures.sent_bytes,
    },
    Quantity {
        file: "silence.svg",
        title: "Longest silence of the guest around the move, ms",
        unit: "ms",
        scale: 1.0,
        of: |figures: &Figures| figures.guest_silence_ms_max,
    },
    Quantity {
        file: "recovery.svg",
        title: "From the stop until the guest works at 90% of its speed again, seconds",
        unit: "s",
        scale: 1.0,
        of: |figures: &Figures| figures.recovered_90_percent_s,
    },
];

/// The same over round trips.
const OVER_ROUND_TRIPS: [Quantity; 2] = [
    Quantity {
        file: "total-time-over-round-trip.svg",
        ..QUANTITIES[0]
    },
    Quantity {
        file: "longest-gap-over-round-trip.svg",
        ..QUANTITIES[2]
    },
];

/// Draws all plots of an experiment into its folder.
pub(crate) fn draw(folder: &Folder, manifest: &Manifest, samples: &[Sample]) -> anyhow::Result<()> {
    match manifest.experiment {
        Experiment::Wan => draw_wan(folder, manifest, samples),
        _ => draw_cells(folder, manifest, samples),
    }
}

/// What all links have in common, and the cells of those that are looked at closely.
fn draw_wan(folder: &Folder, manifest: &Manifest, samples: &[Sample]) -> anyhow::Result<()> {
    let table = Table::of(manifest, samples);
    if let Some(guest) = most_measured(&table) {
        for quantity in &OVER_ROUND_TRIPS {
            multiples::draw(&folder.file(quantity.file), quantity, &table, &guest)?;
        }
    }
    let links: BTreeSet<LinkName> = table.cells().map(|cell| cell.link).collect();
    let links = closely(&links.into_iter().collect::<Vec<_>>());
    let of_these = samples.iter().filter(|sample| links.contains(&sample.link));
    let samples: Vec<Sample> = of_these.cloned().collect();
    draw_cells(folder, manifest, &samples)?;
    let table = Table::of(manifest, &samples);
    for cell in table.cells() {
        let name = format!("stop-{}-{}.svg", cell.link, cell.guest);
        speed::draw(
            &folder.file(&name),
            View::AroundStop,
            cell,
            &table,
            &samples,
        )?;
    }
    Ok(())
}

/// The guest that was moved over most links.
fn most_measured(table: &Table) -> Option<String> {
    let mut links = BTreeMap::<&str, usize>::new();
    for cell in table.cells() {
        *links.entry(&cell.guest).or_default() += 1;
    }
    let most = links.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(guest, _)| guest.to_owned())
}

/// Cell by cell: bars, and the guest's speed.
fn draw_cells(folder: &Folder, manifest: &Manifest, samples: &[Sample]) -> anyhow::Result<()> {
    let table = Table::of(manifest, samples);
    for quantity in &QUANTITIES {
        bars::draw(&folder.file(quantity.file), quantity, &table)?;
    }
    for cell in table.cells() {
        let name = format!("speed-{}-{}.svg", cell.link, cell.guest);
        speed::draw(&folder.file(&name), View::Whole, cell, &table, samples)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
