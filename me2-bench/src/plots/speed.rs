//! The guest's speed over time, across the move: a strip for each scheme.

use std::path::Path;

use super::{
    numbers::{number, ticks, value},
    paint::{Align, Canvas, FAINT, INK, Point, colour},
};
use crate::{
    results::{Came, Sample},
    summary::{CellKey, Table},
};

const NAMES_WIDTH: i32 = 200;
const STRIP_WIDTH: i32 = 760;
const MARGIN: i32 = 40;
const STRIP_HEIGHT: i32 = 52;
const STRIP_PITCH: i32 = 70;
const HEAD: i32 = 64;
const FOOT: i32 = 48;
/// Around the stop, seconds.
const BEFORE_STOP_S: f64 = 0.5;
const AFTER_STOP_S: f64 = 3.0;
/// The top of a strip, as a part of the speed before.
const SPEED_MAX: f64 = 1.25;
/// Beyond this the rest of a strip tells nothing new.
const AFTER_LAST_S: f64 = 5.0;

/// What is shown of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    /// All of it.
    Whole,
    /// What is around the stop, finely.
    AroundStop,
}

pub(super) fn draw(
    path: &Path,
    view: View,
    cell: &CellKey,
    table: &Table,
    samples: &[Sample],
) -> anyhow::Result<()> {
    let strips: Vec<(&String, &Sample)> = table
        .schemes(cell)
        .filter_map(|(scheme, _)| Some((scheme, typical(cell, scheme, samples)?)))
        .filter(|(_, sample)| view == View::Whole || sample.fared.stop_s.is_some())
        .collect();
    let axis = match view {
        View::Whole => Axis::between(-BEFORE_S, end(&strips)),
        View::AroundStop => Axis::between(-BEFORE_STOP_S, AFTER_STOP_S),
    };
    let height = HEAD + STRIP_PITCH * i32::try_from(strips.len())? + FOOT;
    let canvas = Canvas::new(path, NAMES_WIDTH + STRIP_WIDTH + MARGIN, height)?;
    let (what, explained, unit) = match view {
        View::Whole => (
            "The guest's speed across the move",
            "Operations in windows of 100 ms, as a part of the speed before; of each scheme the run with the \
             median time. Dotted: stop; line: complete.",
            "seconds since the request",
        ),
        View::AroundStop => (
            "The guest's speed around the stop",
            "Operations in windows of 10 ms, as a part of the speed before; of each scheme the run with the \
             median time. Dotted: stop; line: complete.",
            "seconds since the stop",
        ),
    };
    let title = format!("{what}: link {}, guest {}", cell.link, cell.guest);
    canvas.text((16, 20), &title, 17, Align::Left)?;
    canvas.text((16, 44), explained, 12, Align::Left)?;
    for (index, (scheme, sample)) in (0..).zip(&strips) {
        let top = HEAD + STRIP_PITCH * index;
        strip(&canvas, top, view, &axis, scheme, sample)?;
    }
    let bottom = height - FOOT;
    for tick in &axis.ticks {
        canvas.text(
            (axis.x(*tick), bottom + 8),
            &number(*tick),
            11,
            Align::Centre,
        )?;
    }
    canvas.text(
        (axis.x(f64::midpoint(axis.begin, axis.end)), bottom + 28),
        unit,
        12,
        Align::Centre,
    )?;
    canvas.finish()
}

/// When the last of those that moved had, and a little more; what does not converge goes on for ever.
fn end(strips: &[(&String, &Sample)]) -> f64 {
    let has_moved = |sample: &Sample| sample.came == Came::Moved;
    let any_moved = strips.iter().any(|(_, sample)| has_moved(sample));
    let shown = strips
        .iter()
        .filter(|(_, sample)| has_moved(sample) || !any_moved);
    let ends = shown.map(|(_, sample)| sample.total_time_ms / 1e3);
    ends.fold(1.0, f64::max) + AFTER_LAST_S
}

/// Seconds to pixels.
struct Axis {
    begin: f64,
    ticks: Vec<f64>,
    end: f64,
}

/// Of the time before the request.
const BEFORE_S: f64 = 1.0;

impl Axis {
    fn between(begin: f64, end: f64) -> Self {
        let ticks = ticks(end);
        Self {
            begin,
            ticks: ticks.into_iter().filter(|tick| *tick <= end).collect(),
            end,
        }
    }

    fn x(&self, seconds: f64) -> i32 {
        let part = (seconds - self.begin) / (self.end - self.begin);
        NAMES_WIDTH + (part.clamp(0.0, 1.0) * f64::from(STRIP_WIDTH)) as i32
    }

    fn shows(&self, seconds: f64) -> bool {
        (self.begin..=self.end).contains(&seconds)
    }
}

/// The migration with the median time; one that did not move if none did.
pub(crate) fn typical<'a>(
    cell: &CellKey,
    scheme: &str,
    samples: &'a [Sample],
) -> Option<&'a Sample> {
    let own = samples.iter().filter(|sample| {
        sample.link == cell.link && sample.guest == cell.guest && sample.scheme == scheme
    });
    let mut own: Vec<&Sample> = own
        .filter(|sample| !sample.fared.speeds.is_empty())
        .collect();
    own.sort_by(|one, other| one.total_time_ms.total_cmp(&other.total_time_ms));
    let moved: Vec<&Sample> = own
        .iter()
        .copied()
        .filter(|sample| sample.came == Came::Moved)
        .collect();
    let from = if moved.is_empty() { own } else { moved };
    from.get(from.len().saturating_sub(1) / 2).copied()
}

fn strip(
    canvas: &Canvas<'_>,
    top: i32,
    view: View,
    axis: &Axis,
    scheme: &str,
    sample: &Sample,
) -> anyhow::Result<()> {
    let bottom = top + STRIP_HEIGHT;
    let y = |speed: f64| {
        bottom - (speed.clamp(0.0, SPEED_MAX) / SPEED_MAX * f64::from(STRIP_HEIGHT)) as i32
    };
    for tick in &axis.ticks {
        canvas.line(&[(axis.x(*tick), top), (axis.x(*tick), bottom)], FAINT)?;
    }
    for (part, text) in [(1.0, "100%"), (0.0, "0")] {
        canvas.line(
            &[(axis.x(axis.begin), y(part)), (axis.x(axis.end), y(part))],
            FAINT,
        )?;
        canvas.text((NAMES_WIDTH - 6, y(part)), text, 10, Align::Right)?;
    }
    let before = sample.fared.rate_before.filter(|rate| *rate > 0.0);
    let outline = before.map_or_else(Vec::new, |before| {
        let (speeds, window_s) = view.speeds(sample);
        let parts = speeds.into_iter().map(|(at, rate)| (at, rate / before));
        outline(parts, window_s, axis, y)
    });
    if outline.len() > 2 {
        canvas.shape(&outline, colour(scheme))?;
    }
    canvas.text(
        (NAMES_WIDTH - 44, top + STRIP_HEIGHT / 2 - 7),
        scheme,
        12,
        Align::Right,
    )?;
    let told = match sample.came {
        Came::Moved => format!("{} s", value(sample.total_time_ms / 1e3)),
        Came::DidNotConverge => "did not converge".to_owned(),
        Came::Failed => "failed".to_owned(),
    };
    canvas.text(
        (NAMES_WIDTH - 44, top + STRIP_HEIGHT / 2 + 9),
        &told,
        11,
        Align::Right,
    )?;
    let complete_s = sample.total_time_ms / 1e3 - view.zero(sample);
    if sample.came == Came::Moved && axis.shows(complete_s) {
        let complete = axis.x(complete_s);
        canvas.line(&[(complete, top - 3), (complete, bottom + 3)], INK)?;
    }
    if let Some(stop) = sample.fared.stop_s {
        dotted(
            canvas,
            axis.x(stop - view.zero(sample)),
            top - 3,
            bottom + 3,
        )?;
    }
    Ok(())
}

impl View {
    /// Seconds since the request.
    fn zero(self, sample: &Sample) -> f64 {
        match self {
            Self::Whole => 0.0,
            Self::AroundStop => sample.fared.stop_s.unwrap_or(0.0),
        }
    }

    /// When, and how many operations a second from there on; and how long that is, in seconds.
    fn speeds(self, sample: &Sample) -> (Vec<(f64, f64)>, f64) {
        const WINDOW_S: f64 = 0.1;
        let fared = &sample.fared;
        match self {
            Self::Whole => (fared.speeds.clone(), WINDOW_S),
            Self::AroundStop => {
                let zero = self.zero(sample);
                let rates = fared.operations.rates().map(|(at, rate)| (at - zero, rate));
                (rates.collect(), fared.operations.bin_ms / 1e3)
            }
        }
    }
}

/// Steps, from the base line and back to it.
fn outline(
    parts: impl Iterator<Item = (f64, f64)>,
    window_s: f64,
    axis: &Axis,
    y: impl Fn(f64) -> i32,
) -> Vec<Point> {
    let shown = parts.filter(|(at, _)| axis.shows(*at) && axis.shows(at + window_s));
    let steps = shown.flat_map(|(at, speed)| [(at, speed), (at + window_s, speed)]);
    let mut points: Vec<Point> = steps.map(|(at, speed)| (axis.x(at), y(speed))).collect();
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return points;
    };
    let ends = [(last.0, y(0.0)), (first.0, y(0.0))];
    points.extend(ends);
    points
}

fn dotted(canvas: &Canvas<'_>, x: i32, top: i32, bottom: i32) -> anyhow::Result<()> {
    for from in (top..bottom).step_by(6) {
        canvas.line(&[(x, from), (x, (from + 3).min(bottom))], INK)?;
    }
    Ok(())
}
