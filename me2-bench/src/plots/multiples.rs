//! Small multiples over the round trip: a column for each rate, a row for each kind of loss, all with
//! the same axes; hybrid me2 and its rival in each.

use std::path::Path;

use super::{
    Quantity,
    numbers::{number, ticks_of_powers},
    paint::{Align, Canvas, FAINT, INK, OURS, Point, RIVALS},
    sweep::{Series, Sweep, loss_told},
};
use crate::{experiments::HYBRID, summary::Table};

const PANEL_WIDTH: i32 = 250;
const PANEL_HEIGHT: i32 = 150;
const GAP: i32 = 26;
const LEFT: i32 = 150;
const HEAD: i32 = 92;
const FOOT: i32 = 24;
const RIGHT: i32 = 30;
/// Between the sides of a panel and its first and last round trip.
const INSET: i32 = 22;

/// Nothing is drawn without a link of the sweep.
pub(super) fn draw(
    path: &Path,
    quantity: &Quantity,
    table: &Table,
    guest: &str,
) -> anyhow::Result<()> {
    let Some(sweep) = Sweep::of(quantity, table, guest) else {
        return Ok(());
    };
    let schemes = [(HYBRID, OURS), (sweep.rival.as_str(), RIVALS)];
    let (rates, losses) = (&sweep.rates_mbit, &sweep.losses);
    let axes = Axes {
        ticks: ticks_of_powers(sweep.min, sweep.max),
        sweep: &sweep,
    };
    let across = |count: usize| i32::try_from(count).unwrap_or(0);
    let width = LEFT + across(rates.len()) * (PANEL_WIDTH + GAP) + RIGHT;
    let bottom = HEAD + across(losses.len()) * (PANEL_HEIGHT + GAP);
    let canvas = Canvas::new(path, width.max(560), bottom + FOOT)?;
    canvas.text((16, 22), quantity.title, 17, Align::Left)?;
    let mut next = (16, 48);
    for (scheme, colour) in schemes {
        next = canvas.legend(next, colour, scheme)?;
    }
    canvas.text(
        next,
        &format!("guest {guest}; both axes are logarithmic; cross: did not move"),
        12,
        Align::Left,
    )?;
    for (column, rate) in (0..).zip(rates) {
        let left = LEFT + column * (PANEL_WIDTH + GAP);
        let title = format!("{rate} Mbit/s");
        canvas.text(
            (left + PANEL_WIDTH / 2, HEAD - 16),
            &title,
            14,
            Align::Centre,
        )?;
        for (row, loss) in (0..).zip(losses) {
            let top = HEAD + row * (PANEL_HEIGHT + GAP);
            axes.frame(&canvas, (left, top), column == 0)?;
            if column == 0 {
                let middle = top + PANEL_HEIGHT / 2;
                canvas.text((16, middle), &loss_told(*loss), 13, Align::Left)?;
            }
            let Some(series) = sweep.panels.get(&(*loss, *rate)) else {
                continue;
            };
            for (series, (_, colour)) in series.iter().zip(schemes) {
                axes.series(&canvas, (left, top), series, colour)?;
            }
        }
    }
    let middle = LEFT + (width - LEFT - RIGHT) / 2;
    canvas.text((middle, bottom + 4), "round trip, ms", 12, Align::Centre)?;
    canvas.finish()
}

/// Both are logarithmic, and the same in all panels.
struct Axes<'a> {
    /// In the unit of the plot, from the least to the most.
    ticks: Vec<f64>,
    sweep: &'a Sweep,
}

impl Axes<'_> {
    fn frame(
        &self,
        canvas: &Canvas<'_>,
        (left, top): Point,
        has_values: bool,
    ) -> anyhow::Result<()> {
        let bottom = top + PANEL_HEIGHT;
        for tick in &self.ticks {
            let y = top + self.y(*tick);
            canvas.line(&[(left, y), (left + PANEL_WIDTH, y)], FAINT)?;
            if has_values {
                canvas.text((left - 6, y), &number(*tick), 10, Align::Right)?;
            }
        }
        for rtt_ms in &self.sweep.round_trips_ms {
            let x = left + self.x(*rtt_ms);
            canvas.line(&[(x, top), (x, bottom)], FAINT)?;
            canvas.text((x, bottom + 9), &rtt_ms.to_string(), 10, Align::Centre)?;
        }
        Ok(())
    }

    fn series(
        &self,
        canvas: &Canvas<'_>,
        (left, top): Point,
        series: &Series,
        colour: plotters::style::RGBColor,
    ) -> anyhow::Result<()> {
        const MARK: i32 = 3;
        let mut line: Vec<Point> = Vec::new();
        for (rtt_ms, spread) in series {
            let x = left + self.x(*rtt_ms);
            let Some(spread) = spread else {
                // At the top, where it would be longest.
                let y = top + 6;
                canvas.line(&[(x - 4, y - 4), (x + 4, y + 4)], colour)?;
                canvas.line(&[(x - 4, y + 4), (x + 4, y - 4)], colour)?;
                continue;
            };
            let y = |value: f64| top + self.y(value);
            let at = (x, y(spread.median));
            canvas.rectangle(
                [(at.0 - MARK, at.1 - MARK), (at.0 + MARK, at.1 + MARK)],
                colour,
            )?;
            canvas.line(&[(x, y(spread.min)), (x, y(spread.max))], INK)?;
            line.push(at);
        }
        if line.len() > 1 {
            canvas.line(&line, colour)?;
        }
        Ok(())
    }

    fn x(&self, rtt_ms: u32) -> i32 {
        INSET + (self.sweep.part(rtt_ms) * f64::from(PANEL_WIDTH - 2 * INSET)) as i32
    }

    fn y(&self, value: f64) -> i32 {
        let (first, last) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let part = (value / first).ln() / (last / first).ln();
        PANEL_HEIGHT - (part.clamp(0.0, 1.0) * f64::from(PANEL_HEIGHT)) as i32
    }
}
