//! me2 beside each of QEMU's modes, and the best of those that converge.

use serde_json::{Value, json};

use super::{
    CellKey, Measure, Table, Verdict,
    table::{Text, ratio},
};
use crate::{experiments::HYBRID, statistics::geometric_mean};

const RIVAL: &str = "qemu-";

/// What is compared, and what it is called.
const MEASURES: [(&str, Measure); 4] = [
    ("data", Measure::Data),
    ("total_time", Measure::TotalTime),
    ("downtime", Measure::Downtime),
    ("guest_silence", Measure::Silence),
];

pub(super) fn verdict(table: &Table) -> Verdict {
    let mut verdict = Verdict::default();
    let mut listed = Vec::new();
    let mut text = Text::new(&["link", "guest", "measure", "ratio", "to the best of QEMU"]);
    for cell in table
        .cells()
        .filter(|cell| table.get(cell, HYBRID).is_some())
    {
        let mut row = json!({ "link": cell.link, "guest": cell.guest });
        for (name, measure) in MEASURES {
            let best = best(table, cell, measure);
            row[name] = described(best);
            let (scheme, value) = best.unzip();
            text.row([
                cell.link.to_string(),
                cell.guest.clone(),
                name.to_owned(),
                ratio(value),
                scheme
                    .map_or("no mode converged", String::as_str)
                    .to_owned(),
            ]);
        }
        listed.push(row);
    }
    verdict.field("cells", json!(listed));
    verdict.lines.push(format!(
        "{HYBRID} to the best of QEMU's modes that converged every time, for each measure:"
    ));
    verdict.lines.push(text.finish());
    let mut means = serde_json::Map::new();
    for (name, measure) in MEASURES {
        let ratios = table
            .cells()
            .filter_map(|cell| Some(best(table, cell, measure)?.1));
        let mean = geometric_mean(ratios);
        means.insert(format!("{name}_ratio"), json!(mean));
        let worst = worst(table, measure);
        let told = worst.map_or_else(String::new, |(cell, value)| {
            format!(", worst {value:.2}: {}", cell.describe())
        });
        verdict
            .lines
            .push(format!("{name}: geometric mean {}{told}", ratio(mean)));
        means.insert(
            format!("{name}_worst"),
            worst.map_or(
                Value::Null,
                |(cell, value)| json!({ "cell": cell, "ratio": value }),
            ),
        );
    }
    verdict.field("average", means.into());
    verdict
}

/// The mode that is hardest to beat in this measure, and the ratio of me2 to it.
fn best<'a>(table: &'a Table, cell: &CellKey, measure: Measure) -> Option<(&'a String, f64)> {
    let own = table.get(cell, HYBRID);
    let rivals = table
        .schemes(cell)
        .filter(|(scheme, _)| scheme.starts_with(RIVAL));
    let ratios =
        rivals.filter_map(|(scheme, figures)| Some((scheme, measure.ratio(own, Some(figures))?)));
    ratios.max_by(|(_, one), (_, other)| one.total_cmp(other))
}

fn worst(table: &Table, measure: Measure) -> Option<(&CellKey, f64)> {
    let ratios = table
        .cells()
        .filter_map(|cell| Some((cell, best(table, cell, measure)?.1)));
    ratios.max_by(|(_, one), (_, other)| one.total_cmp(other))
}

fn described(best: Option<(&String, f64)>) -> Value {
    best.map_or(
        Value::Null,
        |(scheme, ratio)| json!({ "ratio": ratio, "best": scheme }),
    )
}
