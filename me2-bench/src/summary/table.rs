//! Tables of text.

use crate::statistics::Spread;

/// Rows under a head, in columns as wide as they need.
pub(super) struct Text {
    rows: Vec<Vec<String>>,
}

impl Text {
    pub(super) fn new(head: &[&str]) -> Self {
        let head = head.iter().map(|&word| word.to_owned()).collect();
        Self { rows: vec![head] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn finish(self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            text.push_str(line.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// `12.3 (11.9–14.0)`; the median alone if there is one value.
pub(super) fn spread(spread: Option<Spread>, scale: f64, digits: usize) -> String {
    let Some(Spread {
        median,
        min,
        max,
        count,
    }) = spread
    else {
        return "–".to_owned();
    };
    let [median, min, max] = [median, min, max].map(|value| format!("{:.digits$}", value * scale));
    match count {
        1 => median,
        _ => format!("{median} ({min}–{max})"),
    }
}

/// `-12.3%`, or a dash.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:+.1}%"))
}

/// `0.85`, or a dash.
pub(super) fn ratio(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
}
