//! VMs with much memory: what is not used costs nothing.

use std::{fs, time::Duration};

use me2_tests::{Bench, Guest, require_kvm, say};

const MIB: u64 = 1 << 20;
const PAGES_4_GIB: u64 = 1 << 20;

#[test]
fn four_gibibytes_with_two_vcpus() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("4G", "workload=kv rate=0 fill=512M hot=64M").cpus(2));
    vm.wait_ready();
    let (to, before) = (bench.receive(), vm.works());
    let report = bench.migrate(&vm, to.address(), &[]).end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    assert_eq!(report.count("ram.total_pages"), PAGES_4_GIB, "{report}");
    assert!(report.count("precopy.pages") > 0, "{report}");
    to.works_beyond(before);
    say(&format!(
        "4 GiB, 2 vCPUs: downtime {} ms",
        report.number("downtime_ms")
    ));
    to.stop();
}

#[test]
fn an_idle_vm_costs_what_it_uses() {
    require_kvm!();
    const USED_BYTES: u64 = 200 * MIB;
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("16G", "workload=idle fill=200M"));
    vm.wait_ready();
    let (to, operations) = (bench.receive(), vm.works());
    let before = vm.usage();
    let report = bench.migrate(&vm, to.address(), &[]).end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    let sent = report.count("ram.sent_logical_bytes");
    assert!(
        sent <= USED_BYTES * 11 / 10,
        "{sent} bytes for {USED_BYTES} in use: {report}"
    );
    assert!(
        report.count("ram.untouched_pages") * 4096 > 16_000 * MIB,
        "{report}"
    );
    to.works_beyond(operations);
    // The source has let go before the destination has cleared up.
    to.wait_log("the VM is here, all of it");
    let after = to.usage();
    assert!(
        after.anonymous_bytes <= before.anonymous_bytes * 21 / 20,
        "more than 5% above {before:?}: {after:?}"
    );
    // Pages of zeros take no memory once they have moved.
    assert!(
        after.anonymous_bytes >= USED_BYTES * 3 / 4,
        "{after:?}: where is the VM?"
    );
    say(&format!(
        "16 GiB idle: explored in {:.1} ms, downtime {} ms, {:.2?} in all; resident MiB at the source {}, at the destination {}",
        report.number("explore.time_ms"),
        report.number("downtime_ms"),
        Duration::from_secs_f64(report.number("total_time_ms") / 1e3),
        before.anonymous_bytes / MIB,
        after.anonymous_bytes / MIB,
    ));
    to.stop();
}

#[test]
fn small_pages_become_large_ones_where_the_vm_is_whole() {
    require_kvm!();
    if !has_large_pages() {
        eprintln!("SKIPPED: this host has no large pages");
        return;
    }
    let bench = Bench::new();
    let options = ["--large-pages"];
    let vm = bench.start(&Guest::new("128M", "workload=kv rate=2000 fill=64M").options(&options));
    vm.wait_ready();
    let at_source = vm.usage().large_page_bytes;
    assert!(at_source > 32 * MIB, "{at_source}");
    let (to, before) = (bench.receive_with(&options), vm.works());
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.wait_log("the VM has large pages");
    let collapsed = to.usage().large_page_bytes;
    assert!(collapsed > 32 * MIB, "{collapsed}");
    // It moves on as any other, while the guest checks its memory.
    let (from, to, before) = (to, bench.receive(), before + 1);
    bench.migrate(&from, to.address(), &[]).end().completed();
    from.moved_to(&to, before);
    assert_eq!(to.usage().large_page_bytes, 0, "nobody asked for them");
    say(&format!(
        "MiB in large pages: {} of 64 at the source, {} at the destination",
        at_source / MIB,
        collapsed / MIB,
    ));
    to.stop();
}

fn has_large_pages() -> bool {
    let enabled = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    enabled.is_ok_and(|enabled| !enabled.contains("[never]"))
}
