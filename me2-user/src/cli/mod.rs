//! The command line: one file a command. Results go to stdout, progress and logs to stderr.

mod cancel;
mod cert;
mod check;
mod completions;
mod config;
mod console;
mod defaults;
mod devices;
mod failure;
mod follow;
mod hybrid_migrate;
mod list;
mod man;
mod openapi;
mod pause;
mod places;
mod progress;
mod receive;
mod recover;
mod resume;
mod run;
mod serial;
mod status;
mod stop;
mod switch_now;
pub mod units;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand, ValueEnum};

pub use cancel::CancelArgs;
pub use cert::{CertArgs, CertCommand};
pub use check::CheckArgs;
pub use completions::CompletionsArgs;
pub use config::ConfigArgs;
pub use console::ConsoleArgs;
pub use defaults::{BadDefault, Defaults, Unparsed, parse};
pub use devices::{DiskOption, Mapping, NetOption};
pub use failure::Failure;
pub use hybrid_migrate::HybridMigrateArgs;
pub use list::ListArgs;
pub use man::ManArgs;
pub use openapi::OpenapiArgs;
pub use pause::PauseArgs;
pub use places::{ConfigDir, RuntimeDir, VmSelector};
pub use receive::ReceiveArgs;
pub use recover::RecoverArgs;
pub use resume::ResumeArgs;
pub use run::RunArgs;
pub use serial::SerialTarget;
pub use status::StatusArgs;
pub use stop::StopArgs;
pub use switch_now::SwitchNowArgs;

/// `me2`, parsed.
#[derive(Debug, Parser)]
#[command(
    name = "me2",
    version,
    about = "Moves a running KVM virtual machine over slow, long and lossy links",
    after_help = format!("\
A first move, on one host:
  me2 cert create
  me2 run --name demo
  me2 receive --listen 127.0.0.1:7000 --name demo2      (another terminal)
  me2 hybrid-migrate --vm demo --to 127.0.0.1:7000      (a third)

Log detail: RUST_LOG=debug (or warn, me2_user=debug, …), on stderr.
Defaults of options: /etc/me2/me2.toml, ~/.config/me2/me2.toml, and variables
such as ME2_MAX_BANDWIDTH; see: me2 config --help.

Exit status:
{}", failure::EXIT_STATUS)
)]
pub struct Cli {
    /// What log lines are written as, on stderr; RUST_LOG says which
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "ME2_LOG_FORMAT",
        hide_env_values = true,
        default_value_t,
        value_enum
    )]
    pub log_format: LogFormat,
    /// File of the options' defaults, instead of ~/.config/me2/me2.toml and
    /// /etc/me2/me2.toml; /dev/null for none
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "ME2_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,
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
    /// Show the VMs of this host
    List(ListArgs),
    /// Attach to a VM's serial console
    Console(ConsoleArgs),
    /// Stop a VM's vCPUs
    Pause(PauseArgs),
    /// Let a VM's vCPUs run on
    Resume(ResumeArgs),
    /// End a VM and its process
    Stop(StopArgs),
    /// Print the OpenAPI document of the API
    Openapi(OpenapiArgs),
    /// Show what me2 needs of this host, and whether a receiver would take a VM
    Check(CheckArgs),
    /// Make and show the identities for mutual TLS
    Cert(CertArgs),
    /// Show the defaults of options, and where each comes from
    Config(ConfigArgs),
    /// Print the completions of a shell
    Completions(CompletionsArgs),
    /// Print the manual pages
    Man(ManArgs),
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

/// What log lines are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    #[default]
    Human,
    /// A JSON document a line
    Json,
}

impl Cli {
    /// Carries out the command, which was parsed given these defaults; blocks until it is done.
    ///
    /// # Errors
    /// With the exit code to end with.
    pub fn execute(self, defaults: &Defaults) -> Result<ExitCode, Failure> {
        let stdout = &mut std::io::stdout();
        match self.command {
            Command::Run(args) => Ok(crate::process::run(args)?),
            Command::Receive(args) => Ok(crate::process::receive(args)?),
            Command::HybridMigrate(args) => in_runtime(hybrid_migrate::execute(args, stdout)),
            Command::Status(args) => in_runtime(status::execute(args, stdout)),
            Command::Cancel(args) => in_runtime(cancel::execute(args)),
            Command::SwitchNow(args) => in_runtime(switch_now::execute(args)),
            Command::Recover(args) => in_runtime(recover::execute(args, stdout)),
            Command::List(args) => in_runtime(list::execute(args, stdout)),
            Command::Console(args) => in_runtime(console::execute(args)),
            Command::Pause(args) => in_runtime(pause::execute(args)),
            Command::Resume(args) => in_runtime(resume::execute(args)),
            Command::Stop(args) => in_runtime(stop::execute(args)),
            Command::Openapi(args) => openapi::execute(args, stdout),
            Command::Check(args) => in_runtime(check::execute(args, stdout)),
            Command::Cert(args) => cert::execute(args, stdout),
            Command::Config(args) => config::execute(&args, defaults, stdout),
            Command::Completions(args) => completions::execute(&args, stdout),
            Command::Man(args) => man::execute(&args, stdout),
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
