//! Figures as parts of what they may be at most: a bar for each.

use std::path::Path;

use super::{
    numbers::{number, ticks, value},
    paint::{Align, Canvas, FAINT, INK, OURS, RIVALS},
};
use crate::statistics::Spread;

/// A figure with a target.
pub(crate) struct Held {
    /// With its unit.
    pub(crate) name: String,
    pub(crate) spread: Spread,
    /// Above 0.
    pub(crate) target_max: f64,
}

const NAMES_WIDTH: i32 = 290;
const BARS_WIDTH: i32 = 420;
const VALUES_WIDTH: i32 = 170;
const BAR_PITCH: i32 = 24;
const BAR_HEIGHT: i32 = 14;
const HEAD: i32 = 70;
const FOOT: i32 = 36;

pub(crate) fn draw_held(path: &Path, figures: &[Held]) -> anyhow::Result<()> {
    let part = |figure: &Held, value: f64| value / figure.target_max;
    let most = figures.iter().map(|figure| part(figure, figure.spread.max));
    let ticks = ticks(most.fold(1.0, f64::max));
    let end = ticks.last().copied().unwrap_or(1.0);
    let x = |part: f64| NAMES_WIDTH + (part.max(0.0) / end * f64::from(BARS_WIDTH)) as i32;
    let last = HEAD + BAR_PITCH * i32::try_from(figures.len())?;
    let canvas = Canvas::new(path, NAMES_WIDTH + BARS_WIDTH + VALUES_WIDTH, last + FOOT)?;
    let title = "Figures that have a target, as parts of what they may be at most";
    canvas.text((16, 20), title, 17, Align::Left)?;
    let next = canvas.legend((16, 46), OURS, "met")?;
    let next = canvas.legend(next, RIVALS, "missed")?;
    canvas.text(next, "bar: median, line: min to max", 12, Align::Left)?;
    for tick in &ticks {
        let colour = if *tick == 1.0 { INK } else { FAINT };
        canvas.line(&[(x(*tick), HEAD), (x(*tick), last)], colour)?;
        canvas.text((x(*tick), last + 10), &number(*tick), 11, Align::Centre)?;
    }
    for (index, figure) in (0..).zip(figures) {
        let middle = HEAD + BAR_PITCH * index + BAR_PITCH / 2;
        let spread = figure.spread;
        let [median, min, max] =
            [spread.median, spread.min, spread.max].map(|value| x(part(figure, value)));
        let colour = if spread.median <= figure.target_max {
            OURS
        } else {
            RIVALS
        };
        canvas.text((NAMES_WIDTH - 8, middle), &figure.name, 12, Align::Right)?;
        let (above, below) = (middle - BAR_HEIGHT / 2, middle + BAR_HEIGHT / 2);
        canvas.rectangle([(NAMES_WIDTH, above), (median, below)], colour)?;
        canvas.line(&[(min, middle), (max, middle)], INK)?;
        for whisker in [min, max] {
            canvas.line(&[(whisker, middle - 4), (whisker, middle + 4)], INK)?;
        }
        let told = format!("{} of {}", value(spread.median), number(figure.target_max));
        canvas.text((max.max(median) + 7, middle), &told, 12, Align::Left)?;
    }
    canvas.finish()
}
