//! What is compared: ways of moving a VM, by me2 or by a rival, behind one interface.

mod me2;
mod qemu;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use serde_json::Value;

use crate::{guest::Guest, network::Network, process::Process};
pub(crate) use qemu::{
    Mode as QemuMode, arguments as qemu_arguments, describe as describe_qemu,
    version as qemu_version,
};

/// The programs that take part.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) me2: PathBuf,
    pub(crate) guest: PathBuf,
    pub(crate) qemu: PathBuf,
}

/// One way of moving a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scheme {
    /// As in samples.
    pub(crate) name: String,
    pub(crate) how: How,
}

/// Who moves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum How {
    /// Further arguments of `me2 hybrid-migrate`.
    Me2(Vec<String>),
    Qemu(QemuMode),
}

impl Scheme {
    /// `me2 hybrid-migrate` with these arguments, separated by spaces.
    pub(crate) fn me2(name: &str, arguments: &str) -> Self {
        let words = arguments.split_ascii_whitespace().map(str::to_owned);
        Self {
            name: name.to_owned(),
            how: How::Me2(words.collect()),
        }
    }

    pub(crate) fn qemu(mode: QemuMode) -> Self {
        Self {
            name: format!("qemu-{}", mode.name()),
            how: How::Qemu(mode),
        }
    }

    /// Starts the guest at one end, and what waits for it at the other.
    pub(crate) fn start(&self, stage: &Stage<'_>) -> anyhow::Result<Box<dyn Pair>> {
        Ok(match &self.how {
            How::Me2(arguments) => Box::new(me2::Me2Pair::start(stage, arguments)?),
            How::Qemu(mode) => Box::new(qemu::QemuPair::start(stage, *mode)?),
        })
    }
}

/// Where and what for one migration.
pub(crate) struct Stage<'a> {
    pub(crate) programs: &'a Programs,
    pub(crate) network: &'a Network,
    pub(crate) guest: &'a Guest,
    /// Further arguments of `me2 run`.
    pub(crate) run_arguments: &'a [&'static str],
    /// For sockets and identities; empty.
    pub(crate) folder: PathBuf,
    /// How long the migration may take.
    pub(crate) time_limit: Duration,
}

/// A guest, and where it can go.
pub(crate) trait Pair {
    fn source(&mut self) -> &mut Process;
    fn destination(&mut self) -> &mut Process;
    /// Moves the guest; returns when it is complete, has failed or was given up. An error is one of
    /// this harness.
    fn migrate(&mut self) -> anyhow::Result<Outcome>;
}

/// What came of a migration.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) requested: Instant,
    pub(crate) ended: Instant,
    pub(crate) end: Ending,
    /// As of `me2 hybrid-migrate`; of a rival: 0 moved, 1 not.
    pub(crate) exit_code: i32,
    /// From the request to the completion.
    pub(crate) total_time_ms: f64,
    /// What the tool itself says of the downtime.
    pub(crate) reported_downtime_ms: Option<f64>,
    /// All that the tool tells.
    pub(crate) report: Value,
}

/// How a migration ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Moved,
    /// Given up when its time was over; the guest had not left the source.
    DidNotConverge,
    Failed(String),
}

/// Waits until the guest has filled its memory; gives how many pages it filled.
fn wait_ready(source: &mut Process, patience: Duration) -> anyhow::Result<u64> {
    let deadline = Instant::now() + patience;
    let ready = source
        .output
        .wait_for(deadline, crate::outputs::Ready::parse);
    let told = source.output.last_lines(3).join(" | ");
    ready.map(|ready| ready.fill_pages).with_context(|| {
        format!(
            "the guest does not get ready ({told}): {}",
            source.describe()
        )
    })
}

/// How long a program may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a guest that fills its memory.
const FILL_PATIENCE: Duration = Duration::from_secs(180);

impl dyn Pair + '_ {
    /// Waits until the guest works; gives the pages that it has filled.
    pub(crate) fn wait_ready(&mut self) -> anyhow::Result<u64> {
        wait_ready(self.source(), FILL_PATIENCE)
    }
}
