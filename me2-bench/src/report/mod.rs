//! One page of all that is kept in `bench-results`: HTML with its style and drawings in it, so that it
//! needs no network, no script and nothing beside it.
//!
//! ```text
//! kept.rs         what is in the folders, and which of them cannot be shown
//! page.rs         the page, section after section
//! glance.rs       how me2 compares, and which targets are met and missed
//! goals.rs        these targets
//! comparison.rs   sections of experiments with migrations: tables and drawings
//! sweep.rs        the WAN sweep
//! faults.rs       how long faults and what is like them take
//! cases.rs        paging, probes, transport, codec
//! parts.rs        tables, verdicts, numbers; folded manifests
//! chart/          drawings
//! ```

mod cases;
mod chart;
mod comparison;
mod faults;
mod glance;
mod goals;
mod kept;
mod page;
mod parts;
mod sweep;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;

use crate::results::root;
use kept::Kept;

/// `me2-bench report`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
The page is one file: no network, no scripts, for a browser of any width.

Exit status: 0 all folders are in it; 1 some cannot be shown: page and stderr say which and why;
2 usage.")]
pub(crate) struct ReportArgs {
    /// Folder with a folder for each experiment [default: bench-results of the project]
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
    /// Where to write the page [default: report.html in that folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Reads, draws and writes.
pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<ExitCode> {
    let results = args.results.clone();
    let results = results.unwrap_or_else(|| root().join("bench-results"));
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| results.join("report.html"));
    let kept = Kept::read(&results)?;
    for problem in &kept.problems {
        eprintln!("cannot show {}: {}", problem.folder, problem.reason);
    }
    let page = page::page(&kept).into_string();
    fs::write(&out, page).with_context(|| format!("cannot write {}", out.display()))?;
    println!("{}", out.display());
    Ok(ExitCode::from(u8::from(!kept.problems.is_empty())))
}

#[cfg(test)]
mod tests;
