//! The guest's speed over time, across the move: a strip for each scheme.

use std::path::Path;

use super::paint::{Align, Canvas, FAINT, INK, Point, colour, number, ticks, value};
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
/// The top of a strip, as a part of the speed before.
const SPEED_MAX: f64 = 1.25;
/// Beyond this the rest of a strip tells nothing new.
const AFTER_LAST_S: f64 = 5.0;

pub(super) fn draw(
    path: &Path,
    cell: &CellKey,
    table: &Table,
    samples: &[Sample],
) -> anyhow::Result<()> {
    let strips: Vec<(&String, &Sample)> = table
        .schemes(cell)
        .filter_map(|(scheme, _)| Some((scheme, typical(cell, scheme, samples)?)))
        .collect();
    let axis = Axis::to(end(&strips));
    let height = HEAD + STRIP_PITCH * i32::try_from(strips.len())? + FOOT;
    let canvas = Canvas::new(path, NAMES_WIDTH + STRIP_WIDTH + MARGIN, height)?;
    let title = format!(
        "The guest's speed across the move: link {}, guest {}",
        cell.link.as_str(),
        cell.guest
    );
    canvas.text((16, 20), &title, 17, Align::Left)?;
    let explained = "Operations in windows of 100 ms, as a part of the speed before; of each scheme the run with the \
        median time. Dotted: stop; line: complete.";
    canvas.text((16, 44), explained, 12, Align::Left)?;
    for (index, (scheme, sample)) in (0..).zip(&strips) {
        strip(&canvas, HEAD + STRIP_PITCH * index, &axis, scheme, sample)?;
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
        (axis.x(axis.end / 2.0), bottom + 28),
        "seconds since the request",
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
    ticks: Vec<f64>,
    end: f64,
}

/// Of the time before the request.
const BEFORE_S: f64 = 1.0;

impl Axis {
    fn to(end: f64) -> Self {
        let ticks = ticks(end);
        Self {
            ticks: ticks.into_iter().filter(|tick| *tick <= end).collect(),
            end,
        }
    }

    fn x(&self, seconds: f64) -> i32 {
        let part = (seconds + BEFORE_S) / (self.end + BEFORE_S);
        NAMES_WIDTH + (part.clamp(0.0, 1.0) * f64::from(STRIP_WIDTH)) as i32
    }
}

/// The migration with the median time; one that did not move if none did.
fn typical<'a>(cell: &CellKey, scheme: &str, samples: &'a [Sample]) -> Option<&'a Sample> {
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
            &[(axis.x(-BEFORE_S), y(part)), (axis.x(axis.end), y(part))],
            FAINT,
        )?;
        canvas.text((NAMES_WIDTH - 6, y(part)), text, 10, Align::Right)?;
    }
    let before = sample.fared.rate_before.filter(|rate| *rate > 0.0);
    let outline = before.map_or_else(Vec::new, |before| outline(sample, before, axis, y));
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
    if sample.came == Came::Moved {
        let complete = axis.x(sample.total_time_ms / 1e3);
        canvas.line(&[(complete, top - 3), (complete, bottom + 3)], INK)?;
    }
    if let Some(stop) = sample.fared.stop_s {
        dotted(canvas, axis.x(stop), top - 3, bottom + 3)?;
    }
    Ok(())
}

/// Steps, from the base line and back to it.
fn outline(sample: &Sample, before: f64, axis: &Axis, y: impl Fn(f64) -> i32) -> Vec<Point> {
    const WINDOW_S: f64 = 0.1;
    let speeds = sample
        .fared
        .speeds
        .iter()
        .filter(|(at, _)| *at + WINDOW_S <= axis.end);
    let steps =
        speeds.flat_map(|(at, rate)| [(*at, rate / before), (at + WINDOW_S, rate / before)]);
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
