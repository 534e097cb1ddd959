//! The result for people.

use std::fmt::Write;

use super::measured::{Cell, Measured, Target};

/// Speeds, sizes, and the targets.
pub(super) fn text(measured: &Measured) -> String {
    let mut text = String::from("Speed by that of memcpy of the same pages, median\n");
    let speed = |cell: &Cell| Some(cell.speed_by_memcpy.median);
    let worst = |codec: &str| {
        let codec = measured
            .codecs
            .iter()
            .find(|summary| summary.codec == codec);
        codec.map_or_else(String::new, |codec| format!("  {}", codec.worst_population))
    };
    table(&mut text, measured, "worst", speed, worst);
    text.push_str("\nSize by that of raw pages\n");
    table(
        &mut text,
        measured,
        "",
        |cell| cell.size_by_raw,
        |_| String::new(),
    );
    text.push_str("\n-: nothing is made of the pages, or too few of them are encoded so\n");
    text.push_str("Largest spread of a cell: ");
    text.push_str(&widest(measured).unwrap_or_default());
    text.push_str("\n\nTargets\n");
    for target in &measured.targets {
        let sign = match target.is_met {
            Some(true) => "met   ",
            Some(false) => "MISSED",
            None => "-     ",
        };
        _ = writeln!(text, "{sign} {}", describe(target));
    }
    text
}

/// A target and what was measured.
pub(super) fn describe(target: &Target) -> String {
    let measured = match (&target.population, target.speed_by_memcpy) {
        (Some(population), Some(speed)) => format!("{speed:.2} on {population}"),
        _ => "not measured".to_owned(),
    };
    let (codec, least) = (&target.codec, target.speed_by_memcpy_min);
    format!("{codec} at least {least} x memcpy: {measured}")
}

/// One line a codec that has any value, one column a population.
fn table(
    text: &mut String,
    measured: &Measured,
    last_title: &str,
    value: impl Fn(&Cell) -> Option<f64>,
    last: impl Fn(&str) -> String,
) {
    let populations = measured.populations();
    _ = write!(text, "{:<20}", "");
    for population in &populations {
        _ = write!(text, "{population:>11}");
    }
    _ = writeln!(text, "  {last_title}");
    for summary in &measured.codecs {
        let values = populations.iter().map(|population| {
            let cell = measured.cell(&summary.codec, population);
            cell.and_then(&value)
        });
        let values: Vec<Option<f64>> = values.collect();
        if values.iter().all(Option::is_none) {
            continue;
        }
        _ = write!(text, "{:<20}", summary.codec);
        for value in values {
            let shown = value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
            _ = write!(text, "{shown:>11}");
        }
        _ = writeln!(text, "{}", last(&summary.codec));
    }
}

/// The cell whose runs differ most.
fn widest(measured: &Measured) -> Option<String> {
    let width = |cell: &Cell| cell.speed_by_memcpy.max / cell.speed_by_memcpy.min;
    let cells = measured.cells.iter();
    let cell = cells.max_by(|a, b| width(a).total_cmp(&width(b)))?;
    let spread = cell.speed_by_memcpy;
    Some(format!(
        "{} on {}, {:.3} to {:.3} in {} runs",
        cell.codec, cell.population, spread.min, spread.max, spread.count
    ))
}

#[cfg(test)]
mod tests {
    use super::{super::measured::tests::samples, *};

    #[test]
    fn everything_is_told() {
        let mut all = samples("rle_encode", "zero", &[1.0]);
        all.extend(samples("rle_encode", "files", &[4.0, 5.0, 5.0]));
        let text = text(&Measured::of(&all));
        assert!(text.contains("1.000      0.200  files"), "{text}");
        assert!(
            text.contains("MISSED rle_encode at least 0.35 x memcpy: 0.20 on files"),
            "{text}"
        );
        assert!(
            text.contains("-      zero_scan at least 0.8 x memcpy: not measured"),
            "{text}"
        );
        assert!(
            text.contains("rle_encode on files, 0.200 to 0.250 in 3 runs"),
            "{text}"
        );
    }
}
