//! What an experiment says, made from its manifest and samples alone.

mod against_precopy;
mod against_qemu;
mod figures;
mod parts;
mod table;
mod targets;
mod wan;

use serde_json::{Value, json};

use crate::results::{Came, Experiment, Manifest, Sample};
pub(crate) use figures::{CellKey, Figures, Measure, Table};
use table::Text;
pub(crate) use targets::{Figure, Kept};

/// The same for people and for programs.
pub(crate) struct Summary {
    pub(crate) document: Value,
    pub(crate) human: String,
    /// Why it cannot be relied on.
    pub(crate) problems: Vec<String>,
}

/// What is said beyond the figures: fields of the document, lines for people, problems.
#[derive(Default)]
struct Verdict {
    fields: serde_json::Map<String, Value>,
    lines: Vec<String>,
    problems: Vec<String>,
}

impl Verdict {
    fn field(&mut self, name: &str, value: Value) {
        self.fields.insert(name.to_owned(), value);
    }
}

/// Sums up.
pub(crate) fn of(manifest: &Manifest, samples: &[Sample]) -> Summary {
    let table = Table::of(manifest, samples);
    let verdict = match manifest.experiment {
        Experiment::Me2 => against_precopy::verdict(&table),
        Experiment::Qemu => against_qemu::verdict(&table),
        Experiment::Ablation => parts::ablation(&table),
        Experiment::Codecs => parts::codecs(&table),
        Experiment::Wan => wan::verdict(&table, manifest, samples),
    };
    let failed = samples.iter().filter(|sample| sample.came == Came::Failed);
    let mut problems: Vec<String> = failed
        .map(|sample| {
            let error = sample.error.as_deref().unwrap_or("no reason known");
            format!(
                "{} {} {}, run {}: {error}",
                sample.link, sample.guest, sample.scheme, sample.run
            )
        })
        .collect();
    problems.extend(verdict.problems);
    let mut document = json!({
        "schema_version": crate::results::SCHEMA_VERSION,
        "experiment": manifest.experiment,
        "started": manifest.started,
        "runs": manifest.runs,
    });
    for (name, value) in verdict.fields {
        document[name] = value;
    }
    document["figures"] = json!(table.listed());
    document["contents"] = contents(manifest);
    document["problems"] = json!(problems);
    let mut human = figures_for_people(&table);
    human.push('\n');
    for line in verdict.lines {
        human.push_str(&line);
        human.push('\n');
    }
    Summary {
        document,
        human,
        problems,
    }
}

/// How well the guests' contents can be packed.
fn contents(manifest: &Manifest) -> Value {
    let each = manifest.guests.iter().map(|(name, guest)| {
        let ratio = guest.contents.as_ref().map(|contents| contents.zstd_ratio);
        (name.clone(), json!({ "zstd_ratio": ratio }))
    });
    each.collect::<serde_json::Map<_, _>>().into()
}

fn figures_for_people(table: &Table) -> String {
    let mut text = Text::new(&[
        "link",
        "guest",
        "scheme",
        "moved",
        "time s",
        "sent MiB",
        "downtime ms",
        "silence ms",
        "90% after s",
        "speed",
    ]);
    for ((key, scheme), figures) in table.rows() {
        text.row([
            key.link.to_string(),
            key.guest.clone(),
            scheme.clone(),
            figures.moved_of(),
            table::spread(figures.total_time_ms, 1e-3, 2),
            table::spread(figures.sent_bytes, 1.0 / f64::from(1 << 20), 1),
            table::spread(figures.downtime_ms, 1.0, 0),
            table::spread(figures.guest_silence_ms_max, 1.0, 0),
            table::spread(figures.recovered_90_percent_s, 1.0, 2),
            table::spread(figures.speed_during, 1.0, 2),
        ]);
    }
    text.finish()
}

#[cfg(test)]
mod tests;
