//! How long something takes: distributions, and quantiles beside their targets.

use maud::{Markup, html};

use super::{Scale, WIDTH, fitting, line, polyline, rectangle, svg, text};
use crate::plots::{number, ticks, ticks_of_powers};

const LEFT: f64 = 40.0;
const RIGHT: f64 = WIDTH - 14.0;
const HEIGHT: f64 = 130.0;
/// A distribution is of thousandths.
const NINES_MAX: f64 = 3.0;
const FOOT: f64 = 30.0;
const TOP: f64 = 8.0;

/// A share of all, and how long these took at most, ms.
type Point = (f64, f64);

/// A cumulative distribution: a line for each run. Values below `from_ms` cannot be.
pub(in crate::report) fn distribution(told: &str, from_ms: f64, runs: &[Vec<Point>]) -> Markup {
    let most = runs.iter().flatten().map(|(_, ms)| ms - from_ms);
    let ticks = ticks(most.fold(0.0, f64::max));
    let end = ticks.last().copied().unwrap_or(1.0);
    let x = Scale::linear([from_ms, from_ms + end], [LEFT, RIGHT]);
    let nines = Scale::linear([0.0, NINES_MAX], [HEIGHT, TOP]);
    // Each factor of ten towards the slowest takes as much room.
    let y = |share: f64| nines.at(-(1.0 - share).max(0.1_f64.powf(NINES_MAX)).log10());
    let inside = html! {
        @for tick in &ticks {
            (line([x.at(from_ms + tick), TOP], [x.at(from_ms + tick), HEIGHT], "faint"))
            (text(x.at(from_ms + tick), HEIGHT + 12.0, "small middle", &exactly(from_ms + tick)))
        }
        @for (share, name) in [(0.0, "0"), (0.5, "50%"), (0.9, "90%"), (0.99, "99%"), (1.0, "all")] {
            (line([LEFT, y(share)], [RIGHT, y(share)], "faint"))
            (text(LEFT - 3.0, y(share) + 3.5, "small end", name))
        }
        @for run in runs {
            (polyline(run.iter().map(|(share, ms)| (x.at(*ms), y(*share))), "line ours"))
        }
        (text(RIGHT, HEIGHT + 25.0, "small end", "ms"))
    };
    svg(HEIGHT + FOOT, told, &inside)
}

/// A tick with the digits that it has: 52.5, 100.
fn exactly(ms: f64) -> String {
    let text = format!("{ms:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// p50, p99 and the longest of one migration's faults, and what the first two may be; ms.
pub(in crate::report) struct Quantiles {
    pub(in crate::report) name: String,
    pub(in crate::report) class: &'static str,
    pub(in crate::report) p50: f64,
    pub(in crate::report) p99: f64,
    pub(in crate::report) max: f64,
    pub(in crate::report) targets: [Option<f64>; 2],
}

impl Quantiles {
    /// The larger of both as a ratio to its target; 0 without one.
    pub(in crate::report) fn beyond(&self) -> f64 {
        let both = [self.p50, self.p99].into_iter().zip(self.targets);
        let ratios = both.filter_map(|(ms, target)| Some(ms / target?));
        ratios.fold(0.0, f64::max)
    }
}

const ROW_PITCH: f64 = 27.0;

/// A row for each: from p50 by p99 to the longest, targets as strokes.
pub(in crate::report) fn quantiles(rows: &[Quantiles]) -> Markup {
    let values = || {
        let each = rows.iter().flat_map(|row| {
            let own = [row.p50, row.p99, row.max].into_iter();
            own.chain(row.targets.into_iter().flatten())
        });
        each.filter(|ms| *ms > 0.0)
    };
    let (min, max) = (
        values().fold(f64::INFINITY, f64::min),
        values().fold(0.0, f64::max),
    );
    if !min.is_finite() {
        return html! {};
    }
    let ticks = ticks_of_powers(min, max);
    let x = Scale::logarithmic([ticks[0], ticks[ticks.len() - 1]], [14.0, RIGHT]);
    let bottom = rows.len() as f64 * ROW_PITCH;
    let inside = html! {
        @for tick in &ticks {
            (line([x.at(*tick), 0.0], [x.at(*tick), bottom], "faint"))
            (text(x.at(*tick), bottom + 13.0, "small middle", &number(*tick)))
        }
        (text(RIGHT, bottom + 26.0, "small end", "ms, logarithmic"))
        @for (index, row) in rows.iter().enumerate() {
            @let top = index as f64 * ROW_PITCH;
            @let middle = top + 20.0;
            (text(14.0, top + 11.0, "small", &fitting(&row.name, 60)))
            (line([x.at(row.p50), middle], [x.at(row.max), middle], &format!("line {}", row.class)))
            @for ms in [row.p50, row.p99, row.max] {
                (rectangle([x.at(ms) - 2.5, middle - 2.5], [5.0, 5.0], row.class))
            }
            @for ms in row.targets.into_iter().flatten() {
                (line([x.at(ms), middle - 6.0], [x.at(ms), middle + 6.0], "target"))
            }
        }
    };
    svg(bottom + 30.0, "Quantiles of fault latencies", &inside)
}
