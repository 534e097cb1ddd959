//! Plots, from manifest and samples alone.

mod bars;
mod flows;
mod held;
mod multiples;
mod numbers;
mod paint;
mod quantity;
mod speed;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    experiments::closely,
    network::LinkName,
    results::{Experiment, Folder, Manifest, Sample},
    summary::Table,
};
pub(crate) use flows::{Strip, draw_flows};
pub(crate) use held::{Held, draw_held};
pub(crate) use numbers::{number, ticks, ticks_of_powers, value};
use quantity::OVER_ROUND_TRIPS;
pub(crate) use quantity::{QUANTITIES, Quantity};
use speed::View;
pub(crate) use speed::typical;
pub(crate) use sweep::{Series, Sweep, loss_told};

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
pub(crate) fn most_measured(table: &Table) -> Option<String> {
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
