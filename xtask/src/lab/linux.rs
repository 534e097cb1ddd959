//! Whether a Linux guest came through its moves as it must: by what it said on its serial port.

use super::{
    checks::{self, Check, Move},
    record::Record,
};

/// Words of the kernel that mean trouble. Each may stand in the lines after a move only if it
/// stood in those before.
const TROUBLE: [&str; 9] = [
    "BUG:",
    "Oops",
    "WARNING:",
    "Call Trace",
    "soft lockup",
    "detected stall",
    "rcu_sched",
    "clocksource:",
    "blocked for more than",
];
/// Furthest that the guest's clock may get from its host's by a move.
const CLOCK_SECONDS_MAX: f64 = 1.0;
/// Reports after a move by which the clocks are judged: the last ones, behind all missing pages.
const REPORTS_JUDGED: usize = 5;
/// Reports that may be cut off by the end, though what they say is done.
const REPORTS_UNDER_WAY: usize = 2;

/// All verdicts on one run. What the record lacks is not well.
pub(super) fn checks(record: &Record, cpus: u8) -> Vec<Check> {
    let (there, back) = (Move::read(record, "there"), Move::read(record, "back"));
    let reports = Report::all(record.text("console"));
    let mut checks = checks::of_machine(record);
    checks.push(processors(record, cpus));
    checks.push(there.completed("there_completed"));
    checks.push(there.memory_equal("there_memory_equal", true));
    checks.push(back.completed("back_completed"));
    checks.push(back.memory_equal("back_memory_equal", false));
    checks.push(checks::probes(record, &there));
    checks.push(first_second(&there));
    checks.push(sequence(record, &reports));
    checks.push(files(&reports));
    checks.push(devices(record));
    checks.push(killed(record));
    checks.push(cut(record, &back));
    checks.push(database(record));
    checks.push(connection(record));
    checks.push(power_off(record));
    checks.push(disk(record, &reports));
    checks.push(uptime(&reports));
    checks.push(wall_clock(record, &reports));
    checks.push(kernel_messages(record));
    checks
}

/// One line of the guest's: `tick N files=right up=S wall=S host=S`.
#[derive(Debug, Clone, PartialEq)]
struct Report {
    number: usize,
    files_right: bool,
    uptime: f64,
    /// The guest's time less the host's, in seconds.
    ahead: f64,
}

impl Report {
    /// Lines that are not whole are none.
    fn all(lines: &[String]) -> Vec<Self> {
        lines.iter().filter_map(|line| Self::parse(line)).collect()
    }

    fn parse(line: &str) -> Option<Self> {
        // A message of the kernel may stand before it in its line.
        let words: Vec<_> = line[line.find("tick ")?..].split_whitespace().collect();
        let [_, number, files, uptime, wall, host] = words[..] else {
            return None;
        };
        let wall: f64 = wall.strip_prefix("wall=")?.parse().ok()?;
        let host: f64 = host.strip_prefix("host=")?.parse().ok()?;
        Some(Self {
            number: number.parse().ok()?,
            files_right: files == "files=right",
            uptime: uptime.strip_prefix("up=")?.parse().ok()?,
            ahead: wall - host,
        })
    }
}

fn number(record: &Record, name: &str) -> usize {
    record.value(name).parse().unwrap_or(0)
}

fn processors(record: &Record, cpus: u8) -> Check {
    let mut lines = record.text("console").iter();
    let found = lines.find_map(|line| line.strip_prefix("cpus "));
    Check {
        name: "processors",
        ok: found.is_some_and(|found| found == cpus.to_string()),
        detail: format!("{} of {cpus} came up", found.unwrap_or("none")),
    }
}

/// How well the order of the pages was guessed: told, not judged.
fn first_second(there: &Move<'_>) -> Check {
    let pages = there.number("postcopy.touched_first_second.pages");
    let present = there.number("postcopy.touched_first_second.present");
    Check {
        name: "touched_first_second",
        ok: pages >= present,
        detail: format!("{present} of {pages} pages were there already"),
    }
}

/// Both moves happened while it counted, and it neither left a number out nor said one twice.
fn sequence(record: &Record, reports: &[Report]) -> Check {
    let [first, second] = ["ticks.first", "ticks.second"].map(|name| number(record, name));
    let wrong = reports
        .iter()
        .zip(1..)
        .find(|(report, expected)| report.number != *expected);
    Check {
        name: "sequence",
        ok: wrong.is_none() && first > 0 && second > 0 && reports.len() > first + second,
        detail: match wrong {
            Some((report, expected)) => format!("{} came in place of {expected}", report.number),
            None => format!(
                "1 to {}, {first} before the first move, {second} before the second",
                reports.len()
            ),
        },
    }
}

/// Every device has a driver of Linux's.
fn devices(record: &Record) -> Check {
    let lines = record.text("console").iter();
    let mut said =
        lines.filter_map(|line| line.split_once("devices ").map(|(_, said)| said.trim()));
    let said = said.next().unwrap_or("nothing");
    Check {
        name: "devices",
        ok: said == "0x0001 0x0002 0x0004 0x0005 drivers 4 rng virtio_rng.0",
        detail: said.to_owned(),
    }
}

/// A receiver that was killed in the middle leaves the VM where it was.
fn killed(record: &Record) -> Check {
    let report = Move::read(record, "killed");
    let status = record.value("killed.exit");
    Check {
        name: "receiver_killed",
        ok: status == "1" && report.text("status") == Some("failed"),
        detail: format!(
            "exit status {status}: {}",
            report.text("error").unwrap_or("no report")
        ),
    }
}

/// The way back went on behind a cut of the link.
fn cut(record: &Record, back: &Move<'_>) -> Check {
    let (cut, took) = (
        number(record, "cut_seconds") * 1000,
        back.number("postcopy_time_ms"),
    );
    Check {
        name: "link_cut",
        ok: cut > 0 && took >= cut as u64,
        detail: format!("{took} ms of post-copy, through {cut} ms without a link"),
    }
}

/// `name=N` among words.
fn told(words: &str, name: &str) -> Option<u64> {
    let mut words = words
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    words.find_map(|(found, value)| (found == name).then(|| value.parse().ok())?)
}

/// Every write that the database acknowledged while its machine moved is there.
fn database(record: &Record) -> Check {
    let said = record.value("database");
    let wrong = ["missing", "wrong"].map(|name| told(said, name));
    let after_moves =
        ["killed", "there", "back"].map(|label| number(record, &format!("writes.{label}")));
    Check {
        name: "database",
        ok: wrong == [Some(0); 2] && after_moves[0] > 0 && after_moves.is_sorted_by(|a, b| a < b),
        detail: said.to_owned(),
    }
}

/// The client's connection is the one that it began with.
fn connection(record: &Record) -> Check {
    let said = record.value("database");
    let (connections, silence) = (told(said, "connections"), told(said, "silence_ms"));
    let [connections, silence] = [connections, silence].map(|value| value.unwrap_or(0));
    Check {
        name: "tcp_connection",
        ok: connections == 1,
        detail: format!(
            "{connections} from the first write to the last, silent for {silence} ms at most"
        ),
    }
}

/// The guest switched its machine off.
fn power_off(record: &Record) -> Check {
    let status = record.value("power_off");
    Check {
        name: "power_off",
        ok: status == "0",
        detail: format!("the VM's process ended with status {status}"),
    }
}

/// What the guest said is on its disk is there for whoever opens the disk afterwards.
fn disk(record: &Record, reports: &[Report]) -> Check {
    let reported = reports.last().map_or(0, |report| report.number);
    let on_disk = number(record, "disk.count");
    let (file, database) = (record.value("disk.file"), record.value("disk.database"));
    let told = ["acknowledged", "missing", "wrong"].map(|name| told(database, name));
    Check {
        name: "disk",
        ok: reported > 0
            && (reported..=reported + REPORTS_UNDER_WAY).contains(&on_disk)
            && file == "right"
            && matches!(told, [Some(1..), Some(0), Some(0)]),
        detail: format!(
            "count {on_disk} behind report {reported}, the file is {}, the database: {database}",
            if file.is_empty() { "wrong" } else { file }
        ),
    }
}

fn files(reports: &[Report]) -> Check {
    let wrong = reports.iter().filter(|report| !report.files_right).count();
    Check {
        name: "files",
        ok: !reports.is_empty() && wrong == 0,
        detail: format!(
            "{wrong} of {} reports say that a hash is wrong",
            reports.len()
        ),
    }
}

fn uptime(reports: &[Report]) -> Check {
    let back = reports
        .windows(2)
        .find(|pair| pair[1].uptime < pair[0].uptime);
    Check {
        name: "uptime",
        ok: reports.len() > 1 && back.is_none(),
        detail: match (back, reports.last()) {
            (Some(pair), _) => format!("from {} s to {} s", pair[0].uptime, pair[1].uptime),
            (None, Some(last)) => format!("never went back, {} s at the end", last.uptime),
            (None, None) => "no report".into(),
        },
    }
}

/// Against what it was before the first move: a kernel whose first ticks are lost, as on a busy machine,
/// boots with a clock that is behind for good.
fn wall_clock(record: &Record, reports: &[Report]) -> Check {
    let first = number(record, "ticks.first").min(reports.len());
    let second = (first + number(record, "ticks.second")).min(reports.len());
    let ahead = [first, second, reports.len()].map(|end| ahead(&reports[..end]));
    let ok = ahead[1..].iter().all(|after| {
        let moved = after.zip(ahead[0]).map(|(after, before)| after - before);
        moved.is_some_and(|moved| moved.abs() <= CLOCK_SECONDS_MAX)
    });
    let ahead = ahead.map(|ahead| ahead.map_or("?".into(), |ahead| ahead.to_string()));
    Check {
        name: "wall_clock",
        ok: first > 0 && second > first && reports.len() > second && ok,
        detail: format!(
            "the guest's less its host's: {} s before the moves, then {} s, then {} s",
            ahead[0], ahead[1], ahead[2]
        ),
    }
}

/// The median of the last reports.
fn ahead(reports: &[Report]) -> Option<f64> {
    let last = &reports[reports.len().saturating_sub(REPORTS_JUDGED)..];
    let mut ahead: Vec<_> = last.iter().map(|report| report.ahead).collect();
    ahead.sort_by(f64::total_cmp);
    ahead.get(ahead.len() / 2).copied()
}

fn kernel_messages(record: &Record) -> Check {
    let lines = record.text("console");
    let first = number(record, "ticks.first");
    let mut reports = (0..lines.len()).filter(|at| Report::parse(&lines[*at]).is_some());
    let moved = reports.nth(first.saturating_sub(1)).unwrap_or(lines.len());
    let (before, after) = lines.split_at(moved);
    let has = |lines: &[String], word: &str| lines.iter().any(|line| line.contains(word));
    let new: Vec<_> = TROUBLE
        .into_iter()
        .filter(|word| has(after, word) && !has(before, word))
        .collect();
    Check {
        name: "kernel_messages",
        ok: !after.is_empty() && new.is_empty(),
        detail: match new.is_empty() {
            true => format!("nothing new in {} lines after the move", after.len()),
            false => format!("new after the move: {}", new.join(", ")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run in which all is well, but for what `change` does to its lines.
    fn record(change: impl Fn(&str) -> String) -> Record {
        let lines = [
            "value ticks.first 2",
            "value ticks.second 2",
            "value killed.exit 1",
            "begin killed.report",
            r#"{"status": "failed", "error": "gone"}"#,
            "end killed.report",
            "value cut_seconds 10",
            "begin back.report",
            r#"{"postcopy_time_ms": 12000}"#,
            "end back.report",
            "value writes.killed 100",
            "value writes.there 200",
            "value writes.back 300",
            "value database acknowledged=310 missing=0 wrong=0 connections=1 silence_ms=11000",
            "value power_off 0",
            "value disk.count 7",
            "value disk.file right",
            "value disk.database acknowledged=310 missing=0 wrong=0 connections=1 silence_ms=0",
            "begin console",
            "[    0.0] Linux version 6.1",
            "cpus 2",
            "devices 0x0001 0x0002 0x0004 0x0005 drivers 4 rng virtio_rng.0",
        ];
        let mut lines: Vec<_> = lines.map(str::to_owned).into();
        for tick in 1..=6 {
            let host = 1000 + tick;
            lines.push(format!(
                "tick {tick} files=right up={}.5 wall={} host={host}",
                10 + tick,
                1000 + tick
            ));
        }
        lines.push("end console".into());
        let mut record = Record::default();
        for line in lines {
            record.take(&change(&line));
        }
        record
    }

    fn failing(record: &Record) -> Vec<&'static str> {
        let reports = Report::all(record.text("console"));
        let checks = [
            processors(record, 2),
            sequence(record, &reports),
            files(&reports),
            devices(record),
            killed(record),
            cut(record, &Move::read(record, "back")),
            database(record),
            connection(record),
            power_off(record),
            disk(record, &reports),
            uptime(&reports),
            wall_clock(record, &reports),
            kernel_messages(record),
        ];
        let failing = checks.into_iter().filter(|check| !check.ok);
        failing.map(|check| check.name).collect()
    }

    #[test]
    fn a_good_run_passes() {
        assert!(failing(&record(str::to_owned)).is_empty());
    }

    #[test]
    fn every_check_can_fail() {
        for (from, to, names) in [
            ("cpus 2", "cpus 1", ["processors"].as_slice()),
            ("tick 4", "tick 5", &["sequence"]),
            (
                "ticks.second 2",
                "ticks.second 4",
                &["sequence", "wall_clock"],
            ),
            ("files=right up=13.5", "files=wrong up=13.5", &["files"]),
            ("0x0005 drivers 4", "0x0005 drivers 3", &["devices"]),
            ("killed.exit 1", "killed.exit 0", &["receiver_killed"]),
            ("12000", "9000", &["link_cut"]),
            (
                "310 missing=0 wrong=0 connections=1 silence_ms=11",
                "310 missing=0 wrong=1 connections=1 silence_ms=11",
                &["database"],
            ),
            ("writes.back 300", "writes.back 200", &["database"]),
            (
                "connections=1 silence_ms=11",
                "connections=2 silence_ms=11",
                &["tcp_connection"],
            ),
            ("power_off 0", "power_off 1", &["power_off"]),
            ("disk.count 7", "disk.count 5", &["disk"]),
            ("disk.file right", "disk.file", &["disk"]),
            (
                "310 missing=0 wrong=0 connections=1 silence_ms=0",
                "310 missing=1 wrong=0 connections=1 silence_ms=0",
                &["disk"],
            ),
            ("up=14.5", "up=12.5", &["uptime"]),
            (
                "tick 6",
                "watchdog: BUG: soft lockup - CPU#0 stuck tick 6",
                &["kernel_messages"],
            ),
        ] {
            let changed = record(|line| line.replace(from, to));
            assert_eq!(failing(&changed), names, "{from}");
        }
    }

    #[test]
    fn a_clock_may_be_wrong_but_not_jump() {
        assert!(failing(&record(|line| line.replace("wall=1", "wall=9"))).is_empty());
        let jumps = record(
            |line| match line.starts_with("tick 1") || line.starts_with("tick 2") {
                true => line.to_owned(),
                false => line.replace("wall=1", "wall=9"),
            },
        );
        assert_eq!(failing(&jumps), ["wall_clock"]);
    }

    #[test]
    fn what_a_run_without_moves_says_is_nothing_new() {
        let said = record(|line| {
            let line = line.replace("Linux version", "clocksource: jiffies");
            line.replace("tick 6", "clocksource: again tick 6")
        });
        assert!(failing(&said).is_empty());
    }
}
