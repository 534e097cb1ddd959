//! Plots, from manifest and samples alone.

mod bars;
mod paint;
mod speed;

use crate::{
    results::{Folder, Manifest, Sample},
    summary::{Figures, Table},
};
use bars::Quantity;

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

/// Draws all plots of an experiment into its folder.
pub(crate) fn draw(folder: &Folder, manifest: &Manifest, samples: &[Sample]) -> anyhow::Result<()> {
    let table = Table::of(manifest, samples);
    for quantity in &QUANTITIES {
        bars::draw(&folder.file(quantity.file), quantity, &table)?;
    }
    for cell in table.cells() {
        let name = format!("speed-{}-{}.svg", cell.link.as_str(), cell.guest);
        speed::draw(&folder.file(&name), cell, &table, samples)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
