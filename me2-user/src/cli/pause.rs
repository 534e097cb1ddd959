//! `me2 pause`: the vCPUs stand still.

use std::process::ExitCode;

use clap::Args;

use super::VmSelector;
use super::failure::Failure;

/// `me2 pause`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The VM keeps its memory and devices; nothing of it runs until me2 resume. A VM
that is paused is not moved.

Example:
  me2 pause --vm demo

Exit status: 0 taken; 3 refused: a migration is under way.")]
pub struct PauseArgs {
    /// The VM.
    #[command(flatten)]
    pub vm: VmSelector,
}

pub(super) async fn execute(args: PauseArgs) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    client.pause().await?;
    eprintln!("{} is paused", client.vm());
    Ok(ExitCode::SUCCESS)
}
