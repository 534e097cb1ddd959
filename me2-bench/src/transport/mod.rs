//! The transport by itself: how much of a link it fills, what a fault would wait beside that, how soon
//! it follows a rate that changes, and how it shares.
//!
//! Two processes of this program, each in a network namespace, over emulated links.

mod cases;
mod ends;
mod kept;
mod plot;
mod targets;

use std::{
    collections::BTreeMap,
    env,
    fs::File,
    io::Write,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use me2_link::{End, Link};
use me2_user::identity::Identity;
use serde_json::json;

use self::{
    cases::{Case, Rival},
    ends::Seen,
    kept::Sample,
};
pub(crate) use self::{
    ends::{BIN, EndArgs, play},
    kept::Kept,
};
use crate::{
    cases::{CasesArgs, shown, wanted},
    experiments::Output,
    process::{Process, bound_to_us},
    results::Folder,
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
a time, beside bulk at full rate.

Exit status: 0 all targets are met; 1 one is missed: stderr says which; 2 usage.")]
pub(crate) struct TransportArgs {
    #[command(flatten)]
    common: CasesArgs,
}

/// `bench transport`.
pub(crate) fn run(args: &TransportArgs) -> Result<ExitCode> {
    let common = &args.common;
    let cases = wanted(cases::all(), &common.cases, |case| case.name)?;
    let folder = Folder::create(common.results.as_deref(), EXPERIMENT)?;
    eprintln!("results: {}", folder.path().display());
    let links: BTreeMap<_, _> = cases.iter().map(|case| (case.name, &case.spec)).collect();
    let told: BTreeMap<_, _> = cases.iter().map(|case| (case.name, case.what)).collect();
    let mut manifest = common.manifest(EXPERIMENT);
    manifest["links"] = json!(links);
    manifest["what"] = json!(told);
    folder.write("manifest.json", &manifest)?;
    let mut lines = File::create(folder.file("samples.jsonl"))?;
    for run in 1..=common.runs() {
        for case in &cases {
            let sample = measure(case, run).with_context(|| format!("case {}", case.name))?;
            eprintln!("{} run {run}: {}", case.name, shown(&sample.figures));
            writeln!(lines, "{}", serde_json::to_string(&sample)?)?;
        }
    }
    tell(&folder, common.output)
}

/// `bench plot` of a folder of `bench transport`: summary and plot anew.
pub(crate) fn plot(folder: &Folder, output: Output) -> Result<ExitCode> {
    tell(folder, output)
}

/// Sums up, draws and prints what is kept. Fails if a target is missed.
fn tell(folder: &Folder, output: Output) -> Result<ExitCode> {
    let kept = Kept::read(folder)?;
    let summary = kept.summary();
    folder.write("summary.json", &summary)?;
    plot::draw(folder, &kept)?;
    match output {
        Output::Json => println!("{summary:#}"),
        Output::Human => print(&kept),
    }
    let mut is_missed = false;
    for case in kept.cases() {
        for (name, told) in kept.told(case) {
            if told.is_met() == Some(false) {
                eprintln!("missed: {case} {name}");
                is_missed = true;
            }
        }
    }
    Ok(ExitCode::from(u8::from(is_missed)))
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
    Ok(Sample::new(
        case.name,
        run,
        case.figures(&seen, begun, dropped),
        seen,
    ))
}

fn print(kept: &Kept) {
    for case in kept.cases() {
        println!("{case}: {}", kept.what(case));
        for (name, told) in kept.told(case) {
            let Spread {
                median, min, max, ..
            } = told.spread;
            let verdict = match told.is_met() {
                Some(true) => format!("   {}: met", told.target.told()),
                Some(false) => format!("   {}: MISSED", told.target.told()),
                None => String::new(),
            };
            println!("  {name:<40} {median:>9.3}   ({min:.3} to {max:.3}){verdict}");
        }
    }
}
