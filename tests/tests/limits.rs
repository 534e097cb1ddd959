//! Limits that an operator sets are kept, by what the migration itself counted.

use std::time::{Duration, Instant};

use me2_tests::{Bench, Guest, Link, Report, Vm, Way, require_kvm, wait_until};

const CAP_BYTES_PER_SECOND: f64 = 5e6;
/// As they are, so that there is enough to send for some ten seconds.
const CAPPED: [&str; 4] = ["--max-bandwidth", "40M", "--codec", "raw"];
/// IP's header without options, and UDP's.
const HEADER_BYTES: f64 = 28.0;

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=32M hot=4M rate=2000")
}

#[test]
fn a_hybrid_keeps_to_the_bandwidth() {
    require_kvm!();
    let report = moved_under_the_cap("hybrid");
    assert!(report.number("precopy_time_ms") > 3000.0, "{report}");
}

#[test]
fn post_copy_keeps_to_the_bandwidth() {
    require_kvm!();
    let report = moved_under_the_cap("postcopy");
    assert!(report.count("postcopy.faults") > 0, "{report}");
    assert!(report.number("postcopy_time_ms") > 3000.0, "{report}");
}

/// Two VMs of one host, moved to another at once, have one cap together, and share it.
#[test]
fn two_at_once_share_the_cap() {
    const BYTES_MIN: f64 = 8e6;
    require_kvm!();
    let bench = Bench::new();
    let pairs = [(); 2].map(|()| {
        let (vm, to) = (bench.start(&guest()), bench.receive());
        vm.wait_ready();
        (vm, to)
    });
    let links = pairs.each_ref().map(|(_, to)| Link::to(to.address()));
    let befores = pairs.each_ref().map(|(vm, _)| vm.works());
    let migrate = |at: usize| bench.migrate(&pairs[at].0, links[at].address(), &CAPPED);
    let migrations = [migrate(0), migrate(1)];
    pairs.iter().for_each(|(vm, _)| vm.wait_phase("precopy"));

    let carried = || {
        links
            .each_ref()
            .map(|link| link.delivered_bytes(Way::Forth) as f64)
    };
    let (begun, first) = (Instant::now(), carried());
    let (now, seconds) = wait_until("enough bytes of both", || {
        let (now, seconds) = (carried(), begun.elapsed().as_secs_f64());
        let is_enough = (0..2).all(|at| now[at] - first[at] >= BYTES_MIN);
        is_enough.then_some((now, seconds))
    });
    let bytes = [now[0] - first[0], now[1] - first[1]];
    let together = bytes[0] + bytes[1];
    let headers = together / 1452.0 * HEADER_BYTES;
    let of_cap = (together + headers) / seconds / CAP_BYTES_PER_SECOND;
    assert!(
        (0.8..1.05).contains(&of_cap),
        "{of_cap} of the cap: {bytes:?}"
    );
    let share = bytes[0] / together;
    assert!((0.25..0.75).contains(&share), "one of two had {share}");

    for migration in migrations {
        migration.end().completed();
    }
    for ((vm, to), before) in pairs.into_iter().zip(befores) {
        vm.moved_to(&to, before);
        to.stop();
    }
}

/// Moves a VM by way of a relay that counts.
fn moved_under_the_cap(mode: &str) -> Report {
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    let options = [&CAPPED[..], &["--mode", mode]].concat();
    let migration = bench.migrate(&vm, link.address(), &options);
    let report = migration.end().completed();
    arrived(vm, &to, before);
    to.stop();
    is_what_the_link_carried(&report, &link);
    keeps_to_the_cap(&report);
    report
}

/// The report does not forget what it sent. Some packets follow it.
fn is_what_the_link_carried(report: &Report, link: &Link) {
    let (told, carried) = (
        report.count("wire_bytes") as f64,
        link.delivered_bytes(Way::Forth) as f64,
    );
    assert!((told / carried - 1.0).abs() < 0.01, "{carried}: {report}");
}

fn keeps_to_the_cap(report: &Report) {
    let phases = ["precopy_time_ms", "downtime_ms", "postcopy_time_ms"];
    let seconds = phases.map(|name| report.number(name)).iter().sum::<f64>() / 1e3;
    let bytes = report.count("wire_bytes") as f64;
    // No datagram is larger, so there are at least so many headers.
    let headers = bytes / report.count("link.mtu_bytes") as f64 * HEADER_BYTES;
    let of_cap = (bytes + headers) / seconds / CAP_BYTES_PER_SECOND;
    assert!(of_cap < 1.02, "{of_cap} of the cap: {report}");
    assert!(of_cap > 0.8, "{of_cap} of the cap: {report}");
}

/// Both ways to look at the guest are used on a link such as this one, unless they may cost nothing.
#[test]
fn a_guest_that_must_not_be_slowed_down_is_not_looked_at() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest());
    vm.wait_ready();
    let before = vm.works();

    let (vm, report) = moved_far(&bench, vm, &[], before);
    assert!(report.count("explore.guest_cost.looks") > 1, "{report}");
    assert!(
        report.number("explore.guest_cost.time_ms") > 0.0,
        "{report}"
    );
    let is_attached = *report.field("ebpf.attached") == true;
    let window = report.field("explore.working_set");
    assert_eq!(!window.is_null(), is_attached, "{report}");

    let before = vm.works();
    let (vm, report) = moved_far(&bench, vm, &["--guest-slowdown-max", "0"], before);
    assert_eq!(report.count("explore.guest_cost.looks"), 0, "{report}");
    assert_eq!(report.number("explore.guest_cost.time_ms"), 0.0, "{report}");
    assert!(report.field("explore.working_set").is_null(), "{report}");
    vm.stop();
}

/// Moves a VM over a link with a round trip of 20 ms, on which a pass takes seconds.
fn moved_far(bench: &Bench, vm: Vm, options: &[&str], before: u64) -> (Vm, Report) {
    let to = bench.receive();
    let link = Link::to(to.address());
    link.set_delay(Duration::from_millis(10));
    let options = [&CAPPED[..], &["--precopy-limit", "4s"], options].concat();
    let migration = bench.migrate(&vm, link.address(), &options);
    let report = migration.end().completed();
    arrived(vm, &to, before);
    (to, report)
}

fn arrived(mut vm: Vm, to: &Vm, before: u64) {
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.works_beyond(before);
}
