//! A peer that is trusted and misbehaves at every message: a clear error, bounded memory, bounded
//! time, the VM where it belongs, and the next good migration works.

mod destination;
mod source;

use std::{
    thread,
    time::{Duration, Instant},
};

use me2_tests::{
    Bench, Guest, Vm,
    hostile::{Actor, Step, hello, is_ready, machine, preface},
    require_kvm, say,
};
use me2_wire::{
    frame::StreamKind,
    message::{Handover, REASONS_MAX, ToDestination},
    range::RangeList,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use Step::{Await, Open, Say};

/// What a hostile peer may make a process hold beyond what it had before.
const MORE_BYTES_MAX: u64 = 320 << 20;
/// How long a victim may take to be done with a peer that is not silent: longer than a connection is
/// kept whose last packet was lost.
const TIME_MAX: Duration = Duration::from_secs(25);
/// The same with one that is.
const SILENCE_MAX: Duration = Duration::from_secs(45);

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=16M hot=1M")
}

/// A script, and what the victim says of it.
struct Case(&'static str, Vec<Step>, &'static str);

/// What a real source says of its machine.
fn document(bench: &Bench, actor: &Actor, runtime: &Runtime) -> Vec<u8> {
    let vm = bench.start(&guest());
    vm.wait_ready();
    let trap = runtime.block_on(async { actor.listen() });
    let migration = bench.migrate(&vm, trap.address(), &[]);
    let document = runtime.block_on(trap.capture(false)).0;
    migration.end().failed(1, "failed");
    vm.works();
    vm.stop();
    document
}

fn range(pages: std::ops::Range<u32>) -> RangeList {
    let mut list = RangeList::EMPTY;
    list.push(pages);
    list
}

#[test]
fn a_hostile_source_gets_an_error_and_the_receiver_waits_on() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let document = document(&bench, &actor, &runtime);
    let to = bench.receive();
    let before = to.peak_bytes();
    say(
        "hostile source                what the receiver says                                  ms    MiB",
    );
    let cases = source::greetings(&document).into_iter();
    for Case(name, script, expected) in cases.chain(source::let_in(&document)) {
        let (begun, logged) = (Instant::now(), to.log().len());
        runtime.block_on(actor.attack(to.address(), &script));
        let line = to.wait_log_from(logged, expected);
        let took = begun.elapsed();
        to.wait_state("waiting");
        let more = to.peak_bytes().saturating_sub(before);
        say(&format!(
            "{name:28}  {:54.54} {:6} {:6}",
            line,
            took.as_millis(),
            more >> 20
        ));
        assert!(took < TIME_MAX, "{name}: {took:?}");
        assert!(more < MORE_BYTES_MAX, "{name}: {} MiB more", more >> 20);
    }
    assert!(!to.log().contains("panicked"));
    bench.good_migration(&guest(), to);
}

#[test]
fn a_hostile_destination_before_the_handover_does_not_get_the_vm() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let mut vm = bench.start(&guest());
    vm.wait_ready();
    let before = vm.peak_bytes();
    say(
        "hostile destination           what the source says                                    ms    MiB",
    );
    for Case(name, script, expected) in destination::until_handover() {
        let begun = Instant::now();
        let trap = runtime.block_on(async { actor.listen() });
        let migration = bench.migrate(&vm, trap.address(), &["--mode", "precopy"]);
        runtime.block_on(trap.spring(&script));
        let ended = migration.end();
        let took = begun.elapsed();
        let error = ended.report.text("error").to_owned();
        assert!(
            error.contains(expected) && error.contains("runs on at the source"),
            "{name}: {error}"
        );
        assert!(
            !error.contains('\x1b') && error.lines().count() == 1,
            "{name}: {error}"
        );
        let code = if error.contains("refused") { 3 } else { 1 };
        ended.failed(code, "failed");
        vm.wait_state("running");
        vm.works();
        let more = vm.peak_bytes().saturating_sub(before);
        say(&format!(
            "{name:28}  {error:54.54} {:6} {:6}",
            took.as_millis(),
            more >> 20
        ));
        assert!(
            took < TIME_MAX && more < MORE_BYTES_MAX,
            "{name}: {took:?}, {more}"
        );
    }
    let to = bench.receive();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.works();
    to.stop();
}

#[test]
fn a_hostile_destination_behind_the_handover_leaves_the_memory_at_the_source() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    say(
        "behind the handover           what the source says                                    ms    MiB",
    );
    for Case(name, script, expected) in destination::behind_handover() {
        let vm = bench.start(&guest());
        vm.wait_ready();
        let (begun, before) = (Instant::now(), vm.peak_bytes());
        let trap = runtime.block_on(async { actor.listen() });
        let options = ["--mode", "postcopy", "--no-auto-recover"];
        let migration = bench.migrate(&vm, trap.address(), &options);
        runtime.block_on(trap.spring(&script));
        let ended = migration.end();
        let took = begun.elapsed();
        let error = ended.report.text("error").to_owned();
        assert!(
            error.contains(expected) && error.contains("me2 recover"),
            "{name}: {error}"
        );
        ended.failed(5, "postcopy_paused");
        vm.wait_state("postcopy_paused");
        let more = vm.peak_bytes().saturating_sub(before);
        say(&format!(
            "{name:28}  {error:54.54} {:6} {:6}",
            took.as_millis(),
            more >> 20
        ));
        assert!(
            took < TIME_MAX && more < MORE_BYTES_MAX,
            "{name}: {took:?}, {more}"
        );
    }
}

/// It gets a reason against the migration, in one line, in bounded time; the VM is untouched.
#[test]
fn a_hostile_receiver_cannot_hold_up_a_check() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let vm = bench.start(&guest());
    vm.wait_ready();
    say("asked by a check              what me2 check says                                    ms");
    for Case(name, script, expected) in destination::asked() {
        let begun = Instant::now();
        let trap = runtime.block_on(async { actor.listen() });
        let address = trap.address().to_string();
        let asks = [
            "check",
            "--output",
            "json",
            "--to",
            &address,
            "--vm",
            vm.name(),
        ];
        let output = thread::scope(|scope| {
            let check = scope.spawn(|| bench.run(&asks));
            runtime.block_on(trap.spring(&script));
            check.join().expect("no panic")
        });
        let took = begun.elapsed();
        let findings: Value = serde_json::from_slice(&output.stdout).expect("one document");
        let reasons = findings["destination"]["reasons"].as_array();
        let reasons = reasons.unwrap_or_else(|| panic!("{name}: {findings}"));
        assert!(
            (1..=REASONS_MAX).contains(&reasons.len()),
            "{name}: {findings}"
        );
        let reason = reasons[0].as_str().expect("text");
        say(&format!("{name:28}  {reason:54.54} {:6}", took.as_millis()));
        assert!(reason.contains(expected), "{name}: {findings}");
        assert!(!reason.contains(char::is_control), "{name}: {findings}");
        assert_eq!(output.status.code(), Some(3), "{name}: {findings}");
        assert!(took < TIME_MAX, "{name}: {took:?}");
        vm.wait_state("running");
    }
    vm.works();
    vm.stop();
}

/// All at once, since each takes as long as patience lasts.
#[test]
fn silence_is_not_waited_out_for_ever() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let document = document(&bench, &actor, &runtime);
    let greeted = vec![
        Open(preface(StreamKind::Control)),
        Say(ToDestination::Hello(hello())),
    ];
    let ready = [
        greeted.clone(),
        vec![Say(machine(&document)), Await(is_ready)],
    ]
    .concat();
    let scripts = [
        (
            vec![Open(preface(StreamKind::Control))],
            "did not say hello in time",
        ),
        (greeted, "did not describe its machine in time"),
        (ready, "has said nothing for"),
    ];
    let receivers = scripts.each_ref().map(|_| bench.receive());
    let vm = bench.start(&guest());
    vm.wait_ready();
    let trap = runtime.block_on(async { actor.listen() });
    let migration = bench.migrate(&vm, trap.address(), &[]);
    let begun = Instant::now();
    runtime.block_on(async {
        let attacks = receivers.iter().zip(&scripts);
        let mut attacks: Vec<_> = attacks
            .map(|(to, (script, _))| Box::pin(actor.attack(to.address(), script)))
            .collect();
        let silent = [Step::Await(|_| false)];
        let (first, rest) = attacks.split_at_mut(1);
        let (second, third) = rest.split_at_mut(1);
        tokio::join!(
            &mut first[0],
            &mut second[0],
            &mut third[0],
            trap.spring(&silent)
        );
    });
    assert!(begun.elapsed() < SILENCE_MAX, "{:?}", begun.elapsed());
    let report = migration.end().failed(1, "failed");
    assert!(
        report.text("error").contains("has said nothing for"),
        "{report}"
    );
    vm.works();
    for (to, (_, expected)) in receivers.iter().zip(&scripts) {
        say(&format!("silence: {}", to.wait_log_from(0, expected)));
        to.wait_state("waiting");
    }
    vm.stop();
}

#[test]
fn a_peer_that_is_trusted_with_one_vm_brings_and_gets_no_other() {
    require_kvm!();
    let bench = Bench::new();
    // Names are given in order: the stranger's VM below is the first.
    bench.make_friends(&["--vm", "stranger1"]);
    let theirs = bench.start_stranger(&guest());
    let other = bench.start_stranger(&guest());
    theirs.wait_ready();
    other.wait_ready();
    let to = bench.receive();
    is_not_moved(&bench, &other, &to, 3);
    to.wait_state("waiting");

    let own = bench.start(&guest());
    own.wait_ready();
    let there = bench.receive_stranger();
    is_not_moved(&bench, &own, &there, 1);

    let before = theirs.works();
    bench.migrate(&theirs, to.address(), &[]).end().completed();
    theirs.moved_to(&to, before);
}

/// The VM is not the one that its peer is trusted with.
fn is_not_moved(bench: &Bench, vm: &Vm, to: &Vm, code: i32) {
    let ended = bench.migrate(vm, to.address(), &[]).end();
    let report = ended.failed(code, "failed");
    let error = report.text("error");
    assert!(error.contains("vm=stranger1 alone"), "{report}");
    vm.works();
}

/// The state names a page, the clock's, that is announced and never comes: KVM waits for it.
#[test]
fn a_source_that_goes_while_its_state_is_restored_leaves_a_receiver_that_waits() {
    require_kvm!();
    let (bench, runtime) = (Bench::new(), Runtime::new().expect("threads"));
    let actor = Actor::new(bench.config());
    let vm = bench.start(&guest());
    vm.wait_ready();
    let trap = runtime.block_on(async { actor.listen() });
    let options = ["--mode", "postcopy", "--no-auto-recover"];
    let migration = bench.migrate(&vm, trap.address(), &options);
    let (document, handover) = runtime.block_on(trap.capture(true));
    migration.end().failed(5, "postcopy_paused");
    drop(vm);

    let to = bench.receive();
    let handover = Handover {
        epoch: 1,
        pages: range(0..1 << 14),
        ..*handover.expect("asked for")
    };
    let script = [
        Open(preface(StreamKind::Control)),
        Say(ToDestination::Hello(hello())),
        Say(machine(&document)),
        Await(is_ready),
        Say(ToDestination::Handover(Box::new(handover))),
    ];
    let begun = Instant::now();
    runtime.block_on(actor.attack(to.address(), &script));
    say(&format!(
        "restoring: {}",
        to.wait_log_from(0, "has said nothing for")
    ));
    assert!(begun.elapsed() < SILENCE_MAX, "{:?}", begun.elapsed());
    to.wait_state("waiting");
    bench.good_migration(&guest(), to);
}
