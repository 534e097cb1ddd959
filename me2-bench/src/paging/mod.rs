//! Fault service and placing at the destination, by themselves: the destination's own code, with real
//! userfaultfd and the memory of a VM that has been built and does not run. Threads of this program
//! touch its pages, as vCPUs would; no network, no guest.

mod destination;

use std::{
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use me2_user::migrate::destination::pager::Pager;
use me2_vmm::{large_pages, layout::PAGE_SIZE};
use me2_wire::PageIndex;
use serde::Serialize;

use self::destination::Destination;
use crate::{
    cases::{Case, CasesArgs, Experiment, Figures, conduct},
    units::MIB,
    warm::warm,
};

/// Its name, as in the manifest.
pub(crate) const NAME: &str = "paging";
const EXPERIMENT: Experiment = Experiment {
    name: NAME,
    limit: "the processor: a fault is an exception, two thread switches and one system call; \
            with fewer cores than threads that touch, and the one that serves them, they wait for each other",
};

/// Arguments of `bench paging`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Cases: random, sequential (one thread touches pages that are in the staging area), threads-1,
threads-2, threads-4 (so many touch at random), placing-256, placing-256-stale, placing-1024 (MiB that
are placed behind the resume; stale: half of it was written again and is missing), large-pages (what
is there is made into large pages, as after a move).
Needs KVM and userfaultfd; no network.

Exit status: 0 all targets are met; 1 one is missed: stderr says which; 2 usage.")]
pub(crate) struct PagingArgs {
    #[command(flatten)]
    common: CasesArgs,
}

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// Every so many pages are touched, in an order without a pattern, by so many threads.
    Random { threads: u32 },
    /// All pages are touched, one after the other.
    Sequential,
    /// All is placed behind the resume; of each region so many pages are missing.
    Placing { stale_in_region: u32 },
    /// All is there, and made into large pages.
    LargePages,
}

#[derive(Debug, Clone, Serialize)]
struct Parameters {
    memory_bytes: u64,
    /// Beside what the case says in words.
    #[serde(rename = "work")]
    what: What,
}

/// Pages of a region, in which stale ones lie together as they mostly do.
const REGION_PAGES: u32 = 512;
/// A fault places neighbours: touches so far apart are faults, each.
const APART_PAGES: PageIndex = 32;
/// Coprime to every power of two: a walk that visits each place once.
const STRIDE: u64 = 40_503;

/// `bench paging`.
pub(crate) fn run(args: &PagingArgs) -> Result<ExitCode> {
    conduct(&EXPERIMENT, &args.common, cases(), |case, _| {
        measure(&case.parameters)
    })
}

fn cases() -> Vec<Case<Parameters>> {
    let case = |name, what, mib, parameters, targets: &[_]| Case {
        name,
        what,
        targets: targets.to_vec(),
        parameters: Parameters {
            memory_bytes: mib * MIB,
            what: parameters,
        },
    };
    let random = |threads| What::Random { threads };
    let placing = |stale_in_region| What::Placing { stale_in_region };
    let downtime = ("downtime_ms", 1.0);
    vec![
        case(
            "random",
            "pages far apart, one thread",
            256,
            random(1),
            &[("fault_p50_us", 120.0)],
        ),
        case(
            "sequential",
            "all pages, one after the other",
            64,
            What::Sequential,
            &[("page_us", 15.0)],
        ),
        case(
            "threads-1",
            "one thread, as often as it can",
            512,
            random(1),
            &[],
        ),
        case("threads-2", "two threads", 512, random(2), &[]),
        case("threads-4", "four threads", 512, random(4), &[]),
        case(
            "placing-256",
            "256 MiB behind the resume, 1% of it stale",
            256,
            placing(5),
            &[("per_256_mib_ms", 10.0), downtime],
        ),
        case(
            "placing-256-stale",
            "256 MiB behind the resume, half of it stale",
            256,
            placing(REGION_PAGES / 2),
            &[downtime],
        ),
        case(
            "placing-1024",
            "1 GiB behind the resume, 1% of it stale",
            1024,
            placing(5),
            &[("per_256_mib_ms", 10.0), downtime],
        ),
        case(
            "large-pages",
            "256 MiB of small pages are made into large ones",
            256,
            What::LargePages,
            &[],
        ),
    ]
}

fn measure(parameters: &Parameters) -> Result<Figures> {
    drop(warm(parameters.memory_bytes));
    let destination = Destination::filled(parameters.memory_bytes)?;
    match parameters.what {
        What::Random { threads } => random(&destination, threads),
        What::Sequential => sequential(&destination),
        What::Placing { stale_in_region } => placing(&destination, stale_in_region),
        What::LargePages => large_pages(&destination),
    }
}

fn random(destination: &Destination, threads: u32) -> Result<Figures> {
    destination.pager.hand_over(2, &destination.none_stale())?;
    let places = u64::from(destination.page_count() / APART_PAGES);
    let begun = Instant::now();
    let mut waits: Vec<Duration> = thread::scope(|scope| {
        let touching = (0..threads).map(|thread| {
            let own = (u64::from(thread)..places).step_by(threads as usize);
            scope.spawn(move || {
                let pages = own.map(|at| (at * STRIDE % places) as PageIndex * APART_PAGES);
                pages
                    .map(|page| destination.touch(page))
                    .collect::<Vec<_>>()
            })
        });
        let touching: Vec<_> = touching.collect();
        let waits = touching
            .into_iter()
            .flat_map(|t| t.join().expect("touching does not panic"));
        waits.collect()
    });
    let took = begun.elapsed().as_secs_f64();
    let faults = local_faults(&destination.pager);
    waits.sort_unstable();
    let quantile = |share: f64| us(waits[((waits.len() - 1) as f64 * share) as usize]);
    Ok(vec![
        ("fault_p50_us", quantile(0.5)),
        ("fault_p99_us", quantile(0.99)),
        ("faults_per_second", faults / took),
        // Each touch is to be a fault.
        ("faults_per_touch", faults / waits.len() as f64),
    ])
}

fn sequential(destination: &Destination) -> Result<Figures> {
    destination.pager.hand_over(2, &destination.none_stale())?;
    let pages = destination.page_count();
    let begun = Instant::now();
    for page in 0..pages {
        destination.touch(page);
    }
    let took = us(begun.elapsed());
    Ok(vec![
        ("page_us", took / f64::from(pages)),
        (
            "faults_per_page",
            local_faults(&destination.pager) / f64::from(pages),
        ),
    ])
}

fn placing(destination: &Destination, stale_in_region: u32) -> Result<Figures> {
    let stale = destination.stale(REGION_PAGES, stale_in_region);
    // What the resume waits for: the table frozen, the fault service and the placing begun.
    let begun = Instant::now();
    let missing = destination.pager.hand_over(2, &stale)?;
    destination.pager.start_placing();
    let downtime = begun.elapsed();
    // Both threads end once there is nothing more to place.
    destination.pager.shut_down();
    let took = begun.elapsed() - downtime;
    let placed = u64::from(destination.page_count()) - missing;
    let parts = (placed * PAGE_SIZE as u64) as f64 / (256 * MIB) as f64;
    Ok(vec![
        ("placing_ms", us(took) / 1e3),
        ("per_256_mib_ms", us(took) / 1e3 / parts),
        ("downtime_ms", us(downtime) / 1e3),
        ("stale_pages", missing as f64),
    ])
}

fn large_pages(destination: &Destination) -> Result<Figures> {
    destination.pager.hand_over(2, &destination.none_stale())?;
    destination.pager.start_placing();
    destination.pager.shut_down();
    destination.pager.settle()?;
    let small = walk(destination);
    let stretches = large_pages::stretches(destination.memory())?;
    let (of, begun) = (stretches.len(), Instant::now());
    let made = stretches
        .into_iter()
        .filter(|stretch| large_pages::collapse(destination.memory(), stretch.clone()).is_ok());
    let made = made.count();
    let took = us(begun.elapsed());
    Ok(vec![
        ("made_percent", 100.0 * made as f64 / of.max(1) as f64),
        ("large_page_us", took / made.max(1) as f64),
        ("page_read_ns_before", small),
        ("page_read_ns_after", walk(destination)),
    ])
}

/// Reads every page once, in an order without a pattern; nanoseconds a page.
fn walk(destination: &Destination) -> f64 {
    let pages = u64::from(destination.page_count());
    let begun = Instant::now();
    for at in 0..pages {
        destination.touch((at * STRIDE % pages) as PageIndex);
    }
    us(begun.elapsed()) * 1e3 / pages as f64
}

fn local_faults(pager: &Pager) -> f64 {
    pager.local_faults() as f64
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
