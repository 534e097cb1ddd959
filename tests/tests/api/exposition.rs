//! The text of OpenMetrics 1.0, read strictly, and the conventions of Prometheus for names and units, as
//! `promtool check metrics` has them.

use std::collections::{BTreeMap, BTreeSet};

/// Base units that are used here.
const UNITS: [&str; 2] = ["seconds", "bytes"];
/// Parts of names that tell of units which are not base units.
const NOT_BASE_UNITS: [&str; 8] = [
    "ms",
    "milliseconds",
    "us",
    "microseconds",
    "minutes",
    "kilobytes",
    "mib",
    "percent",
];

#[derive(Debug)]
pub struct Exposition {
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    help: String,
    /// By name and labels.
    samples: BTreeMap<(String, Vec<(String, String)>), f64>,
}

impl Exposition {
    /// Reads and checks it.
    pub fn parse(text: &str) -> Self {
        let text = text.strip_suffix("# EOF\n").expect("it has an end");
        assert!(!text.contains("# EOF"), "one end alone");
        let mut families = BTreeMap::new();
        let mut current: Option<(String, Family)> = None;
        for line in text.lines() {
            match line.strip_prefix("# ") {
                Some(comment) => describe(comment, &mut current, &mut families),
                None => {
                    let (name, family) = current.as_mut().expect("described before");
                    let (series, value) = sample(line);
                    assert!(is_of(&series.0, name, &family.kind), "{line} in {name}");
                    let before = family.samples.insert(series, value);
                    assert_eq!(before, None, "twice: {line}");
                }
            }
        }
        close(current, &mut families);
        let exposition = Self { families };
        exposition.families.iter().for_each(check_family);
        exposition
    }

    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let series = (name.to_owned(), labels.iter().map(owned).collect());
        self.families
            .values()
            .find_map(|family| family.samples.get(&series))
            .copied()
    }

    /// No counter goes back, and none goes away.
    pub fn goes_on_from(&self, before: &Self) {
        let counted = |family: &&Family| ["counter", "histogram"].contains(&&*family.kind);
        for family in before.families.values().filter(counted) {
            for ((name, labels), value) in &family.samples {
                let labels: Vec<_> = labels.iter().map(|(k, v)| (&**k, &**v)).collect();
                let now = self.value(name, &labels);
                assert!(
                    now >= Some(*value),
                    "{name} {labels:?}: {value}, then {now:?}"
                );
            }
        }
    }
}

fn describe(
    comment: &str,
    current: &mut Option<(String, Family)>,
    families: &mut BTreeMap<String, Family>,
) {
    let mut words = comment.splitn(3, ' ');
    let mut word = || words.next().unwrap_or_else(|| panic!("# {comment}"));
    let (what, name, value) = (word(), word(), word().to_owned());
    if current.as_ref().is_none_or(|(of, _)| of != name) {
        close(
            current.replace((name.to_owned(), Family::default())),
            families,
        );
    }
    let (_, family) = current.as_mut().expect("just set");
    assert!(
        family.samples.is_empty(),
        "described behind its samples: {comment}"
    );
    match what {
        "HELP" => family.help = value,
        "TYPE" => family.kind = value,
        "UNIT" => family.unit = Some(value),
        other => panic!("unknown: {other}"),
    }
}

fn close(family: Option<(String, Family)>, families: &mut BTreeMap<String, Family>) {
    if let Some((name, family)) = family {
        let before = families.insert(name.clone(), family);
        assert!(before.is_none(), "{name} is not in one piece");
    }
}

/// `name{label="value",…} 1.5`; no timestamps, no exemplars.
fn sample(line: &str) -> ((String, Vec<(String, String)>), f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
    let value: f64 = value
        .parse()
        .unwrap_or_else(|error| panic!("{line}: {error}"));
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (
            name,
            labels.strip_suffix('}').expect("an end of the labels"),
        ),
        None => (series, ""),
    };
    let labels = labels
        .split(',')
        .filter(|label| !label.is_empty())
        .map(|label| {
            let (key, value) = label.split_once('=').unwrap_or_else(|| panic!("{line}"));
            let value = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'));
            let value = value.unwrap_or_else(|| panic!("{line}"));
            assert!(
                !value.contains(['"', '\\', '\n']),
                "not needed here: {line}"
            );
            assert!(is_name(key), "{line}");
            (key.to_owned(), value.to_owned())
        });
    ((name.to_owned(), labels.collect()), value)
}

fn is_of(sample: &str, family: &str, kind: &str) -> bool {
    let suffixes: &[&str] = match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_count", "_sum"],
        other => panic!("a type that is not used here: {other}"),
    };
    let suffix = sample.strip_prefix(family);
    suffix.is_some_and(|suffix| suffixes.contains(&suffix))
}

fn is_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(is_allowed) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn check_family((name, family): (&String, &Family)) {
    assert!(is_name(name) && name.starts_with("me2_"), "{name}");
    assert!(!family.help.is_empty(), "{name} is not described");
    assert!(!family.samples.is_empty(), "{name} has no samples");
    let words: Vec<_> = name.split('_').collect();
    for kind in [
        "total",
        "count",
        "sum",
        "bucket",
        "info",
        "gauge",
        "counter",
        "histogram",
    ] {
        assert!(!words.contains(&kind), "{name} is named by its type");
    }
    for unit in NOT_BASE_UNITS {
        assert!(!words.contains(&unit), "{name}: not a base unit");
    }
    let last = words.last().copied().filter(|word| UNITS.contains(word));
    assert_eq!(last, family.unit.as_deref(), "{name} ends with its unit");
    let inner = &words[..words.len() - usize::from(last.is_some())];
    assert!(
        UNITS.iter().all(|unit| !inner.contains(unit)),
        "{name}: a unit inside"
    );
    let labels: BTreeSet<Vec<&String>> = family
        .samples
        .keys()
        .map(|(_, labels)| labels.iter().map(|(key, _)| key).collect())
        .collect();
    match family.kind.as_str() {
        "histogram" => check_histogram(name, family),
        kind => {
            assert_eq!(labels.len(), 1, "{name}: labels differ");
            let is_counted = kind == "counter";
            let may_be = |value: &f64| value.is_finite() && (!is_counted || *value >= 0.0);
            assert!(family.samples.values().all(may_be), "{name}");
        }
    }
}

/// Buckets are cumulative, the last one has all, and is the count.
fn check_histogram(name: &str, family: &Family) {
    let mut buckets: Vec<(f64, f64)> = family
        .samples
        .iter()
        .filter(|((sample, _), _)| sample.ends_with("_bucket"))
        .map(|((_, labels), count)| match &labels[..] {
            [(key, edge)] if key == "le" => (edge.parse().expect("a number"), *count),
            _ => panic!("{name}: {labels:?}"),
        })
        .collect();
    buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
    assert!(buckets.len() > 3, "{name}");
    assert!(
        buckets.is_sorted_by(|one, other| one.1 <= other.1),
        "{name}: {buckets:?}"
    );
    let (edge, all) = *buckets.last().expect("there are some");
    assert_eq!(edge, f64::INFINITY, "{name}");
    let one = |suffix: &str| family.samples.get(&(format!("{name}{suffix}"), Vec::new()));
    assert_eq!(one("_count"), Some(&all), "{name}");
    assert!(one("_sum").is_some_and(|sum| *sum >= 0.0), "{name}");
}
