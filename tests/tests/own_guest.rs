//! A guest that is not the built-in one runs, moves and goes on.

use me2_tests::{
    Bench, Guest, Vm,
    own_guest::{SecondRegion, build, check_no_gap, numbers},
    require_kvm,
};

#[test]
fn it_counts_on_without_a_gap() {
    require_kvm!();
    let bench = Bench::new();
    let kernel = build(bench.folder(), SecondRegion::Low);
    counts_on(
        &bench,
        &Guest::own("128M", &kernel),
        &["hybrid", "postcopy", "precopy"],
    );
}

#[test]
fn memory_behind_the_hole_moves_too() {
    require_kvm!();
    let bench = Bench::new();
    let kernel = build(bench.folder(), SecondRegion::BehindHole);
    counts_on(&bench, &Guest::own("4G", &kernel), &["hybrid", "postcopy"]);
}

/// Moves the guest by each mode in turn; it checks its memory itself, and ends if it is wrong.
fn counts_on(bench: &Bench, guest: &Guest, modes: &[&str]) {
    let mut vm = bench.start(guest);
    let mut console = String::new();
    for mode in modes {
        wait_for_numbers(&vm);
        let to = bench.receive();
        let migration = bench.migrate(&vm, to.address(), &["--mode", mode]);
        let report = migration.end().completed();
        assert!(
            report.field("guest.rate_before").is_null(),
            "it tells nothing: {report}"
        );
        assert_eq!(vm.wait_exit().code(), Some(0), "the source");
        // A line may begin in one process and end in the next.
        console += &vm.console();
        vm = to;
    }
    wait_for_numbers(&vm);
    console += &vm.console();
    let numbers = numbers(&console);
    check_no_gap(&numbers);
    assert!(numbers.len() > modes.len(), "{console}");
    vm.stop();
}

/// Waits until the guest has printed some lines in this process.
fn wait_for_numbers(vm: &Vm) {
    const LINES: usize = 20;
    vm.wait_console("number", |console| {
        assert!(!console.contains("wrong"), "the guest found a wrong number");
        (console.lines().count() > LINES).then_some(())
    });
}
