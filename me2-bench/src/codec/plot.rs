//! Codecs by their speed, one mark a population.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::measured::Measured;

/// Height of a codec's row and of everything else, pixels.
const ROW_HEIGHT: u32 = 18;
const FRAME_HEIGHT: u32 = 110;
const WIDTH: u32 = 960;
/// Room for names.
const NAMES_WIDTH: u32 = 170;

/// Draws the speeds, on a logarithmic scale, into an SVG file.
pub(super) fn draw(measured: &Measured, path: &Path) -> Result<()> {
    draw_into(measured, path).map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
}

fn draw_into(measured: &Measured, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let rows = measured.codecs.len();
    let height = FRAME_HEIGHT + ROW_HEIGHT * rows as u32;
    let area = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    area.fill(&WHITE)?;
    let speeds = measured.cells.iter().map(|cell| cell.speed_by_memcpy);
    let slowest = speeds
        .clone()
        .fold(f64::INFINITY, |least, speed| least.min(speed.min));
    let quickest = speeds.fold(1.0, |most: f64, speed| most.max(speed.max));
    let mut chart = ChartBuilder::on(&area)
        .caption(
            "Codecs: speed by that of memcpy of the same pages",
            ("sans-serif", 16),
        )
        .margin(12)
        .set_label_area_size(LabelAreaPosition::Left, NAMES_WIDTH)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d(
            (slowest / 1.2..quickest * 1.2).log_scale(),
            -0.5..rows as f64 - 0.5,
        )?;
    let name = |row: &f64| {
        let row = rows as f64 - 1.0 - row;
        let is_whole = row.fract().abs() < 1e-6 && row >= 0.0;
        let codec = is_whole
            .then(|| measured.codecs.get(row as usize))
            .flatten();
        codec.map_or_else(String::new, |codec| codec.codec.clone())
    };
    chart
        .configure_mesh()
        .y_labels(rows * 2 + 1)
        .y_label_formatter(&name)
        .x_label_formatter(&|speed| format!("{speed:.3}"))
        .x_desc("median, with smallest and largest of all runs; a bar: the target")
        .light_line_style(BLACK.mix(0.05))
        .draw()?;
    let row_of = |codec: &str| {
        let from_top = measured
            .codecs
            .iter()
            .position(|summary| summary.codec == codec);
        (rows - 1 - from_top.unwrap_or(0)) as f64
    };
    for (number, population) in measured.populations().into_iter().enumerate() {
        let color = Palette99::pick(number).to_rgba();
        let cells: Vec<_> = measured
            .cells
            .iter()
            .filter(|cell| cell.population == population)
            .collect();
        // Marks of one row lie a little apart.
        let height = |codec: &str| row_of(codec) + 0.3 - 0.12 * number as f64;
        chart.draw_series(cells.iter().map(|cell| {
            let (speed, y) = (cell.speed_by_memcpy, height(&cell.codec));
            PathElement::new([(speed.min, y), (speed.max, y)], color.stroke_width(1))
        }))?;
        chart
            .draw_series(cells.iter().map(|cell| {
                Circle::new(
                    (cell.speed_by_memcpy.median, height(&cell.codec)),
                    3,
                    color.filled(),
                )
            }))?
            .label(population)
            .legend(move |(x, y)| Circle::new((x + 10, y), 4, color.filled()));
    }
    let measured_targets = measured
        .targets
        .iter()
        .filter(|target| target.is_met.is_some());
    chart.draw_series(measured_targets.map(|target| {
        let (x, y) = (target.speed_by_memcpy_min, row_of(&target.codec));
        PathElement::new([(x, y - 0.45), (x, y + 0.45)], BLACK.stroke_width(2))
    }))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::measured::tests::samples, *};

    #[test]
    fn a_plot_names_codecs_and_populations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("speed.svg");
        let mut all = samples("rle_encode", "zero", &[1.0, 2.0]);
        all.extend(samples("rle_decode", "files", &[3.0]));
        draw(&Measured::of(&all), &path).unwrap();
        let drawing = std::fs::read_to_string(&path).unwrap();
        for name in ["rle_encode", "rle_decode", "zero", "files"] {
            assert!(drawing.contains(name), "{name}");
        }
    }
}
