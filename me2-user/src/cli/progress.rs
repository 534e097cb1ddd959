//! How far a migration is, on stderr: one line that changes on a terminal, elsewhere a line a phase
//! and a line when something is amiss.

use std::io::{IsTerminal, Write};

use crate::control::types::{Event, MigrationStatus, Phase, Risk};

const MIB: f64 = (1 << 20) as f64;

/// Back to the first column, and the line emptied (ECMA-48 EL).
pub(super) const CLEAR_LINE: &str = "\r\x1b[2K";

/// Shows events; a terminal's line is cleared when dropped.
pub(super) struct Progress<W: Write> {
    to: W,
    is_terminal: bool,
    /// What was amiss when it was told last.
    amiss: Option<&'static str>,
}

impl Progress<std::io::Stderr> {
    pub(super) fn on_stderr() -> Self {
        let to = std::io::stderr();
        let is_terminal = to.is_terminal();
        Self {
            to,
            is_terminal,
            amiss: None,
        }
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
            Event::Progress(status) => {
                let before = std::mem::replace(&mut self.amiss, amiss(status));
                match (before, self.amiss) {
                    (before, now) if before == now => return,
                    (_, Some(now)) => format!("{:<16} {now}", name(status.phase, status.pass)),
                    (Some(_), None) => format!("{:<16} goes on", name(status.phase, status.pass)),
                    (None, None) => return,
                }
            }
            Event::Paused { error, .. } => format!("{:<16} {error}", "link broken"),
            Event::PhaseEnd { .. }
            | Event::Switchover { .. }
            | Event::FaultBurst { .. }
            | Event::Recovered { .. }
            | Event::End { .. } => return,
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
        // A destination does not know which.
        Phase::Precopy if pass == 0 => "pre-copy".to_owned(),
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

/// What a person should know of at once.
fn amiss(status: &MigrationStatus) -> Option<&'static str> {
    let is_late = status.risk.as_ref().is_some_and(|risk| risk.is_late);
    match &status.recovery {
        Some(_) => Some("link broken, connecting again; me2 status tells what is at stake"),
        None if is_late => Some("takes longer than it should; me2 status tells what is at stake"),
        None => None,
    }
}

/// Less than 80 columns, so that it never wraps.
fn line(status: &MigrationStatus) -> String {
    let pages = status.risk.as_ref().map(|risk| risk.source_only_pages);
    if let Some(recovery) = &status.recovery {
        return format!(
            "link broken      {:>9} pages only at source, attempt {} {}",
            pages.unwrap_or(status.pages_remaining),
            recovery.attempt,
            match recovery.next_attempt_ms {
                0 => "now".to_owned(),
                ms => format!("in {:.1} s", ms as f64 / 1000.0),
            }
        );
    }
    if let Some(risk) = &status.risk {
        return format!(
            "{:<11}{:>3.0} % {:>9} pages only at source {:>6.1} MiB/s {:>9}{}",
            name(status.phase, status.pass),
            percent_there(status).floor(),
            risk.source_only_pages,
            status.bandwidth_bytes_per_second as f64 / MIB,
            left(risk),
            if risk.is_late { " late" } else { "" },
        );
    }
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

/// How long it will take.
pub(super) fn left(risk: &Risk) -> String {
    let seconds = risk.expected_ms.map(|ms| ms.div_ceil(1000));
    match seconds {
        Some(seconds) if seconds < 600 => format!("{seconds} s left"),
        Some(seconds) => format!("{} min left", seconds.div_ceil(60).min(9999)),
        None => "no end".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::types::{Mode, Outcome, RecoveryStatus, Report};

    fn status() -> MigrationStatus {
        MigrationStatus {
            phase: Phase::Precopy,
            pass: 2,
            pages_total: 1000,
            pages_remaining: 1,
            sent_bytes: 182 << 20,
            bandwidth_bytes_per_second: 45 << 20,
            faults: 7,
            elapsed_ms: 4250,
            ..MigrationStatus::begun(1, 1, Mode::Hybrid)
        }
    }

    fn shown(is_terminal: bool) -> String {
        let mut to = Vec::new();
        let mut progress = Progress {
            to: &mut to,
            is_terminal,
            amiss: None,
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

    fn at_risk(is_late: bool) -> MigrationStatus {
        MigrationStatus {
            phase: Phase::Postcopy,
            pass: 0,
            risk: Some(Risk {
                source_only_pages: 250,
                useful_pages: 1000,
                waiting_pages: None,
                expected_ms: Some(12_345),
                is_late,
            }),
            pages_remaining: 250,
            ..status()
        }
    }

    fn broken() -> MigrationStatus {
        let recovery = Some(RecoveryStatus {
            attempt: 3,
            next_attempt_ms: 1600,
            gives_up_ms: 290_000,
            error: "the connection broke".to_owned(),
        });
        MigrationStatus {
            recovery,
            ..at_risk(true)
        }
    }

    #[test]
    fn what_is_at_stake_is_in_the_line() {
        assert_eq!(
            line(&at_risk(true)),
            "post-copy   75 %       250 pages only at source   45.0 MiB/s 13 s left late"
        );
        assert_eq!(
            line(&broken()),
            "link broken            250 pages only at source, attempt 3 in 1.6 s"
        );
    }

    #[test]
    fn a_file_is_told_once_what_is_amiss() {
        let mut to = Vec::new();
        let mut progress = Progress {
            to: &mut to,
            is_terminal: false,
            amiss: None,
        };
        for status in [
            status(),
            at_risk(false),
            at_risk(true),
            at_risk(true),
            broken(),
            broken(),
            at_risk(false),
        ] {
            progress.show(&Event::Progress(status));
        }
        drop(progress);
        let text = String::from_utf8(to).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("longer than it should"), "{text}");
        assert!(lines[1].contains("link broken"), "{text}");
        assert!(lines[2].ends_with("goes on"), "{text}");
    }

    #[test]
    fn the_line_never_wraps() {
        let mut status = status();
        status.sent_bytes = 64 << 30;
        status.faults = 999_999;
        status.elapsed_ms = 99_999_000;
        assert!(line(&status).len() < 80, "{}", line(&status));
        for mut status in [at_risk(true), broken()] {
            if let Some(risk) = &mut status.risk {
                risk.source_only_pages = 999_999_999;
                risk.expected_ms = Some(u64::MAX);
            }
            status.bandwidth_bytes_per_second = 1200 << 20;
            assert!(line(&status).len() < 80, "{}", line(&status));
        }
    }
}
