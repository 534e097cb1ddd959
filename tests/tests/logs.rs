//! Logs: a line of a migration says which, the same at both ends. And what QUIC did, if it is asked for.

use std::{collections::BTreeSet, fs, path::Path};

use me2_tests::{Bench, Guest, Vm, require_kvm};
use serde_json::Value;

/// The ids of the migrations of the lines with this message, in JSON.
fn ids(log: &str, message: &str) -> Vec<String> {
    let lines = log.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    });
    let those = lines.filter(|line| {
        let text = line["message"].as_str();
        text.is_some_and(|text| text.contains(message))
    });
    those
        .map(|line| line["span"]["id"].as_str().expect("in a span").to_owned())
        .collect()
}

#[test]
fn a_migration_has_the_same_id_at_both_ends() {
    require_kvm!();
    let bench = Bench::new();
    let guest = Guest::new("64M", "workload=kv fill=16M rate=2000");
    let vm = bench.start(&guest.options(&["--log-format", "json"]));
    let to = bench.receive();
    vm.wait_ready();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    to.wait_log("the VM is here, all of it");
    let of_source = phases(&vm);
    let (first, rest) = of_source.split_first().expect("phases are logged");
    assert!(rest.iter().all(|id| id == first), "{of_source:?}");
    assert_eq!(first.len(), 32, "{first}");
    let there = to.log();
    let line = there.lines().find(|line| line.contains("the VM runs here"));
    let line = line.expect("it resumed there");
    assert!(line.contains(&format!("id=\"{first}\"")), "{line}");
    to.stop();
}

fn phases(vm: &Vm) -> Vec<String> {
    ids(&vm.log(), "phase ")
}

#[test]
fn what_quic_did_is_recorded_at_both_ends_if_asked_for() {
    require_kvm!();
    let bench = Bench::new();
    let file = |name: &str| bench.folder().join(name).display().to_string();
    let (of_source, of_destination) = (file("source.sqlog"), file("destination.sqlog"));
    let guest = Guest::new("64M", "workload=kv fill=16M rate=2000");
    let mut vm = bench.start(&guest.options(&["--qlog", &of_source]));
    let to = bench.receive_with(&["--qlog", &of_destination]);
    vm.wait_ready();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    assert!(vm.wait_exit().success());
    let sent = Trace::read(of_source.as_ref());
    assert_eq!(sent.title, format!("me2 run {}", vm.name()));
    assert!(sent.packets_sent > 100, "{sent:?}");
    // The side that connects gives its first packets a group of their own.
    assert_eq!(sent.groups.len(), 2, "{sent:?}");
    vm.wait_log(&format!("has {} records", sent.records));
    // Two traces in one file could not be told apart.
    let again = bench.run(&["receive", "--listen", "127.0.0.1:0", "--qlog", &of_source]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(
        !again.status.success() && said.contains("has something in it"),
        "{said}"
    );
    to.wait_log("the VM is here, all of it");
    to.stop();
    let received = Trace::read(of_destination.as_ref());
    assert!(received.packets_received > 100, "{received:?}");
    assert_eq!(received.groups.len(), 1, "{received:?}");
    // What was acknowledged had come, so all but lost ones are there.
    assert!(
        received.packets_received <= sent.packets_sent,
        "{received:?} {sent:?}"
    );
}

/// A trace as viewers read it.
#[derive(Debug, Default)]
struct Trace {
    title: String,
    /// The header too.
    records: usize,
    packets_sent: usize,
    packets_received: usize,
    metrics: usize,
    groups: BTreeSet<String>,
}

impl Trace {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path).expect("it was written");
        let mut records = bytes.split(|byte| *byte == 0x1e).map(|text| {
            assert!(text.is_empty() || text.ends_with(b"\n"), "a record in half");
            String::from_utf8_lossy(text).into_owned()
        });
        assert_eq!(
            records.next().as_deref(),
            Some(""),
            "it begins with a record"
        );
        let mut records = records.map(|text| -> Value {
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
        });
        let header = records.next().expect("a header");
        assert_eq!(header["qlog_format"], "JSON-SEQ", "{header}");
        assert!(header["qlog_version"].is_string(), "{header}");
        assert!(
            header["trace"]["vantage_point"]["type"].is_string(),
            "{header}"
        );
        let mut trace = Self {
            title: header["title"].as_str().expect("a title").to_owned(),
            records: 1,
            ..Self::default()
        };
        records.for_each(|record| trace.add(&record));
        assert!(trace.metrics > 0, "{trace:?}");
        trace
    }

    fn add(&mut self, record: &Value) {
        self.records += 1;
        assert!(
            record["time"].as_f64().is_some_and(|ms| ms >= 0.0),
            "{record}"
        );
        let group = record["group_id"].as_str().expect("a connection");
        self.groups.insert(group.to_owned());
        let (header, name) = (&record["data"]["header"], record["name"].as_str());
        match name.expect("a name").split_once(':').expect("a category").1 {
            "packet_sent" => {
                assert!(
                    header["length"].is_u64() && header["packet_number"].is_u64(),
                    "{record}"
                );
                self.packets_sent += 1;
            }
            "packet_received" => {
                assert!(header["packet_number"].is_u64(), "{record}");
                self.packets_received += 1;
            }
            "packet_lost" => assert!(header["packet_number"].is_u64(), "{record}"),
            "recovery_metrics_updated" | "metrics_updated" => self.metrics += 1,
            other => panic!("{other} is new"),
        }
    }
}
