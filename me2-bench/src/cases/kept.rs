//! What is kept of such an experiment, and what is made of manifest and samples alone.

use std::borrow::Cow;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    results::{Folder, SCHEMA_VERSION},
    statistics::Spread,
};

/// A line of `samples.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Sample {
    schema_version: u32,
    case: Cow<'static, str>,
    run: u32,
    pub(super) figures: Vec<(Cow<'static, str>, f64)>,
}

impl Sample {
    pub(super) fn new(case: &'static str, run: u32, figures: super::Figures) -> Self {
        let figures = figures.into_iter();
        Self {
            schema_version: SCHEMA_VERSION,
            case: case.into(),
            run,
            figures: figures.map(|(name, value)| (name.into(), value)).collect(),
        }
    }
}

/// Manifest and samples.
#[derive(Debug, Deserialize)]
pub(crate) struct Kept {
    pub(crate) limit: String,
    pub(crate) cases: Vec<CaseOfManifest>,
    #[serde(skip)]
    samples: Vec<Sample>,
}

/// A case as the manifest has it; what else it has there is its parameters.
#[derive(Debug, Deserialize)]
pub(crate) struct CaseOfManifest {
    pub(crate) name: String,
    /// For people; older manifests may have a parameter in its place.
    what: Value,
    targets: Vec<(String, f64)>,
}

/// A figure over all runs of its case.
#[derive(Debug, Serialize)]
pub(crate) struct Told {
    #[serde(flatten)]
    pub(crate) spread: Spread,
    pub(crate) target_max: Option<f64>,
    pub(crate) is_met: Option<bool>,
}

impl CaseOfManifest {
    pub(crate) fn what(&self) -> String {
        match &self.what {
            Value::String(what) => what.clone(),
            other => other
                .to_string()
                .replace(['{', '}', '"'], "")
                .replace(':', " "),
        }
    }
}

impl Kept {
    pub(crate) fn read(folder: &Folder) -> Result<Self> {
        let mut kept: Self = folder.manifest()?;
        kept.samples = folder.samples()?;
        Ok(kept)
    }

    /// Each figure of a case, in the order in which they were told.
    pub(crate) fn told(&self, case: &CaseOfManifest) -> Vec<(&str, Told)> {
        let of_case = self.samples.iter().filter(|s| s.case == case.name.as_str());
        let figures: Vec<_> = of_case.flat_map(|sample| &sample.figures).collect();
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in &figures {
            if !names.contains(&name.as_ref()) {
                names.push(name);
            }
        }
        let tell = |name: &str| {
            let own = figures.iter().filter(|(other, _)| other == name);
            let spread = Spread::of(own.map(|(_, value)| *value))?;
            let target = case.targets.iter().find(|(figure, _)| figure == name);
            let target_max = target.map(|(_, max)| *max);
            let is_met = target_max.map(|max| spread.median <= max);
            Some(Told {
                spread,
                target_max,
                is_met,
            })
        };
        let told = names.into_iter().map(|name| Some((name, tell(name)?)));
        told.flatten().collect()
    }

    /// Case and name of each figure that misses its target.
    pub(crate) fn missed(&self) -> Vec<String> {
        let of_case = |case: &CaseOfManifest| {
            let told = self.told(case).into_iter();
            let missed = told.filter(|(_, told)| told.is_met == Some(false));
            let named = missed.map(|(name, _)| format!("{} {name}", case.name));
            named.collect::<Vec<_>>()
        };
        self.cases.iter().flat_map(of_case).collect()
    }

    /// `summary.json`.
    pub(crate) fn summary(&self) -> Value {
        let of = |case: &CaseOfManifest| {
            let figures: serde_json::Map<_, _> = self
                .told(case)
                .into_iter()
                .map(|(name, told)| (name.to_owned(), json!(told)))
                .collect();
            json!({ "case": case.name, "figures": figures })
        };
        json!({
            "schema_version": SCHEMA_VERSION,
            "limit": self.limit,
            "cases": self.cases.iter().map(of).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let case = |name: &str| CaseOfManifest {
            name: name.into(),
            what: json!({ "random": { "threads": 1 } }),
            targets: vec![("cost_us".into(), 5.0)],
        };
        let samples = [
            ("a", 1, vec![("cost_us", 4.0), ("other", 1.0)]),
            ("a", 2, vec![("cost_us", 9.0)]),
            ("a", 3, vec![("cost_us", 5.0)]),
            ("b", 1, vec![("cost_us", 5.5)]),
        ];
        Kept {
            limit: "the machine".into(),
            cases: ["a", "b", "c"].map(case).into(),
            samples: samples
                .map(|(case, run, figures)| Sample::new(case, run, figures))
                .into(),
        }
    }

    #[test]
    fn medians_are_held_against_targets() {
        let kept = kept();
        let of_a = kept.told(&kept.cases[0]);
        let names: Vec<_> = of_a.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["cost_us", "other"]);
        let (cost, other) = (&of_a[0].1, &of_a[1].1);
        assert_eq!((cost.spread.median, cost.is_met), (5.0, Some(true)));
        assert_eq!((other.spread.count, other.is_met), (1, None));
        assert!(kept.told(&kept.cases[2]).is_empty());
        assert_eq!(kept.missed(), ["b cost_us"]);
        assert_eq!(
            kept.summary()["cases"][1]["figures"]["cost_us"]["is_met"],
            false
        );
    }

    #[test]
    fn what_is_no_text_is_told_all_the_same() {
        assert_eq!(kept().cases[0].what(), "random threads 1");
    }
}
