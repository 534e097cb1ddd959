//! The page codecs by themselves, against `memcpy` of the same pages.
//!
//! Every codec works on each population of pages alone, in one thread, and each of its runs has a
//! `memcpy` of the same pages right before it: what else goes on in the machine slows both down. The
//! pages and where they are copied to are larger than all caches together, and were touched before.
//!
//! ```text
//! population.rs   what pages: captured memory, the guest's own contents, zeros, sparse
//! memory.rs       the pages, a place for results, memcpy
//! page_cases.rs   what is done to single pages: scanning, hashing, run-length encoding
//! chunk_cases.rs  what is done to chunks: differences, zstd, the whole path
//! measured.rs     medians, targets, the worst population of each codec
//! kept.rs         manifest and samples
//! table.rs        for people
//! plot.rs         codecs by speed, populations by colour
//! ```

mod chunk_cases;
mod kept;
mod measured;
mod memory;
mod page_cases;
mod plot;
mod population;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Result, ensure};
use me2_wire::PAGE_SIZE;

use self::{kept::Kept, measured::Sample, memory::Memory, population::Population};
pub(crate) use self::{
    kept::{EXPERIMENT, read},
    measured::{Cell, Measured},
};
use crate::{experiments::Output, results::Folder};

/// Arguments of `bench codec`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Codecs: zero_scan, page_hash, page_identity, reference_lookup, rle_encode, rle_decode,
delta_encode, delta_decode, chunk_encode, chunk_decode, zstd_LEVEL_PAGES_encode, and …_decode.
Speeds are ratios to memcpy of the same pages in the same run, sizes ratios to raw pages.

Exit status: 0 all targets are met; 1 one is missed: stderr says which; 2 usage.")]
pub(crate) struct CodecArgs {
    /// Fewer runs, and of the zstd levels only -1, 1 and 3
    #[arg(long)]
    quick: bool,
    /// Runs of each codec [default: 7; 3 with --quick]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: Option<u32>,
    /// Only codecs with one of these texts in their names
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these populations: zero, sparse, compilers, python, files, generated
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    populations: Vec<String>,
    /// Where captured memory is kept between runs
    #[arg(long, value_name = "FOLDER", default_value = "target/contents")]
    contents: PathBuf,
    /// Folder for the results; new or empty [default: one of today in bench-results]
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
    /// How the summary is printed
    #[arg(long, value_name = "FORMAT", default_value = "human")]
    output: Output,
}

/// Something that is done to pages, over and over.
struct Case {
    codec: String,
    /// The pages that take part, by their numbers.
    pages: Vec<u32>,
    /// Does it once; gives how many bytes it makes of the pages.
    work: Work,
}

/// What is done to those pages of the memory.
type Work = Box<dyn FnMut(&mut Memory, &[u32]) -> u64>;

/// A case that is made when its turn comes, since it may hold all pages encoded; `None` if none of
/// the pages can take part.
struct Planned {
    codec: String,
    make: Make,
}

/// Makes a case for the pages of that memory.
type Make = Box<dyn FnOnce(&mut Memory) -> Option<Case>>;

/// Pages that take part are at least so many times the last-level cache; with where they go to,
/// twice that passes through it.
const PAGES_BY_CACHE_MIN: u64 = 2;

/// Measures, prints and keeps.
pub(crate) fn run(args: CodecArgs) -> Result<ExitCode> {
    let runs = args.runs.unwrap_or(if args.quick { 3 } else { 7 });
    let names: Vec<&str> = args.populations.iter().map(String::as_str).collect();
    let populations = Population::named(&names)?;
    let bytes = memory::population_bytes();
    let mut kept = Kept::new(args.results.as_deref(), runs)?;
    eprintln!("results: {}", kept.path().display());
    let mut samples = Vec::new();
    for population in populations {
        let memory = population.fill(bytes, &args.contents)?;
        kept.add_population(population, memory.description());
        samples.extend(measure_population(&args, population, memory, runs)?);
    }
    ensure!(
        !samples.is_empty(),
        "no codec has such a name (--help lists them)"
    );
    let measured = Measured::of(&samples);
    kept.finish(&samples, &measured)?;
    tell(args.output, &measured, kept.path())
}

/// `bench plot` of a folder of `bench codec`: summary and plot anew.
pub(crate) fn plot(folder: &Folder, output: Output) -> Result<ExitCode> {
    let measured = read(folder)?;
    kept::conclude(folder, &measured)?;
    tell(output, &measured, folder.path())
}

fn measure_population(
    args: &CodecArgs,
    population: Population,
    mut memory: Memory,
    runs: u32,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut planned = page_cases::plan();
    planned.extend(chunk_cases::plan(args.quick));
    for plan in planned {
        let name = &plan.codec;
        if !args.only.is_empty() && !args.only.iter().any(|text| name.contains(text)) {
            continue;
        }
        let Some(mut case) = (plan.make)(&mut memory) else {
            continue;
        };
        let bytes = (case.pages.len() * PAGE_SIZE) as u64;
        if bytes < PAGES_BY_CACHE_MIN * memory::last_level_cache_bytes() {
            continue;
        }
        eprint!("\r\x1b[K{} {}", population.name(), case.codec);
        samples.extend(measure(&mut case, population, &mut memory, runs));
    }
    eprint!("\r\x1b[K");
    Ok(samples)
}

/// Runs a case in alternation with memcpy, after a run of both that does not count.
fn measure(case: &mut Case, population: Population, memory: &mut Memory, runs: u32) -> Vec<Sample> {
    memory.copy(&case.pages);
    let encoded_bytes = (case.work)(memory, &case.pages);
    let timed = (1..=runs).map(|run| {
        let start = Instant::now();
        memory.copy(&case.pages);
        let memcpy_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let bytes = (case.work)(memory, &case.pages);
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(
            bytes, encoded_bytes,
            "{} makes the same every time",
            case.codec
        );
        Sample {
            schema_version: crate::results::SCHEMA_VERSION,
            population: population.name().to_owned(),
            codec: case.codec.clone(),
            run,
            pages: case.pages.len() as u64,
            seconds,
            memcpy_seconds,
            encoded_bytes,
        }
    });
    timed.collect()
}

fn tell(output: Output, measured: &Measured, folder: &Path) -> Result<ExitCode> {
    match output {
        Output::Human => print!("{}", table::text(measured)),
        Output::Json => {
            let mut document = serde_json::to_value(measured)?;
            document["results"] = folder.display().to_string().into();
            println!("{document:#}");
        }
    }
    let missed: Vec<_> = measured
        .targets
        .iter()
        .filter(|target| target.is_met == Some(false))
        .collect();
    for target in &missed {
        eprintln!("missed: {}", table::describe(target));
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
