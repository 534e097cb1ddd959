//! What the probes cost the guest, and what a working-set window does: `me2` processes, with and
//! without probes in turn, looked at from outside.
//!
//! The guest's speed is told by itself, over the processor time of its vCPUs: what else goes on in the
//! machine does not count, as long as there are cores for it. Where pages fault at all, it is because
//! a migration protects them over and over: one over a trickle, which gives up by itself.

mod times;

use std::{
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use self::times::{ProbesCounted, Spent, Times};
use crate::{
    cases::{Case, CasesArgs, Experiment, Figures, conduct},
    guest::Guest,
    measure,
    network::{LinkName, Network},
    priority,
    schemes::{Ending, Outcome, Programs, Scheme, Stage},
    units::MIB,
    warm::warm,
};

/// Its name, as in the manifest.
pub(crate) const NAME: &str = "probes";
const EXPERIMENT: Experiment = Experiment {
    name: NAME,
    limit: "the machine: speeds of two processes differ by several percent, by where their memory lies, so that \
            one pair says little; probe_time_percent has no such spread, and its counting, some 50 ns an event, \
            is in it in part; of one window the same holds as of one pair",
};

/// Arguments of `bench probes`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Cases: steady (kv that runs at full speed, nothing faults), kv (the same while a migration looks at
its writes), rewrite (pages all over its memory are written, which all fault), window (kv on link C,
its working set looked at). The first three have pairs of a run with probes and one with
--no-probes, in turn; slowdown_percent is what the former is slower, probe_time_percent what the
kernel counts as the probes' of the vCPUs' time (kernel.bpf_stats_enabled is set meanwhile).

Exit status: 0 all targets are met; 1 one is missed: stderr says which; 2 usage.")]
pub(crate) struct ProbesArgs {
    #[command(flatten)]
    common: CasesArgs,
    /// The me2 to measure
    #[arg(long, value_name = "PATH", env = "ME2_BIN")]
    me2: PathBuf,
    /// The guest: a PVH ELF
    #[arg(long, value_name = "PATH", env = "ME2_GUEST")]
    guest: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Load {
    /// The guest runs, and that is all.
    None,
    /// A migration looks at its writes.
    Looks,
    /// A migration looks at what it uses.
    Window,
}

#[derive(Debug, Clone, Serialize)]
struct Parameters {
    cmdline: &'static str,
    load: Load,
}

const MEMORY_BYTES: u64 = 512 * MIB;
/// What is measured, and what is left out before it: the guest's reports, its caches, the set-up.
const SPAN: Duration = Duration::from_secs(3);
const SETTLING: Duration = Duration::from_secs(1);
/// More than both, in the whole seconds that a migration's time limit has.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// A report later than what is looked at.
const REPORT_MARGIN: Duration = Duration::from_millis(300);
/// So slow that a pass does not end in that time.
const TRICKLE: &str = "--max-bandwidth 1M";
/// So long that a window is as long as the link has it.
const WITH_WINDOW: &str = "--max-bandwidth 1M --precopy-limit 60s";
/// The target of the design, percent.
const SLOWDOWN_MAX_PERCENT: f64 = 2.0;
/// What exploration may cost by default.
const WINDOW_SLOWDOWN_MAX_PERCENT: f64 = 8.0;

/// `bench probes`.
pub(crate) fn run(args: &ProbesArgs) -> Result<ExitCode> {
    priority::raise();
    let _counted = ProbesCounted::begin();
    let programs = Programs {
        me2: args.me2.clone(),
        guest: args.guest.clone(),
        qemu: PathBuf::new(),
    };
    conduct(&EXPERIMENT, &args.common, cases(), |case, run| {
        match case.parameters.load {
            Load::Window => window(&programs, &case.parameters),
            _ => compare(&programs, &case.parameters, run),
        }
    })
}

fn cases() -> Vec<Case<Parameters>> {
    let case = |name, what, load, cmdline, targets| Case {
        name,
        what,
        targets,
        parameters: Parameters { cmdline, load },
    };
    let both = || {
        let figures = ["slowdown_percent", "probe_time_percent"];
        figures
            .map(|figure| (figure, SLOWDOWN_MAX_PERCENT))
            .to_vec()
    };
    let window = vec![("vcpu_time_percent", WINDOW_SLOWDOWN_MAX_PERCENT)];
    let kv = "workload=kv fill=256M hot=64M rate=0 scan=0";
    let rewrite = "workload=rewrite order=uniform fill=256M hot=64M rate=0 scan=0";
    let at_ease = "workload=kv fill=256M hot=64M rate=20000 scan=0";
    vec![
        case(
            "steady",
            "kv at full speed, no migration",
            Load::None,
            kv,
            both(),
        ),
        case(
            "kv",
            "kv at full speed, its writes looked at",
            Load::Looks,
            kv,
            both(),
        ),
        case(
            "rewrite",
            "writes all over the memory, looked at",
            Load::Looks,
            rewrite,
            both(),
        ),
        case(
            "window",
            "a working-set window, against the second before",
            Load::Window,
            at_ease,
            window,
        ),
    ]
}

/// One run with probes and one without; which is first alternates.
fn compare(programs: &Programs, parameters: &Parameters, run: u32) -> Result<Figures> {
    let mut speeds = [0.0; 2];
    let mut figures = Figures::new();
    let first = usize::from(run.is_multiple_of(2));
    for with in [first, 1 - first] {
        let arguments: &[&str] = if with == 1 { &[] } else { &["--no-probes"] };
        let seen = observe(
            programs,
            parameters,
            LinkName::Unlimited,
            TRICKLE,
            arguments,
        )?;
        let from = seen.begun + SETTLING;
        speeds[with] = seen.speed(from, from + SPAN)?;
        if with == 1 {
            let spent = seen.spent(from, from + SPAN)?;
            figures.push(("probe_time_percent", spent.probes / spent.vcpus * 100.0));
        }
        if with == 1
            && let Some(outcome) = &seen.outcome
        {
            figures.extend(of_report(&outcome.report)?);
        }
    }
    figures.insert(
        0,
        ("slowdown_percent", (1.0 - speeds[1] / speeds[0]) * 100.0),
    );
    figures.insert(1, ("operations_per_vcpu_second_with", speeds[1]));
    figures.insert(2, ("operations_per_vcpu_second_without", speeds[0]));
    Ok(figures)
}

fn of_report(report: &Value) -> Result<Figures> {
    ensure!(
        report["ebpf"]["attached"] == true,
        "there are no probes here: {}",
        report["ebpf"]["reason"]
    );
    let number = |value: &Value| value.as_f64().context("the report lacks a number");
    let cost = &report["explore"]["guest_cost"];
    Ok(vec![
        ("events", number(&report["ebpf"]["events"])?),
        ("looks", number(&cost["looks"])?),
        ("pages_protected", number(&cost["protected_pages"])?),
    ])
}

/// A window, as long as link C has it.
fn window(programs: &Programs, parameters: &Parameters) -> Result<Figures> {
    let seen = observe(programs, parameters, LinkName::C, WITH_WINDOW, &[])?;
    let outcome = seen
        .outcome
        .as_ref()
        .context("a window without a migration")?;
    of_report(&outcome.report)?;
    let number = |value: &Value| value.as_f64().context("there was no window");
    let found = &outcome.report["explore"]["working_set"];
    let (took_ms, faults) = (number(&found["time_ms"])?, number(&found["faults"])?);
    let from = outcome.requested
        + Duration::from_secs_f64(number(&outcome.report["setup_time_ms"])? / 1e3);
    let until = from + Duration::from_secs_f64(took_ms / 1e3);
    let before = outcome.requested - SETTLING;
    // A guest at ease does as much as ever: what the window costs is the time that this takes.
    let as_before = seen.rate(from, until)? * (until - from).as_secs_f64()
        / seen.speed(before, outcome.requested)?;
    let extra = seen.spent(from, until)?.vcpus - as_before;
    let during = seen.rate(from, until)? / seen.rate(before, outcome.requested)?;
    Ok(vec![
        (
            "vcpu_time_percent",
            extra / (until - from).as_secs_f64() * 100.0,
        ),
        ("slowdown_percent", (1.0 - during) * 100.0),
        ("window_ms", took_ms),
        ("faults", faults),
        ("fault_us", extra * 1e6 / faults),
        ("pages_found", number(&found["pages"])?),
        ("pages_dropped", number(&found["dropped_pages"])?),
    ])
}

/// A guest that was looked at.
struct Seen {
    recording: crate::outputs::Recording,
    times: Times,
    begun: Instant,
    /// Of the migration, if there was one.
    outcome: Option<Outcome>,
}

impl Seen {
    fn rate(&self, from: Instant, until: Instant) -> Result<f64> {
        measure::rate(&self.recording, from, until).context("the guest tells nothing")
    }

    fn spent(&self, from: Instant, until: Instant) -> Result<Spent> {
        let spent = self.times.between(from, until);
        spent.context("the processor time of the vCPUs is not known")
    }

    /// Operations in a second of its vCPUs' processor time.
    fn speed(&self, from: Instant, until: Instant) -> Result<f64> {
        let seconds = self.spent(from, until)?.vcpus;
        Ok(self.rate(from, until)? * (until - from).as_secs_f64() / seconds)
    }
}

fn observe(
    programs: &Programs,
    parameters: &Parameters,
    link: LinkName,
    migration: &str,
    run_arguments: &[&'static str],
) -> Result<Seen> {
    drop(warm(MEMORY_BYTES));
    let network = Network::start(link)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let guest = Guest {
        name: "probes".to_owned(),
        memory_bytes: MEMORY_BYTES,
        cpus: 1,
        cmdline: parameters.cmdline.to_owned(),
        module: None,
        filled_bytes: 0,
        hot_bytes: 0,
        filled_percent_min: 0,
    };
    let stage = Stage {
        programs,
        network: &network,
        guest: &guest,
        run_arguments,
        folder: folder.path().to_owned(),
        time_limit: TIME_LIMIT,
    };
    let mut pair = Scheme::me2("probes", migration).start(&stage)?;
    pair.wait_ready()?;
    let log = pair.source().log.recording();
    let lacking = log
        .lines
        .iter()
        .find(|line| line.text.contains("without probes"));
    if let Some(lacking) = lacking.filter(|_| run_arguments.is_empty()) {
        bail!("there are no probes here: {}", lacking.text);
    }
    let times = Times::watch(pair.source().id());
    thread::sleep(SETTLING + REPORT_MARGIN);
    let begun = Instant::now();
    let outcome = match parameters.load {
        Load::None => {
            thread::sleep(SETTLING + SPAN + REPORT_MARGIN);
            None
        }
        Load::Looks | Load::Window => Some(pair.migrate()?),
    };
    if let Some(outcome) = &outcome {
        let gave_up = outcome.end == Ending::DidNotConverge;
        ensure!(
            gave_up,
            "the migration was to give up, and came to {:?}",
            outcome.end
        );
    }
    Ok(Seen {
        recording: pair.source().output.recording(),
        times: times.ended(),
        begun,
        outcome,
    })
}
