//! Small multiples over the round trip: a column for each rate, a row for each kind of loss, all with
//! the same axes; hybrid me2 and its rival in each.

use std::{collections::BTreeMap, path::Path};

use super::{
    bars::Quantity,
    paint::{Align, Canvas, FAINT, INK, OURS, Point, RIVALS, number, ticks_of_powers},
};
use crate::{
    experiments::{HYBRID, RATES_MBIT},
    network::LinkLoss,
    statistics::Spread,
    summary::Table,
};

const PANEL_WIDTH: i32 = 250;
const PANEL_HEIGHT: i32 = 150;
const GAP: i32 = 26;
const LEFT: i32 = 150;
const HEAD: i32 = 92;
const FOOT: i32 = 24;
const RIGHT: i32 = 30;
/// Between the sides of a panel and its first and last round trip.
const INSET: i32 = 22;

/// Values of one scheme by round trip; `None`: it did not move every time.
type Series = BTreeMap<u32, Option<Spread>>;

/// Nothing is drawn without a link of the sweep.
pub(super) fn draw(
    path: &Path,
    quantity: &Quantity,
    table: &Table,
    guest: &str,
) -> anyhow::Result<()> {
    let Some(rival) = table.rival_of(HYBRID) else {
        return Ok(());
    };
    let schemes = [(HYBRID, OURS), (rival, RIVALS)];
    let panels = panels(quantity, table, guest, schemes.map(|(scheme, _)| scheme));
    let mut rates: Vec<u32> = panels.keys().map(|(_, rate)| *rate).collect();
    rates.sort_unstable();
    rates.dedup();
    let mut losses: Vec<LinkLoss> = panels.keys().map(|(loss, _)| *loss).collect();
    losses.dedup();
    let Some(axes) = Axes::of(panels.values().flatten(), quantity.scale) else {
        return Ok(());
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
    for (column, rate) in (0..).zip(&rates) {
        let left = LEFT + column * (PANEL_WIDTH + GAP);
        let title = format!("{rate} Mbit/s");
        canvas.text(
            (left + PANEL_WIDTH / 2, HEAD - 16),
            &title,
            14,
            Align::Centre,
        )?;
        for (row, loss) in (0..).zip(&losses) {
            let top = HEAD + row * (PANEL_HEIGHT + GAP);
            axes.frame(&canvas, (left, top), column == 0)?;
            if column == 0 {
                let middle = top + PANEL_HEIGHT / 2;
                canvas.text((16, middle), &told(*loss), 13, Align::Left)?;
            }
            let Some(series) = panels.get(&(*loss, *rate)) else {
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

/// Of each panel the series of both schemes.
fn panels(
    quantity: &Quantity,
    table: &Table,
    guest: &str,
    schemes: [&str; 2],
) -> BTreeMap<(LinkLoss, u32), [Series; 2]> {
    let mut panels = BTreeMap::<(LinkLoss, u32), [Series; 2]>::new();
    for cell in table.cells().filter(|cell| cell.guest == guest) {
        let parameters = cell.link.parameters();
        let Some(link) = parameters.filter(|link| RATES_MBIT.contains(&link.rate_mbit)) else {
            continue;
        };
        let panel = panels.entry((link.loss, link.rate_mbit)).or_default();
        for (series, scheme) in panel.iter_mut().zip(schemes) {
            if let Some(figures) = table.get(cell, scheme) {
                let spread = (quantity.of)(figures).filter(|_| figures.converges());
                series.insert(link.rtt_ms, spread);
            }
        }
    }
    panels
}

fn told(loss: LinkLoss) -> String {
    let percent = number(f64::from(loss.ppm()) / 1e4);
    match loss {
        LinkLoss::NONE => "no loss".to_owned(),
        LinkLoss::Random { .. } => format!("{percent}% lost"),
        LinkLoss::Bursts { .. } => format!("{percent}% lost in bursts"),
    }
}

/// Both are logarithmic, and the same in all panels.
struct Axes {
    round_trips_ms: Vec<u32>,
    /// In the unit of the plot, from the least to the most.
    ticks: Vec<f64>,
    scale: f64,
}

impl Axes {
    /// `None` without anything to show.
    fn of<'a>(series: impl Iterator<Item = &'a Series>, scale: f64) -> Option<Self> {
        let mut round_trips_ms = Vec::new();
        let (mut min, mut max) = (f64::INFINITY, 0.0_f64);
        for (rtt_ms, spread) in series.flatten() {
            round_trips_ms.push(*rtt_ms);
            if let Some(spread) = spread {
                min = min.min(spread.min * scale);
                max = max.max(spread.max * scale);
            }
        }
        round_trips_ms.sort_unstable();
        round_trips_ms.dedup();
        (min > 0.0 && max > 0.0 && min.is_finite()).then(|| Self {
            round_trips_ms,
            ticks: ticks_of_powers(min, max),
            scale,
        })
    }

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
        for rtt_ms in &self.round_trips_ms {
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
            let y = |value: f64| top + self.y(value * self.scale);
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
        let [first, .., last] = self.round_trips_ms[..] else {
            return PANEL_WIDTH / 2;
        };
        let of = |ms: u32| f64::from(ms.max(1)).ln();
        let part = (of(rtt_ms) - of(first)) / (of(last) - of(first)).max(f64::MIN_POSITIVE);
        INSET + (part * f64::from(PANEL_WIDTH - 2 * INSET)) as i32
    }

    fn y(&self, value: f64) -> i32 {
        let (first, last) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let part = (value / first).ln() / (last / first).ln();
        PANEL_HEIGHT - (part.clamp(0.0, 1.0) * f64::from(PANEL_HEIGHT)) as i32
    }
}
