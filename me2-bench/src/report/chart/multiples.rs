//! Small multiples over the round trip: a column for each rate, a row for each kind of loss.

use maud::{Markup, html};

use super::{Scale, WIDTH, line, polyline, rectangle, svg, text};
use crate::{
    plots::{Quantity, Series, Sweep, loss_told, number, ticks_of_powers, value},
    summary::Table,
};

const LEFT: f64 = 38.0;
const GAP: f64 = 8.0;
const HEAD: f64 = 18.0;
const PANEL_HEIGHT: f64 = 84.0;
/// Above each row: its loss.
const ROW_HEAD: f64 = 17.0;
const ROW_PITCH: f64 = PANEL_HEIGHT + ROW_HEAD + 14.0;
const FOOT: f64 = 16.0;
const INSET: f64 = 10.0;

/// `None` without anything to show; else the drawing and the rival in it.
pub(in crate::report) fn multiples(
    quantity: &Quantity,
    table: &Table,
    guest: &str,
) -> Option<(Markup, String)> {
    let sweep = Sweep::of(quantity, table, guest)?;
    let columns = sweep.rates_mbit.len() as f64;
    let width = (WIDTH - LEFT - 2.0 - GAP * (columns - 1.0)) / columns;
    let height = HEAD + sweep.losses.len() as f64 * ROW_PITCH + FOOT;
    let ticks = ticks_of_powers(sweep.min, sweep.max);
    let inside = html! {
        @for (column, rate) in sweep.rates_mbit.iter().enumerate() {
            @let left = LEFT + column as f64 * (width + GAP);
            (text(left + width / 2.0, 12.0, "cell middle", &format!("{rate} Mbit/s")))
            @for (row, loss) in sweep.losses.iter().enumerate() {
                @let top = HEAD + row as f64 * ROW_PITCH + ROW_HEAD;
                @let panel = Panel { sweep: &sweep, ticks: &ticks, left, top, width, unit: quantity.unit };
                @if column == 0 { (text(LEFT, top - 4.0, "small", &loss_told(*loss))) }
                (panel.frame(column == 0))
                @if let Some([own, other]) = sweep.panels.get(&(*loss, *rate)) {
                    (panel.series(other, "rival"))
                    (panel.series(own, "ours"))
                }
            }
        }
        (text(WIDTH - 2.0, height - 4.0, "small end", "round trip, ms"))
    };
    Some((svg(height, quantity.title, &inside), sweep.rival.clone()))
}

struct Panel<'a> {
    sweep: &'a Sweep,
    /// Of the values, which are logarithmic.
    ticks: &'a [f64],
    left: f64,
    top: f64,
    width: f64,
    unit: &'a str,
}

impl Panel<'_> {
    /// Round trips are in equal steps, so that there is room for their names.
    fn x(&self, rtt_ms: u32) -> f64 {
        let all = &self.sweep.round_trips_ms;
        let last = all.len().saturating_sub(1) as f64;
        let index = all.iter().position(|known| *known == rtt_ms).unwrap_or(0);
        let ends = [self.left + INSET, self.left + self.width - INSET];
        Scale::linear([0.0, last], ends).at(index as f64)
    }

    fn y(&self) -> Scale {
        let ends = [self.ticks[0], self.ticks[self.ticks.len() - 1]];
        Scale::logarithmic(ends, [self.top + PANEL_HEIGHT, self.top])
    }

    fn frame(&self, has_values: bool) -> Markup {
        let bottom = self.top + PANEL_HEIGHT;
        let y = self.y();
        html! {
            @for tick in self.ticks {
                (line([self.left, y.at(*tick)], [self.left + self.width, y.at(*tick)], "faint"))
                @if has_values { (text(self.left - 3.0, y.at(*tick) + 3.5, "small end", &number(*tick))) }
            }
            @for rtt_ms in &self.sweep.round_trips_ms {
                (line([self.x(*rtt_ms), self.top], [self.x(*rtt_ms), bottom], "faint"))
                (text(self.x(*rtt_ms), bottom + 11.0, "small middle", &rtt_ms.to_string()))
            }
        }
    }

    fn series(&self, series: &Series, class: &str) -> Markup {
        let y = self.y();
        let moved = series
            .iter()
            .filter_map(|(rtt_ms, spread)| Some((*rtt_ms, (*spread)?)));
        let moved: Vec<_> = moved.collect();
        let missing = series.iter().filter(|(_, spread)| spread.is_none());
        html! {
            (polyline(moved.iter().map(|(rtt, spread)| (self.x(*rtt), y.at(spread.median))), &format!("line {class}")))
            @for (rtt_ms, spread) in &moved {
                @let (x, median) = (self.x(*rtt_ms), y.at(spread.median));
                g {
                    title { (rtt_ms) " ms: " (value(spread.median)) " " (self.unit) }
                    (rectangle([x - 2.5, median - 2.5], [5.0, 5.0], class))
                    @if spread.count > 1 { (line([x, y.at(spread.min)], [x, y.at(spread.max)], "whisker")) }
                }
            }
            @for (rtt_ms, _) in missing {
                @let x = self.x(*rtt_ms);
                (line([x - 3.0, self.top + 2.0], [x + 3.0, self.top + 8.0], &format!("line {class}")))
                (line([x - 3.0, self.top + 8.0], [x + 3.0, self.top + 2.0], &format!("line {class}")))
            }
        }
    }
}
