//! What arrived over time, as a part of the link's rate: a strip for each case.

use maud::{Markup, html};

use super::{Scale, WIDTH, fitting, line, polyline, svg, text};
use crate::plots::{Strip, number, ticks};

const LEFT: f64 = 40.0;
const RIGHT: f64 = WIDTH - 12.0;
const HEAD: f64 = 16.0;
const STRIP_HEIGHT: f64 = 46.0;
const PITCH: f64 = HEAD + STRIP_HEIGHT + 4.0;
const SHARE_MAX: f64 = 1.1;

pub(in crate::report) fn flows(bin_s: f64, strips: &[Strip]) -> Markup {
    let bins = strips
        .iter()
        .map(|strip| strip.first.len().max(strip.other.len()));
    let end = bins.max().unwrap_or(1).max(1) as f64 * bin_s;
    let x = Scale::linear([0.0, end], [LEFT, RIGHT]);
    let ticks: Vec<f64> = ticks(end).into_iter().filter(|tick| *tick <= end).collect();
    let bottom = strips.len() as f64 * PITCH;
    let inside = html! {
        @for (index, strip) in strips.iter().enumerate() {
            @let above = index as f64 * PITCH + HEAD;
            @let y = Scale::linear([0.0, SHARE_MAX], [above + STRIP_HEIGHT, above]);
            (text(2.0, above - 4.0, "cell", &fitting(&strip.name, 36)))
            @for tick in &ticks { (line([x.at(*tick), above], [x.at(*tick), y.at(0.0)], "faint")) }
            @for (share, name) in [(0.0, "0"), (1.0, "100%")] {
                (line([LEFT, y.at(share)], [RIGHT, y.at(share)], "faint"))
                (text(LEFT - 3.0, y.at(share) + 3.5, "small end", name))
            }
            (flow(&strip.other, bin_s, &x, &y, if strip.is_other_tcp { "line rival" } else { "line ours-otherwise" }))
            (flow(&strip.first, bin_s, &x, &y, "line ours"))
        }
        @for tick in &ticks { (text(x.at(*tick), bottom + 12.0, "small middle", &number(*tick))) }
        (text(2.0, bottom + 12.0, "small", "s"))
    };
    svg(
        bottom + 16.0,
        "What arrived over time, case by case",
        &inside,
    )
}

fn flow(shares: &[f64], bin_s: f64, x: &Scale, y: &Scale, class: &str) -> Markup {
    let middles = shares.iter().enumerate();
    let points = middles.map(|(bin, share)| (x.at((bin as f64 + 0.5) * bin_s), y.at(*share)));
    polyline(points, class)
}
