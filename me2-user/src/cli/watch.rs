//! `me2 status --watch`: how the status changes, until the VM's process ends.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::failure::{Failure, code};
use super::progress::{CLEAR_LINE, name, percent_there};
use super::status::state;
use super::{Output, print};
use crate::control::client::{Client, ClientError};
use crate::control::types::{MigrationStatus, VmStatus};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_millis(500);

const HEADER: &str =
    "PHASE               THERE   PAGES LEFT    MIB/S  FAULTS/S   DOWNTIME        END\n";

pub(super) async fn execute(
    client: &Client,
    output: Output,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let mut view = View {
        is_terminal: output == Output::Human && std::io::stdout().is_terminal(),
        ..View::default()
    };
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // A process that is not there from the start is an error.
    let mut status = client.status().await?;
    loop {
        let text = match output {
            Output::Human => view.show(&status),
            Output::Json => {
                serde_json::to_string(&status).context("cannot write the status")? + "\n"
            }
        };
        print(stdout, &text)?;
        tokio::select! {
            _ = tick.tick() => {}
            interrupt = tokio::signal::ctrl_c() => {
                interrupt.context("cannot wait for Ctrl-C")?;
                print(stdout, view.last())?;
                return Err(Failure::new(code::INTERRUPTED, anyhow::anyhow!("interrupted; the VM goes on")));
            }
        }
        status = match client.status().await {
            Ok(status) => status,
            Err(ClientError::NotRunning { .. } | ClientError::Broken { .. }) => {
                print(stdout, view.last())?;
                eprintln!("the process of {} has ended", client.vm());
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error.into()),
        };
    }
}

/// What a person has been shown.
#[derive(Debug, Default)]
struct View {
    is_terminal: bool,
    has_header: bool,
    /// The line that stands there, on a terminal one that is not ended.
    line: String,
    forward: Forward,
}

impl View {
    /// What to write next; nothing if nothing has changed.
    fn show(&mut self, status: &VmStatus) -> String {
        let moving = status
            .migration
            .as_ref()
            .filter(|migration| migration.is_under_way);
        let line = match moving {
            Some(migration) => self.forward.line(migration),
            None => state(status).to_owned(),
        };
        if line == self.line {
            return String::new();
        }
        let mut text = String::new();
        if moving.is_some() && !std::mem::replace(&mut self.has_header, true) {
            text += self.last();
            text += HEADER;
        }
        text += &match self.is_terminal {
            true => format!("{CLEAR_LINE}{line}"),
            false => format!("{line}\n"),
        };
        self.line = line;
        text
    }

    /// Ends the line of a terminal.
    fn last(&self) -> &'static str {
        match self.is_terminal && !self.line.is_empty() {
            true => "\n",
            false => "",
        }
    }
}

/// The share of a migration that is there, as far as it has ever been: a pass that sends again what was
/// written since is no step back.
#[derive(Debug, Default)]
struct Forward {
    id: u64,
    elapsed_ms: u64,
    percent: f64,
}

impl Forward {
    fn line(&mut self, status: &MigrationStatus) -> String {
        let milliseconds = |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| format!("{ms} ms"));
        let seconds = |ms: Option<u64>| match ms.map(|ms| ms.div_ceil(1000)) {
            None => "-".to_owned(),
            Some(seconds) if seconds < 600 => format!("{seconds} s"),
            Some(seconds) => format!("{} min", seconds.div_ceil(60)),
        };
        format!(
            "{:<18}{:>5.1} % {:>12} {:>8.1} {:>9.0} {:>10} {:>10}",
            name(status.phase, status.pass),
            self.percent(status),
            status.pages_remaining,
            status.bandwidth_bytes_per_second as f64 / f64::from(1 << 20),
            status.faults_per_second,
            milliseconds(status.expected_downtime_ms),
            seconds(status.expected_remaining_ms),
        )
    }

    fn percent(&mut self, status: &MigrationStatus) -> f64 {
        // A receiver's migrations have all the same number.
        if status.id != self.id || status.elapsed_ms < self.elapsed_ms {
            *self = Self {
                id: status.id,
                ..Self::default()
            };
        }
        self.elapsed_ms = status.elapsed_ms;
        self.percent = self.percent.max(percent_there(status));
        self.percent
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{Mode, Phase};

    fn status(pass: u32, pages_remaining: u64, elapsed_ms: u64) -> MigrationStatus {
        MigrationStatus {
            phase: Phase::Precopy,
            pass,
            pages_total: 1000,
            pages_remaining,
            bandwidth_bytes_per_second: 50 << 20,
            faults_per_second: 12.4,
            expected_downtime_ms: Some(120),
            expected_remaining_ms: Some(11_001),
            elapsed_ms,
            is_under_way: true,
            ..MigrationStatus::begun(1, 1, Mode::Hybrid)
        }
    }

    #[test]
    fn a_line_is_below_its_header_and_fits() {
        let line = Forward::default().line(&status(2, 250, 10));
        assert_eq!(
            line,
            "pre-copy, pass 2   75.0 %          250     50.0        12     120 ms       12 s"
        );
        assert_eq!(line.len(), HEADER.trim_end().len());
        assert!(line.len() < 80);
    }

    #[test]
    fn the_share_never_goes_back_in_a_migration() {
        let mut forward = Forward::default();
        let shares = [
            status(1, 500, 100),
            status(1, 10, 200),
            status(2, 400, 300),
            status(2, 5, 400),
        ]
        .map(|status| forward.percent(&status));
        assert_eq!(shares, [50.0, 99.0, 99.0, 99.5]);
        assert_eq!(forward.percent(&status(1, 900, 5)), 10.0, "another one");
    }
}
