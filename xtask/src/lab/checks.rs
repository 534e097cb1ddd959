//! Whether what the lab's machine told is as it must be.

use super::{events::Counts, json::Value, record::Record};

/// ioctls, as `linux/userfaultfd.h` and `linux/fs.h` have them, in the form of the record.
const UFFDIO_COPY: &str = "c028aa03";
const UFFDIO_MOVE: &str = "c028aa05";
const PAGEMAP_SCAN: &str = "c0606610";

/// One verdict.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) ok: bool,
    /// What it rests on, for people.
    pub(super) detail: String,
}

/// All verdicts on one run. What the record lacks is not well.
pub(super) fn all(record: &Record) -> Vec<Check> {
    let hybrid = Move::read(record, "hybrid");
    let postcopy = Move::read(record, "postcopy");
    let mut checks = of_machine(record);
    checks.push(hybrid.completed("hybrid_completed"));
    checks.push(hybrid.memory_equal("hybrid_memory_equal", true));
    checks.push(hybrid.guest_goes_on("hybrid_guest"));
    checks.push(postcopy.completed("postcopy_completed"));
    checks.push(postcopy.memory_equal("postcopy_memory_equal", false));
    checks.push(postcopy.guest_goes_on("postcopy_guest"));
    checks.push(userfaultfd(record, &postcopy));
    checks.push(holes(record, &hybrid));
    checks.push(probes(record, &hybrid));
    checks
}

/// On the machine, whatever moved there.
pub(super) fn of_machine(record: &Record) -> Vec<Check> {
    let events = Counts::of_all(record, "events.hybrid");
    vec![
        finished(record),
        nested_paging(record, &events),
        ring_0_native(record, &events),
    ]
}

fn finished(record: &Record) -> Check {
    let failed = record.value("failed");
    let ended = record.is_whole();
    Check {
        name: "finished",
        ok: failed.is_empty() && ended,
        detail: match (failed, ended) {
            ("", true) => "everything was tried".into(),
            ("", false) => "the machine stopped before its end".into(),
            (failed, _) => failed.to_owned(),
        },
    }
}

fn nested_paging(record: &Record, events: &Counts) -> Check {
    let npt = record.value("npt");
    let faults = events.get("kvm_page_fault").unwrap_or(0);
    Check {
        name: "nested_paging",
        ok: ["Y", "1"].contains(&npt) && faults > 0,
        detail: format!("npt={npt} of kvm_amd, {faults} nested page faults"),
    }
}

/// A KVM that emulates ring 0 goes through many instructions for one exit. One that does not
/// emulates at most the instruction that the exit was for.
fn ring_0_native(record: &Record, events: &Counts) -> Check {
    let count = |name| events.get(name).unwrap_or(0);
    let (emulated, exits) = (count("kvm_emulate_insn"), count("kvm_exit"));
    Check {
        name: "ring_0_native",
        ok: exits > 0 && emulated <= exits,
        detail: format!(
            "{emulated} instructions emulated in {exits} exits, at {} addresses",
            record.value("emulated_addresses")
        ),
    }
}

fn userfaultfd(record: &Record, postcopy: &Move<'_>) -> Check {
    let faults = postcopy.number("postcopy.faults");
    let demanded = postcopy.number("postcopy.demand_pages");
    let (copied, moved) = (ioctls(record, UFFDIO_COPY), ioctls(record, UFFDIO_MOVE));
    Check {
        name: "userfaultfd",
        ok: faults > 0 && copied + moved > 0,
        detail: format!(
            "{faults} faults in post-copy, {demanded} pages on demand; {copied} calls of \
             UFFDIO_COPY, {moved} of UFFDIO_MOVE (each process tries it once)"
        ),
    }
}

fn holes(record: &Record, hybrid: &Move<'_>) -> Check {
    let (untouched, total) = (
        hybrid.number("ram.untouched_pages"),
        hybrid.number("ram.total_pages"),
    );
    Check {
        name: "holes",
        ok: 0 < untouched && untouched < total,
        detail: format!(
            "{untouched} of {total} pages found to be holes; PAGEMAP_SCAN tried {} times",
            ioctls(record, PAGEMAP_SCAN)
        ),
    }
}

/// They are optional on a host, but this kernel has all that they need.
pub(super) fn probes(record: &Record, hybrid: &Move<'_>) -> Check {
    let report = hybrid.report.as_ref();
    let text = |path| report.and_then(|report| report.text(path));
    let events = hybrid.number("ebpf.events");
    let attached = report.is_some_and(|report| report.is_true("ebpf.attached"));
    Check {
        name: "probes",
        ok: attached && events > 0,
        detail: match text("ebpf.reason") {
            Some(reason) => reason.to_owned(),
            None => format!(
                "{}: {events} events, {} pages seen touched; BTF of kvm: {}, large pages: {}",
                text("ebpf.probe").unwrap_or("none"),
                hybrid.number("ebpf.touched_pages"),
                record.value("btf_of_kvm"),
                record.value("huge_pages"),
            ),
        },
    }
}

/// Calls of one ioctl by all processes.
fn ioctls(record: &Record, code: &str) -> u64 {
    let lines = record.text("ioctls").iter();
    let mut counts = lines.filter_map(|line| line.split_once(' '));
    let found = counts.find(|(found, _)| *found == code);
    found
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or(0)
}

/// What one migration left behind.
pub(super) struct Move<'a> {
    label: &'static str,
    record: &'a Record,
    report: Option<Value>,
}

impl<'a> Move<'a> {
    pub(super) fn read(record: &'a Record, label: &'static str) -> Self {
        let report = record.document(&format!("{label}.report"));
        Self {
            label,
            record,
            report: report.map(|(_, value)| value),
        }
    }

    /// A count of the report, 0 if it is not there.
    pub(super) fn number(&self, path: &str) -> u64 {
        let report = self.report.as_ref();
        report
            .and_then(|report| report.number(path))
            .map_or(0, |number| number as u64)
    }

    /// A text of the report.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.report.as_ref().and_then(|report| report.text(path))
    }

    pub(super) fn completed(&self, name: &'static str) -> Check {
        let exit = self.record.value(&format!("{}.exit", self.label));
        let text = |path| self.report.as_ref().and_then(|report| report.text(path));
        let status = text("status").unwrap_or("no report");
        let mut detail = format!("{status}, exit status {exit}");
        if let Some(error) = text("error") {
            detail += &format!(": {error}");
        }
        Check {
            name,
            ok: exit == "0" && status == "completed",
            detail,
        }
    }

    pub(super) fn memory_equal(&self, name: &'static str, full: bool) -> Check {
        let compared = self.number("verify.pages");
        let total = self.number("ram.total_pages");
        let path = "verify.mismatched_pages";
        let differing = self.report.as_ref().and_then(|report| report.number(path));
        let is_full = self
            .report
            .as_ref()
            .is_some_and(|report| report.is_true("verify.full"));
        Check {
            name,
            ok: total > 0 && compared == total && differing == Some(0.0) && is_full == full,
            detail: format!(
                "{compared} of {total} pages compared{}, {} differ",
                if is_full { " in real memory" } else { "" },
                differing.map_or("an unknown number".into(), |count| count.to_string())
            ),
        }
    }

    fn guest_goes_on(&self, name: &'static str) -> Check {
        let before = self.record.value(&format!("{}.before", self.label));
        let status = self.record.document(&format!("{}.status", self.label));
        let number = |path| {
            let status = status.as_ref();
            status.and_then(|(_, status)| status.number(path))
        };
        let (errors, now) = (number("guest.errors"), number("guest.operations"));
        let goes_on = now.zip(before.parse().ok());
        let shown = |number: Option<f64>| number.map_or("?".into(), |number| number.to_string());
        Check {
            name,
            ok: errors == Some(0.0)
                && goes_on.is_some_and(|(now, before): (f64, f64)| now > before),
            detail: format!(
                "{} errors; {before} operations before, {} after",
                shown(errors),
                shown(now)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record of a run in which all is well, after `change` was made to its lines.
    fn record(change: impl Fn(&str) -> String) -> Record {
        let mut lines = vec![
            "value npt Y".to_owned(),
            "value emulated_addresses 27".into(),
            "begin events.hybrid".into(),
            "kvm/kvm_page_fault 7 100".into(),
            "kvm/kvm_emulate_insn 7 50".into(),
            "kvm/kvm_exit 7 120".into(),
            "end events.hybrid".into(),
            "begin ioctls".into(),
            "c028aa03 117".into(),
            "c028aa05 2".into(),
            "end ioctls".into(),
            "begin log.kernel".into(),
            "end log.kernel".into(),
        ];
        for (label, full) in [("hybrid", true), ("postcopy", false)] {
            lines.push(format!("value {label}.before 100"));
            lines.push(format!("value {label}.exit 0"));
            lines.push(format!("begin {label}.report"));
            lines.push(format!(
                "{{\"status\": \"completed\", \"error\": null, \
                 \"ram\": {{\"total_pages\": 16384, \"untouched_pages\": 11776}}, \
                 \"verify\": {{\"pages\": 16384, \"mismatched_pages\": 0, \"full\": {full}}}, \
                 \"postcopy\": {{\"faults\": 9, \"demand_pages\": 9}}, \
                 \"ebpf\": {{\"attached\": true, \"probe\": \"p\", \"reason\": null, \
                 \"events\": 23, \"touched_pages\": 17}}}}"
            ));
            lines.push(format!("end {label}.report"));
            lines.push(format!("begin {label}.status"));
            lines.push("{\"guest\": {\"operations\": 120, \"errors\": 0}}".into());
            lines.push(format!("end {label}.status"));
        }
        let mut record = Record::default();
        for line in lines {
            record.take(&change(&line));
        }
        record
    }

    fn failing(record: &Record) -> Vec<&'static str> {
        let checks = all(record).into_iter();
        checks
            .filter_map(|check| (!check.ok).then_some(check.name))
            .collect()
    }

    #[test]
    fn a_good_run_passes() {
        assert!(failing(&record(str::to_owned)).is_empty());
    }

    #[test]
    fn every_check_can_fail() {
        for (from, to, names) in [
            ("npt Y", "npt N", ["nested_paging"].as_slice()),
            ("kvm_exit 7 120", "kvm_exit 7 40", &["ring_0_native"]),
            ("hybrid.exit 0", "hybrid.exit 5", &["hybrid_completed"]),
            (
                "\"status\": \"completed\"",
                "\"status\": \"failed\"",
                &["hybrid_completed", "postcopy_completed"],
            ),
            (
                "\"mismatched_pages\": 0",
                "\"mismatched_pages\": 1",
                &["hybrid_memory_equal", "postcopy_memory_equal"],
            ),
            (
                "\"full\": true",
                "\"full\": false",
                &["hybrid_memory_equal"],
            ),
            (
                "\"operations\": 120, \"errors\": 0",
                "\"operations\": 120, \"errors\": 1",
                &["hybrid_guest", "postcopy_guest"],
            ),
            (
                "postcopy.before 100",
                "postcopy.before 120",
                &["postcopy_guest"],
            ),
            ("\"faults\": 9", "\"faults\": 0", &["userfaultfd"]),
            (
                "\"untouched_pages\": 11776",
                "\"untouched_pages\": 0",
                &["holes"],
            ),
            ("\"attached\": true", "\"attached\": false", &["probes"]),
            (
                "value emulated_addresses 27",
                "value failed no address of second in 60 s",
                &["finished"],
            ),
        ] {
            let changed = record(|line| line.replace(from, to));
            assert_eq!(failing(&changed), names, "{from}");
        }
    }

    #[test]
    fn nothing_told_is_nothing_well() {
        let checks = all(&Record::default());
        assert!(checks.iter().all(|check| !check.ok));
    }
}
