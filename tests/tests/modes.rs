//! Every mode moves a VM that works at full speed, and tells the truth about it.

use me2_tests::{Bench, Guest, Report, Vm, require_kvm};

const KV_AT_FULL_SPEED: &str = "workload=kv rate=0";
const PAGES_256_MIB: u64 = 65_536;

#[test]
fn hybrid() {
    let check = |report: &Report| {
        assert!(report.count("precopy.passes") > 0, "{report}");
        assert!(report.count("precopy.pages") > 0, "{report}");
        assert!(report.count("precopy.bytes") > 0, "{report}");
        written_last(report);
    };
    both_ways_to_verify("hybrid", 1, check);
}

#[test]
fn hybrid_with_two_vcpus() {
    both_ways_to_verify("hybrid", 2, written_last);
}

/// The guest writes until it stops: what it wrote last goes with the handover, or is missing.
fn written_last(report: &Report) {
    let last = ["handover.final_set_pages", "handover.missing_pages"];
    assert!(
        last.map(|name| report.count(name)).iter().sum::<u64>() > 0,
        "{report}"
    );
}

#[test]
fn precopy() {
    let check = |report: &Report| {
        assert!(report.count("precopy.passes") > 0, "{report}");
        assert!(report.count("precopy.pages") > 0, "{report}");
        nothing_is_missing(report);
    };
    both_ways_to_verify("precopy", 1, check);
}

#[test]
fn postcopy() {
    let check = |report: &Report| {
        assert_eq!(report.count("precopy.pages"), 0, "{report}");
        let missing = report.count("handover.missing_pages");
        assert!(
            missing > PAGES_256_MIB / 4,
            "all that is used is missing: {report}"
        );
        let faults = report.count("postcopy.faults");
        // With `--verify full` the VM is held until all is there.
        assert_eq!(faults > 0, !is_full(report), "{report}");
        let latency = |quantile| report.count(&format!("postcopy.fault_latency_us.{quantile}"));
        assert!(
            latency("p50") <= latency("p99") && latency("p99") <= latency("max"),
            "{report}"
        );
        assert_eq!(latency("max") > 0, faults > 0, "{report}");
    };
    both_ways_to_verify("postcopy", 1, check);
}

#[test]
fn stop_and_copy() {
    let check = |report: &Report| {
        assert_eq!(report.count("precopy.pages"), 0, "{report}");
        nothing_is_missing(report);
    };
    both_ways_to_verify("stop-and-copy", 1, check);
}

#[test]
fn the_report_for_people_is_the_default() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (
        bench.start(&Guest::new("64M", "workload=kv")),
        bench.receive(),
    );
    vm.wait_ready();
    let address = to.address().to_string();
    let report = bench.ask(&["hybrid-migrate", "--vm", vm.name(), "--to", &address]);
    assert!(
        report.starts_with("migration   hybrid, completed\n"),
        "{report}"
    );
    assert!(
        report.lines().all(|line| line.chars().count() <= 80),
        "{report}"
    );
    to.works();
    let status = bench.ask(&["status", "--vm", to.name()]);
    assert!(
        status.contains(&format!("{}, running", to.name())),
        "{status}"
    );
}

/// Moves a VM twice, the second time with `--verify full`.
fn both_ways_to_verify(mode: &str, cpus: u8, check: impl Fn(&Report)) {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&Guest::new("256M", KV_AT_FULL_SPEED).cpus(cpus));
    vm.wait_ready();
    let with_zeros = |report: &Report| {
        // Once moved, they are holes.
        assert!(report.count("codec.zero") > 0, "{report}");
        assert!(report.count("ram.zero_pages") > 0, "{report}");
        check(report);
    };
    let vm = moved(&bench, vm, mode, &["--verify", "hashes"], with_zeros);
    let vm = moved(&bench, vm, mode, &["--verify", "full"], &check);
    vm.stop();
}

fn moved(bench: &Bench, vm: Vm, mode: &str, options: &[&str], check: impl Fn(&Report)) -> Vm {
    let to = bench.receive();
    let before = vm.works();
    let options = [&["--mode", mode], options].concat();
    let report = bench.migrate(&vm, to.address(), &options).end().completed();
    vm.moved_to(&to, before);
    assert_eq!(report.text("mode"), mode.replace('-', "_"), "{report}");
    assert_eq!(report.count("ram.total_pages"), PAGES_256_MIB, "{report}");
    assert_eq!(is_full(&report), options.contains(&"full"), "{report}");
    let encoded = ["rle", "delta", "zstd"].map(|kind| report.count(&format!("codec.{kind}")));
    assert!(encoded.iter().sum::<u64>() > 0, "{report}");
    assert!(report.number("guest.rate_before") > 0.0, "{report}");
    check(&report);
    to
}

fn nothing_is_missing(report: &Report) {
    assert_eq!(report.count("handover.missing_pages"), 0, "{report}");
    assert_eq!(report.count("postcopy.demand_pages"), 0, "{report}");
}

fn is_full(report: &Report) -> bool {
    *report.field("verify.full") == true
}
