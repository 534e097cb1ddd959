//! Experiments: me2 against plain pre-copy and against QEMU, and its codecs by themselves.

#![forbid(unsafe_code)]

mod cases;
mod codec;
mod contents;
mod experiments;
mod guest;
mod measure;
mod network;
mod outputs;
mod paging;
mod plots;
mod priority;
mod probes;
mod process;
mod report;
mod results;
mod run;
mod schemes;
mod statistics;
mod summary;
mod target;
mod transport;
mod units;
mod warm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Experiments with me2: on emulated links, side by side with rivals, repeatable
#[derive(Debug, Parser)]
#[command(
    name = "me2-bench",
    bin_name = "cargo xtask bench",
    version,
    after_help = "\
Needs root (network namespaces, KVM) and a machine with nothing else to do. Each experiment leaves a
folder in bench-results: manifest.json, samples.jsonl, summary.json and plots.

Examples:
  cargo xtask bench me2 --quick
  cargo xtask bench qemu --links B --guests mixed --runs 5 --output json
  cargo xtask bench wan --budget-minutes 30
  cargo xtask bench plot bench-results/2026-12-01-qemu
  cargo xtask bench report --out report.html"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// me2 against plain pre-copy by itself; or its parts (--ablation), or its codecs (--codecs)
    Me2(experiments::Me2Args),
    /// me2 against QEMU in each of its modes
    Qemu(experiments::QemuArgs),
    /// me2 and one rival over long links of all kinds, as many as there is time for
    Wan(experiments::WanArgs),
    /// Each page codec by itself, against memcpy
    Codec(codec::CodecArgs),
    /// The transport by itself: how it fills a link, and what a fault waits beside that
    Transport(transport::TransportArgs),
    /// What probes and working-set windows cost the guest
    Probes(probes::ProbesArgs),
    /// Fault service and placing at the destination, by themselves
    Paging(paging::PagingArgs),
    /// One end of a connection, for `transport`
    #[command(hide = true)]
    TransportEnd(transport::EndArgs),
    /// Summary and plots of an experiment, anew from its manifest and samples
    Plot(experiments::PlotArgs),
    /// One page of all results, for a browser: no network, no scripts
    Report(report::ReportArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Me2(args) => experiments::me2(&args),
        Command::Qemu(args) => experiments::qemu(&args),
        Command::Wan(args) => experiments::wan(&args),
        Command::Codec(args) => codec::run(args),
        Command::Transport(args) => transport::run(&args),
        Command::Probes(args) => probes::run(&args),
        Command::Paging(args) => paging::run(&args),
        Command::TransportEnd(args) => transport::play(&args).map(|()| ExitCode::SUCCESS),
        Command::Plot(args) => experiments::plot(&args),
        Command::Report(args) => report::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
