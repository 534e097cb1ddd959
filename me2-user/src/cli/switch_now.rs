//! `me2 switch-now`: no more pre-copy.

use std::process::ExitCode;

use clap::Args;

use super::VmSelector;
use super::failure::Failure;

/// `me2 switch-now`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Pre-copy ends with the chunks at hand. In the hybrid mode the VM resumes at the
destination and pulls what is missing; with --mode precopy it stands still until
everything has been sent.

Example:
  me2 switch-now --vm demo

Exit status: 0 taken; 3 refused: no migration is under way, or it has handed
over.")]
pub struct SwitchNowArgs {
    /// The VM that shall be handed over.
    #[command(flatten)]
    pub vm: VmSelector,
}

pub(super) async fn execute(args: SwitchNowArgs) -> Result<ExitCode, Failure> {
    let client = args.vm.client()?;
    client.switch_now().await?;
    eprintln!("{} is handed over as soon as it can be", client.vm());
    Ok(ExitCode::SUCCESS)
}
