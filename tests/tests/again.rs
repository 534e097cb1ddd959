//! A VM that has moved moves on, and back, and nothing grows.

use me2_tests::{Bench, Guest, Report, Usage, Vm, require_kvm, say};

const MOVES: usize = 20;
/// By then everything that is made once has been made.
const SETTLED_AFTER: usize = 3;
/// Moves looked at together, at the beginning and at the end: the least of each counts, since what
/// an allocator keeps varies.
const WINDOW: usize = 5;

#[test]
fn twenty_moves_leave_nothing_behind() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("128M", "workload=kv rate=0"));
    vm.wait_ready();
    let mut operations = vm.works();
    let mut usages = Vec::new();
    for _ in 0..MOVES {
        (vm, operations) = moved(&bench, vm, operations);
        vm.wait_log("the VM is here, all of it");
        usages.push(vm.usage());
    }
    check_not_grown(&usages);
    assert_eq!(bench.sockets(), [format!("{}.sock", vm.name())], "sockets");
    vm.stop();
    assert!(bench.sockets().is_empty(), "sockets");
}

#[test]
fn every_mode_follows_every_other() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("64M", "workload=kv rate=20000"));
    vm.wait_ready();
    let mut operations = vm.works();
    let modes = [
        "postcopy",
        "precopy",
        "hybrid",
        "stop-and-copy",
        "postcopy",
        "hybrid",
    ];
    for mode in modes {
        let to = bench.receive();
        let migration = bench.migrate(&vm, to.address(), &["--mode", mode]);
        check_rates(&migration.end().completed());
        operations = vm.moved_to(&to, operations);
        vm = to;
    }
    vm.stop();
}

/// The guest is paced: it may catch up for a moment, but never do many times as much.
fn check_rates(report: &Report) {
    const RATE_MAX: f64 = 3.0 * 20_000.0;
    for name in ["guest.rate_before", "guest.rate_during"] {
        let rate = report.field(name);
        // Too few samples are no rate.
        assert!(rate.is_null() || report.number(name) < RATE_MAX, "{report}");
    }
}

fn moved(bench: &Bench, vm: Vm, operations: u64) -> (Vm, u64) {
    let to = bench.receive();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    let operations = vm.moved_to(&to, operations);
    (to, operations)
}

/// What the process that has the VM holds, after each move.
fn check_not_grown(usages: &[Usage]) {
    // A runtime's threads that do blocking work come and go; a few mappings go with each.
    is_no_more(usages, "threads", 4, |usage| usage.threads as u64);
    is_no_more(usages, "mappings", 30, |usage| usage.mappings as u64);
    // A connection to the API may not be closed yet.
    is_no_more(usages, "descriptors", 2, |usage| usage.descriptors as u64);
    is_no_more(usages, "bytes of guest memory", 1 << 20, |usage| {
        usage.largest_mapping_bytes
    });
    is_no_more(usages, "bytes", 16 << 20, |usage| usage.anonymous_bytes);
}

fn is_no_more(usages: &[Usage], what: &str, slack: u64, value: impl Fn(&Usage) -> u64) {
    let least = |window: &[Usage]| window.iter().map(&value).min().expect("not empty");
    let before = least(&usages[SETTLED_AFTER..][..WINDOW]);
    let after = least(&usages[usages.len() - WINDOW..]);
    say(&format!("{what}: {before} at first, {after} at last"));
    assert!(after <= before + slack, "{what}: {usages:#?}");
}
