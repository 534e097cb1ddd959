//! The API as any client meets it: every answer is as its OpenAPI document says, every path of the
//! document is there, and what is counted is written as Prometheus wants it.

#[path = "api/document.rs"]
mod document;
#[path = "api/exposition.rs"]
mod exposition;

use std::io::BufRead;

use me2_tests::{Bench, Guest, Link, Vm, api, require_kvm};
use serde_json::Value;

use document::Document;
use exposition::Exposition;

const SLOWLY: [&str; 2] = ["--max-bandwidth", "50M"];

fn guest() -> Guest {
    Guest::new("128M", "workload=kv rate=0 fill=64M hot=8M")
}

#[test]
fn every_answer_is_as_documented_and_every_path_is_there() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let text = vm.ask("GET", "/openapi.json", "").body;
    assert_eq!(
        bench.ask(&["openapi"]).trim(),
        text.trim(),
        "what me2 openapi prints"
    );
    let mut document = Document::parse(&text);
    document.check_methods(&vm);

    assert_eq!(document.ask(&vm, "GET", "/v1/machine", ""), 200);
    assert_eq!(document.ask(&to, "GET", "/v1/machine", ""), 409);
    // What is not possible, or makes no sense.
    for (path, body, status) in [
        ("/v1/migrate", "{}", 400),
        ("/v1/migrate", "{\"to\": \"h:1\", \"surprise\": 1}", 400),
        ("/v1/migrate", "{\"to\": \"h:1\", \"codec\": \"zip\"}", 400),
        ("/v1/recover", "{\"resume_here\": true}", 400),
        ("/v1/recover", "", 409),
        ("/v1/cancel", "", 409),
        ("/v1/switch-now", "", 409),
    ] {
        assert_eq!(
            document.ask(&vm, "POST", path, body),
            status,
            "{path} {body}"
        );
        assert!(
            document.ask(&to, "POST", path, body) >= 400,
            "{path} {body}"
        );
    }
    for path in ["/v1/pause", "/v1/resume", "/v1/console"] {
        assert_eq!(document.ask(&to, "POST", path, ""), 409, "{path}");
        assert_eq!(document.ask(&vm, "POST", path, ""), 202, "{path}");
        vm.order("/v1/resume");
    }
    for path in [
        "/v1/migration/events?from=never",
        "/v1/console?scrollback=x",
    ] {
        assert_eq!(document.ask(&vm, "GET", path, ""), 400, "{path}");
    }
    let too_long = " ".repeat(65 * 1024);
    assert_eq!(document.ask(&vm, "POST", "/v1/migrate", &too_long), 413);

    // What goes on for a while, and what is asked meanwhile.
    let (head, console) = vm.follow("/v1/console");
    document.check_head("GET", "/v1/console", &head);
    let (head, mut events) = vm.follow("/v1/migration/events?from=next");
    document.check_head("GET", "/v1/migration/events", &head);
    let request = serde_json::json!({
        "to": to.address(), "max_bandwidth_bytes_per_second": 6_000_000, "codec": "rle",
    });
    document.check_request("/v1/migrate", &request);
    assert_eq!(
        document.ask(&vm, "POST", "/v1/migrate", &request.to_string()),
        202
    );
    vm.wait_phase("precopy");
    for process in [&vm, &to] {
        for path in ["/v1/status", "/metrics", "/openapi.json"] {
            assert_eq!(document.ask(process, "GET", path, ""), 200, "{path}");
        }
    }
    for path in ["/v1/pause", "/v1/resume", "/v1/stop"] {
        assert_eq!(document.ask(&vm, "POST", path, ""), 409, "{path}");
    }
    assert_eq!(document.ask(&vm, "POST", "/v1/switch-now", ""), 202);
    check_events(&document, &mut events);
    assert!(
        console.lines().count() > 0,
        "the console's output until the end"
    );
    assert_eq!(document.ask(&to, "POST", "/v1/stop", ""), 202);
    document.check_all_seen(&[("POST", "/v1/cancel"), ("POST", "/v1/recover")]);
}

/// Each is as documented; phases begin and end in turn, and there is one switchover and one end.
fn check_events(document: &Document, events: &mut impl BufRead) {
    let (mut kinds, mut open, mut elapsed) = (Vec::new(), None, 0);
    for line in events.lines() {
        let event: Value = serde_json::from_str(&line.expect("plain text")).expect("a document");
        document.check_schema("Event", &event);
        let kind = event["event"].as_str().expect("a kind").to_owned();
        if let Some(now) = event["elapsed_ms"].as_u64() {
            assert!(now >= elapsed, "time goes back: {event}");
            elapsed = now;
        }
        let phase = (event["phase"].clone(), event["pass"].clone());
        match kind.as_str() {
            "phase" => assert_eq!(open.replace(phase), None, "{event}"),
            "phase_end" => assert_eq!(open.take(), Some(phase), "{event}"),
            _ => {}
        }
        kinds.push(kind);
    }
    assert_eq!(open, None, "{kinds:?}");
    let count = |kind: &str| kinds.iter().filter(|is| *is == kind).count();
    assert_eq!((count("switchover"), count("end")), (1, 1), "{kinds:?}");
    assert_eq!(count("phase"), count("phase_end"), "{kinds:?}");
    assert!(count("phase") >= 5, "{kinds:?}");
    assert_eq!(kinds.last().map(String::as_str), Some("end"));
}

#[test]
fn a_link_that_breaks_and_comes_back_is_told() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let link = Link::to(to.address());
    let (_, events) = vm.follow("/v1/migration/events?from=next");
    let options = [&SLOWLY[..], &["--mode", "postcopy"]].concat();
    let migration = bench.migrate(&vm, link.address(), &options);
    vm.wait_phase("postcopy");
    link.cut();
    vm.wait_state("postcopy_paused");
    link.mend();
    migration.end().completed();
    let kinds: Vec<_> = events
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.expect("plain text")).expect("a document"))
        .filter_map(|event| Some(event["event"].as_str()?.to_owned()))
        .filter(|kind| !["phase", "phase_end", "progress", "fault_burst"].contains(&&**kind))
        .collect();
    assert_eq!(kinds, ["switchover", "paused", "recovered", "end"]);
    to.stop();
}

#[test]
fn metrics_are_what_prometheus_takes_and_add_up() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest().options(&["--metrics", "127.0.0.1:0"]));
    let to = bench.receive_with(&["--metrics", "127.0.0.1:0"]);
    vm.wait_ready();
    let (address, there) = (vm.metrics_address(), to.metrics_address());
    // Nothing but metrics, to whoever reaches the port.
    assert_eq!(
        api::get(address, "/v1/status").expect("an answer").status,
        404
    );
    let exposition = |address| {
        let answer = api::get(address, "/metrics").expect("an answer");
        assert_eq!(answer.content_type, "application/openmetrics-text");
        Exposition::parse(&answer.body)
    };
    let before = exposition(address);
    assert_eq!(
        before.value("me2_vm_memory_bytes", &[]),
        Some(f64::from(128 << 20))
    );
    assert_eq!(
        before.value("me2_vm_state", &[("state", "running")]),
        Some(1.0)
    );
    assert_eq!(
        before.value("me2_migration_phase", &[("phase", "precopy")]),
        None
    );

    let options = [&SLOWLY[..], &["--mode", "postcopy"]].concat();
    let migration = bench.migrate(&vm, to.address(), &options);
    vm.wait_phase("postcopy");
    let (mut last, mut seen) = (before, 0);
    while let Ok(answer) = api::get(address, "/metrics") {
        let now = Exposition::parse(&answer.body);
        now.goes_on_from(&last);
        (last, seen) = (now, seen + 1);
    }
    assert!(seen > 0, "nothing was read during the migration");
    assert_eq!(
        last.value("me2_migration_phase", &[("phase", "precopy")]),
        Some(0.0)
    );
    assert!(last.value("me2_migration_sent_bytes_total", &[]) > Some(1e6));
    let report = migration.end().completed();
    to.wait_log("the VM is here, all of it");
    let there = exposition(there);
    let faults = report.count("postcopy.faults");
    assert!(faults > 0, "{report}");
    let counted = there.value("me2_fault_latency_seconds_count", &[]);
    assert_eq!(counted, Some(faults as f64), "{report}");
    let received = there.value("me2_migration_received_bytes_total", &[]);
    let of_sent = received.expect("counted") / report.count("wire_bytes") as f64;
    assert!((0.9..1.1).contains(&of_sent), "{of_sent}: {report}");
    to.stop();
}

#[test]
fn a_watched_migration_never_runs_backwards() {
    require_kvm!();
    let bench = Bench::new();
    let (mut vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let watch = |vm: &Vm, output| {
        let words = ["status", "--vm", vm.name(), "--watch", "--output", output];
        me2_tests::Process::start("the watcher", &mut bench.me2(&words))
    };
    let mut watchers = [watch(&vm, "human"), watch(&vm, "json")];
    for watcher in &watchers {
        watcher.wait_stdout("first look", |text| (!text.is_empty()).then_some(()));
    }
    let migration = bench.migrate(&vm, to.address(), &SLOWLY);
    migration.end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0));
    for watcher in &mut watchers {
        assert_eq!(watcher.wait().code(), Some(0), "it ends with the process");
    }
    let [human, json] = watchers.map(|watcher| watcher.stdout());
    let percent = |line: &str| {
        line.split_once(" %")?
            .0
            .split(' ')
            .next_back()?
            .parse()
            .ok()
    };
    let percents: Vec<f64> = human.lines().filter_map(percent).collect();
    assert!(percents.len() > 3 && percents.is_sorted(), "{human}");
    assert!(
        human.lines().all(|line| line.chars().count() <= 80),
        "{human}"
    );
    let documents: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a document"))
        .filter(|status| !status["migration"].is_null())
        .collect();
    for field in ["sent_bytes", "elapsed_ms", "pass"] {
        let values: Vec<_> = documents
            .iter()
            .filter(|status| field != "pass" || status["migration"]["phase"] == "precopy")
            .map(|status| status["migration"][field].as_u64().expect("a number"))
            .collect();
        assert!(
            values.len() > 3 && values.is_sorted(),
            "{field}: {values:?}"
        );
    }
    for field in ["expected_downtime_ms", "expected_remaining_ms"] {
        let is_told = |status: &Value| status["migration"][field].is_u64();
        assert!(documents.iter().any(is_told), "{field}: {json}");
    }
    to.stop();
}
