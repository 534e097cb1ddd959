//! The shape of the document and of the table.

use serde_json::Value;

use super::*;

fn filled() -> Report {
    Report {
        status: Status::Completed,
        total_time_ms: 1234.5,
        setup_time_ms: 12.25,
        precopy_time_ms: 900.0,
        downtime_ms: 3.75,
        downtime_source: Some(DowntimeSource::Monotonic),
        downtime: Downtime {
            stop_ms: 0.25,
            save_ms: 1.0,
            transfer_ms: 0.5,
            restore_ms: 1.5,
            start_ms: 0.5,
        },
        first_progress_ms: Some(4.5),
        postcopy_time_ms: 320.0,
        ram: Ram {
            page_size_bytes: 4096,
            total_pages: 262_144,
            useful_pages: 60_000,
            untouched_pages: 196_608,
            zero_pages: 5_536,
            sent_pages: 66_000,
            sent_logical_bytes: 66_000 * 4096,
            ..Ram::default()
        },
        wire_bytes: 128 << 20,
        codec: Codec {
            zero: 1000,
            rle: 30_000,
            raw: 35_000,
            ..Codec::default()
        },
        precopy: Precopy {
            passes: 1,
            pages: 60_000,
            bytes: 120 << 20,
            sends_saved: SendsSaved {
                written_before_sent: 700,
                hot: 90,
            },
        },
        handover: Handover {
            bytes: 40_960,
            missing_pages: 5_000,
            final_set_pages: 320,
            final_set_bytes: 60_000,
            final_set_ms: 4.8,
            doubled: true,
        },
        explore: Explore {
            working_set: Some(WorkingSet {
                pages: 900,
                faults: 1_000,
                dropped_pages: 16_384,
                time_ms: 450.0,
                complete: true,
            }),
            guest_cost: GuestCost {
                looks: 12,
                protected_pages: 8_000,
                time_ms: 40.0,
            },
            ..Explore::default()
        },
        postcopy: Postcopy {
            faults: 210,
            demand_pages: 1_500,
            pushed_pages: 3_500,
            duplicate_pages: 3,
            fault_latency_us: FaultLatency {
                p50: 210,
                p99: 1_900,
                max: 2_500,
                buckets: vec![[223, 105], [2_500, 105]],
            },
            vcpu_blocktime_ms: 60.5,
            touched_first_second: Some(TouchedFirstSecond {
                pages: 4_000,
                present: 3_790,
            }),
        },
        guest: Guest {
            rate_before: Some(1_000_000.0),
            rate_during: Some(870_000.4),
        },
        ebpf: Ebpf {
            attached: true,
            probe: Some("kvm_mmu_spte_requested".to_owned()),
            events: 70_000,
            touched_pages: 65_536,
            written_pages: 61_000,
            ..Ebpf::default()
        },
        link: Link {
            rtt_ms: 0.31,
            lost_packets: 0,
            congestion_events: 0,
            rate_bytes_per_second: 12_500_000,
            mtu_bytes: 1452,
            limits: Vec::new(),
        },
        verify: Verify {
            pages: 262_144,
            mismatched_pages: 0,
            full: false,
        },
        ..Report::default()
    }
}

/// Every key of a document, as paths in their order.
fn keys(prefix: &str, value: &Value, into: &mut Vec<String>) {
    if let Value::Object(fields) = value {
        for (name, value) in fields {
            let path = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}.{name}")
            };
            match value {
                Value::Object(_) => keys(&path, value, into),
                _ => into.push(path),
            }
        }
    }
}

#[test]
fn has_every_field_of_the_schema_and_no_other() {
    let mut found = Vec::new();
    keys("", &serde_json::to_value(filled()).unwrap(), &mut found);
    found.sort();
    let mut expected: Vec<String> = "
        schema_version status mode error total_time_ms setup_time_ms precopy_time_ms
        downtime_ms downtime_source downtime.stop_ms downtime.save_ms downtime.transfer_ms
        downtime.restore_ms downtime.start_ms first_progress_ms postcopy_time_ms
        ram.page_size_bytes ram.total_pages ram.useful_pages ram.untouched_pages ram.free_pages
        ram.zero_pages ram.sent_pages ram.sent_logical_bytes wire_bytes
        codec.zero codec.rle codec.delta codec.reference codec.zstd codec.raw
        encoding.plain_bytes encoding.encoded_bytes encoding.busy_ms
        encoding.by_codec.zero encoding.by_codec.rle encoding.by_codec.delta
        encoding.by_codec.reference encoding.by_codec.zstd encoding.by_codec.raw
        explore.time_ms explore.populated_pages explore.populated_touched_pages
        explore.populated_untouched_pages explore.touched_hole_pages
        explore.working_set.pages explore.working_set.faults explore.working_set.dropped_pages
        explore.working_set.time_ms explore.working_set.complete explore.guest_cost.looks
        explore.guest_cost.protected_pages explore.guest_cost.time_ms
        precopy.passes precopy.pages precopy.bytes precopy.sends_saved.written_before_sent
        precopy.sends_saved.hot switch.pending_pages switch.hot_pages switch.written_pages
        switch.dirty_pages_per_second switch.wanted_pages switch.bytes_per_page
        switch.rate_bytes_per_second switch.round_trip_ms switch.final_set_limit_ms
        switch.stalls_ms switch.stalls_after_pass_ms switch.pass_ms handover.final_set_ms
        handover.final_set_pages handover.final_set_bytes handover.doubled handover.bytes handover.missing_pages
        postcopy.faults postcopy.demand_pages postcopy.pushed_pages postcopy.duplicate_pages
        postcopy.fault_latency_us.p50 postcopy.fault_latency_us.p99 postcopy.fault_latency_us.max
        postcopy.fault_latency_us.buckets
        postcopy.vcpu_blocktime_ms postcopy.touched_first_second.pages
        postcopy.touched_first_second.present guest.rate_before guest.rate_during
        ebpf.attached ebpf.probe ebpf.reason ebpf.events ebpf.lost ebpf.touched_pages
        ebpf.written_pages link.rtt_ms link.lost_packets link.congestion_events
        link.rate_bytes_per_second link.mtu_bytes link.limits
        verify.pages verify.mismatched_pages verify.full"
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_version_comes_first_and_words_are_snake_case() {
    let mut report = filled();
    report.mode = Mode::StopAndCopy;
    report.status = Status::PostcopyPaused;
    report.downtime_source = Some(DowntimeSource::HalfRtt);
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.starts_with(r#"{"schema_version":1,"#), "{text}");
    assert!(text.contains(r#""mode":"stop_and_copy""#), "{text}");
    assert!(text.contains(r#""status":"postcopy_paused""#), "{text}");
    assert!(text.contains(r#""downtime_source":"half_rtt""#), "{text}");
}

#[test]
fn survives_a_round_trip() {
    for report in [filled(), Report::default()] {
        let text = serde_json::to_string_pretty(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    }
}

#[test]
fn nothing_filled_in_claims_nothing() {
    let report = Report::default();
    assert_eq!(report.status, Status::Failed);
    assert_eq!(report.downtime_source, None);
    let text = report.render_human();
    assert!(
        text.starts_with("migration   hybrid, failed\ntotal "),
        "{text}"
    );
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn the_table_reads_well() {
    let expected = "\
migration   hybrid, completed
total       1.23 s, setup 12.25 ms, pre-copy 900 ms, post-copy 320 ms
downtime    3.75 ms, one clock, first progress after 4.50 ms
            stop 0.25 ms, save 1.00 ms, transfer 0.50 ms, restore 1.50 ms,
            start 0.50 ms
memory      1.00 GiB, used 256.0 MiB (25.0 %), useful 234.4 MiB
            zero 21.6 MiB, free 0 B, untouched 768.0 MiB
sent        128.0 MiB on the wire, 0.50 × of what is used,
            257.8 MiB before encoding
pages       66000 sent, zero 1000, rle 30000, delta 0, reference 0, zstd 0,
            raw 35000
pre-copy    1 pass, 60000 pages, 120.0 MiB, sends saved 790
handover    40.0 KiB, final set 320 pages, 5000 pages missing at resume
post-copy   210 faults, demanded 1500, pushed 3500, duplicate 3
faults      p50 210 µs, p99 1.90 ms, max 2.50 ms, vCPUs waited 60.50 ms
guest       before 1000000 operations/s, during 870000 operations/s
probes      kvm_mmu_spte_requested, 70000 events, touched 65536, written 61000,
            lost 0
link        round trip 0.31 ms, 0 packets lost, 0 congestion events
verified    262144 of 262144 pages by hashes, 0 differ
";
    let text = filled().render_human();
    assert_eq!(text, expected, "\n{text}");
    assert_eq!(filled().to_string(), text);
}

#[test]
fn the_table_fits_80_columns_whatever_the_numbers() {
    let mut report = filled();
    report.error = Some("the destination said: ".to_owned() + &"not enough memory ".repeat(20));
    report.total_time_ms = 1e9;
    report.wire_bytes = u64::MAX;
    report.ram.total_pages = u64::MAX;
    report.postcopy.faults = u64::MAX;
    report.postcopy.vcpu_blocktime_ms = 7.2e6;
    report.verify.pages = u64::MAX;
    report.first_progress_ms = None;
    report.link.limits = vec![
        "little memory for packets ".repeat(5),
        "no offload".to_owned(),
    ];
    let text = report.render_human();
    assert!(text.contains("\nlimited by  no offload\n"), "{text}");
    for line in report.render_human().lines() {
        assert!(line.chars().count() <= 80, "{line}");
        assert!(line.chars().count() > 12, "an empty line: {line:?}");
    }
}
