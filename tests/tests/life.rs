//! The life of a VM by the commands for it: listed, attached to, paused, stopped; and what signals do.

use std::{
    io::{BufReader, Read, Write},
    process::{Command, Stdio},
};

use me2_tests::{Bench, Guest, Process, Vm, own_guest, require_kvm};
use rustix::process::Signal;
use serde_json::Value;

/// Slow enough that every phase can be met.
const SLOWLY: [&str; 2] = ["--max-bandwidth", "50M"];
/// Ctrl-].
const DETACH: &str = "\x1d";

fn guest() -> Guest {
    Guest::new("128M", "workload=kv rate=0 fill=64M hot=8M").cpus(2)
}

#[test]
fn all_vms_are_listed_and_what_the_dead_left_is_told_apart() {
    require_kvm!();
    let bench = Bench::new();
    assert_eq!(bench.ask(&["list"]).lines().count(), 1, "a header");
    let (vm, to, mut dead) = (
        bench.start(&guest()),
        bench.receive(),
        bench.start(&guest()),
    );
    vm.wait_ready();
    dead.wait_state("running");
    dead.kill();
    let mut migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("precopy");

    let table = bench.ask(&["list"]);
    let row = |name: &str| {
        let found = table
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        found.unwrap_or_else(|| panic!("no {name}: {table}"))
    };
    for part in ["128 MiB", " 2 ", "running; pre-copy, pass 1"] {
        assert!(row(vm.name()).contains(part), "no {part}: {table}");
    }
    assert!(
        row(to.name()).contains("on its way here; pre-copy"),
        "{table}"
    );
    assert!(row(dead.name()).contains("stale socket"), "{table}");

    let list: Value = serde_json::from_str(&bench.ask(&["list", "--output", "json"])).unwrap();
    let entry = |name: &str| {
        let entries = list["vms"].as_array().expect("a list");
        let found = entries.iter().find(|entry| entry["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {list}"))
    };
    assert_eq!(entry(vm.name())["socket_state"], "answers");
    assert_eq!(entry(vm.name())["status"]["vcpus"], 2);
    assert_eq!(entry(vm.name())["status"]["memory_bytes"], 128 << 20);
    assert_eq!(entry(dead.name())["socket_state"], "stale");
    assert!(entry(dead.name())["status"].is_null());
    bench.ask(&["cancel", "--vm", vm.name()]);
    migration.kill();
    vm.stop();
}

#[test]
fn a_vm_is_paused_resumed_and_stopped() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    bench.ask(&["pause", "--vm", vm.name()]);
    vm.wait_state("paused");
    // A VM that stands still is not moved, and takes nothing in.
    let address = to.address().to_string();
    let words = ["hybrid-migrate", "--vm", vm.name(), "--to", &address];
    assert_eq!(bench.run(&words).status.code(), Some(3));
    assert_eq!(vm.ask("POST", "/v1/console", "x").status, 409);
    let before = vm.wait_for("operations", |status| {
        status["guest"]["operations"].as_u64()
    });
    bench.ask(&["resume", "--vm", vm.name()]);
    vm.wait_state("running");
    vm.works_beyond(before);
    bench.ask(&["stop", "--vm", vm.name()]);
    assert_eq!(vm.wait_exit().code(), Some(0));
    assert_eq!(
        bench.run(&["stop", "--vm", vm.name()]).status.code(),
        Some(2),
        "there is none"
    );
    // A receiver without a VM is stopped too.
    let mut to = to;
    bench.ask(&["stop", "--vm", to.name()]);
    assert_eq!(to.wait_exit().code(), Some(0));
}

#[test]
fn the_console_shows_what_was_and_what_comes() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest());
    vm.wait_ready();
    let attach = |options: &[&str]| {
        let words = [&["console", "--vm", vm.name()], options].concat();
        Process::start("the console", &mut bench.me2(&words))
    };
    let (all, late) = (attach(&[]), attach(&["--scrollback", "0"]));
    all.wait_stdout("beginning", |text| {
        text.contains("me2-guest ready ").then_some(())
    });
    late.wait_stdout("new line", |text| (text.lines().count() > 3).then_some(()));
    assert!(
        !late.stdout().contains("me2-guest ready "),
        "{}",
        late.stdout()
    );
    // It shows what the process itself writes out.
    let shown = late.stdout();
    let line = shown.lines().nth(1).expect("there were several");
    vm.wait_console("same line", |console| console.contains(line).then_some(()));
    vm.stop();
    for mut console in [all, late] {
        assert_eq!(console.wait().code(), Some(0), "it ends with the VM");
    }
}

/// Types at a client of the console, once it has shown this, and waits until it has ended well. It
/// has its terminal by then: before, Ctrl-C would end it.
fn type_behind(shown_before: &str, mut client: Command, input: &str) {
    client.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut client = client.spawn().expect("it can be started");
    let mut stdin = client.stdin.take().expect("it is piped");
    let stdout = client.stdout.take().expect("it is piped");
    let mut stdout = BufReader::new(stdout).bytes();
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains(shown_before) {
        shown.push(stdout.next().expect("it goes on").expect("it is read"));
    }
    stdin.write_all(input.as_bytes()).expect("it reads");
    shown.extend(stdout.map(|byte| byte.expect("it is read")));
    let status = client.wait().expect("it is our child");
    let shown = String::from_utf8_lossy(&shown);
    assert_eq!(status.code(), Some(0), "{shown}");
}

#[test]
fn what_is_typed_reaches_the_guest_wherever_it_runs() {
    require_kvm!();
    let bench = Bench::new();
    let mut vm = echo(&bench);
    // More than the serial port holds at once.
    let long = format!("first {}\n", "0123456789".repeat(20));
    type_until_shown(&bench, &vm, &long);
    let to = bench.receive();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.wait_state("running");
    type_until_shown(&bench, &to, "second\n");
    // By way of a terminal, whose own keys mean nothing: Ctrl-C goes to the guest.
    let console = format!("{:?}", bench.me2(&["console", "--vm", to.name()]));
    let mut script = Command::new("script");
    script.args(["-qec", &console, "/dev/null"]);
    type_behind("second", script, &format!("by\x03key\n{DETACH}"));
    to.wait_console("keys", |console| {
        console.contains("by\x03key").then_some(())
    });
    to.stop();
}

#[test]
fn a_guest_that_reboots_asks_to_be_started_again() {
    require_kvm!();
    let bench = Bench::new();
    let reboot = |mut vm: Vm| {
        // The process may end before the client has read all that it types.
        let mut client = bench.me2(&["console", "--vm", vm.name()]);
        let client = client.stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut client = client.expect("me2");
        let mut stdin = client.stdin.take().expect("it is piped");
        stdin.write_all(b"\x12").expect("it reads");
        assert_eq!(vm.wait_exit().code(), Some(133), "{}", vm.log());
        vm.wait_log("the guest reboots");
        client.wait().expect("it is our child");
    };
    reboot(echo(&bench));
    // Where it has moved to as well.
    let (vm, to) = (echo(&bench), bench.receive());
    bench.migrate(&vm, to.address(), &[]).end().completed();
    to.wait_state("running");
    reboot(to);
}

/// The guest that gives back what is typed, and is ready to.
fn echo(bench: &Bench) -> Vm {
    let kernel = own_guest::build_echo(bench.folder());
    // It touches next to nothing, which probes would not see.
    let guest = Guest::own("64M", &kernel).options(&["--no-probes"]);
    let vm = bench.start(&guest);
    vm.wait_console("guest that is ready", |console| {
        console.contains("echo ready").then_some(())
    });
    vm
}

/// Types by a pipe, and waits until the guest has given it back.
fn type_until_shown(bench: &Bench, vm: &Vm, text: &str) {
    type_behind(
        "",
        bench.me2(&["console", "--vm", vm.name()]),
        &format!("{text}{DETACH}never typed"),
    );
    vm.wait_console("text that was typed", |console| {
        console.contains(text).then_some(())
    });
    assert!(!vm.console().contains("never"), "{}", vm.console());
}

#[test]
fn a_signal_before_the_handover_cancels_first() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    vm.wait_phase("precopy");
    vm.signal(Signal::TERM);
    migration.end().failed(1, "cancelled");
    assert_eq!(vm.wait_exit().code(), Some(0));
    assert_eq!(
        bench
            .sockets()
            .iter()
            .filter(|name| name.starts_with(vm.name()))
            .count(),
        0
    );
    // The receiver is told, and takes the next.
    to.wait_state("waiting");
    bench.good_migration(&guest(), to);
}

#[test]
fn a_signal_after_the_handover_ends_neither_side() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, mut to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let options = [&SLOWLY[..], &["--mode", "postcopy"]].concat();
    let migration = bench.migrate(&vm, to.address(), &options);
    vm.wait_phase("postcopy");
    vm.signal(Signal::TERM);
    to.signal(Signal::TERM);
    vm.wait_log("the same signal again");
    to.wait_log("the same signal again");
    migration.end().completed();
    vm.moved_to(&to, before);
    // All of it is here: now one signal is enough.
    to.wait_log("the VM is here, all of it");
    to.signal(Signal::TERM);
    assert_eq!(to.wait_exit().code(), Some(0));
}

#[test]
fn a_second_signal_after_the_handover_means_it() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let options = [&SLOWLY[..], &["--mode", "postcopy"]].concat();
    let _migration = bench.migrate(&vm, to.address(), &options);
    vm.wait_phase("postcopy");
    vm.signal(Signal::TERM);
    vm.wait_log("the same signal again");
    vm.signal(Signal::TERM);
    assert_eq!(vm.wait_exit().code(), Some(5), "an exit status of its own");
    to.wait_state("postcopy_paused");
}
