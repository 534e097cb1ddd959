//! One migration: a fresh guest, a fresh link, and a look at it from outside.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::Job;
use crate::{
    measure::{AFTER_COMPLETE, Fared, Moments, STEADY, fared},
    network::{LinkBytes, Network},
    outputs::Recording,
    results::{Came, SCHEMA_VERSION, Sample},
    schemes::{Ending, Outcome, Pair, Programs, Stage},
    warm::warm,
};

/// The guest reports ten times a second: one report more on either side of what is looked at.
const REPORT_MARGIN: Duration = Duration::from_millis(300);
/// A guest without a sign of life for so long at the end is not well.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
const PAGE_SIZE: u64 = 4096;

/// Carries out one migration. A failure is a sample too.
pub(super) fn measure(programs: &Programs, job: &Job, order: u32) -> Sample {
    let mut sample = Sample {
        schema_version: SCHEMA_VERSION,
        link: job.cell.link,
        guest: job.cell.guest.name.clone(),
        scheme: job.cell.scheme.name.clone(),
        run: job.run,
        order,
        exit_code: -1,
        came: Came::Failed,
        error: None,
        total_time_ms: 0.0,
        link_bytes: LinkBytes::default(),
        fill_pages: 0,
        reported_downtime_ms: None,
        fared: Fared::default(),
        report: Value::Null,
    };
    if let Err(error) = fill(&mut sample, programs, job) {
        sample.came = Came::Failed;
        sample.error = Some(format!("{error:#}"));
    }
    sample
}

fn fill(sample: &mut Sample, programs: &Programs, job: &Job) -> anyhow::Result<()> {
    let guest = &job.cell.guest;
    let network = Network::start(job.cell.link)?;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let stage = Stage {
        programs,
        network: &network,
        guest,
        run_arguments: &[],
        folder: folder.path().to_owned(),
        time_limit: job.cell.time_limit,
    };
    let mut pair = job.cell.scheme.start(&stage)?;
    sample.fill_pages = pair.wait_ready()?;
    let filled_percent = sample.fill_pages * PAGE_SIZE * 100 / guest.memory_bytes;
    ensure!(
        filled_percent >= guest.filled_percent_min,
        "only {filled_percent}% of the guest's memory hold contents, {}% are needed",
        guest.filled_percent_min
    );
    let memory = warm(guest.memory_bytes);
    thread::sleep(STEADY + REPORT_MARGIN);
    drop(memory);

    let before = network.bytes()?;
    let outcome = pair.migrate()?;
    sample.link_bytes = network.bytes()?.since(before);
    thread::sleep(AFTER_COMPLETE + REPORT_MARGIN);
    take(sample, pair.as_mut(), outcome)
}

/// Takes what came of it, and looks whether the guest is well.
fn take(sample: &mut Sample, pair: &mut dyn Pair, outcome: Outcome) -> anyhow::Result<()> {
    let source = pair.source().output.recording();
    let destination = pair.destination().output.recording();
    let moments = Moments {
        requested: outcome.requested,
        ended: outcome.ended,
        watched: Instant::now(),
    };
    let moved = outcome.end == Ending::Moved;
    sample.exit_code = outcome.exit_code;
    sample.total_time_ms = outcome.total_time_ms;
    sample.reported_downtime_ms = outcome.reported_downtime_ms;
    sample.report = outcome.report;
    sample.fared = fared(&source, &destination, moments, moved);
    let joined = Recording::joined(&source, &destination);
    if let Some(complaint) = joined.complaints().next() {
        anyhow::bail!("the guest is not well: {complaint}");
    }
    let (place, heard) = match moved {
        true => (pair.destination(), &destination),
        false => (pair.source(), &source),
    };
    let last = heard
        .beats
        .last()
        .map(|beat| moments.watched.saturating_duration_since(beat.at));
    let is_alive = place.is_running() && last.is_some_and(|since| since < SIGN_OF_LIFE);
    match outcome.end {
        Ending::Failed(reason) => anyhow::bail!(reason),
        _ if !is_alive => anyhow::bail!("the guest does not work any more at {}", place.describe()),
        Ending::Moved => sample.came = Came::Moved,
        Ending::DidNotConverge => sample.came = Came::DidNotConverge,
    }
    Ok(())
}
