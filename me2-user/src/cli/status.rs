//! `me2 status`.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use me2_wire::PAGE_SIZE;

use super::failure::Failure;
use super::progress::{left, name, percent_there};
use super::{Output, VmSelector, print, watch};
use crate::control::types::{RecoveryStatus, Risk, Role, VmState, VmStatus};

/// `me2 status`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  me2 status --vm demo
  me2 status --vm demo --output json | jq .migration.pages_remaining
  me2 status --vm demo --watch

--watch follows the migration under way, or else the next one, to its end, and
then the VM until Ctrl-C. The share that is there, the bytes sent and the time
never go back; the pages left do when the guest writes again what was sent.
With --output json it is a document a line.")]
pub struct StatusArgs {
    /// The VM asked about.
    #[command(flatten)]
    pub vm: VmSelector,
    /// What the status is written as
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
    /// Show how it changes, line by line or in one line of a terminal
    #[arg(long)]
    pub watch: bool,
}

pub(super) async fn execute(
    args: StatusArgs,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    if args.watch {
        return watch::execute(&client, args.output, stdout).await;
    }
    let status = client.status().await?;
    let text = match args.output {
        Output::Human => human(&status),
        Output::Json => {
            serde_json::to_string_pretty(&status).context("cannot write the status")? + "\n"
        }
    };
    print(stdout, &text)?;
    Ok(ExitCode::SUCCESS)
}

fn human(status: &VmStatus) -> String {
    let mut text = String::new();
    let mut row = |label: &str, value: String| {
        writeln!(text, "{label:<12}{value}").expect("a string takes everything");
    };
    row("vm", format!("{}, {}", status.name, state(status)));
    if let (Some(memory), Some(vcpus)) = (status.memory_bytes, status.vcpus) {
        row("machine", format!("{} MiB, {vcpus} vCPUs", memory >> 20));
    }
    row("process", format!("{}, {}", status.pid, role(status.role)));
    if let Some(guest) = &status.guest {
        row(
            "guest",
            format!(
                "{:.0} operations/s, {} in all, {} errors",
                guest.rate, guest.operations, guest.errors
            ),
        );
    }
    if let Some(migration) = &status.migration {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        row(
            "migration",
            format!(
                "{} (connection {}), {}, {}",
                migration.id,
                migration.epoch,
                migration.mode,
                name(migration.phase, migration.pass)
            ),
        );
        row(
            "",
            format!(
                "{:.1} % there, {} of {} pages missing, {} faults",
                percent_there(migration),
                migration.pages_remaining,
                migration.pages_total,
                migration.faults
            ),
        );
        if let Some(risk) = &migration.risk {
            at_stake(risk, &mut row);
        }
        if let Some(recovery) = &migration.recovery {
            link(recovery, &mut row);
        }
        row(
            "",
            format!(
                "{:.1} MiB on the wire, {:.1} MiB/s, {:.1} s",
                mib(migration.sent_bytes),
                mib(migration.bandwidth_bytes_per_second),
                migration.elapsed_ms as f64 / 1000.0
            ),
        );
    }
    text
}

/// What is lost if the source is.
fn at_stake(risk: &Risk, row: &mut impl FnMut(&str, String)) {
    let part = risk.source_only_pages as f64 / risk.useful_pages.max(1) as f64;
    row(
        "at stake",
        format!(
            "{} pages exist only at the source: {:.1} MiB, {:.1} % of what the VM uses",
            risk.source_only_pages,
            risk.source_only_pages as f64 * PAGE_SIZE as f64 / f64::from(1 << 20),
            100.0 * part
        ),
    );
    let late = match risk.is_late {
        true => "; WARNING: it takes longer than it should",
        false => "",
    };
    row("", format!("{}{late}", left(risk)));
    if let Some(waiting) = risk.waiting_pages.filter(|waiting| *waiting > 0) {
        row("", format!("vCPUs wait for {waiting} of them"));
    }
}

fn link(recovery: &RecoveryStatus, row: &mut impl FnMut(&str, String)) {
    let next = match recovery.next_attempt_ms {
        0 => "under way".to_owned(),
        ms => format!("in {:.1} s", ms as f64 / 1000.0),
    };
    row(
        "link",
        format!(
            "broken; attempt {} to connect {next}, by itself for {} s more",
            recovery.attempt,
            recovery.gives_up_ms / 1000
        ),
    );
    row("", recovery.error.clone());
}

pub(super) fn state(status: &VmStatus) -> &'static str {
    match status.vm_state {
        VmState::Running => "running",
        VmState::Paused if is_away(status) => "away: it runs at the destination",
        VmState::Paused => "paused",
        VmState::Waiting => "not here yet: waiting for a source",
        VmState::Incoming => "on its way here",
        VmState::Migrated => "moved away",
        VmState::PostcopyPaused if status.role == Role::Receiver => {
            "here, but pages are missing: the link to the source is broken"
        }
        VmState::PostcopyPaused => "link broken after the handover: me2 recover",
        VmState::Stopped => "ended",
    }
}

/// The VM has left this process, which still has a part of it.
fn is_away(status: &VmStatus) -> bool {
    let migration = status.migration.as_ref();
    status.role == Role::Source && migration.is_some_and(|migration| migration.risk.is_some())
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Source => "source",
        Role::Receiver => "receiver",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{GuestStatus, MigrationStatus, Mode, Phase, STATUS_SCHEMA_VERSION};

    #[test]
    fn reads_well() {
        let status = VmStatus {
            schema_version: STATUS_SCHEMA_VERSION,
            name: "demo".to_owned(),
            pid: 42,
            role: Role::Source,
            vm_state: VmState::Running,
            memory_bytes: Some(1 << 30),
            vcpus: Some(2),
            guest: Some(GuestStatus {
                operations: 12_000,
                errors: 0,
                rate: 1000.4,
            }),
            migration: Some(MigrationStatus {
                phase: Phase::Precopy,
                pass: 2,
                pages_total: 65_536,
                pages_remaining: 16_384,
                sent_bytes: 100 << 20,
                bandwidth_bytes_per_second: 50 << 20,
                elapsed_ms: 2100,
                ..MigrationStatus::begun(3, 1, Mode::Hybrid)
            }),
        };
        let expected = "\
vm          demo, running
machine     1024 MiB, 2 vCPUs
process     42, source
guest       1000 operations/s, 12000 in all, 0 errors
migration   3 (connection 1), hybrid, pre-copy, pass 2
            75.0 % there, 16384 of 65536 pages missing, 0 faults
            100.0 MiB on the wire, 50.0 MiB/s, 2.1 s
";
        assert_eq!(human(&status), expected);
        let mut broken = status.clone();
        broken.vm_state = VmState::PostcopyPaused;
        if let Some(migration) = &mut broken.migration {
            migration.phase = Phase::Postcopy;
            migration.risk = Some(Risk {
                source_only_pages: 16_384,
                useful_pages: 65_536,
                waiting_pages: Some(2),
                expected_ms: None,
                is_late: true,
            });
            migration.recovery = Some(RecoveryStatus {
                attempt: 3,
                next_attempt_ms: 1600,
                gives_up_ms: 290_000,
                error: "the connection broke".to_owned(),
            });
        }
        let expected = "\
vm          demo, link broken after the handover: me2 recover
machine     1024 MiB, 2 vCPUs
process     42, source
guest       1000 operations/s, 12000 in all, 0 errors
migration   3 (connection 1), hybrid, post-copy
            75.0 % there, 16384 of 65536 pages missing, 0 faults
at stake    16384 pages exist only at the source: 64.0 MiB, 25.0 % of what the VM uses
            no end; WARNING: it takes longer than it should
            vCPUs wait for 2 of them
link        broken; attempt 3 to connect in 1.6 s, by itself for 290 s more
            the connection broke
            100.0 MiB on the wire, 50.0 MiB/s, 2.1 s
";
        assert_eq!(human(&broken), expected);
        broken.vm_state = VmState::Paused;
        assert!(human(&broken).starts_with("vm          demo, away: it runs at the destination\n"));
        broken.role = Role::Receiver;
        broken.vm_state = VmState::PostcopyPaused;
        assert!(human(&broken).starts_with("vm          demo, here, but pages are missing"));
        let idle = VmStatus {
            migration: None,
            guest: None,
            ..status
        };
        assert_eq!(human(&idle).lines().count(), 3);
    }
}
