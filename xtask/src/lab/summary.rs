//! What is printed of a run.

use super::{Options, Scenario, checks::Check, events::Counts, json::quote, record::Record};
use crate::setup;

/// Those of interest to whoever follows a guest's memory, whether or not this kernel has them.
const SHOWN: [&str; 16] = [
    "kvm_page_fault",
    "kvm_mmu_spte_requested",
    "fast_page_fault",
    "kvm_tdp_mmu_spte_changed",
    "kvm_mmu_set_spte",
    "kvm_mmu_split_huge_page",
    "kvm_mmu_paging_element",
    "kvm_unmap_hva_range",
    "kvm_age_hva",
    "kvm_async_pf_not_present",
    "kvm_dirty_ring_push",
    "kvm_exit",
    "kvm_entry",
    "kvm_emulate_insn",
    "kvm_mmio",
    "kvm_inj_virq",
];

/// Counts at the two moments of the hybrid move.
struct Tracepoints {
    /// Until its end.
    all: Counts,
    /// Until its beginning.
    before: Counts,
    /// Of the VM's first process.
    source_before: Counts,
    source_during: Counts,
}

impl Tracepoints {
    fn read(record: &Record) -> Self {
        let (before, after) = ("events.before", "events.hybrid");
        let source_before = Counts::of_source(record, before);
        Self {
            all: Counts::of_all(record, after),
            before: Counts::of_all(record, before),
            source_during: Counts::of_source(record, after).since(&source_before),
            source_before,
        }
    }
}

/// Two tables for a terminal.
pub(super) fn human(record: &Record, checks: &[Check], options: &Options) -> String {
    let mut text = format!(
        "Linux {} with kvm_amd, emulated by QEMU {}; VM of {}, {} vCPUs, {}\n\n",
        record.value("kernel"),
        setup::qemu_version().unwrap_or_default(),
        options.scenario.memory(),
        options.cpus,
        options.scenario.command_line(),
    );
    for Check { name, ok, detail } in checks {
        let verdict = if *ok { "ok" } else { "FAILED" };
        text += &format!("{name:<22} {verdict:<7} {detail}\n");
    }
    let counts = Tracepoints::read(record);
    text += &format!(
        "\n{:<26} {:>9} {:>9}   {:>9} {:>9}\n{:<26} {:>9} {:>9}   {:>9} {:>9}\n",
        "tracepoint", "all:", "", "source:", "", "", "running", "hybrid", "running", "hybrid"
    );
    let during = counts.all.since(&counts.before);
    for name in SHOWN {
        let shown = |counts: &Counts| counts.get(name).map_or("-".into(), |n| n.to_string());
        text += &format!(
            "{name:<26} {:>9} {:>9}   {:>9} {:>9}\n",
            shown(&counts.before),
            shown(&during),
            shown(&counts.source_before),
            shown(&counts.source_during)
        );
    }
    text
}

/// One document: verdicts, tracepoints, and the reports of me2 as they came.
pub(super) fn json(record: &Record, checks: &[Check], options: &Options) -> String {
    let passed = checks.iter().all(|check| check.ok);
    let verdicts = checks.iter().map(|Check { name, ok, detail }| {
        let detail = quote(detail);
        format!("    {{\"name\": \"{name}\", \"ok\": {ok}, \"detail\": {detail}}}")
    });
    let verdicts: Vec<_> = verdicts.collect();
    let counts = Tracepoints::read(record);
    let report = |name| {
        let report = record.document(name);
        report.map_or("null".into(), |(text, _)| text)
    };
    let (first, second_name, second) = match options.scenario {
        Scenario::Smoke => ("hybrid.report", "postcopy_migration", "postcopy.report"),
        Scenario::Linux => ("there.report", "migration_back", "back.report"),
    };
    let members = [
        ("status", quote(if passed { "passed" } else { "failed" })),
        (
            "machine",
            format!(
                "{{\"kernel\": {}, \"qemu\": {}, \"vm_memory\": \"{}\", \"vm_cpus\": {}, \
                 \"vm_cmdline\": \"{}\"}}",
                quote(record.value("kernel")),
                quote(&setup::qemu_version().unwrap_or_default()),
                options.scenario.memory(),
                options.cpus,
                options.scenario.command_line()
            ),
        ),
        ("checks", format!("[\n{}\n  ]", verdicts.join(",\n"))),
        ("tracepoints", object(&counts.all)),
        ("tracepoints_before_move", object(&counts.before)),
        (
            "tracepoints_of_source",
            format!(
                "{{\"before_move\": {}, \"during_move\": {}}}",
                object(&counts.source_before),
                object(&counts.source_during)
            ),
        ),
        ("migration", report(first)),
        (second_name, report(second)),
    ];
    let members = members.map(|(name, value)| format!("  \"{name}\": {value}"));
    format!("{{\n{}\n}}\n", members.join(",\n"))
}

fn object(counts: &Counts) -> String {
    let members = counts
        .iter()
        .map(|(name, count)| format!("{}: {count}", quote(name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::json::Value;

    fn options() -> Options {
        Options {
            scenario: Scenario::Smoke,
            cpus: 1,
            kernel: None,
            me2: None,
            json: true,
        }
    }

    #[test]
    fn the_document_reads_back() {
        let mut record = Record::default();
        for line in [
            "begin events.before",
            "kvm/kvm_exit 7 4",
            "end events.before",
            "begin events.hybrid",
            "kvm/kvm_exit 7 9",
            "kvm/kvm_entry - 0",
            "end events.hybrid",
            "begin hybrid.report",
            "{\"status\":",
            " \"completed\"}",
            "end hybrid.report",
        ] {
            record.take(line);
        }
        let checks = [Check {
            name: "one",
            ok: false,
            detail: "\"quoted\"".into(),
        }];
        let document = Value::parse(&json(&record, &checks, &options())).unwrap();
        assert_eq!(document.text("status"), Some("failed"));
        assert_eq!(document.text("migration.status"), Some("completed"));
        assert_eq!(document.number("tracepoints.kvm_exit"), Some(9.0));
        assert_eq!(document.number("tracepoints.kvm_entry"), Some(0.0));
        assert_eq!(
            document.number("tracepoints_before_move.kvm_exit"),
            Some(4.0)
        );
        assert_eq!(document.at("postcopy_migration"), Some(&Value::Null));
    }

    #[test]
    fn an_empty_run_is_shown_too() {
        let text = human(&Record::default(), &[], &options());
        assert!(text.contains("kvm_mmu_spte_requested"));
        assert!(Value::parse(&json(&Record::default(), &[], &options())).is_some());
    }
}
