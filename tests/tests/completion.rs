//! A migration is complete when the hashes of all pages agree, and not before.

use me2_tests::{Bench, Guest, Middle, require_kvm};

fn guest() -> Guest {
    Guest::new("64M", "workload=kv rate=0 fill=16M hot=2M")
}

#[test]
fn a_page_that_differs_is_asked_for_again() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let middle = Middle::to(to.address(), bench.config(), 2);
    let migration = bench.migrate(&vm, middle.address(), &["--mode", "postcopy"]);
    let report = migration.end().completed();
    assert_eq!(middle.told(), 2, "{report}");
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    assert!(vm.log().contains("asks for them once more"), "{}", vm.log());
    to.wait_log("pages differ from the source");
    to.wait_log("the VM is here, all of it");
    to.works_beyond(before);
    to.stop();
}

#[test]
fn a_page_that_goes_on_to_differ_is_named_and_never_acknowledged() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let middle = Middle::to(to.address(), bench.config(), u32::MAX);
    let migration = bench.migrate(&vm, middle.address(), &["--mode", "postcopy"]);
    let report = migration.end().failed(5, "postcopy_paused");
    let reason = report.text("error");
    assert!(reason.contains("1 pages differ"), "{reason}");
    assert!(reason.contains("at frames ["), "{reason}");
    assert_eq!(report.count("verify.mismatched_pages"), 1, "{report}");
    // A few times, and not for ever; nor does it connect again to do the same.
    let told = middle.told();
    assert!((2..=10).contains(&told), "{told}");
    assert!(
        !vm.log().contains("connecting again by itself"),
        "{}",
        vm.log()
    );
    // Both keep what they have: the VM runs there, the memory is here.
    vm.wait_state("postcopy_paused");
    to.wait_state("postcopy_paused");
    to.works();
    for process in [&vm, &to] {
        for order in ["/v1/stop", "/v1/resume"] {
            assert_eq!(process.refused(order), 409, "{}", process.name());
        }
    }
    assert_eq!(middle.told(), told);
}
