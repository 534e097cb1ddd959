//! The loop body: what is due now, and when to come back.

use crate::Random;
use crate::cmdline::{Options, Workload};
use crate::contents::Source;
use crate::kv::Table;
use crate::pace::Pacer;
use crate::share::{self, Failure, Pages};
use crate::zipf::Zipf;

/// Operations and pages done in one go, before the clock is looked at again.
const BATCH: u64 = 32;

/// Pages that an idle CPU looks at in turn.
const IDLE_PAGES: usize = 16;

/// Operations per second of an idle CPU.
const IDLE_RATE: u64 = 100;

const SCAN_DEFAULT: u64 = 1000;

/// What a CPU has done, since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations completed.
    pub operations: u64,
    /// Pages checked and found right, by operations and by the scan.
    pub verified: u64,
    /// Failed checks.
    pub errors: u64,
}

/// One CPU's part of the workload.
#[derive(Debug)]
pub struct Worker<'a, P> {
    pages: P,
    counters: Counters,
    task: Task<'a>,
    /// `None`: as fast as it goes.
    pace: Option<Pacer>,
    scan: Pacer,
    scan_next: usize,
}

#[derive(Debug)]
enum Task<'a> {
    Idle {
        looked_at: [usize; IDLE_PAGES],
        next: usize,
    },
    Kv {
        table: Table<'a>,
        zipf: Zipf,
        random: Random,
        writes: u64,
    },
}

impl<'a, P: Pages> Worker<'a, P> {
    /// Fills the pages of CPU `cpu` of `cpus`; `hot_pages` is the number over all CPUs.
    pub fn fill(
        mut pages: P,
        options: &Options,
        source: Source<'a>,
        hot_pages: u64,
        cpu: usize,
        cpus: usize,
    ) -> Self {
        let count = pages.count();
        let task = match options.workload {
            Workload::Idle => {
                (0..count).for_each(|local| share::fill(&mut pages, local, &source));
                Task::Idle {
                    looked_at: choose_stamped(&pages),
                    next: 0,
                }
            }
            Workload::Kv => {
                let hot_pages = part(hot_pages, cpu, cpus).clamp(1, count as u64);
                let table = Table::new(source, count as u64, hot_pages);
                for local in (0..count).filter(|local| !table.is_bucket(*local)) {
                    share::fill(&mut pages, local, &source);
                }
                table.build(&mut pages);
                let zipf = Zipf::new(table.keys());
                let random = Random::new(source.seed ^ ((cpu as u64 + 1) << 32));
                Task::Kv {
                    table,
                    zipf,
                    random,
                    writes: options.writes,
                }
            }
        };
        let (rate, scan) = match options.workload {
            Workload::Idle => (Some(IDLE_RATE), options.scan.unwrap_or(0)),
            Workload::Kv if options.rate == 0 => (None, options.scan.unwrap_or(SCAN_DEFAULT)),
            Workload::Kv => (
                Some(part(options.rate, cpu, cpus)),
                options.scan.unwrap_or(SCAN_DEFAULT),
            ),
        };
        Self {
            pages,
            counters: Counters::default(),
            task,
            pace: rate.map(|rate| Pacer::new(rate, 0)),
            scan: Pacer::new(part(scan, cpu, cpus), 0),
            scan_next: 0,
        }
    }

    /// Does some of what is due at `now_ns` (since the fill). When there will be more to do: `now_ns` if
    /// at once.
    pub fn work(&mut self, now_ns: u64) -> Result<u64, Failure> {
        let result = self.try_work(now_ns);
        self.counters.errors += u64::from(result.is_err());
        result
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Flips a bit in a page that will be looked at soon.
    pub fn corrupt(&mut self) {
        let local = match &self.task {
            Task::Idle { looked_at, .. } => looked_at[0],
            Task::Kv { table, .. } => table.home_page(1),
        };
        share::corrupt(&mut self.pages, local);
    }

    fn try_work(&mut self, now_ns: u64) -> Result<u64, Failure> {
        let pages_due = self.scan.due(now_ns).min(BATCH);
        for _ in 0..pages_due {
            share::verify(&mut self.pages, self.scan_next)?;
            self.counters.verified += 1;
            self.scan_next = (self.scan_next + 1) % self.pages.count();
            self.scan.take(1);
        }
        let due = self
            .pace
            .as_mut()
            .map_or(BATCH, |pace| pace.due(now_ns).min(BATCH));
        for _ in 0..due {
            self.operation()?;
        }
        let Some(pace) = &mut self.pace else {
            return Ok(now_ns);
        };
        pace.take(due);
        Ok(pace.next_ns().min(self.scan.next_ns()))
    }

    fn operation(&mut self) -> Result<(), Failure> {
        let verified = match &mut self.task {
            Task::Idle { looked_at, next } => {
                share::verify(&mut self.pages, looked_at[*next])?;
                *next = (*next + 1) % IDLE_PAGES;
                1
            }
            Task::Kv {
                table,
                zipf,
                random,
                writes,
            } => {
                let key = zipf.sample(random);
                if random.below(100) < *writes {
                    table.set(&mut self.pages, key)?
                } else {
                    table.get(&mut self.pages, key)?
                }
            }
        };
        self.counters.verified += verified;
        self.counters.operations += 1;
        Ok(())
    }
}

/// CPU `cpu`'s part of something for `cpus` of them.
pub fn part(whole: u64, cpu: usize, cpus: usize) -> u64 {
    whole / cpus as u64 + u64::from((cpu as u64) < whole % cpus as u64)
}

/// Pages spread over the share, with a stamp where there is one nearby.
fn choose_stamped(pages: &impl Pages) -> [usize; IDLE_PAGES] {
    core::array::from_fn(|index| {
        let start = index * pages.count() / IDLE_PAGES;
        (start..pages.count())
            .find(|local| pages.version(*local) != 0)
            .unwrap_or(start)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Check;
    use crate::share::tests::Memory;

    fn worker(text: &str) -> Worker<'static, Memory> {
        let options = Options::parse(text).unwrap_or_else(|error| panic!("{error}"));
        Worker::fill(
            Memory::new(1000),
            &options,
            Source {
                seed: 1,
                module: &[],
            },
            200,
            1,
            2,
        )
    }

    /// Runs for `span_ns` of its own time; how often it was called.
    fn run(worker: &mut Worker<'static, Memory>, span_ns: u64) -> Result<u64, Failure> {
        let (mut now, mut calls) = (0, 0);
        while now < span_ns {
            now = worker.work(now)?.max(now + 10_000);
            calls += 1;
        }
        Ok(calls)
    }

    #[test]
    fn kv_keeps_its_rate_and_changes_pages() {
        let mut worker = worker("rate=20000 scan=2000");
        run(&mut worker, 1_000_000_000).expect("nothing is wrong");
        let Counters {
            operations,
            verified,
            errors,
        } = worker.counters();
        assert!((9_990..=10_000).contains(&operations), "{operations}");
        assert!(verified >= operations + 990, "{verified}");
        assert_eq!(errors, 0);
        let sets: u64 = worker
            .pages
            .versions
            .iter()
            .map(|version| u64::from(version.saturating_sub(1)))
            .sum();
        assert!((4_700..5_300).contains(&sets), "{sets} sets");
    }

    #[test]
    fn reading_alone_changes_nothing() {
        let mut worker = worker("rate=0 writes=0 scan=0");
        assert_eq!(worker.work(5), Ok(5));
        run(&mut worker, 10_000_000).expect("nothing is wrong");
        assert!(worker.counters().operations >= 32_000);
        assert!(worker.pages.versions.iter().all(|version| *version <= 1));
    }

    #[test]
    fn idle_works_a_hundred_times_a_second_and_is_called_no_more_often() {
        let mut worker = worker("workload=idle");
        let calls = run(&mut worker, 1_000_000_000).expect("nothing is wrong");
        let done = worker.counters().operations;
        assert!(
            (99..=100).contains(&done) && calls <= 102,
            "{done} in {calls} calls"
        );
        assert_eq!(worker.counters().verified, done);
    }

    #[test]
    fn the_scan_comes_to_every_page() {
        let mut worker = worker("workload=idle scan=2000");
        worker.pages.pages[999][5] ^= 1;
        let failure = run(&mut worker, 1_100_000_000)
            .expect_err("the scan comes to the last page in a second");
        assert_eq!(failure.address, worker.pages.address(999));
        assert_eq!(worker.counters().errors, 1);
    }

    #[test]
    fn corruption_is_noticed_soon() {
        for text in [
            "workload=idle",
            "rate=20000 writes=100 scan=0",
            "rate=20000 writes=0 scan=0",
        ] {
            let mut worker = worker(text);
            run(&mut worker, 50_000_000).expect("nothing is wrong yet");
            worker.corrupt();
            let failure = run(&mut worker, 300_000_000).expect_err(text);
            assert_eq!(failure.damage.check, Check::Checksum);
        }
    }

    #[test]
    fn parts_add_up() {
        for (whole, cpus) in [(0, 1), (7, 2), (20_000, 3), (5, 8)] {
            assert_eq!(
                (0..cpus).map(|cpu| part(whole, cpu, cpus)).sum::<u64>(),
                whole
            );
        }
    }
}
