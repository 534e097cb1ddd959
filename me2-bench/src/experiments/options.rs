//! What the experiments can be asked for.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::{network::LinkName, results::Experiment, schemes::Programs, units::parse_size};

/// Repetitions that a median is taken of.
const RUNS: u32 = 5;

/// `me2-bench me2`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Schemes: me2-precopy-all (i: all memory, raw, as Xen did it), me2-precopy-useful (ii: the same
without zero and untouched pages), me2-hybrid; and for the check that the baseline is honest
me2-precopy-plain and qemu-precopy, which must be within 10% of each other.

Exit status: 0 all is well; 1 a migration failed, a guest was not well, or the check found a
difference: stderr says where; 2 usage.")]
pub(crate) struct Me2Args {
    /// Instead: hybrid with each part of exploration and encoding switched off in turn
    #[arg(long, conflicts_with = "codecs")]
    ablation: bool,
    /// Instead: the adaptive choice of codecs against each fixed one, also without any limit
    #[arg(long)]
    codecs: bool,
    /// Leave out the comparison of plain pre-copy with QEMU's
    #[arg(long)]
    pub(super) no_baseline_check: bool,
    /// Workloads: idle, kv, stream, churn, graph, repeats
    /// [default: all but repeats; of these kv and graph with --quick or --codecs; kv, repeats and
    /// graph with --ablation]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) workloads: Vec<String>,
    /// Memory of each guest [default: 512M; 96M with --quick]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<u64>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `me2-bench qemu`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Guests: mixed (1 GiB, 256 MiB filled, 32 MiB rewritten at 20,000 pages/s), heavy (1 GiB, 512 MiB
filled, 128 MiB rewritten at 60,000 pages/s); a quarter of that, and mixed alone, with --quick.
A mode that did not converge twice is not tried again in that cell.

Exit status: 0 all is well; 1 a migration failed or a guest was not well: stderr says where;
2 usage.")]
pub(crate) struct QemuArgs {
    /// Guests: mixed, heavy [default: both; mixed with --quick]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) guests: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `me2-bench wan`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Links: round trips of 1, 20, 50, 100 and 200 ms, rates of 50 and 200 Mbit/s and 1 Gbit/s, losses of
0, 0.1 and 1% and 1% in bursts: all of them with me2-hybrid and the rival, and the first guest. Five
links also with the other guests and modes: A, B, C, rtt200-rate1000-loss0, rtt50-rate50-bursts1;
these alone with --quick. What matters most comes first. What the budget has no room for is said
beforehand, and left out; nothing begins that is not expected to end in time.

Schemes: me2-hybrid, me2-precopy, me2-postcopy, and the rival: one of them, or one of QEMU's modes
by its name in `bench qemu`.

Exit status: 0 all is well; 1 a migration failed or a guest was not well: stderr says where;
2 usage.")]
pub(crate) struct WanArgs {
    /// How long all migrations together may take [default: 60; 4 with --quick]
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub(super) budget_minutes: Option<u64>,
    /// What me2-hybrid is compared with on every link [default: qemu-postcopy-preempt; me2-postcopy
    /// without QEMU]
    #[arg(long, value_name = "SCHEME")]
    pub(super) rival: Option<String>,
    /// Guests: mixed, heavy, and each workload of `bench me2`; the first is the one for every link
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "mixed,heavy,kv"
    )]
    pub(super) guests: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// `me2-bench plot`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlotArgs {
    /// Folder with manifest.json and samples.jsonl
    #[arg(value_name = "FOLDER")]
    pub(super) folder: PathBuf,
    /// How the summary is printed
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(super) output: Output,
}

/// How a summary is printed on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables for people
    Human,
    /// One JSON document
    Json,
}

/// Where the contents of guests come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ContentsFrom {
    /// The memory of programs at work on this machine
    Captured,
    /// The guest makes them up: for machines where nothing can be captured
    Generated,
}

/// What all of them can be asked for.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Smaller VMs, one run, fewer cells: under 5 minutes
    #[arg(long)]
    pub(crate) quick: bool,
    /// Repetitions of each cell [default: 5; 1 with --quick, and of wan]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: Option<u32>,
    /// Measure only once what takes so many seconds or more
    #[arg(long, value_name = "SECONDS")]
    repeat_under: Option<u32>,
    /// Links: A, B, C, unlimited, or by round trip in ms, rate in Mbit/s and loss in percent, as
    /// rtt100-rate200-loss0.1 or rtt50-rate50-bursts1 [default: those of the experiment]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    links: Vec<LinkName>,
    /// Only schemes whose names are in this list
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) schemes: Vec<String>,
    /// vCPUs of each guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(super) cpus: u8,
    /// Where the contents of the guests' memory come from
    #[arg(long, value_name = "FROM", default_value = "captured")]
    pub(super) contents: ContentsFrom,
    /// Seed of the order of the migrations
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// How the summary is printed on stdout; progress is on stderr
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    pub(super) output: Output,
    /// Folder for the results, new or empty [default: bench-results/YYYY-MM-DD-NAME]
    #[arg(long, value_name = "FOLDER")]
    pub(super) results: Option<PathBuf>,
    /// Something to remember, for the manifest
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(super) notes: String,
    /// The me2 to measure
    #[arg(long, value_name = "PATH", env = "ME2_BIN")]
    me2: PathBuf,
    /// The guest: a PVH ELF, the same for all
    #[arg(long, value_name = "PATH", env = "ME2_GUEST")]
    guest: PathBuf,
    /// The QEMU to compare with
    #[arg(
        long,
        value_name = "PATH",
        env = "ME2_QEMU",
        default_value = "qemu-system-x86_64"
    )]
    qemu: PathBuf,
}

impl Me2Args {
    pub(super) fn experiment(&self) -> Experiment {
        match (self.ablation, self.codecs) {
            (true, _) => Experiment::Ablation,
            (_, true) => Experiment::Codecs,
            _ => Experiment::Me2,
        }
    }

    /// Bytes.
    pub(super) fn memory(&self) -> u64 {
        self.memory.unwrap_or_else(|| memory(self.common.quick))
    }

    /// What was asked for, or `default`.
    pub(super) fn workloads<'a>(&'a self, default: &[&'a str]) -> Vec<&'a str> {
        match self.workloads.is_empty() {
            true => default.to_vec(),
            false => self.workloads.iter().map(String::as_str).collect(),
        }
    }
}

/// Memory of a guest that has no size of its own, bytes.
pub(super) fn memory(quick: bool) -> u64 {
    if quick { 96 << 20 } else { 512 << 20 }
}

impl Common {
    /// What takes longer is measured once.
    pub(super) fn repeat_under(&self) -> Option<Duration> {
        let seconds = self.repeat_under.map(u64::from);
        seconds.map(Duration::from_secs)
    }

    pub(super) fn runs(&self) -> u32 {
        self.runs_or(if self.quick { 1 } else { RUNS })
    }

    pub(super) fn runs_or(&self, default: u32) -> u32 {
        self.runs.unwrap_or(default)
    }

    /// What was asked for, or `default`.
    pub(super) fn links(&self, default: &[LinkName]) -> Vec<LinkName> {
        match self.links.is_empty() {
            true => default.to_vec(),
            false => self.links.clone(),
        }
    }

    pub(super) fn wants(&self, scheme: &str) -> bool {
        self.schemes.is_empty() || self.schemes.iter().any(|wanted| wanted == scheme)
    }

    pub(super) fn programs(&self) -> Programs {
        Programs {
            me2: self.me2.clone(),
            guest: self.guest.clone(),
            qemu: self.qemu.clone(),
        }
    }
}
