//! The guest's speed over time, across the move: a strip for each scheme, the phases shaded.

use std::fmt::Write;

use maud::{Markup, html};

use super::{Scale, WIDTH, class, fitting, line, rectangle, svg, text};
use crate::{
    plots::{number, ticks, typical, value},
    results::{Came, Sample},
    summary::{CellKey, Table},
};

const LEFT: f64 = 40.0;
const RIGHT: f64 = WIDTH - 12.0;
const NAME_HEIGHT: f64 = 17.0;
const STRIP_HEIGHT: f64 = 42.0;
/// Below each strip: its phases once more, in full colour.
const BAND_HEIGHT: f64 = 4.0;
const STRIP_PITCH: f64 = NAME_HEIGHT + STRIP_HEIGHT + BAND_HEIGHT + 4.0;
const FOOT: f64 = 16.0;
/// The top of a strip, as a part of the speed before.
const SPEED_MAX: f64 = 1.25;
/// A strip has no more steps than this.
const STEPS_MAX: usize = 400;
/// Beyond the completion, seconds; and around the stop.
const AFTER_LAST_S: f64 = 2.0;
const BEFORE_STOP_S: f64 = 0.3;
const AFTER_STOP_S: f64 = 1.5;

/// What is shown of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::report) enum View {
    /// All of it, in windows of 100 ms, since the request.
    Whole,
    /// What is around the stop, in bins of 10 ms.
    AroundStop,
}

/// `None` without anything to show.
pub(in crate::report) fn speed(
    view: View,
    cell: &CellKey,
    table: &Table,
    samples: &[Sample],
) -> Option<Markup> {
    let strips: Vec<Strip> = table
        .schemes(cell)
        .filter_map(|(scheme, _)| Strip::of(view, typical(cell, scheme, samples)?))
        .collect();
    let (first, last) = match view {
        View::Whole => (-1.0, end(&strips)?),
        View::AroundStop => (-BEFORE_STOP_S, AFTER_STOP_S),
    };
    strips.first()?;
    let x = Scale::linear([first, last], [LEFT, RIGHT]);
    let height = strips.len() as f64 * STRIP_PITCH + FOOT;
    let ticks: Vec<f64> = ticks(last)
        .into_iter()
        .filter(|tick| *tick <= last)
        .collect();
    let inside = html! {
        @for (index, strip) in strips.iter().enumerate() {
            (strip.draw(&x, index as f64 * STRIP_PITCH, &ticks))
        }
        @for tick in &ticks { (text(x.at(*tick), height - 5.0, "small middle", &number(*tick))) }
        (text(2.0, height - 5.0, "small", "s"))
    };
    let told = format!(
        "The guest's speed over time, link {}, guest {}",
        cell.link, cell.guest
    );
    Some(svg(height, &told, &inside))
}

/// When the last of those that moved had; of those that did not move if none did.
fn end(strips: &[Strip<'_>]) -> Option<f64> {
    let any_moved = strips.iter().any(|strip| strip.sample.came == Came::Moved);
    let shown = strips
        .iter()
        .filter(|strip| strip.sample.came == Came::Moved || !any_moved);
    let ends = shown.map(|strip| strip.sample.total_time_ms / 1e3);
    ends.reduce(f64::max).map(|end| end.max(0.5) + AFTER_LAST_S)
}

/// One migration.
struct Strip<'a> {
    sample: &'a Sample,
    /// When the axis has its zero, seconds since the request.
    zero_s: f64,
    /// When, and as a part of the speed before.
    speeds: Vec<(f64, f64)>,
    step_s: f64,
}

impl<'a> Strip<'a> {
    fn of(view: View, sample: &'a Sample) -> Option<Self> {
        let fared = &sample.fared;
        let before = fared.rate_before.filter(|rate| *rate > 0.0)?;
        let (zero_s, rates, step_s) = match view {
            View::Whole => (0.0, fared.speeds.clone(), 0.1),
            View::AroundStop => {
                let step_s = fared.operations.bin_ms / 1e3;
                let rates = fared.operations.rates().collect();
                (fared.stop_s?, rates, step_s)
            }
        };
        let speeds = rates
            .into_iter()
            .map(|(at, rate)| (at - zero_s, rate / before));
        let speeds: Vec<_> = speeds.filter(|(_, speed)| speed.is_finite()).collect();
        speeds.first()?;
        Some(Self {
            sample,
            zero_s,
            speeds,
            step_s,
        })
    }

    fn draw(&self, x: &Scale, top: f64, ticks: &[f64]) -> Markup {
        let (above, base) = (top + NAME_HEIGHT, top + NAME_HEIGHT + STRIP_HEIGHT);
        let y = Scale::linear([0.0, SPEED_MAX], [base, above]);
        let sample = self.sample;
        let told = match sample.came {
            Came::Moved => format!("{} s", value(sample.total_time_ms / 1e3)),
            Came::DidNotConverge => "did not converge".to_owned(),
            Came::Failed => "failed".to_owned(),
        };
        html! { g {
            title { (sample.scheme) ", run " (sample.run) ": " (told) }
            (text(2.0, above - 4.0, "cell", &fitting(&sample.scheme, 36)))
            (text(RIGHT, above - 4.0, "small end", &told))
            @for (class, from, until) in self.phases() {
                @let width = x.at(until) - x.at(from);
                (rectangle([x.at(from), above], [width, STRIP_HEIGHT], &format!("{class} shade")))
                (rectangle([x.at(from), base + 1.0], [width, BAND_HEIGHT], class))
            }
            @for tick in ticks { (line([x.at(*tick), above], [x.at(*tick), base], "faint")) }
            path class=(class(&sample.scheme)) d=(self.outline(x, &y)) {}
            (line([LEFT, y.at(1.0)], [RIGHT, y.at(1.0)], "faint"))
            (line([LEFT, base], [RIGHT, base], "axis"))
            (text(LEFT - 3.0, y.at(1.0) + 4.0, "small end", "100%"))
            (text(LEFT - 3.0, base, "small end", "0"))
        } }
    }

    /// Class, begin and end of each phase, as far as it is known when they were.
    fn phases(&self) -> Vec<(&'static str, f64, f64)> {
        let sample = self.sample;
        let fared = &sample.fared;
        let end_s = sample.total_time_ms / 1e3;
        let setup_s = sample.report["setup_time_ms"].as_f64().unwrap_or(0.0) / 1e3;
        let stop_s = fared.stop_s.unwrap_or(end_s);
        let resume_s = stop_s + fared.downtime_ms.unwrap_or(0.0) / 1e3;
        let setup_s = setup_s.min(stop_s);
        let mut phases = vec![
            ("phase-setup", 0.0, setup_s),
            ("phase-precopy", setup_s, stop_s),
        ];
        if fared.stop_s.is_some() {
            phases.push(("phase-stop", stop_s, resume_s));
            phases.push(("phase-postcopy", resume_s, end_s.max(resume_s)));
        }
        let since_zero = phases.into_iter();
        since_zero
            .map(|(class, from, until)| (class, from - self.zero_s, until - self.zero_s))
            .collect()
    }

    /// Steps, from the base line and back to it; several at once where there are many.
    fn outline(&self, x: &Scale, y: &Scale) -> String {
        let [first, last] = x.values;
        let shown = self.speeds.iter();
        let shown: Vec<(f64, f64)> = shown
            .filter(|(at, _)| *at >= first - 1e-9 && at + self.step_s <= last + 1e-9)
            .copied()
            .collect();
        let together = shown.len().div_ceil(STEPS_MAX).max(1);
        let mut path = String::new();
        for steps in shown.chunks(together) {
            let (from, count) = (steps[0].0, steps.len() as f64);
            let mean = steps.iter().map(|(_, speed)| speed).sum::<f64>() / count;
            let until = x.at(from + count * self.step_s);
            // Writing into a string does not fail.
            let _ = match path.is_empty() {
                true => write!(
                    path,
                    "M{:.1} {:.1}V{:.1}H{until:.1}",
                    x.at(from),
                    y.at(0.0),
                    y.at(mean)
                ),
                false => write!(path, "V{:.1}H{until:.1}", y.at(mean)),
            };
        }
        if !path.is_empty() {
            let _ = write!(path, "V{:.1}Z", y.at(0.0));
        }
        path
    }
}
