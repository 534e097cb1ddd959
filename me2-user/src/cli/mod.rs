//! The command line: one file a command. Results go to stdout, progress and logs to stderr.

mod cancel;
mod cert;
mod failure;
mod follow;
mod hybrid_migrate;
mod places;
mod progress;
mod receive;
mod recover;
mod run;
mod serial;
mod status;
mod switch_now;
pub mod units;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

pub use cancel::CancelArgs;
pub use cert::{CertArgs, CertCommand};
pub use failure::Failure;
pub use hybrid_migrate::HybridMigrateArgs;
pub use places::{ConfigDir, RuntimeDir, VmSelector};
pub use receive::ReceiveArgs;
pub use recover::RecoverArgs;
pub use run::RunArgs;
pub use serial::SerialTarget;
pub use status::StatusArgs;
pub use switch_now::SwitchNowArgs;

/// `me2`, parsed.
#[derive(Debug, Parser)]
#[command(
    name = "me2",
    version,
    about = "Moves a running KVM virtual machine over slow, long and lossy links",
    after_help = "\
A first move, on one host:
  me2 cert create
  me2 run --name demo
  me2 receive --listen 127.0.0.1:7000 --name demo2      (another terminal)
  me2 hybrid-migrate --vm demo --to 127.0.0.1:7000      (a third)

Log detail: RUST_LOG=debug (or warn, me2_user=debug, …), on stderr."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a VM
    Run(RunArgs),
    /// Wait for a VM, then be its process
    Receive(ReceiveArgs),
    /// Move a VM to another host
    HybridMigrate(HybridMigrateArgs),
    /// Show what a VM does, and how far its migration is
    Status(StatusArgs),
    /// Give up a migration, which is possible until the handover
    Cancel(CancelArgs),
    /// End pre-copy: hand the VM over as soon as possible
    SwitchNow(SwitchNowArgs),
    /// Resume a migration whose link broke after the handover
    Recover(RecoverArgs),
    /// Make and show the identities for mutual TLS
    Cert(CertArgs),
}

/// What a result is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// Lines for people, of 80 columns at most
    #[default]
    Human,
    /// One JSON document
    Json,
}

impl Cli {
    /// Carries out the command; blocks until it is done.
    ///
    /// # Errors
    /// With the exit code to end with.
    pub fn execute(self) -> Result<ExitCode, Failure> {
        let stdout = &mut std::io::stdout();
        match self.command {
            Command::Run(args) => Ok(crate::process::run(args)?),
            Command::Receive(args) => Ok(crate::process::receive(args)?),
            Command::HybridMigrate(args) => in_runtime(hybrid_migrate::execute(args, stdout)),
            Command::Status(args) => in_runtime(status::execute(args, stdout)),
            Command::Cancel(args) => in_runtime(cancel::execute(args)),
            Command::SwitchNow(args) => in_runtime(switch_now::execute(args)),
            Command::Recover(args) => in_runtime(recover::execute(args, stdout)),
            Command::Cert(args) => cert::execute(args, stdout),
        }
    }
}

/// Results must arrive: who reads them is told by the exit status if they did not.
fn print(stdout: &mut impl Write, text: &str) -> anyhow::Result<()> {
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.context("cannot write to stdout")
}

/// A client needs one thread.
fn in_runtime(
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)?
        .block_on(command)
}

#[cfg(test)]
mod tests;
