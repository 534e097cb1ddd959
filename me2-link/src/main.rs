//! `me2-link`: sets up an emulated link and holds it.

#![forbid(unsafe_code)]

mod cli;
mod report;

use std::ffi::OsString;
use std::process::{Child, ExitCode};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use me2_link::{End, Link};
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{Arguments, Output};

/// How long a command may take to end when it is told to.
const GRACE: Duration = Duration::from_secs(5);

/// Exit code after a signal.
const INTERRUPTED: u8 = 130;
/// Exit code when the time is over before the command has ended, as of `timeout`.
const TIMED_OUT: u8 = 124;

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let spec = arguments.link_spec()?;
    // Before the link, so that no signal leaves it behind.
    let signals = watch_signals()?;
    let link = Link::start(spec.clone())?;
    if let Some(name) = &arguments.congestion {
        link.set_congestion_control(name)?;
    }
    match arguments.output {
        Output::Human => report::up_human(&link, &spec, arguments.hold),
        Output::Json => report::up_json(&link, &spec)?,
    }
    let code = match arguments.command.split_first() {
        Some((program, rest)) => {
            let child = start(&link, program, rest)?;
            hold_with(child, &signals, arguments.hold)?
        }
        None => hold(&signals, arguments.hold),
    };
    if let Some(path) = &arguments.stats {
        report::write_history(&link, path)?;
    }
    match arguments.output {
        Output::Human => report::down_human(&link)?,
        Output::Json => report::down_json(&link)?,
    }
    Ok(ExitCode::from(code))
}

fn watch_signals() -> anyhow::Result<Receiver<i32>> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP, SIGCHLD]).context("cannot watch for signals")?;
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if send.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(receive)
}

fn start(link: &Link, program: &OsString, arguments: &[OsString]) -> anyhow::Result<Child> {
    link.command(End::A, program)
        .args(arguments)
        .env("ME2_LINK_NAMESPACE_A", link.namespace(End::A))
        .env("ME2_LINK_NAMESPACE_B", link.namespace(End::B))
        .env("ME2_LINK_ADDRESS_A", link.address(End::A).to_string())
        .env("ME2_LINK_ADDRESS_B", link.address(End::B).to_string())
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))
}

/// Until a signal comes or the time is over.
fn hold(signals: &Receiver<i32>, time: Duration) -> u8 {
    let end = Instant::now() + time;
    // Other children, such as those of `ip`, end too.
    while let Ok(signal) = signals.recv_timeout(end.saturating_duration_since(Instant::now())) {
        if signal == SIGINT {
            return INTERRUPTED;
        }
        if signal != SIGCHLD {
            return 0;
        }
    }
    0
}

/// Until the command has ended, a signal comes or the time is over. Returns the exit code.
fn hold_with(mut child: Child, signals: &Receiver<i32>, time: Duration) -> anyhow::Result<u8> {
    let mut end = Instant::now() + time;
    // The exit code, once the command was told to end.
    let mut told = None;
    loop {
        if let Some(status) = child.try_wait()? {
            let own = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(told.or(own).unwrap_or(1));
        }
        let signal = signals.recv_timeout(end.saturating_duration_since(Instant::now()));
        if signal == Ok(SIGCHLD) {
            continue;
        }
        if told.is_some() {
            child.kill()?;
        } else {
            let pid = Pid::from_child(&child);
            kill_process(pid, Signal::TERM).context("cannot end the command")?;
            told = Some(if signal.is_ok() {
                INTERRUPTED
            } else {
                TIMED_OUT
            });
        }
        end = Instant::now() + GRACE;
    }
}
