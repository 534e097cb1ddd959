//! `me2 cert`.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{ConfigDir, print};
use crate::control::socket::VmName;
use crate::identity::{Fingerprint, Identity, Scope, TrustedPeer, trust};

/// `me2 cert`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: let host-a and host-b move VMs to each other, on both
  me2 cert create
  me2 cert show                          (tell the other host's operator)
  me2 cert trust sha256:… host-b         (the fingerprint of the other)

On one host, `me2 cert create` is enough: a host trusts itself.")]
pub struct CertArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: CertCommand,
}

/// The commands of `me2 cert`.
#[derive(Debug, Clone, Subcommand)]
pub enum CertCommand {
    /// Make this host's identity, and show its fingerprint
    #[command(after_help = "Example:\n  me2 cert create")]
    Create {
        /// Replace the identity that is there; peers must trust the new one
        #[arg(long)]
        force: bool,
        /// Where to.
        #[command(flatten)]
        config: ConfigDir,
    },
    /// Show this host's fingerprint
    #[command(
        after_help = "Example: trust the host that you can log in to\n  me2 cert trust \"$(ssh host-b me2 cert show)\" host-b"
    )]
    Show {
        /// Show the trusted peers instead, one a line
        #[arg(long)]
        trusted: bool,
        /// Where from.
        #[command(flatten)]
        config: ConfigDir,
    },
    /// Trust another host: it may send VMs here, and get them from here
    #[command(
        after_help = "Examples:\n  me2 cert trust sha256:… host-b\n  me2 cert trust sha256:… host-c --vm web1 --vm web2     (with these VMs alone)\n\nTo trust it no more, delete its line from the file `trusted`."
    )]
    Trust {
        /// The other host's fingerprint: sha256: and 64 hexadecimal digits
        #[arg(value_name = "FINGERPRINT")]
        peer: Fingerprint,
        /// What you call it
        #[arg(value_name = "NAME", default_value = "peer")]
        name: String,
        /// Trust it with the VM of this name alone, here and at its side; may be given several times
        #[arg(long = "vm", value_name = "NAME")]
        vms: Vec<VmName>,
        /// Where to.
        #[command(flatten)]
        config: ConfigDir,
    },
}

pub(super) fn execute(args: CertArgs, stdout: &mut impl Write) -> Result<ExitCode, Failure> {
    carry_out(args.command, stdout)?;
    Ok(ExitCode::SUCCESS)
}

fn carry_out(command: CertCommand, stdout: &mut impl Write) -> anyhow::Result<()> {
    match command {
        CertCommand::Create { force, config } => {
            let dir = config.resolve()?;
            let identity = Identity::create(&dir, force)?;
            eprintln!("made the identity of this host in {}", dir.display());
            print(stdout, &format!("{}\n", identity.fingerprint()))
        }
        CertCommand::Show {
            trusted: false,
            config,
        } => print(
            stdout,
            &format!("{}\n", Identity::load(&config.resolve()?)?.fingerprint()),
        ),
        CertCommand::Show {
            trusted: true,
            config,
        } => {
            let peers = TrustedPeer::load_all(&config.resolve()?)?;
            let lines = peers.iter().map(|peer| match &peer.scope {
                Scope::AnyVm => format!("{}  {}\n", peer.fingerprint, peer.name),
                only => format!("{}  {only}  {}\n", peer.fingerprint, peer.name),
            });
            print(stdout, &lines.collect::<String>())
        }
        CertCommand::Trust {
            peer,
            name,
            vms,
            config,
        } => {
            let is_new = trust(&config.resolve()?, peer, &name, &Scope::of(vms))?;
            eprintln!(
                "{}",
                if is_new {
                    "trusted from now on"
                } else {
                    "was trusted already"
                }
            );
            Ok(())
        }
    }
}
