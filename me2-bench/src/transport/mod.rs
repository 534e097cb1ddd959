//! The transport by itself: how much of a link it fills, what a fault would wait beside that, how soon
//! it follows a rate that changes, and how it shares.
//!
//! Two processes of this program, each in a network namespace, over emulated links.

mod cases;
mod ends;
mod plot;

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use me2_link::{End, Link};
use me2_user::identity::Identity;
use serde::Serialize;
use serde_json::json;

pub(crate) use self::ends::{EndArgs, play};
use self::{
    cases::{Case, Rival},
    ends::Seen,
};
use crate::{
    experiments::Output,
    process::{Process, bound_to_us},
    results::{Build, Folder, Host, SCHEMA_VERSION, timestamp},
    statistics::Spread,
};

pub(crate) const EXPERIMENT: &str = "transport";
const PORT: u16 = 7100;
/// Beyond the time of a run: starting, connecting, ending.
const PATIENCE: Duration = Duration::from_secs(20);

/// Arguments of `bench transport`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Cases: A, B, C (links as in the other experiments), C-loss-1 and C-loss-3 (with 1% and 3% loss),
C-changes (200, then 80, then 200 Mbit/s), B-two (two connections), B-tcp (beside TCP cubic).
Shares are of what a link's rate leaves for payload. Requests: 100 bytes, answered by 4 KiB, four at
a time, beside bulk at full rate.")]
pub(crate) struct TransportArgs {
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
}

/// One run of a case.
#[derive(Debug, Serialize)]
struct Sample {
    case: &'static str,
    run: u32,
    /// By name, with the unit in it.
    figures: Vec<(&'static str, f64)>,
    seen: Seen,
}

/// `bench transport`.
pub(crate) fn run(args: &TransportArgs) -> Result<ExitCode> {
    let runs = args.runs.unwrap_or(if args.quick { 1 } else { 5 });
    let cases = cases::named(&args.cases)?;
    let folder = Folder::create(args.results.as_deref(), EXPERIMENT)?;
    eprintln!("results: {}", folder.path().display());
    folder.write("manifest.json", &manifest(&cases, runs))?;
    let mut lines = File::create(folder.file("samples.jsonl"))?;
    let mut samples = Vec::new();
    for run in 1..=runs {
        for case in &cases {
            let sample = measure(case, run).with_context(|| format!("case {}", case.name))?;
            eprintln!("{} run {run}: {}", case.name, shown(&sample.figures));
            writeln!(lines, "{}", serde_json::to_string(&sample)?)?;
            samples.push(sample);
        }
    }
    let summary = summary(&cases, &samples);
    folder.write("summary.json", &summary)?;
    plot::draw(&folder)?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&summary)?),
        Output::Human => print(&cases, &samples),
    }
    Ok(ExitCode::SUCCESS)
}

/// `bench plot` of a folder of `bench transport`: the plot anew.
pub(crate) fn plot(folder: &Path) -> Result<ExitCode> {
    plot::draw(&Folder::at(folder))?;
    Ok(ExitCode::SUCCESS)
}

fn manifest(cases: &[Case], runs: u32) -> serde_json::Value {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let links: BTreeMap<_, _> = cases.iter().map(|case| (case.name, &case.spec)).collect();
    json!({
        "schema_version": SCHEMA_VERSION,
        "experiment": EXPERIMENT,
        "started": timestamp(),
        "command": format!("cargo xtask bench {}", arguments.join(" ")),
        "me2": Build::of_this_tree(),
        "host": Host::of_this_machine(),
        "runs": runs,
        "links": links,
    })
}

fn measure(case: &Case, run: u32) -> Result<Sample> {
    let mut spec = case.spec.clone();
    spec.seed = u64::from(run);
    let link = Link::start(spec).context("cannot emulate the link")?;
    let config = tempfile::tempdir()?;
    Identity::create(config.path(), false)?;
    let address = format!("{}:{PORT}", link.address(End::B));
    let own = env::current_exe()?;
    let start = |end, name, role: &str, seconds: f64| {
        let mut command = bound_to_us(&own, |wrapper| link.command(end, wrapper));
        command.args(["transport-end", role, "--address", &address]);
        command.args(["--seconds", &seconds.to_string(), "--config-dir"]);
        command.arg(config.path());
        if role == "destination"
            && let Some(at) = case.requests_at
        {
            command.args(["--requests-at", &at.to_string()]);
        }
        Process::with_text(name, &mut command)
    };
    let deadline = Instant::now() + Duration::from_secs_f64(case.seconds) + PATIENCE;
    let mut destination = start(End::B, "destination", "destination", case.seconds)?;
    destination
        .output
        .wait_for(deadline, |line| (line == ends::READY).then_some(()))
        .context("the destination is not ready")?;
    let _first = start(End::A, "source", "source", case.seconds + 5.0)?;
    destination
        .output
        .wait_for(deadline, |line| (line == ends::BEGUN).then_some(()))
        .context("nothing arrived")?;
    let begun = link.elapsed().as_secs_f64();
    let _second = match case.rival {
        Rival::None => None,
        rival => {
            std::thread::sleep(cases::RIVAL_AFTER);
            let role = if rival == Rival::Tcp {
                "tcp-source"
            } else {
                "source"
            };
            link.set_congestion_control("cubic")?;
            Some(start(End::A, "second source", role, case.seconds)?)
        }
    };
    destination.wait(deadline)?;
    let lines = destination.output.ended(deadline);
    let seen = lines.iter().rfind(|line| line.starts_with('{'));
    let seen = seen.context("the destination said nothing")?;
    let seen: Seen = serde_json::from_str(seen).context("what the destination said")?;
    let stats = link.stats().a_to_b;
    let dropped = stats.queue_drops as f64 / (stats.packets + stats.queue_drops).max(1) as f64;
    Ok(Sample {
        case: case.name,
        run,
        figures: case.figures(&seen, begun, dropped),
        seen,
    })
}

fn spreads<'a>(case: &Case, samples: &'a [Sample]) -> Vec<(&'static str, Spread)> {
    let of_case: Vec<&'a Sample> = samples.iter().filter(|s| s.case == case.name).collect();
    let names = of_case.first().map(|sample| &sample.figures);
    names
        .into_iter()
        .flatten()
        .enumerate()
        .filter_map(|(at, (name, _))| {
            let values = of_case.iter().map(|sample| sample.figures[at].1);
            // A run in which something never came has no figure for it.
            let values = values.filter(|value| value.is_finite());
            Some((*name, Spread::of(values)?))
        })
        .collect()
}

fn summary(cases: &[Case], samples: &[Sample]) -> serde_json::Value {
    let of = |case: &Case| {
        let figures: serde_json::Map<_, _> = spreads(case, samples)
            .into_iter()
            .map(|(name, spread)| (name.to_owned(), json!(spread)))
            .collect();
        json!({ "case": case.name, "figures": figures })
    };
    json!({
        "schema_version": SCHEMA_VERSION,
        "cases": cases.iter().map(of).collect::<Vec<_>>(),
    })
}

fn print(cases: &[Case], samples: &[Sample]) {
    for case in cases {
        println!("{}: {}", case.name, case.what);
        for (name, spread) in spreads(case, samples) {
            println!(
                "  {name:<40} {:>9.3}   ({:.3} to {:.3})",
                spread.median, spread.min, spread.max
            );
        }
    }
}

fn shown(figures: &[(&'static str, f64)]) -> String {
    let each = figures
        .iter()
        .map(|(name, value)| format!("{name} {value:.3}"));
    each.collect::<Vec<_>>().join(", ")
}
