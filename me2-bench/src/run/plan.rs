//! What is to be measured, and in which order.

use std::time::Duration;

use fastrand::Rng;

use crate::{
    guest::Guest,
    network::LinkName,
    results::{Came, Sample},
    schemes::{How, Scheme},
};

/// A mode that did not converge so often is not tried again in the same cell.
const NOT_CONVERGED_MAX: usize = 2;

/// Around a migration: starting the guest, a second of steady work, watching it afterwards.
const AROUND: Duration = Duration::from_secs(11);
/// What is guessed that me2 sends of what is filled.
const PACKED: f64 = 0.6;
/// What is guessed that the machine takes where the link has no limit.
const UNLIMITED_BITS_PER_SECOND: u64 = 4_000_000_000;
/// Setting up, finding the rate, ending.
const ROUND_TRIPS: u32 = 10;

/// All of an experiment.
pub(crate) struct Plan {
    /// Each is measured once in every run.
    pub(crate) cells: Vec<Cell>,
    pub(crate) runs: u32,
    /// What took longer the first time is not measured again.
    pub(crate) repeat_under: Option<Duration>,
    /// Of the order.
    pub(crate) seed: u64,
    /// What is measured first.
    pub(crate) order: Order,
    /// How long all of it may take: what does not fit is left out.
    pub(crate) budget: Option<Duration>,
}

/// In which order the cells of a run are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Shuffled, so that no scheme always follows the same other.
    Shuffled,
    /// As listed: what matters most comes first.
    Listed,
}

/// A guest that moves over a link in one way.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    pub(crate) link: LinkName,
    pub(crate) guest: Guest,
    pub(crate) scheme: Scheme,
    pub(crate) time_limit: Duration,
}

/// Why a cell is not measured again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    DoesNotConverge,
    TakesLong,
}

/// One migration.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) cell: Cell,
    pub(crate) run: u32,
}

impl Plan {
    /// Run after run, each in an order of its own if they are shuffled.
    pub(crate) fn jobs(&self) -> Vec<Job> {
        let mut random = Rng::with_seed(self.seed);
        let mut jobs = Vec::new();
        for run in 1..=self.runs {
            let mut cells = self.cells.clone();
            if self.order == Order::Shuffled {
                random.shuffle(&mut cells);
            }
            jobs.extend(cells.into_iter().map(|cell| Job { cell, run }));
        }
        jobs
    }

    /// Whether enough is known of a cell.
    pub(crate) fn settled(&self, job: &Job, samples: &[Sample]) -> Option<Settled> {
        let same = samples.iter().filter(|sample| {
            sample.link == job.cell.link
                && sample.guest == job.cell.guest.name
                && sample.scheme == job.cell.scheme.name
        });
        let limit_ms = self.repeat_under.map(|limit| limit.as_secs_f64() * 1e3);
        let mut given_up = 0;
        for sample in same {
            match sample.came {
                Came::DidNotConverge => given_up += 1,
                Came::Moved if limit_ms.is_some_and(|limit| sample.total_time_ms >= limit) => {
                    return Some(Settled::TakesLong);
                }
                _ => {}
            }
        }
        (given_up >= NOT_CONVERGED_MAX).then_some(Settled::DoesNotConverge)
    }
}

impl Cell {
    /// How long one migration takes, roughly, and what is around it: as long as sending once what
    /// the guest has filled, half of the time limit at most.
    pub(super) fn expected(&self) -> Duration {
        let rate = self.link.rate().filter(|rate| *rate > 0);
        let rate = rate.unwrap_or(UNLIMITED_BITS_PER_SECOND);
        let bytes = match self.guest.filled_bytes {
            0 => self.guest.memory_bytes,
            filled => filled,
        };
        let packed = match self.scheme.how {
            How::Me2(_) => PACKED,
            How::Qemu(_) => 1.0,
        };
        let once = Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64 * packed);
        let rtt_ms = self
            .link
            .parameters()
            .map_or(0, |parameters| parameters.rtt_ms);
        let trips = ROUND_TRIPS * Duration::from_millis(u64::from(rtt_ms));
        (once + trips).min(self.time_limit / 2) + AROUND
    }

    /// What a person calls it.
    pub(crate) fn describe(&self) -> String {
        format!("{} {} {}", self.link, self.guest.name, self.scheme.name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{schemes::QemuMode, units::MIB};

    fn guest(filled_bytes: u64) -> Guest {
        Guest {
            name: "kv".into(),
            memory_bytes: 64 * MIB,
            cpus: 1,
            cmdline: String::new(),
            module: None,
            filled_bytes,
            hot_bytes: 0,
            filled_percent_min: 0,
        }
    }

    /// QEMU moves a guest with so much in its memory.
    pub(in crate::run) fn job(link: &str, filled_bytes: u64) -> Job {
        let cell = Cell {
            link: link.parse().expect("a link"),
            guest: guest(filled_bytes),
            scheme: Scheme::qemu(QemuMode::Precopy),
            time_limit: Duration::from_secs(600),
        };
        Job { cell, run: 1 }
    }

    fn plan(seed: u64) -> Plan {
        let cell = |number: u32| Cell {
            link: LinkName::A,
            guest: guest(0),
            scheme: Scheme::me2(&format!("me2-{number}"), ""),
            time_limit: Duration::from_secs(1),
        };
        Plan {
            cells: (0..8).map(cell).collect(),
            runs: 3,
            repeat_under: None,
            seed,
            order: Order::Shuffled,
            budget: None,
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
    fn what_is_listed_first_is_measured_first() {
        let mut plan = plan(1);
        plan.order = Order::Listed;
        let names: Vec<String> = plan.cells.iter().map(Cell::describe).collect();
        assert_eq!(order(&plan), [names.clone(), names.clone(), names].concat());
    }

    #[test]
    fn what_did_not_converge_twice_is_settled() {
        let plan = plan(1);
        let job = &plan.jobs()[0];
        let mut sample = Sample::of(LinkName::A, "kv", &job.cell.scheme.name, 1.0, 1);
        assert_eq!(plan.settled(job, &[sample.clone(), sample.clone()]), None);
        sample.came = Came::DidNotConverge;
        assert_eq!(plan.settled(job, std::slice::from_ref(&sample)), None);
        let twice = [sample.clone(), sample];
        assert_eq!(plan.settled(job, &twice), Some(Settled::DoesNotConverge));
    }

    #[test]
    fn what_takes_long_is_measured_once() {
        let mut plan = plan(1);
        let job = &plan.jobs()[0];
        let took = |seconds| {
            [Sample::of(
                LinkName::A,
                "kv",
                &job.cell.scheme.name,
                seconds,
                1,
            )]
        };
        assert_eq!(plan.settled(job, &took(30.0)), None);
        plan.repeat_under = Some(Duration::from_secs(20));
        assert_eq!(plan.settled(job, &took(30.0)), Some(Settled::TakesLong));
        assert_eq!(plan.settled(job, &took(10.0)), None);
        let other = [Sample::of(
            LinkName::B,
            "kv",
            &job.cell.scheme.name,
            30.0,
            1,
        )];
        assert_eq!(plan.settled(job, &other), None);
    }
}
