//! `me2 status`.

use std::fmt::Write as _;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::failure::Failure;
use super::progress::{name, percent_there};
use super::{Output, VmSelector, print};
use crate::control::types::{Role, VmState, VmStatus};

/// `me2 status`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  me2 status --vm demo
  me2 status --vm demo --output json | jq .migration.pages_remaining")]
pub struct StatusArgs {
    /// The VM asked about.
    #[command(flatten)]
    pub vm: VmSelector,
    /// What the status is written as
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
}

pub(super) async fn execute(
    args: StatusArgs,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let status = args.vm.client()?.status().await?;
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
    row("vm", format!("{}, {}", status.name, state(status.vm_state)));
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

fn state(state: VmState) -> &'static str {
    match state {
        VmState::Running => "running",
        VmState::Paused => "paused",
        VmState::Waiting => "not here yet: waiting for a source",
        VmState::Incoming => "on its way here",
        VmState::Migrated => "moved away",
        VmState::PostcopyPaused => "link broken after the handover: me2 recover",
        VmState::Stopped => "ended",
    }
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
            guest: Some(GuestStatus {
                operations: 12_000,
                errors: 0,
                rate: 1000.4,
            }),
            migration: Some(MigrationStatus {
                id: 3,
                epoch: 1,
                phase: Phase::Precopy,
                pass: 2,
                mode: Mode::Hybrid,
                pages_total: 65_536,
                pages_remaining: 16_384,
                sent_bytes: 100 << 20,
                bandwidth_bytes_per_second: 50 << 20,
                faults: 0,
                elapsed_ms: 2100,
            }),
        };
        let expected = "\
vm          demo, running
process     42, source
guest       1000 operations/s, 12000 in all, 0 errors
migration   3 (connection 1), hybrid, pre-copy, pass 2
            75.0 % there, 16384 of 65536 pages missing, 0 faults
            100.0 MiB on the wire, 50.0 MiB/s, 2.1 s
";
        assert_eq!(human(&status), expected);
        let idle = VmStatus {
            migration: None,
            guest: None,
            ..status
        };
        assert_eq!(human(&idle).lines().count(), 2);
    }
}
