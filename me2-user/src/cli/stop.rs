//! `me2 stop`: the VM ends.

use std::process::ExitCode;

use clap::Args;

use super::VmSelector;
use super::failure::Failure;

/// `me2 stop`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The VM ends as if its power were cut, and its process with it: have the guest
shut down by itself where that matters. A receiver ends as long as it has no VM.
While a migration is under way it is refused: me2 cancel comes first.

Example:
  me2 stop --vm demo

Exit status: 0 taken; 3 refused: a migration is under way.")]
pub struct StopArgs {
    /// The VM.
    #[command(flatten)]
    pub vm: VmSelector,
}

pub(super) async fn execute(args: StopArgs) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    client.stop().await?;
    eprintln!("{} has been stopped", client.vm());
    Ok(ExitCode::SUCCESS)
}
