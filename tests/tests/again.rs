//! A VM that has moved moves on, and back, and nothing grows.

use me2_tests::{Bench, Guest, Report, require_kvm, say, soak};

#[test]
fn twenty_moves_leave_nothing_behind() {
    require_kvm!();
    let soak = soak::run(20, &["hybrid"], |_| ());
    say(&format!("{:?}", soak.held));
    assert!(soak.is_clean(), "{soak:#?}");
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
