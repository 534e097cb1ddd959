//! Following a migration to its end, for the commands that start one or resume it.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, anyhow};

use super::failure::{Failure, code};
use super::progress::Progress;
use super::{Output, print};
use crate::control::client::{Client, EventStream};
use crate::control::types::{Event, Mode, Outcome, Phase, Report};

/// Follows one migration.
pub(super) struct Follower {
    vm: String,
    events: EventStream,
    id: u64,
}

/// How following ended.
enum Followed {
    /// With the migration.
    End {
        outcome: Outcome,
        report: Box<Report>,
    },
    /// The events broke off after this phase.
    Lost { phase: Phase, error: anyhow::Error },
    /// By the user.
    Interrupted,
}

impl Follower {
    pub(super) fn new(client: &Client, events: EventStream, id: u64) -> Self {
        Self {
            vm: client.vm().to_owned(),
            events,
            id,
        }
    }

    /// Shows progress on stderr and, at the end, the report on stdout. It succeeds with `wanted`.
    pub(super) async fn finish(
        self,
        wanted: Outcome,
        mode: Mode,
        output: Output,
        stdout: &mut impl Write,
    ) -> Result<ExitCode, Failure> {
        let vm = self.vm.clone();
        match self.follow().await {
            Followed::End { outcome, report } => {
                print_report(&report, output, stdout)?;
                match outcome {
                    _ if outcome == wanted => Ok(ExitCode::SUCCESS),
                    failed => Err(Failure::new(
                        failed.exit_code(),
                        explain(failed, &report, &vm),
                    )),
                }
            }
            Followed::Lost { phase, error } => {
                let failure = Failure::new(code::AFTER_HANDOVER, lost(phase, error, &vm));
                print_report(&failed_report(&failure, mode), output, stdout)?;
                Err(failure)
            }
            Followed::Interrupted => Err(Failure::new(
                code::INTERRUPTED,
                anyhow!(
                    "interrupted; the migration goes on: me2 status --vm {vm}; to give it up: me2 cancel --vm {vm}"
                ),
            )),
        }
    }

    async fn follow(mut self) -> Followed {
        let mut progress = Progress::on_stderr();
        let mut phase = Phase::Setup;
        loop {
            let event = tokio::select! {
                event = self.events.next() => event,
                interrupt = tokio::signal::ctrl_c() => match interrupt {
                    Ok(()) => return Followed::Interrupted,
                    Err(error) => return Followed::Lost { phase, error: error.into() },
                },
            };
            match event {
                Ok(Some(event)) if event.id() != self.id => {}
                Ok(Some(Event::End {
                    outcome, report, ..
                })) => {
                    return Followed::End { outcome, report };
                }
                Ok(Some(event)) => {
                    progress.show(&event);
                    if let Event::Phase { phase: begun, .. } = event {
                        phase = begun;
                    }
                }
                Ok(None) => {
                    let error = anyhow!("the VM's process ended without a report");
                    return Followed::Lost { phase, error };
                }
                Err(error) => {
                    return Followed::Lost {
                        phase,
                        error: error.into(),
                    };
                }
            }
        }
    }
}

/// Says on stdout too, where a script reads it, that nothing began.
pub(super) fn not_begun(
    failure: Failure,
    mode: Mode,
    output: Output,
    stdout: &mut impl Write,
) -> Failure {
    if output == Output::Json {
        // That it cannot be written is the lesser trouble.
        let _ = print_report(&failed_report(&failure, mode), output, stdout);
    }
    failure
}

fn failed_report(failure: &Failure, mode: Mode) -> Report {
    Report {
        mode,
        error: Some(failure.to_string()),
        ..Report::default()
    }
}

fn print_report(report: &Report, output: Output, stdout: &mut impl Write) -> anyhow::Result<()> {
    let text = match output {
        Output::Human => report.render_human(),
        Output::Json => {
            serde_json::to_string_pretty(report).context("cannot write the report")? + "\n"
        }
    };
    print(stdout, &text)
}

fn explain(outcome: Outcome, report: &Report, vm: &str) -> anyhow::Error {
    let reason = report.error.as_deref().unwrap_or("no reason was given");
    match outcome {
        Outcome::Moved => anyhow!("{vm} was not taken back, it has moved"),
        Outcome::TakenBack => anyhow!("not moved: {reason}"),
        Outcome::FailedAtSource => anyhow!("not moved, {vm} stays at the source: {reason}"),
        Outcome::Refused => anyhow!("refused, {vm} stays at the source: {reason}"),
        Outcome::TimedOut => anyhow!("timed out, {vm} stays at the source: {reason}"),
        Outcome::FailedAfterHandover => anyhow!("failed after the handover: {reason}"),
    }
}

/// The process that had the VM is gone, or out of sight.
fn lost(phase: Phase, error: anyhow::Error, vm: &str) -> anyhow::Error {
    error.context(match phase {
        Phase::Setup | Phase::Explore | Phase::Precopy | Phase::Stop => format!(
            "lost sight of the migration before the handover: if the process of {vm} has ended, the VM has ended with it"
        ),
        Phase::Handover | Phase::Postcopy | Phase::Complete => format!(
            "lost sight of the migration after the handover: {vm} may run at the destination; look there"
        ),
    })
}
