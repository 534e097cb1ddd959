//! `me2 recover`: has the VM's process connect again, and follows; or has it take the VM back.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, anyhow};
use clap::Args;

use super::failure::{Failure, code};
use super::follow::{self, Follower};
use super::{Output, VmSelector};
use crate::control::client::Follow;
use crate::control::types::{Mode, Outcome, RecoverRequest};

/// `me2 recover`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples: at the source, once the link is up again
  me2 recover --vm demo
where the destination's process has died, or its host, for good
  me2 recover --vm demo --resume-here --destination-is-fenced
at the destination, where the source has died for good
  me2 recover --vm demo --source-is-fenced

Until then the VM runs at the destination as far as it has its memory, and the
source keeps the rest. The source also connects again by itself, for a time (see
me2 hybrid-migrate --recover-limit); this does it at once.

--resume-here goes back to the instant at which the VM was stopped: what it did
since, at the destination, is lost. If the destination still runs it, there are
two of it from then on. So it is refused while the destination answers, and
without your word that it cannot run it any more: its process is dead, or its
host has no power.

--source-is-fenced makes the destination's VM one of its own, which can be moved
on, if all its pages are there: only the source's last word is missing. It is
refused while the source answers, and while pages are missing: those are lost.

Exit status as of me2 hybrid-migrate; with --resume-here 0 means that the VM
runs at the source again, with --source-is-fenced that it is here for good, and
3 that it was refused: nothing has changed.")]
pub struct RecoverArgs {
    /// The VM, at the source (with --source-is-fenced: at the destination).
    #[command(flatten)]
    pub vm: VmSelector,
    /// Take the VM back as it was when it stopped, instead of connecting again
    #[arg(long)]
    pub resume_here: bool,
    /// Your word that the destination is dead and can never run the VM again
    #[arg(long)]
    pub destination_is_fenced: bool,
    /// Your word that the source is dead and can never run the VM again
    #[arg(long, conflicts_with_all = ["resume_here", "destination_is_fenced"])]
    pub source_is_fenced: bool,
    /// What the report is written as, on stdout
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
}

pub(super) async fn execute(
    args: RecoverArgs,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    if args.source_is_fenced {
        return own(&args, stdout).await;
    }
    let wanted = match args.resume_here {
        true => Outcome::TakenBack,
        false => Outcome::Moved,
    };
    let started = start(&args).await;
    let (follower, mode) = started
        .map_err(|failure| follow::not_begun(failure, Mode::default(), args.output, stdout))?;
    follower.finish(wanted, mode, args.output, stdout).await
}

/// At the destination: there is nothing to follow. JSON: the VM's status afterwards.
async fn own(args: &RecoverArgs, stdout: &mut impl Write) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    client.recover(&args.request()).await?;
    eprintln!("{} is here for good, with all its pages", client.vm());
    if args.output == Output::Json {
        let status = serde_json::to_string_pretty(&client.status().await?);
        writeln!(stdout, "{}", status.context("cannot write the status")?)
            .context("cannot write the status")?;
    }
    Ok(ExitCode::SUCCESS)
}

impl RecoverArgs {
    fn request(&self) -> RecoverRequest {
        RecoverRequest {
            resume_here: self.resume_here,
            destination_is_fenced: self.destination_is_fenced,
            source_is_fenced: self.source_is_fenced,
        }
    }
}

async fn start(args: &RecoverArgs) -> Result<(Follower, Mode), Failure> {
    let request = args.request();
    request
        .check()
        .map_err(|reason| Failure::new(code::USAGE, anyhow!(reason)))?;
    let client = args.vm.client()?;
    let migration = client.status().await?.migration;
    let mode = migration
        .as_ref()
        .map_or_else(Mode::default, |migration| migration.mode);
    // What goes on by itself has its followers already; a recovery by hand begins anew.
    let goes_on = migration.is_some_and(|migration| migration.recovery.is_some());
    let follow = match goes_on {
        true => Follow::Current,
        false => Follow::Next,
    };
    let events = client.events(follow).await?;
    let accepted = client.recover(&request).await?;
    Ok((Follower::new(&client, events, accepted.id), mode))
}
