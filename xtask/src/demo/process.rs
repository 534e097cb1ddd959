//! A process of the demonstration, whose output is read line by line.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use super::stage::Guard;
use crate::Result;

/// How long anything may take; far longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(120);

/// Lines kept to be shown when something goes wrong.
const LINES_KEPT_MAX: usize = 30;

/// How soon an ended process is noticed whose output others hold open.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Where a line came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// A running `me2`; killed when dropped.
pub(super) struct Process<'guard> {
    name: String,
    child: Child,
    guard: &'guard Guard,
    lines: Receiver<(Stream, String)>,
    kept: VecDeque<String>,
}

impl<'guard> Process<'guard> {
    /// Starts `command`, whose `stderr` is read if it is piped; `name` is for people.
    pub(super) fn start(
        name: &str,
        command: &mut Command,
        stderr: Stdio,
        guard: &'guard Guard,
    ) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = command
            .spawn()
            .map_err(|error| format!("cannot start me2: {error}"))?;
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("asked for above");
        let stderr = child.stderr.take();
        let started = Self {
            name: name.to_owned(),
            child,
            guard,
            lines,
            kept: VecDeque::new(),
        };
        if let Some(stderr) = stderr {
            read_lines(stderr, Stream::Stderr, sender.clone());
        }
        read_lines(stdout, Stream::Stdout, sender);
        guard.watch(started.child.id())?;
        Ok(started)
    }

    pub(super) fn describe(&self) -> String {
        format!("the {} (pid {})", self.name, self.child.id())
    }

    /// The same, and how it ended if it has.
    pub(super) fn describe_end(&mut self) -> String {
        match self.child.try_wait() {
            Ok(Some(status)) => format!("{}, which ended: {status}", self.describe()),
            _ => self.describe(),
        }
    }

    /// Reads lines until `wanted` finds something in one of this stream.
    pub(super) fn wait_for<T>(
        &mut self,
        what: &str,
        stream: Stream,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        while let Some((from, line)) = self.next_line(what, deadline)? {
            let found = (from == stream).then(|| wanted(&line)).flatten();
            self.keep(line);
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Err(format!("{} ended without {what}", self.describe()))
    }

    /// Passes over the lines that have come so far.
    pub(super) fn forget_lines(&mut self) {
        while let Ok((_, line)) = self.lines.try_recv() {
            self.keep(line);
        }
    }

    /// Waits for the end, which must be with status 0.
    pub(super) fn wait_success(&mut self) -> Result {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
                Ok(None) => return Err(format!("{} does not end", self.describe())),
                Err(error) => {
                    return Err(format!("cannot wait for {}: {error}", self.describe()));
                }
            }
        };
        match status.success() {
            true => Ok(()),
            false => Err(format!("{} failed ({status})", self.describe())),
        }
    }

    /// Waits for the end; gives what it printed on stdout, and whether it succeeded.
    pub(super) fn wait_output(&mut self) -> Result<(String, Result)> {
        let deadline = Instant::now() + PATIENCE;
        let mut output = String::new();
        while let Some((stream, line)) = self.next_line("end", deadline)? {
            if stream == Stream::Stdout {
                output += &line;
                output.push('\n');
            }
        }
        Ok((output, self.wait_success()))
    }

    /// The last lines of its output, for who must find out what went wrong.
    pub(super) fn last_lines(&mut self) -> impl Iterator<Item = &String> {
        self.forget_lines();
        self.kept.iter()
    }

    /// `None` at the end of all output.
    fn next_line(&self, what: &str, deadline: Instant) -> Result<Option<(Stream, String)>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = PATIENCE.as_secs();
                Err(format!("no {what} of {} in {seconds} s", self.describe()))
            }
        }
    }

    fn keep(&mut self, line: String) {
        if self.kept.len() == LINES_KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(line);
    }
}

impl Drop for Process<'_> {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        // Before the id is free to be another's.
        self.guard.forget(self.child.id());
        let _ = self.child.wait();
    }
}

fn read_lines(from: impl Read + Send + 'static, stream: Stream, to: Sender<(Stream, String)>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // Until the end, or nobody listens any more.
        while from
            .read_until(b'\n', &mut line)
            .is_ok_and(|length| length > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if to.send((stream, text)).is_err() {
                return;
            }
        }
    });
}
