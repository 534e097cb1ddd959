//! What is kept of the experiment, and what is made of manifest and samples alone.

use std::borrow::Cow;

use anyhow::ensure;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::{ends::Seen, targets::target};
use crate::{
    results::{Folder, SCHEMA_VERSION},
    statistics::Spread,
    target::Target,
};

/// A line of `samples.jsonl`: one run of a case.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sample {
    pub(crate) case: Cow<'static, str>,
    pub(crate) run: u32,
    /// By name, with the unit in it; what never came is left out, and was null once.
    #[serde(deserialize_with = "known")]
    pub(super) figures: Vec<(Cow<'static, str>, f64)>,
    pub(crate) seen: Seen,
}

impl Sample {
    pub(super) fn new(
        case: &'static str,
        run: u32,
        figures: Vec<(&'static str, f64)>,
        seen: Seen,
    ) -> Self {
        let known = figures.into_iter().filter(|(_, value)| value.is_finite());
        Self {
            case: case.into(),
            run,
            figures: known.map(|(name, value)| (name.into(), value)).collect(),
            seen,
        }
    }
}

fn known<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<(Cow<'static, str>, f64)>, D::Error> {
    let figures = Vec::<(Cow<'static, str>, Option<f64>)>::deserialize(deserializer)?;
    let known = figures.into_iter();
    Ok(known
        .filter_map(|(name, value)| Some((name, value?)))
        .collect())
}

/// Manifest and samples.
pub(crate) struct Kept {
    manifest: Value,
    pub(crate) samples: Vec<Sample>,
}

/// A figure over all runs of its case.
pub(crate) struct Told {
    pub(crate) spread: Spread,
    pub(crate) target: Target,
}

impl Told {
    pub(crate) fn is_met(&self) -> Option<bool> {
        self.target.is_met(self.spread.median)
    }
}

impl Kept {
    pub(crate) fn read(folder: &Folder) -> anyhow::Result<Self> {
        let kept = Self {
            manifest: folder.manifest()?,
            samples: folder.samples()?,
        };
        for case in kept.cases() {
            let rate = kept.rate(case);
            ensure!(
                rate > 0.0,
                "manifest.json has no rate of the link of case {case}"
            );
        }
        Ok(kept)
    }

    /// Names, in the order in which they were measured.
    pub(crate) fn cases(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if !names.contains(&sample.case.as_ref()) {
                names.push(&sample.case);
            }
        }
        names
    }

    /// For people; older manifests do not have it.
    pub(crate) fn what(&self, case: &str) -> &str {
        self.manifest["what"][case].as_str().unwrap_or_default()
    }

    /// Of the link at the beginning, bits a second.
    pub(super) fn rate(&self, case: &str) -> f64 {
        let rate = self.manifest["links"][case]["rate_bits_per_second"].as_f64();
        rate.unwrap_or(0.0)
    }

    /// Of the link, ms; `None` if that is not in the manifest.
    pub(crate) fn round_trip_ms(&self, case: &str) -> Option<f64> {
        let delay = self.manifest["links"][case]["delay_ms"].as_f64();
        delay.map(|delay| 2.0 * delay)
    }

    /// Each figure of a case, in the order in which they were told.
    pub(crate) fn told(&self, case: &str) -> Vec<(&str, Told)> {
        let of_case = self.samples.iter().filter(|sample| sample.case == case);
        let figures: Vec<_> = of_case.flat_map(|sample| &sample.figures).collect();
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in &figures {
            if !names.contains(&name.as_ref()) {
                names.push(name);
            }
        }
        let told = names.into_iter().filter_map(|name| {
            let own = figures.iter().filter(|(other, _)| other == name);
            let spread = Spread::of(own.map(|(_, value)| *value))?;
            let target = target(case, name);
            Some((name, Told { spread, target }))
        });
        told.collect()
    }

    /// `summary.json`.
    pub(super) fn summary(&self) -> Value {
        let of = |case: &str| {
            let told = self.told(case).into_iter().map(|(name, told)| {
                let mut figure = json!(told.spread);
                let field = match told.target {
                    Target::AtMost(_) => "target_max",
                    _ => "target_min",
                };
                figure[field] = json!(told.target.value());
                figure["is_met"] = json!(told.is_met());
                (name.to_owned(), figure)
            });
            json!({ "case": case, "figures": told.collect::<serde_json::Map<_, _>>() })
        };
        let cases = self.cases().into_iter().map(of);
        json!({ "schema_version": SCHEMA_VERSION, "cases": cases.collect::<Vec<_>>() })
    }
}
