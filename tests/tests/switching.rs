//! When the VM changes hands: by the model, by the operator's word, by a limit; and over a link
//! that loses packets.

use me2_tests::{Bench, Guest, Link, Report, Vm, require_kvm};

/// So that pre-copy of 128 MiB would take some twenty seconds.
const SLOWLY: [&str; 2] = ["--max-bandwidth", "16M"];

fn guest() -> Guest {
    Guest::new("128M", "workload=kv rate=20000")
}

#[test]
fn switch_now_ends_the_pass_at_hand() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let nothing = bench.run(&["switch-now", "--vm", vm.name()]);
    assert_eq!(nothing.status.code(), Some(3), "there is no migration");
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("precopy");
    bench.ask(&["switch-now", "--vm", vm.name()]);
    let report = migration.end().completed();
    ended_early(&report);
    arrived(vm, to, before);
}

#[test]
fn a_limit_ends_the_pass_at_hand() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let options = [&SLOWLY[..], &["--precopy-limit", "1s"]].concat();
    let report = bench.migrate(&vm, to.address(), &options).end().completed();
    ended_early(&report);
    arrived(vm, to, before);
}

#[test]
fn what_is_written_goes_with_the_handover() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let report = bench.migrate(&vm, to.address(), &[]).end().completed();
    assert!(report.count("handover.final_set_pages") > 0, "{report}");
    assert!(
        report.number("switch.rate_bytes_per_second") > 0.0,
        "{report}"
    );
    assert!(report.number("switch.bytes_per_page") > 0.0, "{report}");
    arrived(vm, to, before);
}

/// The handover, its copy and the final set all lose packets; whichever is whole first counts.
#[test]
fn a_link_that_loses_packets_loses_nothing() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = bench.start(&guest());
    vm.wait_ready();
    let mut operations = vm.works();
    for _ in 0..3 {
        let to = bench.receive();
        let link = Link::to(to.address());
        link.lose_one_in(20);
        let report = bench.migrate(&vm, link.address(), &[]).end().completed();
        assert!(report.count("link.lost_packets") > 0, "{report}");
        assert_eq!(report.field("handover.doubled"), true, "{report}");
        assert_eq!(vm.wait_exit().code(), Some(0), "the source");
        operations = to.works_beyond(operations);
        vm = to;
    }
    vm.stop();
}

/// Requests and answers lose packets too.
#[test]
fn faults_over_a_link_that_loses_packets_are_all_answered() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    link.lose_one_in(20);
    let options = ["--mode", "postcopy", "--max-bandwidth", "100M"];
    let migration = bench.migrate(&vm, link.address(), &options);
    let report = migration.end().completed();
    assert!(report.count("postcopy.faults") > 0, "{report}");
    assert!(
        report.count("postcopy.duplicate_pages") > 0,
        "answered twice: {report}"
    );
    arrived(vm, to, before);
}

fn ended_early(report: &Report) {
    let useful = report.count("ram.useful_pages");
    assert_eq!(report.count("precopy.passes"), 1, "{report}");
    assert!(report.count("precopy.pages") < useful, "{report}");
    assert!(report.count("handover.missing_pages") > 0, "{report}");
}

fn arrived(mut vm: Vm, to: Vm, before: u64) {
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.works_beyond(before);
    to.stop();
}
