//! `me2 resume`: the vCPUs go on.

use std::process::ExitCode;

use clap::Args;

use super::VmSelector;
use super::failure::Failure;

/// `me2 resume`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  me2 resume --vm demo

Exit status: 0 taken; 3 refused: a migration is under way.")]
pub struct ResumeArgs {
    /// The VM.
    #[command(flatten)]
    pub vm: VmSelector,
}

pub(super) async fn execute(args: ResumeArgs) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    client.resume().await?;
    eprintln!("{} runs", client.vm());
    Ok(ExitCode::SUCCESS)
}
