//! The report as a table of 80 columns: a label, then the values that belong together.

use std::fmt::Write;

use super::{DowntimeSource, Report, Status};

/// The whole line, label included.
const COLUMNS: usize = 80;
const LABEL_COLUMNS: usize = 12;

pub(super) fn render(report: &Report) -> String {
    let mut table = Table(String::new());
    table.row(
        "migration",
        &[report.mode.to_string(), report.status.to_string()],
    );
    if let Some(error) = &report.error {
        table.text("reason", error);
    }
    times(report, &mut table);
    // Refused before the machine was looked at: there is nothing to tell.
    if report.ram.total_pages == 0 {
        return table.0;
    }
    memory(report, &mut table);
    travel(report, &mut table);
    circumstances(report, &mut table);
    table.0
}

fn times(report: &Report, table: &mut Table) {
    table.row(
        "total",
        &[
            ms(report.total_time_ms),
            format!("setup {}", ms(report.setup_time_ms)),
            format!("pre-copy {}", ms(report.precopy_time_ms)),
            format!("post-copy {}", ms(report.postcopy_time_ms)),
        ],
    );
    if let Some(source) = report.downtime_source {
        table.row(
            "downtime",
            &[
                ms(report.downtime_ms),
                match source {
                    DowntimeSource::Monotonic => "one clock".to_owned(),
                    DowntimeSource::HalfRtt => "by half the round trip".to_owned(),
                },
                report.first_progress_ms.map_or_else(
                    || "first progress not told".to_owned(),
                    |progress| format!("first progress after {}", ms(progress)),
                ),
            ],
        );
        let parts = &report.downtime;
        table.row(
            "",
            &[
                format!("stop {}", ms(parts.stop_ms)),
                format!("save {}", ms(parts.save_ms)),
                format!("transfer {}", ms(parts.transfer_ms)),
                format!("restore {}", ms(parts.restore_ms)),
                format!("start {}", ms(parts.start_ms)),
            ],
        );
    }
}

fn memory(report: &Report, table: &mut Table) {
    let ram = &report.ram;
    let size = |pages: u64| bytes(pages.saturating_mul(ram.page_size_bytes));
    let holes = ram.untouched_pages.saturating_add(ram.free_pages);
    let used_pages = ram.total_pages.saturating_sub(holes);
    table.row(
        "memory",
        &[
            size(ram.total_pages),
            format!(
                "used {} ({})",
                size(used_pages),
                percent(used_pages, ram.total_pages)
            ),
            format!("useful {}", size(ram.useful_pages)),
        ],
    );
    table.row(
        "",
        &[
            format!("zero {}", size(ram.zero_pages)),
            format!("free {}", size(ram.free_pages)),
            format!("untouched {}", size(ram.untouched_pages)),
        ],
    );
    let used_bytes = used_pages.saturating_mul(ram.page_size_bytes);
    table.row(
        "sent",
        &[
            format!("{} on the wire", bytes(report.wire_bytes)),
            format!("{} of what is used", ratio(report.wire_bytes, used_bytes)),
            format!("{} before encoding", bytes(ram.sent_logical_bytes)),
        ],
    );
    let codec = &report.codec;
    table.row(
        "pages",
        &[
            format!("{} sent", ram.sent_pages),
            format!("zero {}", codec.zero),
            format!("rle {}", codec.rle),
            format!("delta {}", codec.delta),
            format!("reference {}", codec.reference),
            format!("zstd {}", codec.zstd),
            format!("raw {}", codec.raw),
        ],
    );
}

fn travel(report: &Report, table: &mut Table) {
    let precopy = &report.precopy;
    let saved = &precopy.sends_saved;
    table.row(
        "pre-copy",
        &[
            counted(precopy.passes, "pass", "passes"),
            counted(precopy.pages, "page", "pages"),
            bytes(precopy.bytes),
            format!("sends saved {}", saved.written_before_sent + saved.hot),
        ],
    );
    let handover = &report.handover;
    table.row(
        "handover",
        &[
            bytes(handover.bytes),
            format!(
                "final set {}",
                counted(handover.final_set_pages, "page", "pages")
            ),
            format!(
                "{} missing at resume",
                counted(handover.missing_pages, "page", "pages")
            ),
        ],
    );
    let postcopy = &report.postcopy;
    table.row(
        "post-copy",
        &[
            counted(postcopy.faults, "fault", "faults"),
            format!("demanded {}", postcopy.demand_pages),
            format!("pushed {}", postcopy.pushed_pages),
            format!("duplicate {}", postcopy.duplicate_pages),
        ],
    );
    if postcopy.faults > 0 {
        let latency = &postcopy.fault_latency_us;
        table.row(
            "faults",
            &[
                format!("p50 {}", us(latency.p50)),
                format!("p99 {}", us(latency.p99)),
                format!("max {}", us(latency.max)),
                format!("vCPUs waited {}", ms(postcopy.vcpu_blocktime_ms)),
            ],
        );
    }
}

fn circumstances(report: &Report, table: &mut Table) {
    let guest = &report.guest;
    if guest.rate_before.is_some() || guest.rate_during.is_some() {
        let rate = |rate: Option<f64>| {
            rate.map_or_else(
                || "not told".to_owned(),
                |rate| format!("{rate:.0} operations/s"),
            )
        };
        table.row(
            "guest",
            &[
                format!("before {}", rate(guest.rate_before)),
                format!("during {}", rate(guest.rate_during)),
            ],
        );
    }
    let ebpf = &report.ebpf;
    if ebpf.attached {
        table.row(
            "probes",
            &[
                ebpf.probe.clone().unwrap_or_else(|| "attached".to_owned()),
                counted(ebpf.events, "event", "events"),
                format!("touched {}", ebpf.touched_pages),
                format!("written {}", ebpf.written_pages),
                format!("lost {}", ebpf.lost),
            ],
        );
    } else {
        table.text(
            "probes",
            &format!(
                "none: {}",
                ebpf.reason.as_deref().unwrap_or("not asked for")
            ),
        );
    }
    let link = &report.link;
    table.row(
        "link",
        &[
            format!("round trip {}", ms(link.rtt_ms)),
            format!("{} lost", counted(link.lost_packets, "packet", "packets")),
            counted(
                link.congestion_events,
                "congestion event",
                "congestion events",
            ),
        ],
    );
    for limit in &link.limits {
        table.text("limited by", limit);
    }
    let verify = &report.verify;
    if verify.pages > 0 || report.status == Status::Completed {
        table.row(
            "verified",
            &[
                format!(
                    "{} of {} pages by {}",
                    verify.pages,
                    report.ram.total_pages,
                    if verify.full { "full hashes" } else { "hashes" },
                ),
                format!("{} differ", verify.mismatched_pages),
            ],
        );
    }
}

/// Rows of a label and its values; a row that is too long goes on below its first value.
struct Table(String);

impl Table {
    fn row(&mut self, label: &str, values: &[String]) {
        self.wrap(label, values, ", ");
    }

    fn text(&mut self, label: &str, text: &str) {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        self.wrap(label, &words, " ");
    }

    fn wrap(&mut self, label: &str, items: &[String], separator: &str) {
        let mut line = format!("{label:<LABEL_COLUMNS$}");
        let mut is_first = true;
        for (index, item) in items.iter().enumerate() {
            let end = if index + 1 < items.len() {
                separator
            } else {
                ""
            };
            let columns = line.chars().count() + item.chars().count() + end.trim_end().len();
            if !is_first && columns > COLUMNS {
                self.line(&line);
                line = " ".repeat(LABEL_COLUMNS);
            }
            line.push_str(item);
            line.push_str(end);
            is_first = false;
        }
        self.line(&line);
    }

    fn line(&mut self, line: &str) {
        writeln!(self.0, "{}", line.trim_end()).expect("a string takes everything");
    }
}

fn ms(ms: f64) -> String {
    match ms {
        ms if ms >= 60_000.0 => format!(
            "{:.0} min {:.0} s",
            (ms / 60_000.0).floor(),
            ms % 60_000.0 / 1e3
        ),
        ms if ms >= 1000.0 => format!("{:.2} s", ms / 1000.0),
        ms if ms >= 100.0 => format!("{ms:.0} ms"),
        ms => format!("{ms:.2} ms"),
    }
}

fn us(us: u64) -> String {
    if us < 1000 {
        format!("{us} µs")
    } else {
        ms(us as f64 / 1000.0)
    }
}

fn bytes(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    match bytes as f64 {
        _ if bytes < 1024 => format!("{bytes} B"),
        value if value < KIB * KIB => format!("{:.1} KiB", value / KIB),
        value if value < KIB * KIB * KIB => format!("{:.1} MiB", value / (KIB * KIB)),
        value => format!("{:.2} GiB", value / (KIB * KIB * KIB)),
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "– %".to_owned(),
        _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    }
}

fn ratio(part: u64, whole: u64) -> String {
    match whole {
        0 => "– ×".to_owned(),
        _ => format!("{:.2} ×", part as f64 / whole as f64),
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
