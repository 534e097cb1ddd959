//! The guest's own check works: without that, "no errors" would mean nothing.

use me2_tests::{Bench, Guest, Vm, require_kvm};

/// A flipped bit is found by the scan within moments.
const SCAN: &str = "fill=16M hot=1M scan=1000000";

/// Every page is checked several times.
const SCAN_ALL: &str = "fill=16M scan=100000";

#[test]
fn a_flipped_bit_is_found() {
    require_kvm!();
    let bench = Bench::new();
    let cmdline = format!("workload=kv {SCAN} corrupt_ms=300");
    let vm = bench.start(&Guest::new("64M", &cmdline).cpus(2));
    ends_with_an_error(vm);
}

/// Without the scan: the workload itself comes to the page.
#[test]
fn a_flipped_bit_is_found_by_every_workload() {
    require_kvm!();
    let bench = Bench::new();
    for workload in ["rewrite", "stream", "churn", "churn freed=zeroed", "graph"] {
        let cmdline = format!("workload={workload} fill=16M scan=0 corrupt_ms=300");
        ends_with_an_error(bench.start(&Guest::new("64M", &cmdline)));
    }
}

#[test]
fn every_workload_runs_without_an_error() {
    require_kvm!();
    let bench = Bench::new();
    for workload in ["rewrite", "stream", "churn", "churn freed=zeroed", "graph"] {
        let cmdline = format!("workload={workload} {SCAN_ALL} run_ms=500");
        let mut vm = bench.start(&Guest::new("64M", &cmdline).cpus(2));
        assert_eq!(vm.wait_exit().code(), Some(0), "{workload}");
        let console = vm.console();
        assert!(console.contains("me2-guest done"), "{console}");
        assert!(!console.contains("ERROR"), "{console}");
    }
}

#[test]
fn a_bit_flipped_after_a_move_is_found() {
    require_kvm!();
    let bench = Bench::new();
    let cmdline = format!("workload=kv {SCAN} corrupt_ms=6000");
    let vm = bench.start(&Guest::new("64M", &cmdline));
    vm.wait_ready();
    let (to, before) = (bench.receive(), vm.works());
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    ends_with_an_error(to);
}

#[test]
fn a_guest_that_is_done_ends_its_process_well() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("64M", "workload=kv fill=16M run_ms=300"));
    assert_eq!(vm.wait_exit().code(), Some(0));
    assert!(vm.console().contains("me2-guest done"), "{}", vm.console());
}

#[test]
fn a_command_line_that_makes_no_sense_is_told_by_the_guest() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("64M", "workload=dance"));
    assert_ne!(vm.wait_exit().code(), Some(0));
    assert!(vm.console().contains("workload=dance"), "{}", vm.console());
}

fn ends_with_an_error(mut vm: Vm) {
    let status = vm.wait_exit();
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    let console = vm.console();
    assert!(console.contains("me2-guest ERROR cpu=0 "), "{console}");
    let last = console
        .lines()
        .rfind(|line| line.starts_with("me2-guest cpu=0 "));
    assert!(
        last.is_some_and(|line| line.ends_with("errors=1")),
        "{console}"
    );
}
