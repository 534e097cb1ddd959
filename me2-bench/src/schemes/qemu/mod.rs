//! QEMU, set up as a good operator would: no bandwidth limit, a downtime limit of 300 ms, what each
//! mode needs to do its best.

mod mode;
mod qmp;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Context;
use me2_link::End;
use serde_json::{Value, json};

use super::{Ending, Outcome, PATIENCE, Pair, Programs, Stage};
use crate::{
    guest::Guest,
    process::{Process, ask, bound_to_us},
    units::size_argument,
};
pub(crate) use mode::Mode;
use qmp::{Event, Qmp};

/// Free in a namespace of one's own.
const PORT: u16 = 4444;

/// For what follows the switch to post-copy, which cannot be cancelled.
const POSTCOPY_PATIENCE: Duration = Duration::from_secs(300);

/// A small machine with no more devices than one of me2's: little state, a quick start.
const MACHINE: &str = "microvm";

/// Two QEMUs, one with a guest, one that waits.
pub(super) struct QemuPair {
    source: Process,
    destination: Process,
    source_qmp: Qmp,
    destination_qmp: Qmp,
    mode: Mode,
    uri: String,
    time_limit: Duration,
}

/// What `qemu --version` says in its first line.
pub(crate) fn version(programs: &Programs) -> anyhow::Result<String> {
    let text = ask(bound_to_us(&programs.qemu, |wrapper| Command::new(wrapper)).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl QemuPair {
    pub(super) fn start(stage: &Stage<'_>, mode: Mode) -> anyhow::Result<Self> {
        let uri = format!("tcp:{}:{PORT}", stage.network.address(End::B));
        let (destination, mut destination_qmp) = start(stage, End::B, &["-incoming", "defer"])?;
        let (source, mut source_qmp) = start(stage, End::A, &[])?;
        for qmp in [&mut destination_qmp, &mut source_qmp] {
            mode.set_up(qmp, stage.guest)?;
        }
        destination_qmp.execute("migrate-incoming", json!({ "uri": uri }))?;
        Ok(Self {
            source,
            destination,
            source_qmp,
            destination_qmp,
            mode,
            uri,
            time_limit: stage.time_limit,
        })
    }

    /// Follows the migration; gives how it ended, and when.
    fn follow(&mut self, requested: Instant) -> anyhow::Result<(Ending, Instant)> {
        let mut deadline = requested + self.time_limit;
        let mut is_switching = false;
        loop {
            let Some(Event { at, change }) = self.source_qmp.next_change(deadline)? else {
                if is_switching {
                    return Ok((
                        Ending::Failed("post-copy does not end".into()),
                        Instant::now(),
                    ));
                }
                return self.give_up();
            };
            if !is_switching && self.mode.switches_at(&change) {
                self.source_qmp
                    .execute("migrate-start-postcopy", json!({}))?;
                is_switching = true;
                deadline = Instant::now() + POSTCOPY_PATIENCE;
            }
            match change.status() {
                Some("completed") => return Ok((Ending::Moved, at)),
                Some("failed") => return Ok((Ending::Failed(self.reason()?), at)),
                Some(status @ ("cancelled" | "postcopy-paused")) => {
                    return Ok((Ending::Failed(format!("unexpectedly {status}")), at));
                }
                _ => {}
            }
        }
    }

    /// The source says that it is complete when everything is in its socket's buffer. It is complete
    /// when the destination says so too.
    fn arrived(&mut self, end: Ending, sent: Instant) -> anyhow::Result<(Ending, Instant)> {
        if end != Ending::Moved {
            return Ok((end, sent));
        }
        let deadline = Instant::now() + PATIENCE;
        while let Some(Event { at, change }) = self.destination_qmp.next_change(deadline)? {
            match change.status() {
                Some("completed") => return Ok((end, at.max(sent))),
                Some("failed") => return Ok((Ending::Failed(self.destination.describe()), at)),
                _ => {}
            }
        }
        let silent = "the destination does not complete".to_owned();
        Ok((Ending::Failed(silent), Instant::now()))
    }

    fn give_up(&mut self) -> anyhow::Result<(Ending, Instant)> {
        self.source_qmp.execute("migrate_cancel", json!({}))?;
        let deadline = Instant::now() + PATIENCE;
        while let Some(Event { at, change }) = self.source_qmp.next_change(deadline)? {
            match change.status() {
                // It was quicker.
                Some("completed") => return Ok((Ending::Moved, at)),
                Some("cancelled" | "failed") => return Ok((Ending::DidNotConverge, at)),
                _ => {}
            }
        }
        let stuck = "it cannot be cancelled".to_owned();
        Ok((Ending::Failed(stuck), Instant::now()))
    }

    fn reason(&mut self) -> anyhow::Result<String> {
        let told = self.source_qmp.execute("query-migrate", json!({}))?;
        let reason = told["error-desc"].as_str().unwrap_or("no reason given");
        let ends = [self.source.describe(), self.destination.describe()];
        Ok(format!("{reason}; {}", ends.join("; ")))
    }
}

impl Pair for QemuPair {
    fn source(&mut self) -> &mut Process {
        &mut self.source
    }

    fn destination(&mut self) -> &mut Process {
        &mut self.destination
    }

    fn migrate(&mut self) -> anyhow::Result<Outcome> {
        let requested = Instant::now();
        let uri = json!({ "uri": self.uri });
        self.source_qmp.execute("migrate", uri)?;
        let (end, sent) = self.follow(requested)?;
        let (end, ended) = self.arrived(end, sent)?;
        let since_request = |at: Instant| (at - requested).as_secs_f64() * 1e3;
        let told = self.source_qmp.execute("query-migrate", json!({}));
        let parameters = self
            .source_qmp
            .execute("query-migrate-parameters", json!({}));
        let (told, parameters) = (told.unwrap_or_default(), parameters.unwrap_or_default());
        let reported_downtime_ms = told["downtime"].as_f64();
        Ok(Outcome {
            requested,
            ended,
            exit_code: i32::from(end != Ending::Moved),
            end,
            total_time_ms: since_request(ended),
            reported_downtime_ms,
            report: json!({
                "status": told["status"],
                "source_completed_ms": since_request(sent),
                "total_time_ms": told["total-time"],
                "setup_time_ms": told["setup-time"],
                "downtime_ms": reported_downtime_ms,
                "wire_bytes": told["ram"]["transferred"],
                "query_migrate": told,
                "parameters": parameters,
            }),
        })
    }
}

fn start(stage: &Stage<'_>, end: End, more: &[&str]) -> anyhow::Result<(Process, Qmp)> {
    let (name, socket) = match end {
        End::A => ("source", stage.folder.join("source.qmp")),
        End::B => ("destination", stage.folder.join("destination.qmp")),
    };
    let qemu = stage.programs.qemu.to_string_lossy();
    let mut command = stage.network.command(end, &qemu);
    command
        .args(arguments(stage.guest))
        .arg("-kernel")
        .arg(&stage.programs.guest)
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", socket.display()))
        .args(more);
    if let Some(module) = &stage.guest.module {
        command.arg("-initrd").arg(module);
    }
    let mut process = Process::with_serial(name, &mut command)?;
    let qmp = Qmp::connect(&socket, Instant::now() + PATIENCE, || process.is_running());
    let qmp = qmp.with_context(|| format!("{} does not answer", process.describe()))?;
    Ok((process, qmp))
}

/// The machine; the same at both ends.
pub(crate) fn arguments(guest: &Guest) -> Vec<String> {
    let words = [
        "-machine",
        MACHINE,
        "-accel",
        "kvm",
        "-cpu",
        "host,-arch-capabilities",
        "-display",
        "none",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-serial",
        "stdio",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=4",
    ];
    let mut words: Vec<String> = words.map(str::to_owned).into();
    words.extend(["-m".into(), size_argument(guest.memory_bytes)]);
    words.extend(["-smp".into(), guest.cpus.to_string()]);
    words.extend(["-append".into(), guest.cmdline.clone()]);
    words
}

/// What the manifest says of how QEMU was called.
pub(crate) fn describe(mode: Mode, guest: &Guest) -> Value {
    json!({
        "arguments": arguments(guest).join(" "),
        "capabilities": mode.capabilities(),
        "parameters": mode.parameters(guest),
    })
}
