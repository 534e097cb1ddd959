//! What a CPU does: fill its share, then work on it, and tell.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use me2_guest::share::Failure;
use me2_guest::work::{Counters, Worker};

use super::clock::Clock;
use super::cpu::{self, Exit, SLEEP_NS_MIN};
use super::disk::{self, Disk};
use super::net::Net;
use super::plan::{PhysicalPages, Plan};
use super::serial::{heartbeat, print_line, try_print_line};

const MS: u64 = 1_000_000;
const REPORT_NS: u64 = 100 * MS;
const HEARTBEAT_NS: u64 = MS;

/// Operations that come more often than this are done in batches.
const NAP_NS: u64 = MS;

/// CPUs that have filled their share.
static FILLED: AtomicUsize = AtomicUsize::new(0);
/// When all had, by the clock that all share; 0 before.
static READY_NS: AtomicU64 = AtomicU64::new(0);
/// A check has failed somewhere, or the time is over: all work ends.
static STOP: AtomicBool = AtomicBool::new(false);

/// Fills the share of this CPU, waits for the others, and works until the machine ends.
pub(crate) fn fill_and_run(cpu: usize, mut clock: Clock, polled: Polled) -> ! {
    let plan = Plan::get().expect("there is a plan before there is work");
    let worker = Worker::fill(
        plan.share(cpu),
        &plan.options,
        plan.source(),
        plan.sizes.hot_pages,
        cpu,
        plan.cpus,
    );
    FILLED.fetch_add(1, Ordering::Release);
    if cpu == 0 {
        while FILLED.load(Ordering::Acquire) < plan.cpus {
            cpu::sleep(NAP_NS);
        }
        let workload = plan.options.workload.name();
        let pages = plan.sizes.fill_pages;
        print_line(format_args!(
            "me2-guest ready cpus={} fill_pages={pages} workload={workload}",
            plan.cpus
        ));
        READY_NS.store(clock.now_ns(), Ordering::Release);
    }
    while READY_NS.load(Ordering::Acquire) == 0 {
        cpu::sleep(NAP_NS);
    }
    let teller = Teller {
        cpu,
        report_ns: REPORT_NS,
        beat_ns: 0,
        beat_operations: 0,
    };
    // Hooks are CPU 0's.
    let hook = |ms: Option<u64>| ms.filter(|_| cpu == 0).map_or(u64::MAX, |ms| ms * MS);
    let (corrupt_ns, end_ns) = (hook(plan.options.corrupt_ms), hook(plan.options.run_ms));
    Runner {
        cpu,
        clock,
        worker,
        teller,
        polled,
        disk_told_ns: 0,
        corrupt_ns,
        end_ns,
    }
    .run()
}

/// Devices that are looked at all the time; CPU 0's, if there are any.
#[derive(Default)]
pub(crate) struct Polled {
    pub(crate) disk: Option<Disk>,
    pub(crate) net: Option<Net>,
}

struct Runner {
    cpu: usize,
    clock: Clock,
    worker: Worker<'static, PhysicalPages>,
    teller: Teller,
    polled: Polled,
    disk_told_ns: u64,
    /// When to flip a bit; `u64::MAX`: never.
    corrupt_ns: u64,
    /// When to end; `u64::MAX`: never.
    end_ns: u64,
}

impl Runner {
    fn run(mut self) -> ! {
        let ready_ns = READY_NS.load(Ordering::Acquire);
        while !STOP.load(Ordering::Relaxed) {
            let now_ns = self.clock.now_ns().saturating_sub(ready_ns);
            if now_ns >= self.end_ns {
                self.end();
            }
            if now_ns >= self.corrupt_ns {
                self.worker.corrupt();
                self.corrupt_ns = u64::MAX;
            }
            let next_ns = match self.worker.work(now_ns) {
                Ok(next_ns) => next_ns,
                Err(failure) => self.fail(now_ns, failure),
            };
            // It is polled.
            let next_ns = match self.work_on_devices(now_ns) {
                true => next_ns.min(now_ns + NAP_NS),
                false => next_ns,
            };
            let told_ns = self.teller.tell(now_ns, &self.worker.counters());
            if next_ns > now_ns {
                let until_ns = next_ns
                    .max(now_ns + NAP_NS)
                    .min(told_ns)
                    .min(self.corrupt_ns)
                    .min(self.end_ns);
                cpu::sleep(until_ns.saturating_sub(now_ns).max(SLEEP_NS_MIN));
            }
        }
        cpu::park()
    }

    /// Whether there are any.
    fn work_on_devices(&mut self, now_ns: u64) -> bool {
        if let Some(net) = &mut self.polled.net {
            net.work();
        }
        let Some(disk) = &mut self.polled.disk else {
            return self.polled.net.is_some();
        };
        if let Err(disk::Failure {
            what,
            expected,
            found,
        }) = disk.work()
        {
            STOP.store(true, Ordering::Relaxed);
            print_line(format_args!(
                "me2-guest ERROR disk check={what} expected={expected:#x} found={found:#x}"
            ));
            cpu::exit(Exit::Error)
        }
        if now_ns >= self.disk_told_ns {
            disk.tell();
            self.disk_told_ns = now_ns + REPORT_NS;
        }
        true
    }

    fn fail(&mut self, now_ns: u64, failure: Failure) -> ! {
        STOP.store(true, Ordering::Relaxed);
        let Failure { address, damage } = failure;
        print_line(format_args!(
            "me2-guest ERROR cpu={} page={address:#x} check={} expected={:#x} found={:#x}",
            self.cpu,
            damage.check.name(),
            damage.expected,
            damage.found
        ));
        // Bounded: the CPU that holds the port may wait for a page that never comes.
        const TRIES: u32 = 1_000_000;
        let _ = (0..TRIES).any(|_| self.teller.report(now_ns, &self.worker.counters()));
        cpu::exit(Exit::Error)
    }

    fn end(&self) -> ! {
        STOP.store(true, Ordering::Relaxed);
        print_line(format_args!("me2-guest done"));
        cpu::exit(Exit::Done)
    }
}

/// When this CPU tells what.
struct Teller {
    cpu: usize,
    report_ns: u64,
    beat_ns: u64,
    beat_operations: u64,
}

impl Teller {
    /// Tells what is due, and when there will be more to tell.
    fn tell(&mut self, now_ns: u64, counters: &Counters) -> u64 {
        let unbeaten = counters.operations > self.beat_operations;
        if unbeaten && now_ns >= self.beat_ns {
            heartbeat(self.cpu);
            self.beat_operations = counters.operations;
            self.beat_ns = now_ns + HEARTBEAT_NS;
        }
        // If another CPU is printing, soon: it may be held up by a missing page, and work is not.
        if now_ns >= self.report_ns && self.report(now_ns, counters) {
            self.report_ns = now_ns / REPORT_NS * REPORT_NS + REPORT_NS;
        }
        let beat_ns = if counters.operations > self.beat_operations {
            self.beat_ns
        } else {
            u64::MAX
        };
        self.report_ns.max(now_ns + NAP_NS).min(beat_ns)
    }

    fn report(&self, now_ns: u64, counters: &Counters) -> bool {
        let Counters {
            operations,
            verified,
            errors,
        } = counters;
        try_print_line(format_args!(
            "me2-guest cpu={} t_ms={} ops={operations} verified={verified} errors={errors}",
            self.cpu,
            now_ns / MS
        ))
    }
}
