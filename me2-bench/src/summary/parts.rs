//! What each part of me2 is worth.

use serde_json::{Value, json};

use super::{
    CellKey, Measure, Table, Verdict,
    table::{Text, ratio},
};
use crate::{
    experiments::{AUTO, WHOLE},
    statistics::geometric_mean,
};

const WITHOUT: &str = "me2-hybrid-without-";
const CODEC: &str = "me2-hybrid-codec-";

/// Part by part: what the rest costs, as a ratio to everything on. Above 1: the part helps.
pub(super) fn ablation(table: &Table) -> Verdict {
    let mut verdict = Verdict::default();
    let mut text = Text::new(&["without", "data", "time", "silence", "cell"]);
    let mut listed = Vec::new();
    let mut parts: Vec<&str> = Vec::new();
    for ((_, scheme), _) in table.rows() {
        if let Some(part) = scheme
            .strip_prefix(WITHOUT)
            .filter(|part| !parts.contains(part))
        {
            parts.push(part);
        }
    }
    for part in parts {
        let scheme = format!("{WITHOUT}{part}");
        let of = |cell: &CellKey, measure: Measure| {
            measure.ratio(table.get(cell, &scheme), table.get(cell, WHOLE))
        };
        let measures = [Measure::Data, Measure::TotalTime, Measure::Silence];
        let mut cells = Vec::new();
        for cell in table.cells() {
            let ratios = measures.map(|measure| of(cell, measure));
            cells.push(named(
                json!({ "link": cell.link, "guest": cell.guest }),
                ratios,
            ));
            text.row(
                [
                    vec![part.to_owned()],
                    ratios.map(ratio).into(),
                    vec![cell.describe()],
                ]
                .concat(),
            );
        }
        let means = measures
            .map(|measure| geometric_mean(table.cells().filter_map(|cell| of(cell, measure))));
        text.row(
            [
                vec![part.to_owned()],
                means.map(ratio).into(),
                vec!["geometric mean".into()],
            ]
            .concat(),
        );
        let mut row = named(json!({ "without": part }), means);
        row["cells"] = json!(cells);
        listed.push(row);
    }
    verdict.field("parts", json!(listed));
    verdict.lines.push(format!(
        "each part switched off, as a ratio to {WHOLE} (above 1: the part helps):"
    ));
    verdict.lines.push(text.finish());
    verdict
}

fn named(mut row: Value, [data, time, silence]: [Option<f64>; 3]) -> Value {
    row["data_ratio"] = json!(data);
    row["total_time_ratio"] = json!(time);
    row["guest_silence_ratio"] = json!(silence);
    row
}

/// Cell by cell: the adaptive choice against the best fixed one, by total time.
pub(super) fn codecs(table: &Table) -> Verdict {
    let mut verdict = Verdict::default();
    let mut text = Text::new(&["link", "guest", "speed of auto", "to the best fixed codec"]);
    let mut listed = Vec::new();
    let mut speeds = Vec::new();
    for cell in table.cells() {
        let fixed = table.schemes(cell).filter_map(|(scheme, figures)| {
            let codec = scheme.strip_prefix(CODEC).filter(|_| scheme != AUTO)?;
            // Of two speeds: the time of the other to the time of this.
            let speed = Measure::TotalTime.ratio(Some(figures), table.get(cell, AUTO))?;
            Some((codec, speed))
        });
        let best = fixed.min_by(|(_, one), (_, other)| one.total_cmp(other));
        let (codec, speed) = best.unzip();
        speeds.extend(speed);
        text.row([
            cell.link.to_string(),
            cell.guest.clone(),
            ratio(speed),
            codec.unwrap_or("none moved").to_owned(),
        ]);
        listed.push(json!({
            "link": cell.link, "guest": cell.guest, "best_fixed": codec, "speed_of_auto_to_best_fixed": speed,
            "total_time_ratio": speed.map(|speed| 1.0 / speed),
        }));
    }
    verdict.field("cells", json!(listed));
    verdict.field(
        "speed_of_auto_to_best_fixed",
        json!(geometric_mean(speeds.iter().copied())),
    );
    verdict.field(
        "speed_of_auto_to_best_fixed_min",
        json!(speeds.iter().copied().min_by(f64::total_cmp)),
    );
    verdict.lines.push(text.finish());
    verdict
}
