//! A program that runs beside this one, and ends with it.

use std::{
    ffi::OsStr,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};

use crate::outputs::Recorder;

/// How often an end is looked for that nothing announces.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Lines of a log that are shown when something went wrong.
const LOG_LINES_SHOWN: usize = 8;

/// A running program; killed when dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    /// Its standard output: the guest's serial port, or a document.
    pub(crate) output: Recorder,
    /// Its standard error.
    pub(crate) log: Recorder,
}

impl Process {
    /// Starts a program whose standard output is a guest's serial port.
    pub(crate) fn with_serial(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let mut child = spawn(name, command)?;
        let output = Recorder::serial(child.stdout.take().expect("asked for"));
        Ok(Self::new(name, child, output))
    }

    /// Starts a program whose standard output is text.
    pub(crate) fn with_text(name: &'static str, command: &mut Command) -> anyhow::Result<Self> {
        let mut child = spawn(name, command)?;
        let output = Recorder::text(child.stdout.take().expect("asked for"));
        Ok(Self::new(name, child, output))
    }

    fn new(name: &'static str, mut child: Child, output: Recorder) -> Self {
        let log = Recorder::text(child.stderr.take().expect("asked for"));
        Self {
            name,
            child,
            output,
            log,
        }
    }

    /// Waits for its end, until the deadline.
    pub(crate) fn wait(&mut self, deadline: Instant) -> anyhow::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!("{} does not end", self.describe());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }

    /// Its number; the wrappers that it was started by have become it.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Its name and the end of its log.
    pub(crate) fn describe(&self) -> String {
        match self.log.last_lines(LOG_LINES_SHOWN) {
            lines if lines.is_empty() => format!("the {}", self.name),
            lines => format!("the {} (its log: {})", self.name, lines.join(" | ")),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program by way of one that sees to its death when this one dies, however that comes about.
pub(crate) fn bound_to_us(program: impl AsRef<OsStr>, make: impl Fn(&str) -> Command) -> Command {
    let mut command = make("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command.args(crate::priority::ordinary()).arg(program);
    command
}

fn spawn(name: &str, command: &mut Command) -> anyhow::Result<Child> {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let shown = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn();
    child.with_context(|| format!("cannot start the {name} by {shown}"))
}

/// Runs a program to its end; gives what it printed.
pub(crate) fn ask(command: &mut Command) -> anyhow::Result<String> {
    let shown = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{shown} failed ({}): {}", output.status, error.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
