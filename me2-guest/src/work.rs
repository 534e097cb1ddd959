//! The loop body: what is due now, and when to come back.

use crate::Random;
use crate::churn::Churn;
use crate::cmdline::{Options, Workload};
use crate::contents::Source;
use crate::graph::Graph;
use crate::kv::Table;
use crate::pace::Pacer;
use crate::rewrite::Rewrite;
use crate::share::{self, Failure, Pages};
use crate::stream::Stream;
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
#[expect(
    clippy::large_enum_variant,
    reason = "there is one of these for each CPU, and no heap to put it in"
)]
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
    Rewrite(Rewrite<'a>),
    Stream(Stream),
    Churn(Churn),
    Graph(Graph),
}

impl<'a> Task<'a> {
    /// Fills the pages for a workload that has `hot` of them, at least one.
    fn fill(
        pages: &mut impl Pages,
        options: &Options,
        source: Source<'a>,
        hot: u64,
        random: Random,
    ) -> Self {
        let count = pages.count();
        if options.workload != Workload::Kv {
            (0..count).for_each(|local| share::fill(pages, local, &source));
        }
        let (seed, all) = (source.seed, count as u64);
        match options.workload {
            Workload::Idle => Self::Idle {
                looked_at: choose_stamped(pages),
                next: 0,
            },
            Workload::Kv => {
                let table = Table::new(source, all, hot);
                for local in (0..count).filter(|local| !table.is_bucket(*local)) {
                    share::fill(pages, local, &source);
                }
                table.build(pages);
                Self::Kv {
                    zipf: Zipf::new(table.keys()),
                    table,
                    random,
                    writes: options.writes,
                }
            }
            Workload::Rewrite => {
                let mut rewrite = Rewrite::new(source, all, hot, options.order, random);
                rewrite.build(pages);
                Self::Rewrite(rewrite)
            }
            Workload::Stream => Self::Stream(Stream::new(seed, all, hot)),
            Workload::Churn => {
                let mut churn = Churn::new(seed, count, hot as usize, options.freed, random);
                churn.build(pages);
                Self::Churn(churn)
            }
            Workload::Graph => {
                let mut graph = Graph::new(seed, all, hot, options.writes, random);
                graph.build(pages);
                Self::Graph(graph)
            }
        }
    }

    /// One operation; how many pages it checked.
    fn operation(&mut self, pages: &mut impl Pages) -> Result<u64, Failure> {
        match self {
            Self::Idle { looked_at, next } => {
                share::verify(pages, looked_at[*next])?;
                *next = (*next + 1) % IDLE_PAGES;
                Ok(1)
            }
            Self::Kv {
                table,
                zipf,
                random,
                writes,
            } => {
                let key = zipf.sample(random);
                if random.below(100) < *writes {
                    table.set(pages, key)
                } else {
                    table.get(pages, key)
                }
            }
            Self::Rewrite(rewrite) => rewrite.write(pages),
            Self::Stream(stream) => stream.write(pages),
            Self::Churn(churn) => churn.step(pages),
            Self::Graph(graph) => graph.visit(pages),
        }
    }

    /// A page that will be looked at soon.
    fn next_page(&mut self, pages: &mut impl Pages) -> usize {
        match self {
            Self::Idle { looked_at, .. } => looked_at[0],
            Self::Kv { table, .. } => table.home_page(1),
            Self::Rewrite(rewrite) => rewrite.next_page(),
            Self::Stream(stream) => stream.next_page(),
            // If that finds a failure, so will the next operation.
            Self::Churn(churn) => churn.next_page(pages).unwrap_or(0),
            Self::Graph(graph) => graph.next_page(),
        }
    }
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
        let hot = part(hot_pages, cpu, cpus).clamp(1, pages.count() as u64);
        let random = Random::new(source.seed ^ ((cpu as u64 + 1) << 32));
        let task = Task::fill(&mut pages, options, source, hot, random);
        let (rate, scan) = match options.workload {
            Workload::Idle => (Some(IDLE_RATE), options.scan.unwrap_or(0)),
            _ if options.rate == 0 => (None, options.scan.unwrap_or(SCAN_DEFAULT)),
            _ => (
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
        let local = self.task.next_page(&mut self.pages);
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
        let verified = self.task.operation(&mut self.pages)?;
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
    use crate::share::tests::{Memory, generated};

    fn worker(text: &str) -> Worker<'static, Memory> {
        let options = Options::parse(text).unwrap_or_else(|error| panic!("{error}"));
        Worker::fill(Memory::new(1000), &options, generated(1), 200, 1, 2)
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
            "workload=rewrite scan=0",
            "workload=rewrite order=uniform scan=0",
            "workload=stream scan=0",
            "workload=churn scan=0",
            "workload=churn freed=zeroed scan=0",
            "workload=graph scan=0",
            "workload=graph writes=0 scan=0",
        ] {
            let mut worker = worker(text);
            run(&mut worker, 50_000_000).expect("nothing is wrong yet");
            worker.corrupt();
            let failure = run(&mut worker, 300_000_000).expect_err(text);
            let zeroed = text.contains("zeroed") && failure.damage.check == Check::Zero;
            assert!(failure.damage.check == Check::Checksum || zeroed, "{text}");
            assert_eq!(worker.counters().errors, 1);
        }
    }

    #[test]
    fn every_workload_keeps_its_rate_and_leaves_no_error() {
        for text in ["rewrite", "stream", "churn", "graph"] {
            let mut worker = worker(&format!("workload={text} rate=10000"));
            run(&mut worker, 2_000_000_000).expect(text);
            let done = worker.counters();
            let rate = done.operations / 2;
            assert!((4_990..=5_000).contains(&rate), "{text}: {rate}");
            assert!(done.verified >= done.operations + 990, "{text}");
            for local in 0..worker.pages.count() {
                share::verify(&mut worker.pages, local).expect(text);
            }
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
