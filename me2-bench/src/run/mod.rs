//! Carrying out an experiment: one migration after the other, in the order of its plan.

mod budget;
mod one;
mod plan;
mod progress;

pub(crate) use plan::{Cell, Job, Order, Plan};

use crate::{
    results::{Came, Folder, Sample},
    schemes::Programs,
};
use anyhow::bail;
use progress::Progress;

/// So many failures in a row are one of the machine, or of its set-up.
const FAILURES_IN_A_ROW_MAX: usize = 4;

/// What came of a plan.
pub(crate) struct Measured {
    pub(crate) samples: Vec<Sample>,
    /// What there was no time for, in few words.
    pub(crate) left_out: Vec<String>,
}

/// Carries out all of it, as far as there is time; samples go into the folder as they are made.
pub(crate) fn carry_out(
    plan: &Plan,
    programs: &Programs,
    folder: &Folder,
) -> anyhow::Result<Measured> {
    let jobs = plan.jobs();
    let mut progress = Progress::new(&jobs, plan.budget);
    let mut samples: Vec<Sample> = Vec::new();
    let mut left_out = Vec::new();
    for job in &jobs {
        if let Some(settled) = plan.settled(job, &samples) {
            progress.passed_over(job, settled);
            continue;
        }
        if !progress.has_time_for(job) {
            progress.left_out();
            left_out.push(job);
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
    Ok(Measured {
        samples,
        left_out: budget::listed(left_out.into_iter()),
    })
}
