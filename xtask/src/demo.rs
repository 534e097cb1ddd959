//! The demonstration behind `cargo xtask run`: a VM moves between two `me2` processes.
//!
//! ```text
//! cert create · receive · run · (the guest works) · hybrid-migrate · (it goes on there) · stop
//! ```
//! Everything is real but the distance: both processes are on this host, and QUIC goes over
//! loopback. Nothing of it outlives the demonstration.

mod options;
mod process;
mod stage;

use std::{io::Write, path::Path, process::ExitCode};

use crate::Result;
pub(crate) use options::{Options, Parsed, USAGE};
use process::{Process, Stream};
use stage::{Stage, VmStatus};

/// Names of the VM at both ends; one host has one runtime folder.
const SOURCE: &str = "source";
const DESTINATION: &str = "destination";

/// Moves a VM between two `me2` processes, and prints the report on stdout.
///
/// Succeeds only if the VM moved, its old process ended well, and the guest goes on without an
/// error.
pub(crate) fn run(me2: &Path, options: &Options) -> Result<ExitCode> {
    let stage = Stage::set_up(me2)?;
    let mut receiver = stage.start(DESTINATION, &receive_arguments())?;
    let mut source = stage.start(SOURCE, &run_arguments(options))?;
    match play(&stage, options, &mut receiver, &mut source) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            for process in [&mut source, &mut receiver] {
                eprintln!("--- last lines of {}", process.describe_end());
                process.last_lines().for_each(|line| eprintln!("{line}"));
            }
            Err(error)
        }
    }
}

fn play(
    stage: &Stage<'_>,
    options: &Options,
    receiver: &mut Process<'_>,
    source: &mut Process<'_>,
) -> Result {
    let address = receiver.wait_for("its address", Stream::Stderr, |line| {
        listening_address(line).map(str::to_owned)
    })?;
    tell(&format!(
        "starting a VM: {}, {} vCPUs, {}",
        options.memory, options.cpus, options.cmdline
    ));
    source.wait_for("a guest that is ready", Stream::Stdout, |line| {
        line.starts_with("me2-guest ready ").then_some(())
    })?;
    let before = status_after_report(stage, SOURCE, source, 0)?;

    tell(&format!(
        "moving it to another process, at {address}: {}",
        options.mode
    ));
    let (report, moved) = stage.migrate(SOURCE, &address, options)?;
    let checked = moved.and_then(|()| check(stage, before, receiver, source));
    // Whatever came of it, the report is what was asked for.
    let mut stdout = std::io::stdout();
    let printed = stdout
        .write_all(report.as_bytes())
        .and_then(|()| stdout.flush());
    checked?;
    printed.map_err(|error| format!("cannot write to stdout: {error}"))
}

/// The old process has ended well, and the guest goes on in the new one; ends it there.
fn check(
    stage: &Stage<'_>,
    before: VmStatus,
    receiver: &mut Process<'_>,
    source: &mut Process<'_>,
) -> Result {
    source.wait_success()?;
    receiver.forget_lines();
    let arrived = status_after_report(stage, DESTINATION, receiver, before.operations)?;
    let later = status_after_report(stage, DESTINATION, receiver, arrived.operations)?;
    tell(&format!(
        "it goes on there: {} operations before the move, {} now, no errors",
        before.operations, later.operations
    ));
    stage.stop(DESTINATION)?;
    receiver.wait_success()
}

/// Waits until the guest reports that it has done more than `operations`.
fn status_after_report(
    stage: &Stage<'_>,
    name: &str,
    process: &mut Process<'_>,
    operations: u64,
) -> Result<VmStatus> {
    loop {
        process.wait_for("a report of the guest", Stream::Stdout, |line| {
            line.starts_with("me2-guest cpu=").then_some(())
        })?;
        // None until every vCPU has reported.
        let Some(status) = stage.status(name)? else {
            continue;
        };
        if status.errors > 0 {
            return Err(format!(
                "the guest found {} errors in its memory",
                status.errors
            ));
        }
        if status.operations > operations {
            return Ok(status);
        }
    }
}

fn run_arguments(options: &Options) -> Vec<String> {
    let cpus = options.cpus.to_string();
    let words = ["run", "--name", SOURCE, "--memory", &options.memory];
    let more = ["--cpus", &cpus, "--cmdline", &options.cmdline];
    words
        .iter()
        .chain(&more)
        .map(|word| (*word).to_owned())
        .collect()
}

fn receive_arguments() -> Vec<String> {
    let words = [
        "receive",
        "--name",
        DESTINATION,
        "--listen",
        "127.0.0.1:0",
        "--once",
    ];
    words.map(str::to_owned).into()
}

/// The address in the receiver's log line that tells it: the port was its choice.
fn listening_address(line: &str) -> Option<&str> {
    const HOST: &str = "127.0.0.1:";
    let start = line.find(HOST)?;
    let port = line[start + HOST.len()..].split(|c: char| !c.is_ascii_digit());
    let port = port
        .into_iter()
        .next()
        .filter(|port| !["", "0"].contains(port))?;
    Some(&line[start..start + HOST.len() + port.len()])
}

/// Progress, on stderr: stdout has the report alone.
fn tell(what: &str) {
    eprintln!("demo: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_a_log_line() {
        let line = "2026-01-01T00:00:00Z  INFO me2: waiting address=127.0.0.1:4711 peers=1";
        assert_eq!(listening_address(line), Some("127.0.0.1:4711"));
        assert_eq!(listening_address("at 127.0.0.1:9."), Some("127.0.0.1:9"));
        assert_eq!(listening_address("binding 127.0.0.1:0"), None);
        assert_eq!(listening_address("nothing"), None);
    }
}
