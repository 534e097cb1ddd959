//! What probes and windows cost the guest: measurements, printed, which assert nothing. To run them:
//! `cargo test --release -p me2-user --lib measure -- --ignored --nocapture`, on an idle machine.

use std::{collections::HashSet, fs, path::PathBuf};

use super::*;

/// Pairs of a run with and a run without.
const PAIRS: usize = 5;
const RUN_TIME: Duration = Duration::from_secs(2);
/// How often the dirty log is collected: as passes of pre-copy do, and far more often.
const COLLECT_INTERVALS: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(50)];

#[test]
#[ignore = "a measurement, to be read by people: what it finds is neither right nor wrong"]
fn probes_while_the_dirty_log_is_read() {
    for interval in COLLECT_INTERVALS {
        println!("collecting every {interval:?}");
        measure_probes(interval);
    }
}

fn measure_probes(interval: Duration) {
    for workload in ["kv", "graph", "rewrite order=uniform"] {
        let command_line = format!("fill=256M hot=64M rate=0 workload={workload}");
        let Some(mut machine) = Machine::start(1 << 30, &command_line) else {
            return;
        };
        machine.vm.start_dirty_log().unwrap();
        let frames = machine.vm.memory().layout().frame_end();
        let mut ratios = Vec::new();
        for pair in 0..PAIRS {
            let mut speeds = [0.0; 2];
            let mut events = 0;
            // Which one is first alternates too.
            for with in [pair % 2, 1 - pair % 2] {
                machine.probing = Probing::disabled(); // detaches first
                if with == 1 {
                    machine.probing = Probing::start(frames);
                }
                speeds[with] = machine.speed_while_collecting(interval);
                events += machine.probing.report().events;
            }
            println!("{workload}: {speeds:.0?} operations a second of vCPU, {events} events");
            ratios.push(speeds[1] / speeds[0]);
        }
        ratios.sort_by(f64::total_cmp);
        println!("{workload}: with/without, ascending: {ratios:.4?}");
    }
}

#[test]
#[ignore = "a measurement, to be read by people: what it finds is neither right nor wrong"]
fn windows() {
    for (fill, hot) in [("64M", "16M"), ("256M", "64M")] {
        for workload in ["kv", "graph"] {
            for rate in ["20000", "0"] {
                let command_line = format!("workload={workload} fill={fill} hot={hot} rate={rate}");
                let Some(machine) = Machine::start(1 << 30, &command_line) else {
                    return;
                };
                println!("{command_line}");
                machine.vm.start_dirty_log().unwrap();
                for (slowdown_max, observe_ms) in [(0.1, 100), (0.3, 100), (1.0, 100), (0.1, 1000)]
                {
                    let budget = WindowBudget {
                        slowdown_max,
                        observe: Duration::from_millis(observe_ms),
                        time_max: Duration::from_secs(10),
                    };
                    machine.measure_window(budget);
                }
            }
        }
    }
}

#[test]
#[ignore = "a measurement, to be read by people: what it finds is neither right nor wrong"]
fn windows_and_the_dirty_log() {
    for writes in [0, 50] {
        let command_line = format!("workload=graph fill=64M hot=32M rate=20000 writes={writes}");
        let Some(machine) = Machine::start(512 << 20, &command_line) else {
            return;
        };
        let vm = &machine.vm;
        vm.start_dirty_log().unwrap();
        vm.collect_dirty(Collect::AndProtect).unwrap();
        thread::sleep(Duration::from_secs(1));
        let without = count(&vm.collect_dirty(Collect::AndProtect).unwrap());
        let budget = WindowBudget {
            slowdown_max: 0.2,
            observe: Duration::from_millis(500),
            time_max: Duration::from_secs(1),
        };
        let Some(seen) = machine.observe(budget, || false) else {
            return;
        };
        thread::sleep(Duration::from_secs(1).saturating_sub(seen.took));
        let with = count(&vm.collect_dirty(Collect::AndProtect).unwrap());
        println!(
            "{command_line}: dirty in a second {without}, with a window {with}; {} came back in {:?}",
            seen.first_uses.len(),
            seen.took
        );
    }
}

fn count(bitmap: &[u64]) -> u32 {
    bitmap.iter().map(|word| word.count_ones()).sum()
}

impl Machine {
    /// Operations so far, at the moment at which the guest tells of them, and the processor time of
    /// its vCPUs, in seconds, which other programs on this machine do not count in.
    fn progress(&self) -> (f64, f64) {
        let operations = || self.monitor.status().unwrap().operations;
        let before = operations();
        while operations() == before {
            thread::sleep(Duration::from_micros(100));
        }
        (operations() as f64, vcpu_seconds())
    }

    /// Operations a second of vCPU while `act` runs.
    fn speed_during(&self, act: impl FnOnce()) -> f64 {
        let before = self.progress();
        act();
        let after = self.progress();
        (after.0 - before.0) / (after.1 - before.1)
    }

    fn speed_while_collecting(&self, interval: Duration) -> f64 {
        self.speed_during(|| {
            let end = Instant::now() + RUN_TIME;
            while Instant::now() < end {
                self.vm.collect_dirty(Collect::AndProtect).unwrap();
                thread::sleep(interval);
            }
        })
    }

    /// A window, then another one second later: what it cost, and what it said of the other.
    fn measure_window(&self, budget: WindowBudget) {
        let collect = || drop(self.vm.collect_dirty(Collect::AndProtect).unwrap());
        let pause = || thread::sleep(Duration::from_secs(1));
        let quiet = self.speed_during(pause);
        let vcpus_before = vcpu_seconds();
        let mut first = None;
        let speed = self.speed_during(|| first = self.observe(budget, || false));
        let busy = vcpu_seconds() - vcpus_before;
        let Some(first) = first else { return };
        collect();
        pause();
        let Some(second) = self.observe(budget, || false) else {
            return;
        };
        collect();
        let (known, next) = (pages(&first), pages(&second));
        println!(
            "  budget {:.0}%, observed {:?}: {:.0?}, complete {}, {} dropped in {:.1?}, {} back by {} faults; \
             speed {:.1}% over {busy:.3} s of vCPU, {:.1} us a fault; of the {} of the next window \
             {:.1}% known, of its first quarter {:.1}% (in the first quarter {:.1}%)",
            100.0 * budget.slowdown_max,
            budget.observe,
            first.took,
            first.complete,
            first.dropped_pages,
            first.dropping,
            known.len(),
            first.faults,
            100.0 * speed / quiet,
            (1.0 - speed / quiet) * busy * 1e6 / first.faults as f64,
            next.len(),
            percent_known(&next, &known),
            percent_known(&next[..next.len() / 4], &known),
            percent_known(&next[..next.len() / 4], &known[..known.len() / 4]),
        );
    }
}

fn pages(seen: &WorkingSet) -> Vec<PageIndex> {
    seen.first_uses
        .iter()
        .map(|first_use| first_use.page)
        .collect()
}

fn percent_known(next: &[PageIndex], known: &[PageIndex]) -> f64 {
    let known: HashSet<_> = known.iter().collect();
    let hits = next.iter().filter(|page| known.contains(page)).count();
    100.0 * hits as f64 / next.len().max(1) as f64
}

/// Processor time of this process's vCPU threads.
fn vcpu_seconds() -> f64 {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let of = |thread: PathBuf| {
        let name = fs::read_to_string(thread.join("comm")).unwrap_or_default();
        let times = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        let ns = times.split(' ').next().and_then(|ns| ns.parse().ok());
        if name.starts_with("vcpu") {
            ns.unwrap_or(0.0)
        } else {
            0.0
        }
    };
    threads
        .map(|thread| of(thread.unwrap().path()))
        .sum::<f64>()
        / 1e9
}
