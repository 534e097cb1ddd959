//! `me2 check`: what it finds of this host, and what a receiver says that it would refuse.

use me2_tests::{Bench, Guest, Vm, require_kvm};
use serde_json::Value;

const GUEST: (&str, &str) = ("64M", "workload=kv fill=16M rate=2000");

/// What it finds, and its exit status.
fn asked(bench: &Bench, options: &[&str]) -> (Value, Option<i32>) {
    let arguments = [&["check", "--output", "json"], options].concat();
    let output = bench.run(&arguments);
    let text = String::from_utf8(output.stdout).expect("plain text");
    let findings = serde_json::from_str(&text);
    let findings = findings.unwrap_or_else(|error| panic!("{error}: {text}"));
    (findings, output.status.code())
}

fn asked_of(bench: &Bench, vm: &Vm, to: &Vm) -> (Vec<String>, Option<i32>) {
    let (findings, code) = asked(
        bench,
        &["--to", &to.address().to_string(), "--vm", vm.name()],
    );
    let there = &findings["destination"];
    let reasons: Vec<String> = serde_json::from_value(there["reasons"].clone()).expect("a list");
    assert_eq!(there["would_accept"], reasons.is_empty(), "{findings}");
    assert_eq!(findings["is_ready"], reasons.is_empty(), "{findings}");
    (reasons, code)
}

#[test]
fn a_host_that_runs_vms_has_all_that_is_needed() {
    require_kvm!();
    let bench = Bench::new();
    let (findings, code) = asked(&bench, &[]);
    assert_eq!(
        (code, &findings["is_ready"]),
        (Some(0), &Value::Bool(true)),
        "{findings}"
    );
    let rows = findings["host"].as_array().expect("a list");
    for need in [
        "kernel",
        "kvm",
        "userfaultfd",
        "memory",
        "identity",
        "MTU",
        "time",
    ] {
        assert!(
            rows.iter().any(|row| row["need"] == need),
            "{need}: {findings}"
        );
    }
    for row in rows {
        assert_eq!(row["is_found"] == false, row["mend"].is_string(), "{row}");
    }
    let nowhere = bench.folder().join("nothing");
    let nowhere = nowhere.to_str().expect("plain text");
    let (findings, code) = asked(&bench, &["--config-dir", nowhere]);
    assert_eq!(
        (code, &findings["is_ready"]),
        (Some(3), &Value::Bool(false)),
        "{findings}"
    );
}

#[test]
fn a_receiver_says_what_it_would_refuse_and_goes_on_waiting() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&Guest::new(GUEST.0, GUEST.1));
    vm.wait_ready();
    let narrow = bench.receive_with(&["--max-memory", "32M", "--once"]);
    let (reasons, code) = asked_of(&bench, &vm, &narrow);
    assert_eq!(code, Some(3));
    assert_eq!(reasons.len(), 1, "{reasons:?}");
    assert!(
        reasons[0].contains("64 MiB") && reasons[0].contains("--max-memory"),
        "{reasons:?}"
    );
    narrow.wait_state("waiting");
    narrow.stop();

    let to = bench.receive_with(&["--once"]);
    for _ in 0..20 {
        assert_eq!(asked_of(&bench, &vm, &to), (Vec::new(), Some(0)));
    }
    to.wait_state("waiting");
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

#[test]
fn a_stranger_and_nobody_are_reasons_too() {
    require_kvm!();
    let bench = Bench::new();
    let to = bench.receive_stranger();
    let (findings, code) = asked(&bench, &["--to", &to.address().to_string()]);
    let reason = findings["destination"]["reasons"][0].to_string();
    assert!(reason.contains("cert trust"), "{findings}");
    assert_eq!(code, Some(3));

    bench.make_friends(&["--vm", "other"]);
    let (findings, _) = asked(&bench, &["--to", &to.address().to_string()]);
    let reasons = findings["destination"]["reasons"].to_string();
    assert!(reasons.contains("other"), "{findings}");
    to.wait_state("waiting");
    to.stop();
}
