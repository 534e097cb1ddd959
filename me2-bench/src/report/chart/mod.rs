//! Drawings: SVG in the page, coloured by its style sheet, so that they follow light and dark. All are
//! as wide as a phone is in points, and are scaled up where there is room.

mod bars;
mod latency;
mod multiples;
mod speed;
mod stacks;
mod transport;

use std::fmt::Write;

use maud::{Markup, html};

pub(super) use bars::bars;
pub(super) use latency::{Quantiles, distribution, quantiles};
pub(super) use multiples::multiples;
pub(super) use speed::{View, speed};
pub(super) use stacks::{Stack, stacks};
pub(super) use transport::flows;

/// Of every drawing, in its own unit.
const WIDTH: f64 = 360.0;

/// The frame of a drawing; `told` is for who cannot see it.
fn svg(height: f64, told: &str, inside: &Markup) -> Markup {
    html! { svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img" aria-label=(told) { (inside) } }
}

/// Text at its base line.
fn text(x: f64, y: f64, class: &str, text: &str) -> Markup {
    html! { text x=(format!("{x:.1}")) y=(format!("{y:.1}")) class=(class) { (text) } }
}

fn line([x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &str) -> Markup {
    html! { path class=(class) d=(format!("M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}")) {} }
}

fn rectangle([left, top]: [f64; 2], [width, height]: [f64; 2], class: &str) -> Markup {
    html! { rect class=(class) x=(format!("{left:.1}")) y=(format!("{top:.1}"))
    width=(format!("{:.1}", width.max(0.0))) height=(format!("{height:.1}")) {} }
}

/// A line through points; nothing through less than two.
fn polyline(points: impl IntoIterator<Item = (f64, f64)>, class: &str) -> Markup {
    let mut path = String::new();
    let mut count = 0;
    for (x, y) in points {
        let command = if count == 0 { 'M' } else { 'L' };
        // Writing into a string does not fail.
        let _ = write!(path, "{command}{x:.1} {y:.1}");
        count += 1;
    }
    html! { @if count > 1 { path class=(class) d=(path) {} } }
}

/// Values to places; what is beyond an end lies on it.
#[derive(Debug, Clone, Copy)]
struct Scale {
    values: [f64; 2],
    places: [f64; 2],
    is_logarithmic: bool,
}

impl Scale {
    fn linear(values: [f64; 2], places: [f64; 2]) -> Self {
        Self {
            values,
            places,
            is_logarithmic: false,
        }
    }

    /// Values are above 0.
    fn logarithmic(values: [f64; 2], places: [f64; 2]) -> Self {
        Self {
            values,
            places,
            is_logarithmic: true,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let of = |value: f64| match self.is_logarithmic {
            true => value.max(f64::MIN_POSITIVE).ln(),
            false => value,
        };
        let [first, last] = self.values.map(of);
        let part = (of(value) - first) / (last - first);
        let part = if part.is_finite() { part } else { 0.0 };
        let [from, until] = self.places;
        from + part.clamp(0.0, 1.0) * (until - from)
    }
}

/// The class of a scheme's colour.
pub(super) fn class(scheme: &str) -> &'static str {
    match scheme {
        "me2-hybrid" | "me2-hybrid-codec-auto" => "ours",
        rival if !rival.starts_with("me2-") => "rival",
        _ => "ours-otherwise",
    }
}

/// A scheme's name without what all of its kind have.
fn short(scheme: &str) -> &str {
    scheme.strip_prefix("me2-hybrid-").unwrap_or(scheme)
}

/// At most so many characters of a text, which has to fit in somewhere.
fn fitting(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_stay_within_the_scale() {
        let scale = Scale::linear([0.0, 10.0], [100.0, 200.0]);
        assert_eq!(
            [5.0, -1.0, 99.0].map(|value| scale.at(value)),
            [150.0, 100.0, 200.0]
        );
        assert_eq!(scale.at(f64::NAN), 100.0);
        assert_eq!(
            Scale::linear([1.0, 1.0], [0.0, 9.0]).at(1.0),
            0.0,
            "no width"
        );
        let scale = Scale::logarithmic([1.0, 100.0], [0.0, 2.0]);
        assert!((scale.at(10.0) - 1.0).abs() < 1e-9);
        assert_eq!(scale.at(0.0), 0.0);
    }

    #[test]
    fn what_does_not_fit_is_cut_between_characters() {
        assert_eq!(fitting("münchen", 2), "mü…");
        assert_eq!(fitting("mü", 2), "mü");
    }
}
