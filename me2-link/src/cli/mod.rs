//! The command line.

mod units;

use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use me2_link::{Action, Backend, Change, LinkSpec, Queue};

const EXAMPLES: &str = "\
Examples:
  me2-link --preset B
      a link of 100 Mbit/s and a round trip of 50 ms, until Ctrl-C or 10 minutes are over
  me2-link --rate 200M --rtt 100ms --loss 0.1% --queue 1bdp -- ping -c 5 10.77.0.2
      ping through a long and lossy link
  me2-link --preset C --rate-at 10s=80M --rate-at 20s=200M --cut 30s..32s --stats link.jsonl
      the rate falls and rises again, then nothing passes for two seconds
  me2-link --preset A --output json --for 1m -- ./experiment
      the experiment finds the namespaces and addresses in ME2_LINK_NAMESPACE_A, _B,
      ME2_LINK_ADDRESS_A and _B, and runs what belongs to B by `ip netns exec`

Units:
  rates    bits per second: 64k, 100M, 1G (decimal), none
  times    500us, 25ms, 10s, 10m
  shares   0.1% or 0.001
  queues   bytes (1500B, 256K, 2M: binary), time at the rate (50ms), or bandwidth-delay products
           of the link's round trip (1bdp)

Needs root, and ip and tc of iproute2.";

/// Two network namespaces joined by an emulated wide-area link.
///
/// Prints how to run programs at its two ends, and holds the link until the time is over, the given
/// command has ended, or a signal comes. At the end it prints what the link has carried.
#[derive(Debug, Parser)]
#[command(name = "me2-link", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Start from a known link: A (1 Gbit/s, 1 ms), B (100 Mbit/s, 50 ms), C (200 Mbit/s, 100 ms,
    /// 0.1% loss). Other options change it.
    #[arg(long, ignore_case = true, conflicts_with = "spec")]
    preset: Option<Preset>,
    /// Start from a link described in JSON, as --output json shows it; this also allows two
    /// different directions.
    #[arg(long, value_name = "FILE")]
    spec: Option<PathBuf>,
    /// Rate of IP bytes in each direction [default: none].
    #[arg(long, value_parser = units::rate)]
    rate: Option<u64>,
    /// Round trip: twice the one-way delay.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    rtt: Option<Duration>,
    /// One-way delay.
    #[arg(long, value_name = "TIME", value_parser = units::duration, conflicts_with = "rtt")]
    delay: Option<Duration>,
    /// The delay varies evenly by up to this, in order.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    jitter: Option<Duration>,
    /// Share of packets lost on their way, in each direction.
    #[arg(long, value_name = "SHARE", value_parser = units::share)]
    loss: Option<f64>,
    /// Losses come in bursts of this mean number of packets.
    #[arg(long, value_name = "PACKETS", requires = "loss")]
    burst: Option<f64>,
    /// Share of packets that are held back, and so overtaken.
    #[arg(long, value_name = "SHARE", value_parser = units::share)]
    reorder: Option<f64>,
    /// For how long they are held back [default: 1ms].
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    reorder_by: Option<Duration>,
    /// What may wait for transmission; more is dropped [default: 256K].
    #[arg(long, value_parser = units::queue)]
    queue: Option<Queue>,
    /// Nothing passes in this span of time after the start. May be given again.
    #[arg(long, value_name = "FROM..TO", value_parser = units::span)]
    cut: Vec<Range<Duration>>,
    /// Another rate from a time after the start on. May be given again.
    #[arg(long, value_name = "TIME=RATE", value_parser = units::rate_at)]
    rate_at: Vec<(Duration, u64)>,
    /// Seed of everything random.
    #[arg(long)]
    seed: Option<u64>,
    /// How the link is made [default: auto].
    #[arg(long)]
    backend: Option<BackendChoice>,
    /// Default TCP congestion control at both ends, such as bbr.
    #[arg(long, value_name = "NAME")]
    pub(crate) congestion: Option<String>,
    /// Longest time to hold the link.
    #[arg(long = "for", value_name = "TIME", value_parser = units::duration, default_value = "10m")]
    pub(crate) hold: Duration,
    /// Write the counts over time (every 100 ms) to this file at the end, as JSON lines.
    #[arg(long, value_name = "FILE")]
    pub(crate) stats: Option<PathBuf>,
    /// human, or json: one line when the link is there, and one at the end.
    #[arg(long, value_enum, default_value = "human")]
    pub(crate) output: Output,
    /// Run this at end A, and end with it.
    #[arg(last = true)]
    pub(crate) command: Vec<OsString>,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Human,
    Json,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Preset {
    A,
    B,
    C,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BackendChoice {
    Auto,
    Emulator,
    Netem,
}

impl Arguments {
    /// The link that these arguments describe.
    pub(crate) fn link_spec(&self) -> anyhow::Result<LinkSpec> {
        let mut spec = match (&self.spec, self.preset) {
            (Some(path), _) => {
                let text = std::fs::read(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                serde_json::from_slice(&text)
                    .with_context(|| format!("{} describes no link", path.display()))?
            }
            (None, Some(Preset::A)) => LinkSpec::a(),
            (None, Some(Preset::B)) => LinkSpec::b(),
            (None, Some(Preset::C)) => LinkSpec::c(),
            (None, None) => LinkSpec::default(),
        };
        set(&mut spec.rate_bits_per_second, self.rate);
        set(
            &mut spec.delay,
            self.rtt.map(|round_trip| round_trip / 2).or(self.delay),
        );
        set(&mut spec.jitter, self.jitter);
        set(&mut spec.reorder, self.reorder);
        set(&mut spec.reorder_by, self.reorder_by);
        set(&mut spec.queue, self.queue);
        set(&mut spec.seed, self.seed);
        set(&mut spec.backend, self.backend.map(Backend::from));
        if let Some(share) = self.loss {
            spec.loss = units::loss(share, self.burst).map_err(anyhow::Error::msg)?;
        }
        spec.schedule.extend(self.changes());
        spec.schedule.sort_by_key(|change| change.at);
        Ok(spec)
    }

    fn changes(&self) -> impl Iterator<Item = Change> {
        let cuts = self.cut.iter().flat_map(|span| {
            [
                Change {
                    at: span.start,
                    action: Action::Cut,
                },
                Change {
                    at: span.end,
                    action: Action::Mend,
                },
            ]
        });
        let rates = self.rate_at.iter().map(|&(at, bits_per_second)| Change {
            at,
            action: Action::Rate { bits_per_second },
        });
        cuts.chain(rates)
    }
}

impl From<BackendChoice> for Backend {
    fn from(choice: BackendChoice) -> Self {
        match choice {
            BackendChoice::Auto => Backend::Auto,
            BackendChoice::Emulator => Backend::Emulator,
            BackendChoice::Netem => Backend::Netem,
        }
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}
