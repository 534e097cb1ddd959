//! Bars of medians with their spread: for each cell, a bar for each scheme.

use maud::{Markup, html};

use super::{Scale, class, fitting, line, rectangle, short, svg, text};
use crate::{
    plots::{Quantity, value},
    summary::{CellKey, Figures, Table},
};

const ZERO: f64 = 138.0;
const END: f64 = 286.0;
const BAR_PITCH: f64 = 17.0;
const BAR_HEIGHT: f64 = 10.0;
const CELL_HEAD: f64 = 22.0;
const FOOT: f64 = 4.0;
const NAME_CHARS_MAX: usize = 22;

pub(in crate::report) fn bars(quantity: &Quantity, table: &Table, cells: &[&CellKey]) -> Markup {
    let rows: usize = cells.iter().map(|cell| table.schemes(cell).count()).sum();
    let height = cells.len() as f64 * CELL_HEAD + rows as f64 * BAR_PITCH + FOOT;
    let mut y = 0.0;
    let inside = html! {
        @for cell in cells {
            @let x = scale(quantity, table, cell);
            ({ y += CELL_HEAD; text(2.0, y - 5.0, "cell", &fitting(&cell_told(cell), 50)) })
            (line([ZERO, y], [ZERO, y + table.schemes(cell).count() as f64 * BAR_PITCH], "axis"))
            @for (scheme, figures) in table.schemes(cell) {
                ({ y += BAR_PITCH; bar(quantity, &x, y - BAR_PITCH, scheme, figures) })
            }
        }
    };
    svg(height, quantity.title, &inside)
}

/// Of one cell: its schemes are compared with each other, cells are not.
fn scale(quantity: &Quantity, table: &Table, cell: &CellKey) -> Scale {
    let figures = table.schemes(cell);
    let spreads = figures.filter_map(|(_, figures)| quantity.spread(figures));
    let most = spreads.map(|spread| spread.max).fold(0.0, f64::max);
    Scale::linear([0.0, most], [ZERO, END])
}

fn cell_told(cell: &CellKey) -> String {
    format!("link {}, guest {}", cell.link, cell.guest)
}

fn bar(quantity: &Quantity, x: &Scale, top: f64, scheme: &str, figures: &Figures) -> Markup {
    let base = top + BAR_HEIGHT;
    let middle = top + BAR_HEIGHT / 2.0 + 1.0;
    let name = fitting(short(scheme), NAME_CHARS_MAX);
    let Some(spread) = quantity.spread(figures) else {
        let why = match figures.did_not_converge {
            0 => "not known",
            _ => "did not converge",
        };
        return html! {
            (text(ZERO - 5.0, base, "small end", &name))
            (text(ZERO + 4.0, base, "small bad", why))
        };
    };
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| x.at(value));
    let note = if figures.converges() {
        String::new()
    } else {
        format!(" ({}/{})", figures.moved, figures.samples)
    };
    let told = format!("{}{note}", value(spread.median));
    html! { g {
        title { (scheme) ": median " (value(spread.median)) " " (quantity.unit) ", " (value(spread.min)) " to "
            (value(spread.max)) ", " (figures.moved) " of " (figures.samples) " moved" }
        (text(ZERO - 5.0, base, "small end", &name))
        (rectangle([ZERO, top + 1.0], [median - ZERO, BAR_HEIGHT], class(scheme)))
        @if spread.count > 1 {
            (line([min, middle], [max, middle], "whisker"))
            (line([min, middle - 3.0], [min, middle + 3.0], "whisker"))
            (line([max, middle - 3.0], [max, middle + 3.0], "whisker"))
        }
        (text(max.max(median) + 4.0, base, "small", &told))
    } }
}
