use super::*;
use crate::control::types::{Mode, STATUS_SCHEMA_VERSION, VmState};

fn status() -> VmStatus {
    VmStatus {
        schema_version: STATUS_SCHEMA_VERSION,
        name: "demo".to_owned(),
        pid: 42,
        role: Role::Source,
        vm_state: VmState::Running,
        memory_bytes: Some(1 << 30),
        vcpus: Some(2),
        migration: None,
        guest: None,
    }
}

fn line(text: &str, name: &str) -> Option<String> {
    let found = text
        .lines()
        .find(|line| line.split(' ').next() == Some(name))?;
    found.split_once(' ').map(|(_, value)| value.to_owned())
}

#[test]
fn what_is_not_known_is_absent() {
    let (_sender, receiver) = watch::channel(status());
    let text = Metrics::new(receiver).text();
    assert_eq!(
        line(&text, "me2_vm_memory_bytes").as_deref(),
        Some("1073741824"),
        "{text}"
    );
    assert_eq!(
        line(&text, "me2_vm_state{state=\"running\"}").as_deref(),
        Some("1"),
        "{text}"
    );
    assert_eq!(
        line(&text, "me2_vm_state{state=\"paused\"}").as_deref(),
        Some("0"),
        "{text}"
    );
    assert!(!text.contains("me2_migration_phase"), "{text}");
    assert!(!text.contains("me2_guest"), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn counters_go_on_when_another_migration_begins_at_0() {
    let (_sender, receiver) = watch::channel(status());
    let metrics = Metrics::new(receiver);
    let progress = |id, sent_bytes, faults| MigrationStatus {
        sent_bytes,
        faults,
        ..MigrationStatus::begun(id, 1, Mode::Hybrid)
    };
    for (id, sent, faults) in [(1, 100, 0), (1, 300, 7), (2, 50, 0), (2, 50, 1), (2, 20, 1)] {
        metrics.progress(Role::Source, &progress(id, sent, faults));
    }
    metrics.progress(Role::Receiver, &progress(3, 5, 0));
    let text = metrics.text();
    let value = |name| line(&text, name).unwrap_or_else(|| panic!("no {name}: {text}"));
    assert_eq!(value("me2_migration_sent_bytes_total"), "370");
    assert_eq!(value("me2_migration_received_bytes_total"), "5");
    assert_eq!(value("me2_migration_faults_total"), "8");
}

#[test]
fn latencies_are_counted_up_to_each_edge() {
    let (_sender, receiver) = watch::channel(status());
    let metrics = Metrics::new(receiver);
    let mut waits = Histogram::default();
    for micros in [10, 100, 100, 1_000_000, 60_000_000] {
        waits.record(micros);
    }
    metrics.fault_latency(waits);
    let text = metrics.text();
    let bucket = |edge: &str| {
        line(
            &text,
            &format!("me2_fault_latency_seconds_bucket{{le=\"{edge}\"}}"),
        )
    };
    assert_eq!(bucket("0.000064").as_deref(), Some("1"), "{text}");
    assert_eq!(bucket("0.000128").as_deref(), Some("3"), "{text}");
    assert_eq!(bucket("1.048576").as_deref(), Some("4"), "{text}");
    assert_eq!(bucket("+Inf").as_deref(), Some("5"), "{text}");
    assert_eq!(
        line(&text, "me2_fault_latency_seconds_count").as_deref(),
        Some("5")
    );
    assert_eq!(
        line(&text, "me2_fault_latency_seconds_sum").as_deref(),
        Some("61.00021")
    );
}

#[test]
fn ends_are_counted_by_outcome() {
    let (_sender, receiver) = watch::channel(status());
    let metrics = Metrics::new(receiver);
    metrics.end(Outcome::Refused, &Report::default());
    metrics.end(Outcome::Refused, &Report::default());
    let moved = Report {
        total_time_ms: 1500.0,
        downtime_ms: 12.5,
        downtime_source: Some(crate::report::DowntimeSource::Monotonic),
        ..Report::default()
    };
    metrics.end(Outcome::Moved, &moved);
    let text = metrics.text();
    let value = |name| line(&text, name).unwrap_or_else(|| panic!("no {name}: {text}"));
    assert_eq!(value("me2_migrations_total{outcome=\"refused\"}"), "2");
    assert_eq!(value("me2_migrations_total{outcome=\"moved\"}"), "1");
    assert_eq!(value("me2_migration_last_duration_seconds"), "1.5");
    assert_eq!(value("me2_migration_last_downtime_seconds"), "0.0125");
}
