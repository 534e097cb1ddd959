//! How far a migration is, on stderr: one line that changes on a terminal, a line a phase elsewhere.

use std::io::{IsTerminal, Write};

use crate::control::types::{Event, MigrationStatus, Phase};

const MIB: f64 = (1 << 20) as f64;

/// Back to the first column, and the line emptied (ECMA-48 EL).
const CLEAR_LINE: &str = "\r\x1b[2K";

/// Shows events; a terminal's line is cleared when dropped.
pub(super) struct Progress<W: Write> {
    to: W,
    is_terminal: bool,
}

impl Progress<std::io::Stderr> {
    pub(super) fn on_stderr() -> Self {
        let to = std::io::stderr();
        let is_terminal = to.is_terminal();
        Self { to, is_terminal }
    }
}

impl<W: Write> Progress<W> {
    pub(super) fn show(&mut self, event: &Event) {
        let text = match event {
            Event::Phase {
                phase,
                pass,
                elapsed_ms,
                ..
            } => {
                format!(
                    "{:<16} {:>9.3} s",
                    name(*phase, *pass),
                    *elapsed_ms as f64 / 1000.0
                )
            }
            Event::Progress(status) if self.is_terminal => line(status),
            _ => return,
        };
        // Progress that cannot be shown is no reason to fail.
        let _ = match self.is_terminal {
            true => write!(self.to, "{CLEAR_LINE}{text}").and_then(|()| self.to.flush()),
            false => writeln!(self.to, "{text}"),
        };
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if self.is_terminal {
            let _ = write!(self.to, "{CLEAR_LINE}").and_then(|()| self.to.flush());
        }
    }
}

/// A phase as people call it.
pub(super) fn name(phase: Phase, pass: u32) -> String {
    match phase {
        Phase::Setup => "set-up".to_owned(),
        Phase::Explore => "explore".to_owned(),
        Phase::Precopy => format!("pre-copy, pass {pass}"),
        Phase::Stop => "stop".to_owned(),
        Phase::Handover => "handover".to_owned(),
        Phase::Postcopy => "post-copy".to_owned(),
        Phase::Complete => "complete".to_owned(),
    }
}

/// How much is there, in percent.
pub(super) fn percent_there(status: &MigrationStatus) -> f64 {
    match status.pages_total {
        0 => 0.0,
        total => 100.0 * total.saturating_sub(status.pages_remaining) as f64 / total as f64,
    }
}

/// Less than 80 columns, so that it never wraps.
fn line(status: &MigrationStatus) -> String {
    format!(
        "{:<16} {:>3.0} % {:>9.1} MiB sent {:>7.1} MiB/s {:>6} faults {:>7.1} s",
        name(status.phase, status.pass),
        // Only what is complete is 100 %.
        percent_there(status).floor(),
        status.sent_bytes as f64 / MIB,
        status.bandwidth_bytes_per_second as f64 / MIB,
        status.faults,
        status.elapsed_ms as f64 / 1000.0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{Mode, Outcome, Report};

    fn status() -> MigrationStatus {
        MigrationStatus {
            id: 1,
            epoch: 1,
            phase: Phase::Precopy,
            pass: 2,
            mode: Mode::Hybrid,
            pages_total: 1000,
            pages_remaining: 1,
            sent_bytes: 182 << 20,
            bandwidth_bytes_per_second: 45 << 20,
            faults: 7,
            elapsed_ms: 4250,
        }
    }

    fn shown(is_terminal: bool) -> String {
        let mut to = Vec::new();
        let mut progress = Progress {
            to: &mut to,
            is_terminal,
        };
        progress.show(&Event::Phase {
            id: 1,
            phase: Phase::Setup,
            pass: 0,
            elapsed_ms: 0,
        });
        progress.show(&Event::Progress(status()));
        let report = Box::new(Report::default());
        progress.show(&Event::End {
            id: 1,
            outcome: Outcome::Moved,
            report,
        });
        drop(progress);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn a_terminal_gets_one_line_that_changes() {
        let text = shown(true);
        let lines: Vec<_> = text.split(CLEAR_LINE).collect();
        assert_eq!(
            lines,
            [
                "",
                "set-up               0.000 s",
                "pre-copy, pass 2  99 %     182.0 MiB sent    45.0 MiB/s      7 faults     4.2 s",
                "",
            ]
        );
    }

    #[test]
    fn a_file_gets_a_line_a_phase() {
        assert_eq!(shown(false), "set-up               0.000 s\n");
    }

    #[test]
    fn the_line_never_wraps() {
        let mut status = status();
        status.sent_bytes = 64 << 30;
        status.faults = 999_999;
        status.elapsed_ms = 99_999_000;
        assert!(line(&status).len() < 80, "{}", line(&status));
    }
}
