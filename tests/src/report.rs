//! What a migration tells of itself.

use std::fmt;

use serde_json::Value;

/// A report: a JSON document.
#[derive(Debug)]
pub struct Report(Value);

impl Report {
    pub(crate) fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text).map(Self)
    }

    /// The value of a field: names with dots between them.
    ///
    /// # Panics
    /// If it is not there.
    pub fn field(&self, path: &str) -> &Value {
        let mut value = &self.0;
        for name in path.split('.') {
            let inner = value.get(name);
            value = inner.unwrap_or_else(|| panic!("the report has no {path}: {self}"));
        }
        value
    }

    /// A count.
    ///
    /// # Panics
    /// If it is not there, or none.
    pub fn count(&self, path: &str) -> u64 {
        let count = self.field(path).as_u64();
        count.unwrap_or_else(|| panic!("{path} is no count: {self}"))
    }

    /// A number that may have a fraction.
    ///
    /// # Panics
    /// If it is not there, or none.
    pub fn number(&self, path: &str) -> f64 {
        let number = self.field(path).as_f64();
        number.unwrap_or_else(|| panic!("{path} is no number: {self}"))
    }

    /// A text.
    ///
    /// # Panics
    /// If it is not there, or none.
    pub fn text(&self, path: &str) -> &str {
        let text = self.field(path).as_str();
        text.unwrap_or_else(|| panic!("{path} is no text: {self}"))
    }

    /// What holds for every migration that completed, whatever the mode.
    ///
    /// # Panics
    /// If something does not.
    pub fn check_complete(&self) {
        assert_eq!(self.count("schema_version"), 1, "{self}");
        assert_eq!(self.text("status"), "completed", "{self}");
        assert!(self.field("error").is_null(), "{self}");
        self.check_pages();
        self.check_times();
        self.check_probes();
    }

    fn check_pages(&self) {
        let count = |path: &str| self.count(path);
        let total = count("ram.total_pages");
        assert_eq!(count("verify.pages"), total, "{self}");
        assert_eq!(count("verify.mismatched_pages"), 0, "{self}");
        assert_eq!(count("ram.page_size_bytes"), 4096, "{self}");
        let useful = count("ram.useful_pages");
        assert!(0 < useful && useful <= total, "{self}");
        let holes = count("ram.untouched_pages") + count("ram.free_pages");
        assert_eq!(useful + holes, total, "{self}");
        let sent = count("ram.sent_pages");
        assert_eq!(count("ram.sent_logical_bytes"), sent * 4096, "{self}");
        let encoded = ["zero", "rle", "delta", "reference", "zstd", "raw"]
            .map(|kind| count(&format!("codec.{kind}")));
        assert_eq!(encoded.iter().sum::<u64>(), sent, "{self}");
        assert!(sent >= useful, "every useful page was sent: {self}");
        assert!(count("precopy.pages") <= sent, "{self}");
        let arrived = count("postcopy.demand_pages") + count("postcopy.pushed_pages");
        assert_eq!(arrived, count("handover.missing_pages"), "{self}");
        assert!(count("wire_bytes") > count("handover.bytes"), "{self}");
        assert!(count("handover.bytes") > 0, "{self}");
    }

    fn check_probes(&self) {
        let text = |path: &str| self.field(path).as_str().unwrap_or_default().to_owned();
        if *self.field("ebpf.attached") == true {
            assert!(!text("ebpf.probe").is_empty(), "{self}");
            assert!(self.count("ebpf.events") > 0, "{self}");
            assert!(self.count("ebpf.touched_pages") > 0, "{self}");
        } else {
            assert!(!text("ebpf.reason").is_empty(), "{self}");
        }
    }

    fn check_times(&self) {
        let phases = [
            "setup_time_ms",
            "precopy_time_ms",
            "downtime_ms",
            "postcopy_time_ms",
        ];
        let phases: f64 = phases.map(|name| self.number(name)).iter().sum();
        // Each is measured by itself: allow for rounding.
        assert!(self.number("total_time_ms") + 1.0 >= phases, "{self}");
        let downtime = self.number("downtime_ms");
        assert!(downtime > 0.0, "{self}");
        assert_eq!(
            self.text("downtime_source"),
            "monotonic",
            "one host: {self}"
        );
        let parts = [
            "stop_ms",
            "save_ms",
            "transfer_ms",
            "restore_ms",
            "start_ms",
        ];
        let parts: f64 = parts
            .map(|part| self.number(&format!("downtime.{part}")))
            .iter()
            .sum();
        // Whether the time until the last vCPU has stopped is a part of it is for the report to say.
        let stop = self.number("downtime.stop_ms");
        assert!((parts - downtime).abs() <= stop + 1.0, "{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}
