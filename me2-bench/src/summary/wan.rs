//! me2 and its rival over long links: how they compare, and whether me2 keeps to its targets.

use serde_json::{Value, json};

use super::{
    Measure, Table, Verdict,
    table::{Text, ratio},
    targets::{Figure, Kept},
};
use crate::{
    experiments::HYBRID,
    network::LinkName,
    results::{Manifest, Sample},
    statistics::geometric_mean,
};

/// What is compared, and what it is called.
const MEASURES: [(&str, Measure); 3] = [
    ("total_time_ratio", Measure::TotalTime),
    ("data_ratio", Measure::Data),
    ("longest_gap_ratio", Measure::Silence),
];

pub(super) fn verdict(table: &Table, manifest: &Manifest, samples: &[Sample]) -> Verdict {
    let mut verdict = Verdict::default();
    compare(&mut verdict, table);
    judge(&mut verdict, samples);
    verdict.field("left_out", json!(manifest.left_out));
    if !manifest.left_out.is_empty() {
        verdict.lines.push("left out for lack of time:".to_owned());
        let lines = manifest.left_out.iter().map(|line| format!("  {line}"));
        verdict.lines.extend(lines);
    }
    verdict
}

/// Hybrid as a ratio to the rival, link by link.
fn compare(verdict: &mut Verdict, table: &Table) {
    let Some(rival) = table.rival_of(HYBRID) else {
        return;
    };
    let mut text = Text::new(&["link", "guest", "time", "data", "gap"]);
    let mut listed = Vec::new();
    let mut all: [Vec<f64>; MEASURES.len()] = Default::default();
    for cell in table.cells() {
        let (own, other) = (table.get(cell, HYBRID), table.get(cell, rival));
        if own.is_none() || other.is_none() {
            continue;
        }
        let ratios = MEASURES.map(|(_, measure)| measure.ratio(own, other));
        text.row(
            [cell.link.to_string(), cell.guest.clone()]
                .into_iter()
                .chain(ratios.map(ratio)),
        );
        let mut row = json!({ "link": cell.link, "guest": cell.guest });
        for (((name, _), value), all) in MEASURES.iter().zip(ratios).zip(&mut all) {
            row[*name] = json!(value);
            all.extend(value);
        }
        listed.push(row);
    }
    verdict.field(
        "worst",
        json!(MEASURES.map(|(name, _)| worst(&listed, name))),
    );
    let means = all.map(geometric_mean);
    let mean = ["geometric".to_owned(), "mean".to_owned()];
    text.row(mean.into_iter().chain(means.map(ratio)));
    let named = MEASURES.iter().zip(means);
    let named = named.map(|((name, _), mean)| ((*name).to_owned(), json!(mean)));
    verdict.field("rival", json!(rival));
    verdict.field("cells", json!(&listed));
    verdict.field("average", named.collect::<serde_json::Map<_, _>>().into());
    verdict.lines.push(format!(
        "{HYBRID} as a ratio to {rival}, where both moved every time (below 1: less):"
    ));
    verdict.lines.push(text.finish());
    for worst in MEASURES.map(|(name, _)| worst(&listed, name)) {
        if let Some(ratio) = worst["ratio"].as_f64() {
            let word = |name: &str| worst[name].as_str().unwrap_or_default().to_owned();
            let (measure, link, guest) = (word("measure"), word("link"), word("guest"));
            verdict
                .lines
                .push(format!("worst {measure}: {ratio:.2} on {link} {guest}"));
        }
    }
}

/// The link and guest where the ratio is largest; null without any.
fn worst(cells: &[Value], measure: &str) -> Value {
    let ratios = cells
        .iter()
        .filter_map(|cell| Some((cell, cell[measure].as_f64()?)));
    let worst = ratios.max_by(|(_, one), (_, other)| one.total_cmp(other));
    worst.map_or(Value::Null, |(cell, ratio)| {
        json!({ "measure": measure, "link": cell["link"], "guest": cell["guest"], "ratio": ratio })
    })
}

/// Each migration's figures beside their targets; people see those of the links with a name.
fn judge(verdict: &mut Verdict, samples: &[Sample]) {
    let mut kept: Vec<(&Sample, Kept)> = samples
        .iter()
        .filter(|sample| sample.scheme == HYBRID)
        .filter_map(|sample| Some((sample, Kept::of(sample)?)))
        .collect();
    kept.sort_by_key(|(sample, _)| (sample.link, sample.guest.clone(), sample.run));
    let documents: Vec<Value> = kept
        .iter()
        .map(|(sample, kept)| kept.document(sample))
        .collect();
    verdict.field("targets", json!(documents));
    kept.retain(|(sample, _)| !matches!(sample.link, LinkName::Other(_)));
    if kept.is_empty() {
        return;
    }
    let mut text = Text::new(&[
        "link",
        "guest",
        "run",
        "longest gap, ms",
        "90% after, s",
        "speed until stop",
        "faults",
        "fault p50, ms",
        "fault p99, ms",
        "there when touched",
    ]);
    for (sample, kept) in &kept {
        let [gap, recovered, speed, p50, p99, present] = &kept.figures;
        text.row([
            sample.link.to_string(),
            sample.guest.clone(),
            sample.run.to_string(),
            gap.told(1),
            recovered.told(2),
            speed.told(2),
            kept.faults.map_or_else(dash, |faults| faults.to_string()),
            p50.told(1),
            p99.told(1),
            present.told(3),
        ]);
    }
    verdict.lines.push(format!(
        "{HYBRID}, each migration beside its targets (of the gap: half a round trip, 10 ms and the \
         final set; or 1.5 round trips and 10 ms if there was a fault):"
    ));
    verdict.lines.push(text.finish());
    verdict.lines.push(met(&kept));
}

fn dash() -> String {
    "–".to_owned()
}

/// How many keep to each target.
fn met(kept: &[(&Sample, Kept)]) -> String {
    let figures: Vec<&[Figure; 6]> = kept.iter().map(|(_, kept)| &kept.figures).collect();
    let names = figures[0].iter().map(|figure| figure.name);
    let counted = names.enumerate().map(|(index, name)| {
        let judged: Vec<bool> = figures
            .iter()
            .filter_map(|figures| figures[index].is_met())
            .collect();
        let met = judged.iter().filter(|is_met| **is_met).count();
        format!("{name} {met}/{}", judged.len())
    });
    let counted: Vec<String> = counted.collect();
    format!("targets met: {}\n", counted.join(", "))
}
