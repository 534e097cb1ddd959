//! `me2 cert`.

mod show;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::{ConfigDir, Output, print};
use crate::control::socket::VmName;
use crate::identity::{
    Authority, HostName, Identity, Scope, Trusted, Validity, certificate_file, install, trust,
};

/// `me2 cert`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: let host-a and host-b move VMs to each other, on both
  me2 cert create
  me2 cert show                          (tell the other host's operator)
  me2 cert trust sha256:… host-b         (the fingerprint of the other)
or, with a CA, for any number of hosts, where the CA is
  me2 cert ca
  me2 cert issue host-b                  (says what to copy where)
and on host-b
  me2 cert install host-b

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
    /// Show this host's fingerprint, who issued its certificate, and until when
    #[command(
        after_help = "Example: trust the host that you can log in to\n  me2 cert trust \"$(ssh host-b me2 cert show)\" host-b\n\nThe fingerprint alone goes to stdout, the rest to stderr."
    )]
    Show {
        /// Show the trusted peers instead, one a line
        #[arg(long, conflicts_with = "output")]
        trusted: bool,
        /// Where from.
        #[command(flatten)]
        config: ConfigDir,
        /// What it is written as, on stdout
        #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
        output: Output,
    },
    /// Trust another host, or the hosts of a CA: they may send VMs here, and get them from here
    #[command(
        after_help = "Examples:\n  me2 cert trust sha256:… host-b\n  me2 cert trust sha256:… host-c --vm web1 --vm web2     (with these VMs alone)\n  me2 cert trust ca:sha256:… ours                        (every host of this CA)\n  me2 cert trust ./ca.pem ours                           (the same, by its file)\n\nTo trust one no more, delete its line from the file `trusted`."
    )]
    Trust {
        /// The other host's fingerprint, sha256: and 64 hexadecimal digits; that of a CA, with ca:
        /// before it; or the file of either's certificate
        #[arg(value_name = "FINGERPRINT-OR-FILE")]
        peer: Peer,
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
    /// Replace this host's identity, in two steps that interrupt nothing
    #[command(
        after_help = "Example: every command on its own host\n  me2 cert rotate                        (shows the next fingerprint)\n  me2 cert trust sha256:… host-a         (on the peers, before the switch)\n  me2 cert rotate --switch\n\nVMs that run count on the new identity from their next migration on, receivers\nfrom the next peer that comes. Peers delete the line of the old one afterwards.\nWhat a CA issued is not rotated, but issued anew: me2 cert issue."
    )]
    Rotate {
        /// Put the next identity in the place of the present one, which is deleted
        #[arg(long)]
        switch: bool,
        /// Where to.
        #[command(flatten)]
        config: ConfigDir,
    },
    /// Make a CA, which issues certificates to hosts
    #[command(
        after_help = "Example:\n  me2 cert ca\n  me2 cert issue host-b\n\nWho reads ca.key can be any host: keep it where no VMs run."
    )]
    Ca {
        /// What it is called
        #[arg(value_name = "NAME", default_value = "me2 CA", value_parser = parse_authority_name)]
        name: String,
        /// How long it is valid, in days
        #[arg(long, value_name = "DAYS", default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Replace the CA that is there; hosts must trust the new one, and get new certificates
        #[arg(long)]
        force: bool,
        /// Where to.
        #[command(flatten)]
        config: ConfigDir,
    },
    /// Issue a host a certificate of the CA, or a new one before the old one expires
    #[command(
        after_help = "Example:\n  me2 cert issue host-b\n  scp -r host-b host-b:\n  ssh host-b me2 cert install host-b"
    )]
    Issue {
        /// The host's name or address: it is shown, and decides nothing
        #[arg(value_name = "HOST")]
        host: HostName,
        /// How long it is valid, in days
        #[arg(long, value_name = "DAYS", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: u32,
        /// Folder to make, with the certificate and its key [default: the host's name]
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
        /// Where the CA is.
        #[command(flatten)]
        config: ConfigDir,
    },
    /// Make what a CA issued this host's identity, and trust the hosts of that CA
    #[command(
        after_help = "Example:\n  me2 cert install host-b && rm -r host-b\n\nNothing that runs is interrupted: VMs count on it from their next migration on,\nreceivers from the next peer that comes."
    )]
    Install {
        /// What `me2 cert issue` made
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        /// Trust the hosts of the CA with the VM of this name alone; may be given several times
        #[arg(long = "vm", value_name = "NAME")]
        vms: Vec<VmName>,
        /// Replace an identity that no CA issued; peers that know its fingerprint refuse the new one
        #[arg(long)]
        force: bool,
        /// Where to.
        #[command(flatten)]
        config: ConfigDir,
    },
}

/// Whom to trust: named, or by a certificate in a file.
#[derive(Debug, Clone)]
pub enum Peer {
    /// By fingerprint.
    Named(Trusted),
    /// By the first certificate in this file.
    In(PathBuf),
}

impl FromStr for Peer {
    type Err = crate::identity::InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(named) => Ok(Self::Named(named)),
            Err(_) if text.contains('/') || text.ends_with(".pem") => Ok(Self::In(text.into())),
            Err(error) => Err(error),
        }
    }
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
            trusted: true,
            config,
            ..
        } => print(stdout, &show::trusted(&config.resolve()?)?),
        CertCommand::Show { config, output, .. } => {
            show::identity(&config.resolve()?, output, stdout)
        }
        CertCommand::Trust {
            peer,
            name,
            vms,
            config,
        } => {
            let who = match peer {
                Peer::Named(who) => who,
                Peer::In(path) => certificate_file(&path)?,
            };
            let is_new = trust(&config.resolve()?, who, &name, &Scope::of(vms))?;
            let when = if is_new { "from now on" } else { "already" };
            eprintln!("{who} is trusted {when}");
            Ok(())
        }
        CertCommand::Rotate { switch, config } => rotate(&config.resolve()?, switch, stdout),
        CertCommand::Ca {
            name,
            days,
            force,
            config,
        } => {
            let dir = config.resolve()?;
            let authority = Authority::create(&dir, &name, Validity::days(days), force)?;
            eprintln!(
                "made a CA in {}, valid until {}\nnext, for each host: me2 cert issue HOST",
                dir.display(),
                authority.facts().validity.until
            );
            print(stdout, &format!("ca:{}\n", authority.fingerprint()))
        }
        CertCommand::Issue {
            host,
            days,
            out,
            config,
        } => {
            let folder = out.unwrap_or_else(|| host.to_string().into());
            issue(&config.resolve()?, &host, days, &folder, stdout)
        }
        CertCommand::Install {
            folder,
            vms,
            force,
            config,
        } => {
            let identity = install(&folder, &config.resolve()?, &Scope::of(vms), force)?;
            eprintln!(
                "this host is {} now, and trusts the hosts of its CA; delete {}, which has the key too",
                identity.facts().subject,
                folder.display()
            );
            print(stdout, &format!("{}\n", identity.fingerprint()))
        }
    }
}

fn rotate(dir: &Path, switch: bool, stdout: &mut impl Write) -> anyhow::Result<()> {
    if switch {
        let identity = Identity::switch(dir)?;
        eprintln!("switched; peers may delete the line of the old identity from their `trusted`");
        return print(stdout, &format!("{}\n", identity.fingerprint()));
    }
    let (next, is_new) = Identity::next(dir)?;
    let fingerprint = next.fingerprint();
    let made = if is_new { "made" } else { "there is" };
    eprintln!(
        "{made} the next identity of this host; on every peer: me2 cert trust {fingerprint} NAME\n\
         then here: me2 cert rotate --switch"
    );
    print(stdout, &format!("{fingerprint}\n"))
}

fn issue(
    dir: &Path,
    host: &HostName,
    days: u32,
    folder: &Path,
    stdout: &mut impl Write,
) -> anyhow::Result<()> {
    let authority = Authority::load(dir)?;
    let identity = authority.issue(host, Validity::days(days), folder)?;
    let until = identity.facts().validity.until;
    let copied = folder.file_name().unwrap_or(folder.as_os_str());
    eprintln!(
        "issued {host} a certificate, valid until {until}\n\
         copy it from here:  scp -r {} {host}:\n\
         then on {host}:  me2 cert install {copied} && rm -r {copied}\n\
         and delete it here: it has the key",
        folder.display(),
        copied = copied.display()
    );
    print(stdout, &format!("{}\n", identity.fingerprint()))
}

fn parse_authority_name(text: &str) -> Result<String, String> {
    let is_printable = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    match (1..=64).contains(&text.len()) && is_printable {
        true => Ok(text.to_owned()),
        false => Err("expected 1 to 64 printable ASCII characters".to_owned()),
    }
}
