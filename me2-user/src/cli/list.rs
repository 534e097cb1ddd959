//! `me2 list`: every VM process of the runtime folder.

use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::progress::name;
use super::status::state;
use super::{Output, RuntimeDir, print};
use crate::control::client::{Client, ClientError};
use crate::control::socket::{VmAddress, sockets};
use crate::control::types::VmStatus;

/// The version of the document's shape; it grows when a field changes its meaning or goes away.
const LIST_SCHEMA_VERSION: u32 = 1;

/// How long a process may take to answer; one that is stopped must not hide the others.
const PATIENCE: Duration = Duration::from_secs(2);

/// Processes that are asked at once.
const ASKED_AT_ONCE: usize = 32;

/// `me2 list`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  me2 list
  me2 list --output json | jq -r '.vms[] | select(.socket_state==\"stale\").name'

A socket is stale when its process has died: the next VM of that name takes its
place. VMs whose API is elsewhere (--api) are not listed.")]
pub struct ListArgs {
    /// Where the sockets are.
    #[command(flatten)]
    pub runtime: RuntimeDir,
    /// What the list is written as
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
}

/// What `--output json` writes.
#[derive(Debug, Serialize)]
struct List {
    schema_version: u32,
    vms: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    socket: PathBuf,
    socket_state: SocketState,
    /// Why there is no status.
    error: Option<String>,
    status: Option<VmStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum SocketState {
    /// A process has told its status.
    Answers,
    /// Nobody listens: its process has died.
    Stale,
    /// There is something, but it does not tell its status.
    Silent,
}

pub(super) async fn execute(args: ListArgs, stdout: &mut impl Write) -> Result<ExitCode, Failure> {
    let found = sockets(&args.runtime.resolve()?);
    let mut vms = Vec::new();
    for some in found.chunks(ASKED_AT_ONCE) {
        let asked: Vec<_> = some
            .iter()
            .cloned()
            .map(|vm| tokio::spawn(ask(vm)))
            .collect();
        for entry in asked {
            vms.push(entry.await.context("a request was given up")?);
        }
    }
    let list = List {
        schema_version: LIST_SCHEMA_VERSION,
        vms,
    };
    let text = match args.output {
        Output::Human => human(&list.vms),
        Output::Json => {
            serde_json::to_string_pretty(&list).context("cannot write the list")? + "\n"
        }
    };
    print(stdout, &text)?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(address: VmAddress) -> Entry {
    let client = Client::new(address.clone());
    let answer = tokio::time::timeout(PATIENCE, client.status()).await;
    let (socket_state, status, error) = match answer {
        Ok(Ok(status)) => (SocketState::Answers, Some(status), None),
        Ok(Err(error)) => (socket_state(&error), None, Some(error.to_string())),
        Err(_elapsed) => {
            let error = format!("no answer in {} s", PATIENCE.as_secs());
            (SocketState::Silent, None, Some(error))
        }
    };
    Entry {
        name: address.vm,
        socket: address.socket,
        socket_state,
        error,
        status,
    }
}

fn socket_state(error: &ClientError) -> SocketState {
    match error {
        ClientError::NotRunning { source, .. }
            if source.kind() == std::io::ErrorKind::ConnectionRefused =>
        {
            SocketState::Stale
        }
        _ => SocketState::Silent,
    }
}

fn human(entries: &[Entry]) -> String {
    let widths = [20, 10, 6, 8];
    let mut text = String::new();
    let mut row = |cells: [&str; 5], last: &str| {
        let [vm, memory, vcpus, pid, state] = cells;
        let line = format!(
            "{vm:<0$} {memory:>1$} {vcpus:>2$} {pid:>3$}  {state}{last}",
            widths[0], widths[1], widths[2], widths[3]
        );
        writeln!(text, "{}", line.trim_end()).expect("a string takes everything");
    };
    row(["NAME", "MEMORY", "VCPUS", "PID", "STATE"], "");
    for entry in entries {
        let none = || "-".to_owned();
        let Some(status) = &entry.status else {
            let state = match (entry.socket_state, &entry.error) {
                (SocketState::Stale, _) => "stale socket: its process has died",
                (_, Some(error)) => error,
                (_, None) => "unknown",
            };
            row([&entry.name, "-", "-", "-", state], "");
            continue;
        };
        let memory = status
            .memory_bytes
            .map(|bytes| format!("{} MiB", bytes >> 20));
        let vcpus = status.vcpus.map(|vcpus| vcpus.to_string());
        let migration = under_way(status).map(|phase| format!("; {phase}"));
        let cells = [
            entry.name.as_str(),
            &memory.unwrap_or_else(none),
            &vcpus.unwrap_or_else(none),
            &status.pid.to_string(),
            state(status),
        ];
        row(cells, &migration.unwrap_or_default());
    }
    text
}

/// The phase of the migration under way.
fn under_way(status: &VmStatus) -> Option<String> {
    let migration = status
        .migration
        .as_ref()
        .filter(|migration| migration.is_under_way)?;
    Some(name(migration.phase, migration.pass))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{
        MigrationStatus, Mode, Phase, Role, STATUS_SCHEMA_VERSION, VmState,
    };

    #[test]
    fn reads_well() {
        let entry = |name: &str, socket_state, status| Entry {
            name: name.to_owned(),
            socket: PathBuf::from(format!("/run/me2/{name}.sock")),
            socket_state,
            error: None,
            status,
        };
        let demo = VmStatus {
            schema_version: STATUS_SCHEMA_VERSION,
            name: "demo".to_owned(),
            pid: 4711,
            role: Role::Source,
            vm_state: VmState::Running,
            memory_bytes: Some(1 << 30),
            vcpus: Some(2),
            guest: None,
            migration: Some(MigrationStatus {
                phase: Phase::Precopy,
                pass: 2,
                is_under_way: true,
                ..MigrationStatus::begun(1, 1, Mode::Hybrid)
            }),
        };
        let receiver = VmStatus {
            vm_state: VmState::Waiting,
            memory_bytes: None,
            vcpus: None,
            migration: None,
            ..demo.clone()
        };
        let entries = [
            entry("demo", SocketState::Answers, Some(demo)),
            entry("old", SocketState::Stale, None),
            entry("receiver", SocketState::Answers, Some(receiver)),
        ];
        let expected = "\
NAME                     MEMORY  VCPUS      PID  STATE
demo                   1024 MiB      2     4711  running; pre-copy, pass 2
old                           -      -        -  stale socket: its process has died
receiver                      -      -     4711  not here yet: waiting for a source
";
        assert_eq!(human(&entries), expected);
    }
}
