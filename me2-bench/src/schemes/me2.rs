//! me2: `me2 run`, `me2 receive` and `me2 hybrid-migrate`, as an operator calls them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use me2_link::End;
use serde_json::Value;

use super::{Ending, Outcome, PATIENCE, Pair, Stage};
use crate::{
    network::Network,
    outputs::Line,
    process::{Process, ask},
    units::size_argument,
};

/// Free in a namespace of one's own.
const PORT: u16 = 7300;

/// What `me2 hybrid-migrate` says of a migration that ran out of time.
const EXIT_TIMED_OUT: i32 = 4;

/// For what follows the handover, which the time limit does not bound.
const POSTCOPY_PATIENCE: Duration = Duration::from_secs(300);

/// A VM in `me2 run`, and `me2 receive`.
pub(super) struct Me2Pair {
    source: Process,
    destination: Process,
    migrate: Command,
    time_limit: Duration,
}

impl Me2Pair {
    pub(super) fn start(stage: &Stage<'_>, arguments: &[String]) -> anyhow::Result<Self> {
        let me2 = Me2 {
            program: &stage.programs.me2,
            network: stage.network,
            folder: &stage.folder,
        };
        ask(me2.command(End::A).args(["cert", "create"]))?;
        let address = format!("{}:{PORT}", stage.network.address(End::B));
        let mut receive = me2.command(End::B);
        receive.args([
            "receive",
            "--once",
            "--name",
            "destination",
            "--listen",
            &address,
        ]);
        let destination = Process::with_serial("destination", &mut receive)?;
        let listens = |line: &str| line.contains("address=").then_some(());
        let listening = destination.log.wait_for(Instant::now() + PATIENCE, listens);
        listening.with_context(|| format!("{} does not listen", destination.describe()))?;
        let source = Process::with_serial("source", &mut run(&me2, stage))?;
        let mut migrate = me2.command(End::A);
        // Whole seconds.
        let timeout = format!("{}s", stage.time_limit.as_secs().max(1));
        migrate
            .args(["hybrid-migrate", "--vm", "source", "--to", &address])
            .args(["--timeout", &timeout, "--output", "json"])
            .args(arguments);
        Ok(Self {
            source,
            destination,
            migrate,
            time_limit: stage.time_limit,
        })
    }
}

fn run(me2: &Me2<'_>, stage: &Stage<'_>) -> Command {
    let guest = stage.guest;
    let mut run = me2.command(End::A);
    run.args(["run", "--name", "source", "--kernel"])
        .arg(&stage.programs.guest)
        .args(["--memory", &size_argument(guest.memory_bytes)])
        .args(["--cpus", &guest.cpus.to_string()])
        .args(["--cmdline", &guest.cmdline])
        .args(stage.run_arguments);
    if let Some(module) = &guest.module {
        run.arg("--initrd").arg(module);
    }
    run
}

impl Pair for Me2Pair {
    fn source(&mut self) -> &mut Process {
        &mut self.source
    }

    fn destination(&mut self) -> &mut Process {
        &mut self.destination
    }

    fn migrate(&mut self) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let mut client = Process::with_text("migration", &mut self.migrate)?;
        let status = client.wait(began + self.time_limit + POSTCOPY_PATIENCE)?;
        let ended = Instant::now();
        let exit_code = status.code().unwrap_or(-1);
        let document = client.output.ended(ended + PATIENCE).join("\n");
        let report: Value = serde_json::from_str(&document).unwrap_or(Value::Null);
        let number = |name: &str| report[name].as_f64();
        let end = match exit_code {
            0 => completed(&report),
            EXIT_TIMED_OUT => Ending::DidNotConverge,
            code => Ending::Failed(format!("exit status {code}: {}", client.describe())),
        };
        // The program's own start is no part of the migration, nor is its end: some round trips pass
        // until it hears that all is complete. me2 counts from the request, as this does.
        let total_time_ms = number("total_time_ms").unwrap_or_default();
        let total = Duration::from_secs_f64(total_time_ms.max(0.0) / 1e3);
        let requested = requested(&client.log.recording().lines).unwrap_or(began);
        Ok(Outcome {
            requested,
            ended: (requested + total).min(ended),
            end,
            exit_code,
            total_time_ms,
            reported_downtime_ms: number("downtime_ms"),
            report,
        })
    }
}

/// When the first phase began, by the first line of progress.
fn requested(progress: &[Line]) -> Option<Instant> {
    let is_first = |line: &&Line| line.text.starts_with("set-up");
    progress.iter().find(is_first).map(|line| line.at)
}

/// Moved, if the report bears it out.
fn completed(report: &Value) -> Ending {
    let differing = report["verify"]["mismatched_pages"].as_u64();
    match (report["status"].as_str(), differing) {
        (Some("completed"), Some(0)) => Ending::Moved,
        (status, differing) => Ending::Failed(format!(
            "exit status 0, but status {status:?} and mismatched pages {differing:?}"
        )),
    }
}

/// How `me2` is called for one migration.
struct Me2<'a> {
    program: &'a Path,
    network: &'a Network,
    folder: &'a Path,
}

impl Me2<'_> {
    fn command(&self, end: End) -> Command {
        let program: PathBuf = self.program.to_owned();
        let mut command = self.network.command(end, &program.to_string_lossy());
        command
            .env("ME2_CONFIG_DIR", self.folder.join("config"))
            // No defaults of this host.
            .env("ME2_CONFIG", "/dev/null")
            .env("ME2_RUNTIME_DIR", self.folder.join("run"))
            .env_remove("RUST_LOG");
        command
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_migration_begins_with_its_first_phase() {
        let now = Instant::now();
        let line = |ms, text: &str| Line {
            at: now + Duration::from_millis(ms),
            text: text.into(),
        };
        let progress = [
            line(1, "WARN no probes"),
            line(2, "set-up               0.000 s"),
            line(9, "explore              0.006 s"),
        ];
        assert_eq!(requested(&progress), Some(progress[1].at));
        assert_eq!(requested(&progress[2..]), None);
    }

    #[test]
    fn only_a_move_without_a_mismatch_counts() {
        let report =
            |status, pages| json!({"status": status, "verify": {"mismatched_pages": pages}});
        assert_eq!(completed(&report("completed", 0)), Ending::Moved);
        for bad in [report("completed", 1), report("failed", 0), Value::Null] {
            assert!(matches!(completed(&bad), Ending::Failed(_)), "{bad}");
        }
    }
}
