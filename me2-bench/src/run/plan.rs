//! What is to be measured, and in which order.

use std::time::Duration;

use fastrand::Rng;

use crate::{
    guest::Guest,
    network::LinkName,
    results::{Came, Sample},
    schemes::Scheme,
};

/// A mode that did not converge so often is not tried again in the same cell.
const NOT_CONVERGED_MAX: usize = 2;

/// All of an experiment.
pub(crate) struct Plan {
    /// Each is measured once in every run.
    pub(crate) cells: Vec<Cell>,
    pub(crate) runs: u32,
    /// Of the order.
    pub(crate) seed: u64,
}

/// A guest that moves over a link in one way.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) link: LinkName,
    pub(crate) guest: Guest,
    pub(crate) scheme: Scheme,
    pub(crate) time_limit: Duration,
}

/// One migration.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) cell: Cell,
    pub(crate) run: u32,
}

impl Plan {
    /// Run after run, each in an order of its own: no scheme always follows the same other.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let mut random = Rng::with_seed(self.seed);
        let mut jobs = Vec::new();
        for run in 1..=self.runs {
            let mut cells = self.cells.clone();
            random.shuffle(&mut cells);
            jobs.extend(cells.into_iter().map(|cell| Job { cell, run }));
        }
        jobs
    }

    /// Whether enough is known: it does not converge.
    pub(crate) fn is_settled(&self, job: &Job, samples: &[Sample]) -> bool {
        let given_up = samples.iter().filter(|sample| {
            sample.link == job.cell.link
                && sample.guest == job.cell.guest.name
                && sample.scheme == job.cell.scheme.name
                && sample.came == Came::DidNotConverge
        });
        given_up.count() >= NOT_CONVERGED_MAX
    }
}

impl Cell {
    /// What a person calls it.
    pub(crate) fn describe(&self) -> String {
        format!(
            "{} {} {}",
            self.link.as_str(),
            self.guest.name,
            self.scheme.name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::MIB;

    fn plan(seed: u64) -> Plan {
        let guest = Guest {
            name: "kv".into(),
            memory_bytes: 64 * MIB,
            cpus: 1,
            cmdline: String::new(),
            module: None,
            hot_bytes: 0,
            filled_percent_min: 0,
        };
        let cell = |number: u32| Cell {
            link: LinkName::A,
            guest: guest.clone(),
            scheme: Scheme::me2(&format!("me2-{number}"), ""),
            time_limit: Duration::from_secs(1),
        };
        Plan {
            cells: (0..8).map(cell).collect(),
            runs: 3,
            seed,
        }
    }

    fn order(plan: &Plan) -> Vec<String> {
        let jobs = plan.jobs();
        jobs.iter().map(|job| job.cell.describe()).collect()
    }

    #[test]
    fn every_run_has_every_cell_in_an_order_that_the_seed_gives() {
        let first = order(&plan(1));
        assert_eq!(first.len(), 24);
        for run in first.chunks(8) {
            let mut run = run.to_vec();
            run.sort();
            run.dedup();
            assert_eq!(run.len(), 8);
        }
        assert_ne!(first[..8], first[8..16]);
        assert_eq!(order(&plan(1)), first);
        assert_ne!(order(&plan(2)), first);
    }

    #[test]
    fn what_did_not_converge_twice_is_settled() {
        let plan = plan(1);
        let job = &plan.jobs()[0];
        let mut sample = Sample::of(LinkName::A, "kv", &job.cell.scheme.name, 1.0, 1);
        assert!(!plan.is_settled(job, &[sample.clone(), sample.clone()]));
        sample.came = Came::DidNotConverge;
        assert!(!plan.is_settled(job, std::slice::from_ref(&sample)));
        assert!(plan.is_settled(job, &[sample.clone(), sample]));
    }
}
