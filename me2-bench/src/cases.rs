//! Experiments of a few cases, each run of which gives some figures: what they can be asked for, what
//! is kept of them, and how it is told. Cases alternate.

use std::{env, fs::File, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    experiments::Output,
    results::{Build, Folder, Host, SCHEMA_VERSION, timestamp},
    statistics::Spread,
};

/// What all such experiments can be asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CasesArgs {
    /// Only these cases
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cases: Vec<String>,
    /// One run of each case [default: 5]
    #[arg(long)]
    quick: bool,
    /// Runs of each case
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// Folder for the results; new or empty [default: one of today in bench-results]
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
    /// How the summary is printed
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Output,
    /// Something to remember, for the manifest
    #[arg(long, value_name = "TEXT", default_value = "")]
    notes: String,
}

/// What is measured over and over.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Case<T> {
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    /// Names of figures, and what their medians may be at most.
    pub(crate) targets: Vec<(&'static str, f64)>,
    #[serde(flatten)]
    pub(crate) parameters: T,
}

/// By name, with the unit in it.
pub(crate) type Figures = Vec<(&'static str, f64)>;

/// What an experiment is called, and what limits it: a sentence for people, and for the manifest.
pub(crate) struct Experiment {
    pub(crate) name: &'static str,
    pub(crate) limit: &'static str,
}

#[derive(Debug, Serialize)]
struct Sample {
    schema_version: u32,
    case: &'static str,
    run: u32,
    figures: Figures,
}

/// A figure over all runs of its case.
#[derive(Debug, Serialize)]
struct Told {
    #[serde(flatten)]
    spread: Spread,
    target_max: Option<f64>,
    is_met: Option<bool>,
}

/// Measures, keeps and prints. Fails if a target is missed.
pub(crate) fn conduct<T: Serialize>(
    experiment: &Experiment,
    args: &CasesArgs,
    cases: Vec<Case<T>>,
    measure: impl Fn(&Case<T>, u32) -> Result<Figures>,
) -> Result<ExitCode> {
    let cases = wanted(cases, &args.cases)?;
    let runs = args.runs.unwrap_or(if args.quick { 1 } else { 5 });
    let folder = Folder::create(args.results.as_deref(), experiment.name)?;
    eprintln!("results: {}", folder.path().display());
    folder.write("manifest.json", &manifest(experiment, args, &cases, runs))?;
    let mut lines = File::create(folder.file("samples.jsonl"))?;
    let mut samples = Vec::new();
    for run in 1..=runs {
        for case in &cases {
            let figures = measure(case, run).with_context(|| format!("case {}", case.name))?;
            let sample = Sample {
                schema_version: SCHEMA_VERSION,
                case: case.name,
                run,
                figures,
            };
            writeln!(lines, "{}", serde_json::to_string(&sample)?)?;
            eprintln!("{} run {run}: {}", case.name, shown(&sample.figures));
            samples.push(sample);
        }
    }
    let summary = summary(experiment, &cases, &samples);
    folder.write("summary.json", &summary)?;
    match args.output {
        Output::Json => println!("{summary:#}"),
        Output::Human => print(experiment, &cases, &samples),
    }
    let mut is_missed = false;
    for case in &cases {
        for (name, told) in told(case, &samples) {
            if told.is_met == Some(false) {
                eprintln!("missed: {} {name}", case.name);
                is_missed = true;
            }
        }
    }
    Ok(ExitCode::from(u8::from(is_missed)))
}

fn wanted<T>(cases: Vec<Case<T>>, names: &[String]) -> Result<Vec<Case<T>>> {
    for name in names {
        if !cases.iter().any(|case| case.name == name) {
            let known: Vec<_> = cases.iter().map(|case| case.name).collect();
            bail!("no case called {name}, there are: {}", known.join(", "));
        }
    }
    let is_wanted = |case: &Case<T>| names.is_empty() || names.iter().any(|name| name == case.name);
    Ok(cases.into_iter().filter(is_wanted).collect())
}

fn manifest<T: Serialize>(
    experiment: &Experiment,
    args: &CasesArgs,
    cases: &[Case<T>],
    runs: u32,
) -> Value {
    let arguments: Vec<String> = env::args().skip(1).collect();
    json!({
        "schema_version": SCHEMA_VERSION,
        "experiment": experiment.name,
        "started": timestamp(),
        "command": format!("cargo xtask bench {}", arguments.join(" ")),
        "me2": Build::of_this_tree(),
        "host": Host::of_this_machine(),
        "limit": experiment.limit,
        "cases": cases,
        "runs": runs,
        "notes": args.notes,
    })
}

fn told<T>(case: &Case<T>, samples: &[Sample]) -> Vec<(&'static str, Told)> {
    let of_case: Vec<_> = samples.iter().filter(|s| s.case == case.name).collect();
    let mut names: Vec<&'static str> = Vec::new();
    for (name, _) in of_case.iter().flat_map(|sample| &sample.figures) {
        if !names.contains(name) {
            names.push(name);
        }
    }
    let tell = |name: &'static str| {
        let figures = of_case.iter().flat_map(|sample| &sample.figures);
        let values = figures.filter(|(other, _)| *other == name).map(|f| f.1);
        let spread = Spread::of(values)?;
        let target = case.targets.iter().find(|(figure, _)| *figure == name);
        let target_max = target.map(|(_, max)| *max);
        let is_met = target_max.map(|max| spread.median <= max);
        Some((
            name,
            Told {
                spread,
                target_max,
                is_met,
            },
        ))
    };
    names.into_iter().filter_map(tell).collect()
}

fn summary<T>(experiment: &Experiment, cases: &[Case<T>], samples: &[Sample]) -> Value {
    let of = |case: &Case<T>| {
        let figures: serde_json::Map<_, _> = told(case, samples)
            .into_iter()
            .map(|(name, told)| (name.to_owned(), json!(told)))
            .collect();
        json!({ "case": case.name, "figures": figures })
    };
    json!({
        "schema_version": SCHEMA_VERSION,
        "limit": experiment.limit,
        "cases": cases.iter().map(of).collect::<Vec<_>>(),
    })
}

fn print<T>(experiment: &Experiment, cases: &[Case<T>], samples: &[Sample]) {
    for case in cases {
        println!("{}: {}", case.name, case.what);
        for (
            name,
            Told {
                spread,
                target_max,
                is_met,
            },
        ) in told(case, samples)
        {
            let target = target_max.map_or_else(String::new, |max| {
                let verdict = if is_met == Some(true) {
                    "met"
                } else {
                    "MISSED"
                };
                format!("   at most {max}: {verdict}")
            });
            let Spread {
                median, min, max, ..
            } = spread;
            println!("  {name:<34} {median:>11.3}   ({min:.3} to {max:.3}){target}");
        }
    }
    println!("limit: {}", experiment.limit);
}

fn shown(figures: &Figures) -> String {
    let each = figures
        .iter()
        .map(|(name, value)| format!("{name} {value:.3}"));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(name: &'static str) -> Case<()> {
        Case {
            name,
            what: "",
            targets: vec![("cost_us", 5.0)],
            parameters: (),
        }
    }

    fn sample(case: &'static str, run: u32, figures: Figures) -> Sample {
        Sample {
            schema_version: SCHEMA_VERSION,
            case,
            run,
            figures,
        }
    }

    #[test]
    fn medians_are_held_against_targets() {
        let samples = [
            sample("a", 1, vec![("cost_us", 4.0), ("other", 1.0)]),
            sample("a", 2, vec![("cost_us", 9.0)]),
            sample("a", 3, vec![("cost_us", 5.0)]),
            sample("b", 1, vec![("cost_us", 5.5)]),
        ];
        let of_a = told(&case("a"), &samples);
        let names: Vec<_> = of_a.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["cost_us", "other"]);
        let (cost, other) = (&of_a[0].1, &of_a[1].1);
        assert_eq!((cost.spread.median, cost.is_met), (5.0, Some(true)));
        assert_eq!((other.spread.count, other.is_met), (1, None));
        assert_eq!(told(&case("b"), &samples)[0].1.is_met, Some(false));
        assert!(told(&case("c"), &samples).is_empty());
    }

    #[test]
    fn only_known_cases_are_wanted() {
        let names = |wanted: Vec<Case<()>>| wanted.iter().map(|c| c.name).collect::<Vec<_>>();
        let all = || vec![case("a"), case("b")];
        assert_eq!(names(wanted(all(), &[]).unwrap()), ["a", "b"]);
        assert_eq!(names(wanted(all(), &["b".into()]).unwrap()), ["b"]);
        assert!(wanted(all(), &["c".into()]).is_err());
    }
}
