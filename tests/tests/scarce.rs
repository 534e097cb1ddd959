//! Hosts that lack something: memory, threads, descriptors, room for a file, a feature of the processor. The VM
//! runs on at the source, nothing is left of the attempt, and the next one succeeds.

use std::{fs, net::Ipv4Addr, time::Duration};

use me2_tests::{
    Bench, Guest, Link, Middle, Resource, ThreadLimit, Usage, Vm, require_kvm, say, wait_until,
};

/// More than a side starts for a migration.
const THREADS: u64 = 8;
/// Attempts in a row that are refused.
const ATTEMPTS: usize = 4;
/// Room for everything but the VM's memory.
const BESIDES_BYTES: u64 = 256 << 20;
/// Slow enough that something can be done on the way.
const SLOWLY: [&str; 2] = ["--max-bandwidth", "40M"];

fn guest() -> Guest {
    Guest::new("512M", "workload=kv rate=20000 fill=24M hot=2M")
}

#[test]
fn a_receiver_that_cannot_take_the_vm_refuses_and_keeps_nothing() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest());
    let mut to = receive(&bench);
    vm.wait_ready();
    let room = to.usage().address_bytes + BESIDES_BYTES;
    for (resource, most, named) in [
        (Resource::As, room, "Cannot allocate memory"),
        (Resource::Nofile, 3, "Too many open files"),
        (Resource::Fsize, 0, "File too large"),
    ] {
        to.limit(resource, Some(most));
        let mut held = None;
        for _ in 0..ATTEMPTS {
            let ended = bench.migrate(&vm, to.address(), &[]).end();
            let report = ended.failed(3, "failed");
            let reason = report.text("error");
            assert!(reason.contains(named), "{reason}");
            vm.works();
            // What is made once is made in the first attempt.
            held.get_or_insert_with(|| [vm.usage(), to.usage()]);
        }
        to.limit(resource, None);
        to.wait_state("waiting");
        let held = held.expect("there were attempts");
        holds_no_more(&vm, held[0]);
        holds_no_more(&to, held[1]);
    }
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

#[test]
fn a_vm_for_which_a_host_has_no_memory_is_refused() {
    require_kvm!();
    let bench = Bench::new();
    let total = fs::read_to_string("/proc/meminfo").expect("Linux has it");
    let kib = total.split_ascii_whitespace().nth(1);
    let mib = kib
        .and_then(|kib| kib.parse::<u64>().ok())
        .expect("MemTotal")
        >> 10;
    // It uses next to nothing of it, so that it can be started all the same.
    let guest = Guest::new(format!("{mib}M").leak(), "workload=idle fill=1M");
    let vm = bench.start(&guest);
    vm.wait_ready();
    let to = bench.receive_with(&["--max-memory", "4T"]);
    let ended = bench.migrate(&vm, to.address(), &[]).end();
    let report = ended.failed(3, "failed");
    let reason = report.text("error");
    assert!(reason.contains("not enough memory: the VM has"), "{reason}");
    vm.works();
    vm.stop();
    to.wait_state("waiting");
    let fits = Guest::new("64M", "workload=kv fill=16M hot=1M");
    bench.good_migration(&fits, to);
}

#[test]
fn a_receiver_that_runs_out_of_memory_on_the_way_takes_nothing_with_it() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, mut to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("precopy");
    let room = to.usage().address_bytes;
    to.limit(Resource::As, Some(room));
    let ended = migration.end();
    assert!(matches!(ended.code, Some(1 | 3)), "{}", ended.stderr);
    assert_eq!(ended.report.text("status"), "failed", "{}", ended.report);
    vm.wait_state("running");
    let before = vm.works();
    let to = bench.receive();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

/// With so many threads more, or fewer than all: whichever of them it is that cannot be started.
#[test]
fn a_side_that_gets_no_more_threads_keeps_or_gives_back_the_vm() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, mut to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let mut failures = 0;
    for number in 0..2 * THREADS {
        let (limited, threads) = match number % 2 {
            0 => (&vm, number / 2),
            _ => (&to, number / 2),
        };
        let limit = match ThreadLimit::of(limited.pid()) {
            Ok(limit) => limit,
            Err(reason) => return say(&format!("SKIPPED: threads cannot be limited: {reason}")),
        };
        limit.allow_more(Some(threads));
        let before = vm.works();
        let ended = bench.migrate(&vm, to.address(), &[]).end();
        limit.allow_more(None);
        if ended.code == Some(0) {
            // There were enough of them: it goes on from there.
            ended.completed();
            vm.moved_to(&to, before);
            (vm, to) = (to, bench.receive());
            continue;
        }
        failures += 1;
        assert!(matches!(ended.code, Some(1 | 3)), "{}", ended.stderr);
        let reason = ended.report.text("error");
        let names_it = reason.contains("cannot start") && reason.contains("thread");
        assert!(names_it, "{reason}");
        vm.works();
        to.wait_state("waiting");
    }
    assert!(failures > 2, "nothing was missed");
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

#[test]
fn a_receiver_whose_disk_is_full_by_the_handover_gives_the_vm_back() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, mut to) = (bench.start(&guest()), receive(&bench));
    vm.wait_ready();
    // So long that the handover can be waited for.
    let link = Link::to(to.address());
    link.set_delay(Duration::from_millis(300));
    for mode in ["hybrid", "postcopy", "precopy", "stop-and-copy"] {
        let options = [&SLOWLY[..], &["--mode", mode, "--precopy-limit", "1s"]].concat();
        let migration = bench.migrate(&vm, link.address(), &options);
        // The note that it is ready is written, and the one that it has the VM is not.
        to.wait_state("incoming");
        to.limit(Resource::Fsize, Some(0));
        let report = migration.end().failed(3, "failed");
        let reason = report.text("error");
        assert!(
            reason.contains("cannot note that the VM is taken over"),
            "{mode}: {reason}"
        );
        vm.wait_state("running");
        vm.works();
        to.limit(Resource::Fsize, None);
        to.wait_state("waiting");
        assert_eq!(to.console(), "", "it ran there");
    }
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

#[test]
fn a_processor_that_lacks_a_feature_is_refused_by_its_name() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let middle = Middle::demanding(to.address(), bench.config());
    let ended = bench.migrate(&vm, middle.address(), &[]).end();
    let report = ended.failed(3, "failed");
    let reason = report.text("error");
    assert!(
        reason.contains("cannot offer what the guest was given: CPUID.1:ECX bit 2;"),
        "{reason}"
    );
    let before = vm.works();
    to.wait_state("waiting");
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

/// A receiver for which a file that grows too large is an error, as on a full disk, and not a signal.
fn receive(bench: &Bench) -> Vm {
    let wrapper = ["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""];
    bench.receive_by_way_of(&wrapper, Ipv4Addr::LOCALHOST.into(), &[])
}

/// Threads and connections to the API that are just ending are given their time.
fn holds_no_more(vm: &Vm, held: Usage) {
    wait_until("end of what an attempt holds", || {
        let now = vm.usage();
        (now.descriptors <= held.descriptors && now.threads <= held.threads + 2).then_some(())
    });
}
