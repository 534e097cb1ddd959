//! `me2 hybrid-migrate`: asks the VM's process to move it, and follows.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::failure::{Failure, code};
use super::follow::{self, Follower};
use super::{Output, VmSelector, units};
use crate::control::client::Follow;
use crate::control::types::{CodecChoice, MigrateRequest, Mode, Outcome, Part};
use crate::identity::Fingerprint;

/// `me2 hybrid-migrate`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  me2 hybrid-migrate --vm demo --to 192.0.2.7:7000
  me2 hybrid-migrate --vm demo --to host-b:7000 --max-bandwidth 100M \\
      --timeout 10m --output json >report.json

The migration goes on if this command ends; see: me2 status, me2 cancel.
Exit status: 0 moved; 1 failed, the VM still runs at the source; 2 usage;
3 refused before it began; 4 timed out, the VM runs at the source; 5 failed
after the handover (paused, recoverable, or lost: the message says which);
130 interrupted, the migration goes on. While it connects again by itself, it
has not ended: me2 status tells what is at stake.")]
pub struct HybridMigrateArgs {
    /// The VM to move.
    #[command(flatten)]
    pub vm: VmSelector,
    /// Where `me2 receive` waits; an address or a host name
    #[arg(long, value_name = "ADDR:PORT")]
    pub to: String,
    /// How the memory travels
    #[arg(long, value_name = "MODE", default_value_t, value_enum)]
    pub mode: Mode,
    /// Most to send, in bits per second or with K, M, G (powers of 1000); all
    /// counts, IP headers too. Migrations of this host that have a cap share it
    /// [default: what the link takes]
    #[arg(long, value_name = "RATE", value_parser = units::parse_rate)]
    pub max_bandwidth: Option<u64>,
    /// Longest time for pre-copy: 300ms, 10s, 5m, 2h; what was not sent by then is
    /// missing when the VM resumes
    /// [default: while it pays]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub precopy_limit: Option<Duration>,
    /// Downtime aimed at, such as 300ms: until --mode precopy can keep to it, the VM
    /// is not stopped; a hybrid sends with the handover what fits into it
    /// [default: 300ms, and half a round trip for a hybrid]
    #[arg(long, value_name = "TIME", value_parser = units::parse_duration)]
    pub downtime_limit: Option<Duration>,
    /// Most that looking at what the guest does may slow it down while that goes on, percent
    /// of its vCPUs' time; 0: it is not looked at, and pages go in a worse order
    /// [default: 8]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub guest_slowdown_max: Option<u8>,
    /// Give up if not handed over by then, in whole seconds, such as 90s or 10m
    /// [default: never]
    #[arg(long, value_name = "TIME", value_parser = units::parse_whole_seconds)]
    pub timeout: Option<Duration>,
    /// If the link breaks after the handover, connect again by itself for so long
    /// without progress, less and less often; me2 recover does it at once
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = units::parse_duration)]
    pub recover_limit: Duration,
    /// Do not: end with status 5, and wait for me2 recover
    #[arg(long, conflicts_with = "recover_limit")]
    pub no_auto_recover: bool,
    /// How both copies of the memory are compared
    #[arg(long, value_name = "HOW", default_value = "hashes")]
    pub verify: Verification,
    /// Only to the host with this identity (see there: me2 cert show)
    /// [default: any that is trusted]
    #[arg(long, value_name = "FINGERPRINT")]
    pub peer: Option<Fingerprint>,
    /// How pages are compressed: auto (whatever is soonest across), rle, raw,
    /// or zstd:LEVEL
    #[arg(
        long,
        value_name = "CODEC",
        default_value_t,
        allow_hyphen_values = true,
        help_heading = "For comparisons"
    )]
    pub codec: CodecChoice,
    /// Leave out parts of exploration and encoding
    #[arg(
        long,
        value_name = "PART,...",
        value_delimiter = ',',
        value_enum,
        hide_possible_values = false,
        help_heading = "For comparisons"
    )]
    pub without: Vec<Part>,
    /// With --mode precopy, stop the VM once at most so many pages are left
    /// (as Xen does), instead of by --downtime-limit
    #[arg(
        long,
        value_name = "PAGES",
        conflicts_with = "downtime_limit",
        help_heading = "For comparisons"
    )]
    pub stop_below_pages: Option<u64>,
    /// What the report is written as, on stdout
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
}

/// How both copies of the memory are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Verification {
    /// By the hashes of the pages sent, while the VM runs
    Hashes,
    /// By hashing the real memory, with the VM held until all is there
    Full,
}

impl HybridMigrateArgs {
    /// The request, checked as far as it can be here.
    fn request(&self) -> anyhow::Result<MigrateRequest> {
        let whole_ms = |time: Duration| time.as_millis().try_into().unwrap_or(u64::MAX);
        let request = MigrateRequest {
            to: self.to.clone(),
            mode: self.mode,
            max_bandwidth_bytes_per_second: self.max_bandwidth,
            precopy_limit_ms: self.precopy_limit.map(whole_ms),
            downtime_limit_ms: self.downtime_limit.map(whole_ms),
            guest_slowdown_max_percent: self.guest_slowdown_max,
            timeout_s: self.timeout.map(|timeout| timeout.as_secs()),
            recover_limit_ms: match self.no_auto_recover {
                true => 0,
                false => whole_ms(self.recover_limit),
            },
            verify_full: self.verify == Verification::Full,
            peer: self.peer,
            codec: self.codec,
            without: self.without.clone(),
            stop_below_pages: self.stop_below_pages,
        };
        request.check().map_err(anyhow::Error::msg)?;
        Ok(request)
    }
}

pub(super) async fn execute(
    args: HybridMigrateArgs,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let request = args
        .request()
        .map_err(|error| Failure::new(code::USAGE, error))?;
    let started = start(&args, &request).await;
    let follower =
        started.map_err(|failure| follow::not_begun(failure, args.mode, args.output, stdout))?;
    follower
        .finish(Outcome::Moved, args.mode, args.output, stdout)
        .await
}

/// Follows first, so that the end of even the quickest migration is seen.
async fn start(args: &HybridMigrateArgs, request: &MigrateRequest) -> Result<Follower, Failure> {
    let client = args.vm.client()?;
    let events = client.events(Follow::Next).await?;
    let accepted = client.migrate(request).await?;
    for warning in &accepted.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(Follower::new(&client, events, accepted.id))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn request(arguments: &str) -> anyhow::Result<MigrateRequest> {
        let arguments = format!("me2 hybrid-migrate --vm a {arguments}");
        match Cli::try_parse_from(arguments.split(' '))?.command {
            Command::HybridMigrate(args) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn asks_for_what_was_said() {
        assert_eq!(request("--to h:1").unwrap(), MigrateRequest::to("h:1"));
        let peer = Fingerprint::of(b"x");
        let all = format!(
            "--to [::1]:7 --mode stop-and-copy --max-bandwidth 100M --precopy-limit 5s \
             --guest-slowdown-max 0 --timeout 10m --recover-limit 2m --verify full --peer {peer} \
             --codec zstd:-3 \
             --without delta,holes --stop-below-pages 50 --output json"
        );
        let expected = MigrateRequest {
            to: "[::1]:7".to_owned(),
            mode: Mode::StopAndCopy,
            max_bandwidth_bytes_per_second: Some(12_500_000),
            precopy_limit_ms: Some(5000),
            downtime_limit_ms: None,
            guest_slowdown_max_percent: Some(0),
            timeout_s: Some(600),
            recover_limit_ms: 120_000,
            verify_full: true,
            peer: Some(peer),
            codec: CodecChoice::Zstd(-3),
            without: vec![Part::Delta, Part::Holes],
            stop_below_pages: Some(50),
        };
        assert_eq!(request(&all).unwrap(), expected);
        let by_hand = request("--to h:1 --no-auto-recover").unwrap();
        assert_eq!(by_hand.recover_limit_ms, 0);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for bad in [
            "",
            "--to host",
            "--to h:0",
            "--to h:1 --mode fast",
            "--to h:1 --timeout 1500ms",
            "--to h:1 --timeout 10",
            "--to h:1 --max-bandwidth 0",
            "--to h:1 --guest-slowdown-max 101",
            "--to h:1 --guest-slowdown-max -1",
            "--to h:1 --guest-slowdown-max 5%",
            "--to h:1 --peer abc",
            "--to h:1 --output xml",
            "--to h:1 --codec zstd",
            "--to h:1 --codec zstd:40",
            "--to h:1 --without luck",
            "--to h:1 --downtime-limit 1s --stop-below-pages 50",
            "--to h:1 --recover-limit 0s",
            "--to h:1 --recover-limit 1s --no-auto-recover",
        ] {
            assert!(request(bad).is_err(), "{bad}");
        }
    }
}
