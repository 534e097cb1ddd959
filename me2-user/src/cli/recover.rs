//! `me2 recover`: has the VM's process connect again, and follows.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::follow::{self, Follower};
use super::{Output, VmSelector};
use crate::control::client::Follow;
use crate::control::types::Mode;

/// `me2 recover`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: at the source, once the link is up again
  me2 recover --vm demo

Until then the VM runs at the destination as far as it has its memory, and the
source keeps the rest. Exit status as of me2 hybrid-migrate.")]
pub struct RecoverArgs {
    /// The VM, at the source.
    #[command(flatten)]
    pub vm: VmSelector,
    /// What the report is written as, on stdout
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
}

pub(super) async fn execute(
    args: RecoverArgs,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let started = start(&args).await;
    let (follower, mode) = started
        .map_err(|failure| follow::not_begun(failure, Mode::default(), args.output, stdout))?;
    follower.finish(mode, args.output, stdout).await
}

async fn start(args: &RecoverArgs) -> Result<(Follower, Mode), Failure> {
    let client = args.vm.client()?;
    let mode = client
        .status()
        .await?
        .migration
        .map_or_else(Mode::default, |migration| migration.mode);
    let events = client.events(Follow::Next).await?;
    let accepted = client.recover().await?;
    Ok((Follower::new(&client, events, accepted.id), mode))
}
