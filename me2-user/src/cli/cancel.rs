//! `me2 cancel`: asks for it, and waits for what comes of it.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Args;

use super::VmSelector;
use super::failure::{Failure, code};
use crate::control::client::{EventStream, Follow};
use crate::control::types::{Event, Outcome, Report, Status};

/// `me2 cancel`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  me2 cancel --vm demo

Exit status: 0 given up, the VM runs at the source; 1 it had ended before;
3 refused: none is under way, or it has handed over; 5 it failed after that.")]
pub struct CancelArgs {
    /// The VM whose migration is given up.
    #[command(flatten)]
    pub vm: VmSelector,
}

pub(super) async fn execute(args: CancelArgs) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    client.cancel().await?;
    let events = client.events(Follow::Current).await?;
    let Some((outcome, report)) = end(events).await? else {
        let error = anyhow!(
            "the process of {} ended; look at the destination",
            client.vm()
        );
        return Err(Failure::new(code::AFTER_HANDOVER, error));
    };
    let reason = report.error.as_deref().unwrap_or("no reason was given");
    match outcome {
        _ if report.status == Status::Cancelled => {
            eprintln!("cancelled: {} stays at the source", client.vm());
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Moved => Err(anyhow!("too late: {} has moved", client.vm()).into()),
        Outcome::FailedAfterHandover => {
            let error = anyhow!("failed after the handover: {reason}");
            Err(Failure::new(outcome.exit_code(), error))
        }
        Outcome::FailedAtSource | Outcome::Refused | Outcome::TimedOut | Outcome::TakenBack => {
            Err(anyhow!(
                "it had failed before, {} stays at the source: {reason}",
                client.vm()
            )
            .into())
        }
    }
}

async fn end(mut events: EventStream) -> Result<Option<(Outcome, Box<Report>)>, Failure> {
    while let Some(event) = events.next().await? {
        if let Event::End {
            outcome, report, ..
        } = event
        {
            return Ok(Some((outcome, report)));
        }
    }
    Ok(None)
}
