//! What arrived over time, flow by flow: a strip for each case.

use std::path::Path;

use super::{
    numbers::{number, ticks},
    paint::{Align, Canvas, FAINT, OURS, OURS_OTHERWISE, Point, RIVALS},
};

/// One case.
pub(crate) struct Strip {
    pub(crate) name: String,
    /// As parts of the link's rate, means of half a second, one a bin.
    pub(crate) first: Vec<f64>,
    /// Of a second connection, or of TCP beside it; empty without.
    pub(crate) other: Vec<f64>,
    pub(crate) is_other_tcp: bool,
}

const NAMES_WIDTH: i32 = 120;
const STRIP_WIDTH: i32 = 760;
const MARGIN: i32 = 30;
const STRIP_HEIGHT: i32 = 70;
const STRIP_PITCH: i32 = 92;
const HEAD: i32 = 64;
const FOOT: i32 = 44;
/// The top of a strip, as a part of the rate.
const SHARE_MAX: f64 = 1.1;

pub(crate) fn draw_flows(path: &Path, bin_s: f64, strips: &[Strip]) -> anyhow::Result<()> {
    let bins = strips
        .iter()
        .map(|strip| strip.first.len().max(strip.other.len()));
    let end = bins.max().unwrap_or(1).max(1) as f64 * bin_s;
    let height = HEAD + STRIP_PITCH * i32::try_from(strips.len())? + FOOT;
    let canvas = Canvas::new(path, NAMES_WIDTH + STRIP_WIDTH + MARGIN, height)?;
    let title =
        "What arrived in half a second, as a part of the link's rate; the first run of each case";
    canvas.text((16, 20), title, 17, Align::Left)?;
    let next = canvas.legend((16, 44), OURS, "first connection")?;
    let next = canvas.legend(next, OURS_OTHERWISE, "second connection")?;
    canvas.legend(next, RIVALS, "TCP")?;
    let x = |seconds: f64| NAMES_WIDTH + (seconds / end * f64::from(STRIP_WIDTH)) as i32;
    let ticks: Vec<f64> = ticks(end).into_iter().filter(|tick| *tick <= end).collect();
    for (index, strip) in (0..).zip(strips) {
        let top = HEAD + STRIP_PITCH * index;
        let bottom = top + STRIP_HEIGHT;
        let y = |share: f64| {
            bottom - (share.clamp(0.0, SHARE_MAX) / SHARE_MAX * f64::from(STRIP_HEIGHT)) as i32
        };
        for tick in &ticks {
            canvas.line(&[(x(*tick), top), (x(*tick), bottom)], FAINT)?;
        }
        for (share, text) in [(1.0, "100%"), (0.5, "50%"), (0.0, "0")] {
            canvas.line(&[(x(0.0), y(share)), (x(end), y(share))], FAINT)?;
            canvas.text((NAMES_WIDTH - 6, y(share)), text, 10, Align::Right)?;
        }
        canvas.text((16, y(0.5)), &strip.name, 12, Align::Left)?;
        let other = match strip.is_other_tcp {
            true => RIVALS,
            false => OURS_OTHERWISE,
        };
        for (shares, colour) in [(&strip.other, other), (&strip.first, OURS)] {
            let middles = (0_u32..).map(|bin| (f64::from(bin) + 0.5) * bin_s);
            let points: Vec<Point> = middles
                .zip(shares)
                .map(|(at, share)| (x(at), y(*share)))
                .collect();
            if points.len() > 1 {
                canvas.line(&points, colour)?;
            }
        }
    }
    let bottom = height - FOOT;
    for tick in &ticks {
        canvas.text((x(*tick), bottom), &number(*tick), 11, Align::Centre)?;
    }
    let below = (x(end / 2.0), bottom + 22);
    canvas.text(below, "seconds since the first byte", 12, Align::Centre)?;
    canvas.finish()
}
