//! What probes and windows cost the guest: measurements, printed, which assert nothing. To run them:
//! `cargo test --release -p me2-user --lib measure -- --ignored --nocapture`, on an idle machine.

use std::collections::HashSet;

use super::*;

/// Pairs of a run with and a run without.
const PAIRS: usize = 5;
const RUN_TIME: Duration = Duration::from_secs(2);
/// How often the dirty log is collected, as short passes of pre-copy do.
const COLLECT_INTERVAL: Duration = Duration::from_millis(50);

const WORKLOADS: [(&str, &str); 3] = [
    ("kv", "workload=kv fill=256M hot=64M rate=0"),
    ("graph", "workload=graph fill=256M hot=64M rate=0"),
    (
        "rewrite",
        "workload=rewrite fill=256M hot=64M rate=0 order=uniform",
    ),
];

#[test]
#[ignore = "a measurement"]
fn probes_while_the_dirty_log_is_read() {
    for (name, command_line) in WORKLOADS {
        let Some(mut machine) = Machine::start(1 << 30, command_line) else {
            return;
        };
        machine.vm.start_dirty_log().unwrap();
        let frames = machine.vm.memory().layout().frame_end();
        let mut ratios = Vec::new();
        for pair in 0..PAIRS {
            let mut rates = [0.0; 2];
            // Which one is first alternates too.
            for with in [pair % 2, 1 - pair % 2] {
                machine.probing = Probing::disabled(); // detaches first
                if with == 1 {
                    machine.probing = Probing::start(frames);
                }
                rates[with] = machine.rate_while_collecting();
            }
            let events = machine.probing.report().events;
            println!(
                "{name}: without {:.0}/s, with {:.0}/s ({events} events)",
                rates[0], rates[1]
            );
            ratios.push(rates[1] / rates[0]);
        }
        ratios.sort_by(f64::total_cmp);
        println!("{name}: with/without, ascending: {ratios:.4?}");
    }
}

#[test]
#[ignore = "a measurement"]
fn windows() {
    for (fill, hot) in [
        ("64M", "16M"),
        ("64M", "32M"),
        ("256M", "64M"),
        ("256M", "128M"),
    ] {
        for workload in ["kv", "graph", "stream"] {
            for rate in ["20000", "0"] {
                let command_line = format!("workload={workload} fill={fill} hot={hot} rate={rate}");
                let Some(machine) = Machine::start(1 << 30, &command_line) else {
                    return;
                };
                println!("{command_line}");
                machine.measure_windows();
            }
        }
    }
}

#[test]
#[ignore = "a measurement"]
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
    fn operations(&self) -> u64 {
        self.monitor.status().unwrap().operations
    }

    fn rate_over(&self, act: impl FnOnce()) -> f64 {
        let (begun, before) = (Instant::now(), self.operations());
        act();
        (self.operations() - before) as f64 / begun.elapsed().as_secs_f64()
    }

    fn rate_while_collecting(&self) -> f64 {
        self.rate_over(|| {
            let end = Instant::now() + RUN_TIME;
            while Instant::now() < end {
                self.vm.collect_dirty(Collect::AndProtect).unwrap();
                thread::sleep(COLLECT_INTERVAL);
            }
        })
    }

    fn measure_windows(&self) {
        let before = self.rate_over(|| thread::sleep(RUN_TIME));
        let observe = |slowdown_max| {
            let budget = WindowBudget {
                slowdown_max,
                time_max: Duration::from_secs(10),
            };
            let mut seen = None;
            let rate = self.rate_over(|| seen = self.observe(budget, || false));
            seen.map(|seen| (rate / before, seen))
        };
        for slowdown_max in [0.1, 0.3, 1.0] {
            let Some((speed, first)) = observe(slowdown_max) else {
                return;
            };
            thread::sleep(Duration::from_secs(1));
            let Some((_, second)) = observe(slowdown_max) else {
                return;
            };
            let pages = |seen: &WorkingSet| -> Vec<PageIndex> {
                seen.first_uses
                    .iter()
                    .map(|first_use| first_use.page)
                    .collect()
            };
            let (known, next) = (pages(&first), pages(&second));
            let predicted = |next: &[PageIndex], known: &[PageIndex]| {
                let known: HashSet<_> = known.iter().collect();
                let hits = next.iter().filter(|page| known.contains(page)).count();
                100.0 * hits as f64 / next.len().max(1) as f64
            };
            let quarter = |pages: &[PageIndex]| pages[..pages.len() / 4].to_vec();
            println!(
                "  budget {slowdown_max}: {:.0} ms, complete {}, {} pages dropped in {:.1} ms, {} back by {} \
                 faults, speed {:.1}%; of the next window's {} pages {:.1}% were in it, of its first \
                 quarter {:.1}% (in the first quarter {:.1}%)",
                first.took.as_secs_f64() * 1e3,
                first.complete,
                first.dropped_pages,
                first.dropping.as_secs_f64() * 1e3,
                known.len(),
                first.faults,
                100.0 * speed,
                next.len(),
                predicted(&next, &known),
                predicted(&quarter(&next), &known),
                predicted(&quarter(&next), &quarter(&known)),
            );
        }
    }
}
