//! Bars of medians with their spread: a panel for each cell, a bar for each scheme.

use std::path::Path;

use super::{
    Quantity,
    numbers::{number, ticks, value},
    paint::{Align, Canvas, FAINT, INK, OURS, OURS_OTHERWISE, RIVALS, colour},
};
use crate::summary::{CellKey, Figures, Table};

const NAMES_WIDTH: i32 = 190;
const BARS_WIDTH: i32 = 260;
/// Beside the longest bar: its value.
const VALUES_WIDTH: i32 = 110;
const PANEL_WIDTH: i32 = NAMES_WIDTH + BARS_WIDTH + VALUES_WIDTH;
const BAR_PITCH: i32 = 24;
const BAR_HEIGHT: i32 = 14;
/// Above and below the bars of a panel: its title, its axis.
const PANEL_HEAD: i32 = 34;
const PANEL_FOOT: i32 = 36;
const TITLE_HEIGHT: i32 = 40;
const LEGEND_HEIGHT: i32 = 34;
const COLUMNS_MAX: usize = 3;

pub(super) fn draw(path: &Path, quantity: &Quantity, table: &Table) -> anyhow::Result<()> {
    let cells: Vec<&CellKey> = table.cells().collect();
    let columns = cells.len().clamp(1, COLUMNS_MAX);
    let rows: Vec<&[&CellKey]> = cells.chunks(columns).collect();
    let heights: Vec<i32> = rows.iter().map(|row| height(row, table)).collect();
    let width = PANEL_WIDTH * i32::try_from(columns)?;
    let below: i32 = heights.iter().sum();
    let canvas = Canvas::new(path, width, TITLE_HEIGHT + below + LEGEND_HEIGHT)?;
    canvas.text((16, 22), quantity.title, 17, Align::Left)?;
    let mut top = TITLE_HEIGHT;
    for (row, height) in rows.iter().zip(&heights) {
        for (left, cell) in (0..).step_by(PANEL_WIDTH.unsigned_abs() as usize).zip(*row) {
            panel(&canvas, (left, top), quantity, cell, table)?;
        }
        top += height;
    }
    legend(&canvas, top + LEGEND_HEIGHT / 2)?;
    canvas.finish()
}

fn height(row: &[&CellKey], table: &Table) -> i32 {
    let bars = row
        .iter()
        .map(|cell| table.schemes(cell).count())
        .max()
        .unwrap_or(0);
    PANEL_HEAD + BAR_PITCH * i32::try_from(bars).unwrap_or(0) + PANEL_FOOT
}

fn legend(canvas: &Canvas<'_>, y: i32) -> anyhow::Result<()> {
    let next = canvas.legend((16, y), OURS, "me2")?;
    let next = canvas.legend(next, OURS_OTHERWISE, "me2 otherwise")?;
    let next = canvas.legend(next, RIVALS, "rivals")?;
    canvas.text(next, "bar: median, line: min to max", 12, Align::Left)
}

fn panel(
    canvas: &Canvas<'_>,
    (left, top): (i32, i32),
    quantity: &Quantity,
    cell: &CellKey,
    table: &Table,
) -> anyhow::Result<()> {
    let scaled = |figures: &Figures| quantity.spread(figures);
    let bars: Vec<_> = table.schemes(cell).collect();
    let max = bars.iter().filter_map(|(_, figures)| scaled(figures));
    let max = max.map(|spread| spread.max).fold(0.0, f64::max);
    let ticks = ticks(max);
    let end = ticks.last().copied().unwrap_or(1.0);
    let zero = left + NAMES_WIDTH;
    let x = |value: f64| zero + (value / end * f64::from(BARS_WIDTH)) as i32;
    let title = format!("link {}, guest {}", cell.link, cell.guest);
    canvas.text((zero, top + PANEL_HEAD / 2), &title, 14, Align::Left)?;
    let first = top + PANEL_HEAD;
    let last = first + BAR_PITCH * i32::try_from(bars.len())?;
    for tick in &ticks {
        canvas.line(&[(x(*tick), first), (x(*tick), last)], FAINT)?;
        canvas.text((x(*tick), last + 10), &number(*tick), 11, Align::Centre)?;
    }
    canvas.text((x(end) + 34, last + 10), quantity.unit, 11, Align::Centre)?;
    for (index, (scheme, figures)) in (0..).zip(&bars) {
        let middle = first + BAR_PITCH * index + BAR_PITCH / 2;
        canvas.text((zero - 8, middle), scheme, 12, Align::Right)?;
        let Some(spread) = scaled(figures) else {
            let why = if figures.did_not_converge > 0 {
                "did not converge"
            } else {
                "not known"
            };
            canvas.text((zero + 6, middle), why, 12, Align::Left)?;
            continue;
        };
        let (above, below) = (middle - BAR_HEIGHT / 2, middle + BAR_HEIGHT / 2);
        canvas.rectangle([(zero, above), (x(spread.median), below)], colour(scheme))?;
        canvas.line(&[(x(spread.min), middle), (x(spread.max), middle)], INK)?;
        for whisker in [spread.min, spread.max] {
            canvas.line(&[(x(whisker), middle - 4), (x(whisker), middle + 4)], INK)?;
        }
        let note = if figures.converges() {
            String::new()
        } else {
            format!(" ({})", figures.moved_of())
        };
        let value = format!("{} {}{note}", value(spread.median), quantity.unit);
        canvas.text((x(spread.max) + 7, middle), &value, 12, Align::Left)?;
    }
    Ok(())
}
