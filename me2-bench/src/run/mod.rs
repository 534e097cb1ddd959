//! Carrying out an experiment: one migration after the other, in shuffled order.

mod one;
mod plan;
mod progress;

pub(crate) use plan::{Cell, Job, Plan};

use crate::{
    results::{Came, Folder, Sample},
    schemes::Programs,
};
use anyhow::bail;
use progress::Progress;

/// So many failures in a row are one of the machine, or of its set-up.
const FAILURES_IN_A_ROW_MAX: usize = 4;

/// Carries out all of it; samples go into the folder as they are made.
pub(crate) fn carry_out(
    plan: &Plan,
    programs: &Programs,
    folder: &Folder,
) -> anyhow::Result<Vec<Sample>> {
    let jobs = plan.jobs();
    let mut progress = Progress::new(&jobs);
    let mut samples: Vec<Sample> = Vec::new();
    for job in &jobs {
        if plan.is_settled(job, &samples) {
            progress.passed_over(job);
            continue;
        }
        let order = u32::try_from(samples.len() + 1).unwrap_or(u32::MAX);
        let sample = one::measure(programs, job, order);
        folder.add(&sample)?;
        progress.done(job, &sample);
        samples.push(sample);
        let in_a_row = samples
            .iter()
            .rev()
            .take_while(|sample| sample.came == Came::Failed);
        if in_a_row.count() >= FAILURES_IN_A_ROW_MAX {
            bail!(
                "{FAILURES_IN_A_ROW_MAX} failures in a row, see {}",
                folder.file("samples.jsonl").display()
            );
        }
    }
    Ok(samples)
}
