//! Shares of a whole: a bar for each, in pieces.

use maud::{Markup, html};

use super::{Scale, WIDTH, fitting, rectangle, svg, text};

/// A whole and its pieces, in an order that is the same for all.
pub(in crate::report) struct Stack {
    pub(in crate::report) name: String,
    pub(in crate::report) told: String,
    pub(in crate::report) pieces: Vec<f64>,
}

const PITCH: f64 = 34.0;
const BAR_HEIGHT: f64 = 12.0;

/// Pieces have the classes `piece-0`, `piece-1` and so on.
pub(in crate::report) fn stacks(told: &str, stacks: &[Stack]) -> Markup {
    let inside = html! {
        @for (index, stack) in stacks.iter().enumerate() {
            @let top = index as f64 * PITCH;
            (text(2.0, top + 12.0, "cell", &fitting(&stack.name, 36)))
            (text(WIDTH - 2.0, top + 12.0, "small end", &stack.told))
            (pieces(stack, top + 16.0))
        }
    };
    svg(stacks.len() as f64 * PITCH, told, &inside)
}

fn pieces(stack: &Stack, top: f64) -> Markup {
    let sum: f64 = stack.pieces.iter().sum();
    let x = Scale::linear([0.0, sum], [2.0, WIDTH - 2.0]);
    let mut before = 0.0;
    html! { @for (index, piece) in stack.pieces.iter().enumerate() {
        ({
            let from = x.at(before);
            before += piece;
            rectangle([from, top], [x.at(before) - from, BAR_HEIGHT], &format!("piece-{index}"))
        })
    } }
}
