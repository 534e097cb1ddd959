//! What breaks once the VM has left: it stays one VM, whole, and goes on by itself where that can be.

use std::{fs, time::Duration};

use me2_tests::{Bench, Guest, Link, Report, Vm, Way, Wire, require_kvm, say};
use serde_json::Value;

/// Slow enough that pages are missing for seconds.
const SLOWLY: [&str; 4] = ["--mode", "postcopy", "--max-bandwidth", "40M"];

/// Longer than a connection lives without a word.
const STANDSTILL: Duration = Duration::from_secs(20);

/// It reads and writes all of its memory, and checks what it reads.
fn busy() -> Guest {
    Guest::new("96M", "workload=kv rate=0 fill=24M hot=4M")
}

/// It needs a few of its pages, over and over: once they are there, it can run without the rest.
fn modest() -> Guest {
    Guest::new("96M", "workload=idle fill=24M")
}

/// Waits until a modest guest has been through all that it does, a few times over: then it has what it
/// needs. One sign of life alone says nothing of what comes next. Gives the latest.
fn runs_without_the_rest(to: &Vm) -> u64 {
    const TIMES: usize = 5;
    (0..TIMES).fold(to.works(), |heartbeat, _| to.works_beyond(heartbeat))
}

#[test]
fn a_short_cut_and_another_address_are_not_even_noticed() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&busy()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    let migration = bench.migrate(&vm, link.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    link.cut();
    std::thread::sleep(Duration::from_secs(1));
    link.mend();
    // Another address of the source, as the destination sees it: QUIC's connection goes on.
    link.change_address();
    completed(migration.end().completed());
    assert!(!vm.log().contains("post-copy is paused"), "{}", vm.log());
    arrived(vm, to, before).stop();
}

#[test]
fn a_source_without_a_client_finds_another_way_when_a_nat_forgets_it() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&busy()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    let mut migration = bench.migrate(&vm, link.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    migration.kill();
    // What this side's socket sends is dropped from now on, until it has another address.
    link.forget();
    vm.wait_log("trying another local address");
    arrived(vm, to, before).stop();
}

#[test]
fn a_long_cut_is_recovered_without_an_operator_while_the_guest_runs() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&modest()), bench.receive());
    vm.wait_ready();
    vm.works();
    let link = Link::to(to.address());
    let migration = bench.migrate(&vm, link.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    runs_without_the_rest(&to);
    link.cut();
    vm.wait_state("postcopy_paused");
    let recovery = vm.wait_for("recovery under way", |status| {
        let recovery = &status["migration"]["recovery"];
        (recovery["attempt"].as_u64() > Some(1)).then(|| recovery.clone())
    });
    assert!(recovery["gives_up_ms"].as_u64() > Some(0), "{recovery}");
    // Both sides tell what is at stake, and that it takes too long.
    let at_source = at_stake(&vm);
    let at_destination = at_stake(&to);
    assert!(at_source >= at_destination && at_destination > 0);
    let human = bench.ask(&["status", "--vm", vm.name()]);
    assert!(human.contains("exist only at the source"), "{human}");
    assert!(human.contains("attempt"), "{human}");
    let human = bench.ask(&["status", "--vm", to.name()]);
    assert!(human.contains("WARNING: it takes longer"), "{human}");
    // The vCPU runs on all the while; nobody runs it at the source, whoever asks for it.
    let (console, heartbeat) = (vm.console(), to.works());
    for order in ["/v1/resume", "/v1/pause", "/v1/stop", "/v1/cancel"] {
        assert_eq!(vm.refused(order), 409, "{order}");
    }
    let heartbeat = to.works_beyond(heartbeat);
    link.mend();
    // Nor is it taken back while the destination answers.
    let output = bench.run(&[
        "recover",
        "--vm",
        vm.name(),
        "--resume-here",
        "--destination-is-fenced",
    ]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert_eq!(vm.console(), console, "the guest ran at the source");
    completed(migration.end().completed());
    arrived(vm, to, heartbeat).stop();
}

#[test]
fn a_source_with_another_address_goes_on_over_the_same_connection() {
    require_kvm!();
    let wire = match Wire::new() {
        Ok(wire) => wire,
        Err(reason) => return say(&format!("SKIPPED: no network namespaces: {reason}")),
    };
    let bench = Bench::new();
    let vm = bench.start_by_way_of(&wire.near(), &busy());
    let to = bench.receive_by_way_of(&wire.far(), wire.far_address(), &[]);
    vm.wait_ready();
    let before = vm.works();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    wire.change_address();
    completed(migration.end().completed());
    assert!(!vm.log().contains("post-copy is paused"), "{}", vm.log());
    arrived(vm, to, before).stop();
}

#[test]
fn a_minute_without_link_and_client_is_recovered_from() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&modest()), bench.receive());
    vm.wait_ready();
    vm.works();
    let link = Link::to(to.address());
    let mut migration = bench.migrate(&vm, link.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    let heartbeat = runs_without_the_rest(&to);
    migration.kill();
    link.cut();
    std::thread::sleep(Duration::from_secs(60));
    // It needs nothing that it does not have.
    let heartbeat = to.works_beyond(heartbeat);
    vm.wait_state("postcopy_paused");
    to.wait_state("postcopy_paused");
    link.mend();
    arrived(vm, to, heartbeat).stop();
}

#[test]
fn a_source_that_stands_still_for_long_goes_on() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, to) = (bench.start(&modest()), bench.receive());
    vm.wait_ready();
    vm.works();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    let heartbeat = to.works();
    vm.freeze(STANDSTILL);
    to.wait_log("the link broke in post-copy");
    completed(migration.end().completed());
    arrived(vm, to, heartbeat).stop();
}

#[test]
fn a_destination_that_stands_still_for_long_goes_on() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, mut to) = (bench.start(&modest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    to.freeze(STANDSTILL);
    vm.wait_log("post-copy is paused");
    completed(migration.end().completed());
    arrived(vm, to, before).stop();
}

#[test]
fn a_last_word_that_is_lost_is_said_again_and_nothing_waits_for_it() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&Guest::new("64M", "workload=idle fill=1M"));
    let to = bench.receive();
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    // So long that the answer to the acknowledgement can be lost, and nothing before it.
    link.set_delay(Duration::from_millis(400));
    let migration = bench.migrate(&vm, link.address(), &[]);
    vm.wait_log("phase complete");
    link.cut_way(Way::Back);
    to.wait_log("the VM is here, all of it");
    // The destination waits for nobody: the VM works, and moves on.
    let other = bench.receive();
    to.works_beyond(before);
    let moved_on = bench.migrate(&to, other.address(), &[]);
    completed(moved_on.end().completed());
    other.works_beyond(before);
    link.mend();
    completed(migration.end().completed());
    for log in [vm.log(), to.log()] {
        assert!(!log.contains("may not have arrived"), "{log}");
    }
    for mut process in [vm, to] {
        assert_eq!(process.wait_exit().code(), Some(0), "{}", process.name());
    }
    other.stop();
}

#[test]
fn a_guest_that_ends_by_itself_ends_its_destination_once_the_source_may_let_go() {
    require_kvm!();
    let bench = Bench::new();
    let guest = Guest::new("96M", "workload=kv fill=24M hot=4M run_ms=6000");
    let (mut vm, mut to) = (bench.start(&guest), bench.receive());
    vm.wait_ready();
    let options = ["--mode", "postcopy", "--max-bandwidth", "5M"];
    let migration = bench.migrate(&vm, to.address(), &options);
    to.wait_log("the VM has ended by itself");
    assert!(vm.is_running() && to.is_running());
    let report = migration.end().completed();
    assert_eq!(report.count("verify.mismatched_pages"), 0, "{report}");
    for process in [&mut vm, &mut to] {
        let status = process.wait_exit();
        assert!(status.success(), "{status}: {}", process.log());
    }
}

#[test]
fn a_source_that_dies_leaves_a_vm_that_waits_and_says_what_is_lost() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, to) = (bench.start(&busy()), bench.receive());
    vm.wait_ready();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    let useful = to.wait_for("risk", |status| {
        status["migration"]["risk"]["useful_pages"].as_u64()
    });
    vm.kill();
    let lost = migration.end();
    assert_eq!(lost.code, Some(5), "{}", lost.stderr);
    to.wait_state("postcopy_paused");
    let missing = at_stake(&to);
    assert!(0 < missing && missing < useful, "{missing} of {useful}");
    // It said so, and waits for what it needs: it does not run into anything else.
    to.wait_log(&format!("{missing} pages ("));
    to.wait_log("if its process has ended, these pages are lost");
    to.wait_for("a vCPU that waits", |status| {
        let waiting = status["migration"]["risk"]["waiting_pages"].as_u64();
        (waiting > Some(0)).then_some(())
    });
    let console = to.console();
    for bad in ["me2-guest ERROR", "me2-guest PANIC"] {
        assert!(!console.contains(bad), "{console}");
    }
    // What it lacks comes from nowhere else: it cannot be moved on, or taken for whole.
    for order in ["/v1/stop", "/v1/resume", "/v1/recover"] {
        assert_eq!(to.refused(order), 409, "{order}");
    }
    let word = ["recover", "--vm", to.name(), "--source-is-fenced"];
    let output = bench.run(&word);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("without it they are lost"), "{stderr}");
    assert_eq!(at_stake(&to), missing);
}

#[test]
fn a_vm_with_all_its_pages_is_its_destinations_by_an_operators_word_alone() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = bench.start(&Guest::new("64M", "workload=idle fill=1M"));
    let to = bench.receive();
    let fenced = || {
        to.ask("POST", "/v1/recover", "{\"source_is_fenced\": true}")
            .status
    };
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    // So long that the source dies before its acknowledgement can leave.
    link.set_delay(Duration::from_millis(600));
    let migration = bench.migrate(&vm, link.address(), &["--mode", "precopy"]);
    assert_eq!(fenced(), 409, "nothing is here");
    to.wait_log("the VM runs here");
    vm.kill();
    link.cut();
    assert_eq!(fenced(), 409, "it may answer");
    migration.end();
    to.wait_state("postcopy_paused");
    // It works, and is nobody's to move yet.
    to.works_beyond(before);
    let other = bench.receive();
    let move_on = format!("{{\"to\": \"{}\"}}", other.address());
    assert_eq!(to.ask("POST", "/v1/migrate", &move_on).status, 409);
    let words = [
        "recover",
        "--vm",
        to.name(),
        "--source-is-fenced",
        "--output",
        "json",
    ];
    let status: Value = serde_json::from_str(&bench.ask(&words)).expect("JSON");
    assert_eq!(status["vm_state"], "running", "{status}");
    to.wait_log("by an operator's word the source is dead");
    // Once is enough; and now it can be moved on, and is whole.
    assert_eq!(fenced(), 409);
    completed(bench.migrate(&to, other.address(), &[]).end().completed());
    other.works_beyond(before);
    other.stop();
}

#[test]
fn a_vm_whose_destination_died_is_taken_back_by_an_operators_word_alone() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, mut to) = (bench.start(&busy()), bench.receive());
    vm.wait_ready();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    vm.wait_for("risk", |status| {
        status["migration"]["risk"].as_object().map(drop)
    });
    let note = bench.runtime().join(format!("{}.receiving", to.name()));
    let noted = fs::read_to_string(&note).expect("a note of the destination");
    assert!(noted.contains(r#""state":"accepted""#), "{noted}");
    to.kill();
    assert!(note.exists(), "the note survives its process");
    vm.wait_state("postcopy_paused");
    let console = vm.console();
    // It may have run there: never again here, whoever asks for it.
    for order in ["/v1/resume", "/v1/pause", "/v1/stop", "/v1/cancel"] {
        assert_eq!(vm.refused(order), 409, "{order}");
    }
    let words = ["recover", "--vm", vm.name(), "--resume-here"];
    let output = bench.run(&words);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("--destination-is-fenced"), "{stderr}");
    assert_eq!(vm.console(), console, "the guest ran on at the source");

    let word = ["--resume-here", "--destination-is-fenced"];
    let taken = bench.recover_with(&vm, &word).end();
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    let report = &taken.report;
    assert!(report.text("error").contains("is lost"), "{report}");
    // Whoever followed the migration hears of it too.
    migration.end().failed(1, "failed");
    vm.wait_log("WARN");
    vm.wait_log("by an operator's word");
    vm.wait_state("running");
    vm.works();

    // A receiver that comes after it finds the note; and the VM can be moved again.
    let before = vm.works();
    let to = bench.receive();
    to.wait_log("a receiver before this one took a VM over");
    completed(bench.migrate(&vm, to.address(), &[]).end().completed());
    arrived(vm, to, before).stop();
}

#[test]
fn another_process_in_the_place_of_the_destination_is_not_taken_for_it() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, mut to) = (bench.start(&busy()), bench.receive());
    vm.wait_ready();
    let link = Link::to(to.address());
    let migration = bench.migrate(&vm, link.address(), &SLOWLY);
    vm.wait_phase("postcopy");
    vm.wait_for("risk", |status| {
        status["migration"]["risk"].as_object().map(drop)
    });
    to.kill();
    let other = bench.receive();
    link.lead_to(other.address());
    // It cannot tell what became of the VM, and asking again would not change that.
    let report = migration.end().failed(5, "postcopy_paused");
    assert!(
        report.text("error").contains("knows nothing of the VM"),
        "{report}"
    );
    other.wait_log("unknown here");
    vm.wait_state("postcopy_paused");
    let word = ["--resume-here", "--destination-is-fenced"];
    let taken = bench.recover_with(&vm, &word).end();
    assert_eq!(taken.code, Some(0), "{}", taken.stderr);
    let before = vm.works();
    completed(bench.migrate(&vm, link.address(), &[]).end().completed());
    arrived(vm, other, before).stop();
}

/// Pages that exist only at the source.
fn at_stake(vm: &Vm) -> u64 {
    vm.wait_for("risk", |status| {
        status["migration"]["risk"]["source_only_pages"].as_u64()
    })
}

fn completed(report: Report) {
    assert_eq!(report.count("verify.mismatched_pages"), 0, "{report}");
}

/// The source has ended well, and the guest goes on.
fn arrived(vm: Vm, to: Vm, before: u64) -> Vm {
    vm.moved_to(&to, before);
    to.wait_log("the VM is here, all of it");
    to
}
