//! Plays migrations with failures, and tells what became of the VMs: `cargo xtask faults`.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use me2_tests::{
    faults::{self, Record, Totals},
    skew::Earlier,
    soak,
};

/// Migrations with failures injected where a seed says, and who has the VM afterwards
#[derive(Debug, Parser)]
#[command(
    name = "me2-faults",
    bin_name = "cargo xtask faults",
    version,
    after_help = "\
Each case moves a VM over a link that stops after so many bytes; then a process is killed or frozen,
the link stays cut or loses packets, or the migration is cancelled or out of time. It passes if the
VM is in one place afterwards and works, or died with the only process that had it; if the guest
found no wrong byte; and if the next attempt succeeds.

Exit status: 0 all cases passed; 1 some did not, or it could not be tried.

Examples:
  cargo xtask faults
  cargo xtask faults --cases 1000 --seed 7 --record faults.jsonl   (again, to go on)
  cargo xtask faults --seed 7 --first 123 --cases 1
  cargo xtask faults --soak 1000
  cargo xtask faults --skew HEAD~20"
)]
struct Cli {
    /// Cases
    #[arg(long, value_name = "NUMBER", default_value_t = 60)]
    cases: u64,
    /// What the cases are chosen by
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// The first case
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    first: u64,
    /// Cases at once: most of their time they wait for a link to be given up
    #[arg(long, value_name = "NUMBER", default_value_t = 6, value_parser = clap::value_parser!(u8).range(1..=32))]
    at_once: u8,
    /// Keep a line a case in this file; those of the same seed that it has are not played again
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Instead of failures: so many moves in a row, in all modes, and what they leave behind
    #[arg(long, value_name = "MOVES", conflicts_with_all = ["cases", "seed", "first", "at_once", "record"], value_parser = clap::value_parser!(u32).range(soak::MOVES_MIN as i64..))]
    soak: Option<u32>,
    /// Instead of failures: between a me2 of this commit, which is built first, and today's
    #[arg(long, value_name = "COMMIT", conflicts_with_all = ["cases", "seed", "first", "at_once", "record", "soak"])]
    skew: Option<String>,
    /// What is printed in the end, on stdout
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Output,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Output {
    Human,
    Json,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    if let Err(reason) = me2_tests::kvm() {
        bail!("{reason}: the cases need real VMs");
    }
    match (cli.soak, &cli.skew) {
        (Some(moves), _) => soak(moves as usize, cli.output),
        (None, Some(commit)) => skew(commit, cli.output),
        (None, None) => play(&cli),
    }
}

fn skew(commit: &str, output: Output) -> anyhow::Result<ExitCode> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let checkout = checkout.context("this crate is a folder of the workspace")?;
    // TARGET/release/me2-faults
    let own = std::env::current_exe()?;
    let target = own.ancestors().nth(2).context("it is in a target folder")?;
    let played = Earlier::build(checkout, commit, target)?.play();
    match output {
        Output::Human => println!("{played:#?}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&played)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn soak(moves: usize, output: Output) -> anyhow::Result<ExitCode> {
    let modes = ["hybrid", "postcopy", "precopy", "stop-and-copy"];
    let soak = soak::run(moves, &modes, |number| {
        if number.is_multiple_of(10) {
            eprintln!("[{number}/{moves}]");
        }
    });
    match output {
        Output::Human => {
            for held in &soak.held {
                let (first, last) = (held.at_first, held.at_last);
                println!("{:<22} {first:>12} at first, {last:>12} at last", held.what);
            }
            println!("{moves} moves, {} sockets left", soak.sockets_left);
        }
        Output::Json => println!("{}", serde_json::to_string_pretty(&soak)?),
    }
    Ok(status(soak.is_clean()))
}

fn play(cli: &Cli) -> anyhow::Result<ExitCode> {
    let numbers = cli.first..cli.first.saturating_add(cli.cases);
    let mut totals = Totals::new(cli.seed);
    let mut done = BTreeSet::new();
    let mut file = None;
    if let Some(path) = &cli.record {
        for record in recorded(path)? {
            let is_one = record.seed == cli.seed && numbers.contains(&record.case);
            if is_one && done.insert(record.case) {
                totals.add(record);
            }
        }
        let opened = File::options().append(true).create(true).open(path);
        file = Some(opened.with_context(|| format!("cannot write {}", path.display()))?);
    }
    let mut unwritten = Ok(());
    faults::run(cli.seed, numbers, &done, cli.at_once.into(), |record| {
        let result = match &record.result {
            Ok(found) => format!("{:?}", found.outcome).to_lowercase(),
            Err(violation) => format!("VIOLATION {violation:?}"),
        };
        let (count, seconds) = (totals.cases + 1, record.seconds);
        eprintln!(
            "[{count}/{}] {}: {result}, {seconds:.1} s",
            cli.cases, record.what
        );
        if let Some(file) = &mut file {
            unwritten = write_line(file, &record);
        }
        totals.add(record);
    });
    unwritten.context("the last line could not be recorded")?;
    match cli.output {
        Output::Human => println!("{totals}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&totals)?),
    }
    Ok(status(totals.passed == totals.cases))
}

fn status(is_well: bool) -> ExitCode {
    if is_well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// The lines that are whole; the last one may not be.
fn recorded(path: &Path) -> anyhow::Result<Vec<Record>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        text => text.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let records = text.lines().map(serde_json::from_str);
    Ok(records.filter_map(Result::ok).collect())
}

fn write_line(file: &mut File, record: &Record) -> io::Result<()> {
    let line = serde_json::to_string(record)? + "\n";
    file.write_all(line.as_bytes())
}
