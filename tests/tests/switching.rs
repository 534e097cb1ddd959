//! When the VM changes hands: by the model, by the operator's word, by a limit; and over a link
//! that loses packets.

use me2_tests::{Bench, Guest, Link, Vm, require_kvm};

/// So that pre-copy of 128 MiB would take some twenty seconds.
const SLOWLY: [&str; 2] = ["--max-bandwidth", "16M"];

fn guest() -> Guest {
    Guest::new("128M", "workload=kv rate=20000")
}

#[test]
fn switch_now_ends_the_pass_at_hand() {
    require_kvm!();
    ends_the_pass_at_hand(&[], |bench, vm| {
        vm.wait_phase("precopy");
        bench.ask(&["switch-now", "--vm", vm.name()]);
    });
}

#[test]
fn a_limit_ends_the_pass_at_hand() {
    require_kvm!();
    ends_the_pass_at_hand(&["--precopy-limit", "1s"], |_, _| ());
}

#[test]
fn switch_now_is_refused_where_nothing_moves() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest());
    vm.wait_ready();
    let refused = bench.run(&["switch-now", "--vm", vm.name()]);
    assert_eq!(refused.status.code(), Some(3), "there is no migration");
    vm.stop();
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
        operations = vm.moved_to(&to, operations);
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

/// The first pass, which would take long, is ended by one of `options` or by what `meanwhile` does.
fn ends_the_pass_at_hand(options: &[&str], meanwhile: impl FnOnce(&Bench, &Vm)) {
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let options = [&SLOWLY[..], options].concat();
    let migration = bench.migrate(&vm, to.address(), &options);
    meanwhile(&bench, &vm);
    let report = migration.end().completed();
    let useful = report.count("ram.useful_pages");
    assert_eq!(report.count("precopy.passes"), 1, "{report}");
    assert!(report.count("precopy.pages") < useful, "{report}");
    assert!(report.count("handover.missing_pages") > 0, "{report}");
    arrived(vm, to, before);
}

fn arrived(vm: Vm, to: Vm, before: u64) {
    vm.moved_to(&to, before);
    to.stop();
}
