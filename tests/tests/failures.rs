//! What breaks leaves the VM where it is, whole; and the next attempt succeeds.

use me2_tests::{Bench, Guest, Link, Vm, require_kvm};

/// Slow enough that every phase can be met: the guest's 64 MiB take several seconds.
const SLOWLY: [&str; 2] = ["--max-bandwidth", "50M"];

fn guest() -> Guest {
    Guest::new("128M", "workload=kv rate=0 fill=64M hot=8M")
}

#[test]
fn a_receiver_that_dies_in_precopy_costs_nothing() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, mut to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("precopy");
    to.kill();
    vm.works();
    migration.end().failed(1, "failed");
    vm.wait_state("running");
    vm.works();
    next_attempt_succeeds(&bench, vm, bench.receive());
}

#[test]
fn a_link_cut_in_postcopy_is_recovered_by_hand() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    let options = [&SLOWLY[..], &["--mode", "postcopy", "--no-auto-recover"]].concat();
    let migration = bench.migrate(&vm, link.address(), &options);
    vm.wait_phase("postcopy");
    link.cut();
    let report = migration.end().failed(5, "postcopy_paused");
    assert!(report.count("handover.missing_pages") > 0, "{report}");
    vm.wait_state("postcopy_paused");
    to.wait_state("postcopy_paused");

    // Recovering is in vain as long as the link is down, and makes nothing worse.
    bench.recover(&vm).end().failed(5, "postcopy_paused");
    // Nor is the VM run here again, or moved elsewhere.
    for command in [&["cancel"][..], &["hybrid-migrate", "--to", "127.0.0.1:9"]] {
        let words = [command, &["--vm", vm.name()]].concat();
        assert_eq!(bench.run(&words).status.code(), Some(3), "{command:?}");
    }

    link.mend();
    bench.recover(&vm).end().completed();
    arrived(vm, to, before).stop();
}

#[test]
fn a_source_that_is_stopped_in_postcopy_keeps_the_memory() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let options = [&SLOWLY[..], &["--mode", "postcopy"]].concat();
    let migration = bench.migrate(&vm, to.address(), &options);
    vm.wait_phase("postcopy");
    for process in [&vm, &to] {
        assert_eq!(process.refused("/v1/stop"), 409, "{}", process.name());
    }
    migration.end().completed();
    arrived(vm, to, before).stop();
}

#[test]
fn a_guest_that_ends_by_itself_in_precopy_is_not_said_to_run_on() {
    require_kvm!();
    let bench = Bench::new();
    let guest = Guest::new("128M", "workload=kv fill=64M hot=8M run_ms=3000");
    let (mut vm, to) = (bench.start(&guest), bench.receive());
    vm.wait_ready();
    let options = ["--mode", "precopy", "--max-bandwidth", "2M"];
    let migration = bench.migrate(&vm, to.address(), &options);
    let report = migration.end().failed(1, "failed");
    let reason = report.text("error");
    assert!(
        reason.contains("ended by itself") && !reason.contains("runs on"),
        "{reason}"
    );
    let status = vm.wait_exit();
    assert!(status.success(), "{status}: {}", vm.log());
    bench.good_migration(&self::guest(), to);
}

#[test]
fn cancelled_in_precopy_the_vm_stays() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("precopy");
    bench.ask(&["cancel", "--vm", vm.name()]);
    migration.end().failed(1, "cancelled");
    vm.wait_state("running");
    vm.works();
    // The receiver waits on, for this attempt.
    to.wait_state("waiting");
    next_attempt_succeeds(&bench, vm, to);
}

#[test]
fn a_time_that_is_over_leaves_the_vm() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let options = [&SLOWLY[..], &["--timeout", "1s"]].concat();
    bench
        .migrate(&vm, to.address(), &options)
        .end()
        .failed(4, "failed");
    vm.wait_state("running");
    vm.works();
    to.wait_state("waiting");
    next_attempt_succeeds(&bench, vm, to);
}

#[test]
fn a_migration_needs_no_client() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let mut migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("precopy");
    migration.kill();
    // A second one is refused meanwhile.
    let address = to.address().to_string();
    let words = ["hybrid-migrate", "--vm", vm.name(), "--to", &address];
    assert_eq!(bench.run(&words).status.code(), Some(3));
    arrived(vm, to, before).stop();
}

#[test]
fn nobody_there_is_a_failure_with_a_reason() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest());
    vm.wait_ready();
    let nobody = Link::to(([127, 0, 0, 1], 9).into());
    nobody.cut();
    bench
        .migrate(&vm, nobody.address(), &[])
        .end()
        .failed(1, "failed");
    vm.works();
    let nothing = bench.run(&["recover", "--vm", vm.name()]);
    assert_eq!(nothing.status.code(), Some(3));
    vm.stop();
}

fn next_attempt_succeeds(bench: &Bench, vm: Vm, to: Vm) {
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    arrived(vm, to, before).stop();
}

/// The source has ended well, and the guest goes on.
fn arrived(vm: Vm, to: Vm, before: u64) -> Vm {
    vm.moved_to(&to, before);
    to
}
