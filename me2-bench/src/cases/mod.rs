//! Experiments of a few cases, each run of which gives some figures: what they can be asked for, what
//! is kept of them, and how it is told. Cases alternate.

mod kept;
mod plot;

use std::{env, fmt::Display, fs::File, io::Write, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

pub(crate) use self::kept::Kept;
use self::kept::Sample;
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
    pub(crate) cases: Vec<String>,
    /// One run of each case [default: 5]
    #[arg(long)]
    quick: bool,
    /// Runs of each case
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// Folder for the results; new or empty [default: one of today in bench-results]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) results: Option<PathBuf>,
    /// How the summary is printed
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(crate) output: Output,
    /// Something to remember, for the manifest
    #[arg(long, value_name = "TEXT", default_value = "")]
    notes: String,
}

impl CasesArgs {
    pub(crate) fn runs(&self) -> u32 {
        self.runs.unwrap_or(if self.quick { 1 } else { 5 })
    }

    /// What every manifest of such an experiment has.
    pub(crate) fn manifest(&self, experiment: &str) -> Value {
        let arguments: Vec<String> = env::args().skip(1).collect();
        json!({
            "schema_version": SCHEMA_VERSION,
            "experiment": experiment,
            "started": timestamp(),
            "command": format!("cargo xtask bench {}", arguments.join(" ")),
            "me2": Build::of_this_tree(),
            "host": Host::of_this_machine(),
            "runs": self.runs(),
            "notes": self.notes,
        })
    }
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

/// Measures, keeps and prints. Fails if a target is missed.
pub(crate) fn conduct<T: Serialize>(
    experiment: &Experiment,
    args: &CasesArgs,
    cases: Vec<Case<T>>,
    measure: impl Fn(&Case<T>, u32) -> Result<Figures>,
) -> Result<ExitCode> {
    let cases = wanted(cases, &args.cases, |case| case.name)?;
    let folder = Folder::create(args.results.as_deref(), experiment.name)?;
    eprintln!("results: {}", folder.path().display());
    let mut manifest = args.manifest(experiment.name);
    manifest["limit"] = json!(experiment.limit);
    manifest["cases"] = json!(cases);
    folder.write("manifest.json", &manifest)?;
    let mut lines = File::create(folder.file("samples.jsonl"))?;
    for run in 1..=args.runs() {
        for case in &cases {
            let figures = measure(case, run).with_context(|| format!("case {}", case.name))?;
            let sample = Sample::new(case.name, run, figures);
            writeln!(lines, "{}", serde_json::to_string(&sample)?)?;
            eprintln!("{} run {run}: {}", case.name, shown(&sample.figures));
        }
    }
    tell(&folder, args.output)
}

/// `bench plot` of a folder of such an experiment: summary and plot anew.
pub(crate) fn plot(folder: &Folder, output: Output) -> Result<ExitCode> {
    tell(folder, output)
}

/// Sums up, draws and prints what is kept.
fn tell(folder: &Folder, output: Output) -> Result<ExitCode> {
    let kept = Kept::read(folder)?;
    let summary = kept.summary();
    folder.write("summary.json", &summary)?;
    plot::draw(&folder.file("figures.svg"), &kept)?;
    match output {
        Output::Json => println!("{summary:#}"),
        Output::Human => print(&kept),
    }
    let missed = kept.missed();
    for figure in &missed {
        eprintln!("missed: {figure}");
    }
    Ok(ExitCode::from(u8::from(!missed.is_empty())))
}

/// Those with these names, or all.
pub(crate) fn wanted<C>(
    mut cases: Vec<C>,
    names: &[String],
    name_of: impl Fn(&C) -> &str,
) -> Result<Vec<C>> {
    for name in names {
        if !cases.iter().any(|case| name_of(case) == name) {
            let known: Vec<_> = cases.iter().map(&name_of).collect();
            bail!("no case called {name}, there are: {}", known.join(", "));
        }
    }
    cases.retain(|case| names.is_empty() || names.iter().any(|name| name == name_of(case)));
    Ok(cases)
}

fn print(kept: &Kept) {
    for case in &kept.cases {
        println!("{}: {}", case.name, case.what());
        for (name, told) in kept.told(case) {
            let target = told.target_max.map_or_else(String::new, |max| {
                let verdict = if told.is_met == Some(true) {
                    "met"
                } else {
                    "MISSED"
                };
                format!("   at most {max}: {verdict}")
            });
            let Spread {
                median, min, max, ..
            } = told.spread;
            println!("  {name:<34} {median:>11.3}   ({min:.3} to {max:.3}){target}");
        }
    }
    println!("limit: {}", kept.limit);
}

/// Figures in a line, for progress.
pub(crate) fn shown<N: Display>(figures: &[(N, f64)]) -> String {
    let each = figures
        .iter()
        .map(|(name, value)| format!("{name} {value:.3}"));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_cases_are_wanted() {
        let wanted = |names: &[String]| wanted(vec!["a", "b"], names, |case| case);
        assert_eq!(wanted(&[]).unwrap(), ["a", "b"]);
        assert_eq!(wanted(&["b".into()]).unwrap(), ["b"]);
        assert!(wanted(&["c".into()]).is_err());
    }
}
