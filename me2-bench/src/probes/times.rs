//! How much processor time the vCPUs of a process have had, and its probes, over time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(50);

/// Whether the kernel counts the time of BPF programs.
const COUNTS_PROBES: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Seconds since they began.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spent {
    /// Of all vCPUs.
    pub(super) vcpus: f64,
    /// Of all probes, which is a part of that; 0 if the kernel does not count it.
    pub(super) probes: f64,
}

/// Each with when it was read.
pub(super) struct Times(Vec<(Instant, Spent)>);

/// A thread that reads them.
pub(super) struct Watching {
    end: Sender<()>,
    reader: JoinHandle<Times>,
}

impl Times {
    /// Reads until it is told to end.
    pub(super) fn watch(process: u32) -> Watching {
        let (end, is_over) = channel();
        let reader = thread::spawn(move || {
            let mut read = Vec::new();
            while is_over.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let at = Instant::now();
                read.extend(Spent::by(process).map(|spent| (at, spent)));
            }
            Self(read)
        });
        Watching { end, reader }
    }

    /// What was spent between these moments; `None` if they were not watched.
    pub(super) fn between(&self, from: Instant, until: Instant) -> Option<Spent> {
        let (before, after) = (self.at(from)?, self.at(until)?);
        let spent = Spent {
            vcpus: after.vcpus - before.vcpus,
            probes: after.probes - before.probes,
        };
        (spent.vcpus > 0.0).then_some(spent)
    }

    fn at(&self, at: Instant) -> Option<Spent> {
        let next = self.0.partition_point(|(read, _)| *read < at);
        let (until, after) = *self.0.get(next)?;
        let (from, before) = *self.0.get(next.checked_sub(1)?)?;
        let part = (at - from).as_secs_f64() / (until - from).as_secs_f64();
        let between = |before: f64, after: f64| before + part * (after - before);
        Some(Spent {
            vcpus: between(before.vcpus, after.vcpus),
            probes: between(before.probes, after.probes),
        })
    }
}

impl Watching {
    pub(super) fn ended(self) -> Times {
        drop(self.end);
        self.reader.join().expect("reading does not panic")
    }
}

/// Has the kernel count the time of BPF programs, which costs each call some 50 ns; as before when
/// dropped.
pub(super) struct ProbesCounted {
    before: String,
}

impl ProbesCounted {
    /// `None`, after saying so, where that is not allowed.
    pub(super) fn begin() -> Option<Self> {
        let before = fs::read_to_string(COUNTS_PROBES).ok();
        let begun = before.filter(|_| fs::write(COUNTS_PROBES, "1").is_ok());
        if begun.is_none() {
            eprintln!("the time of the probes is not counted: {COUNTS_PROBES} cannot be written");
        }
        begun.map(|before| Self { before })
    }
}

impl Drop for ProbesCounted {
    fn drop(&mut self) {
        if let Err(error) = fs::write(COUNTS_PROBES, &self.before) {
            eprintln!("{COUNTS_PROBES} cannot be set back: {error}");
        }
    }
}

impl Spent {
    /// `None` if the process has no vCPU.
    fn by(process: u32) -> Option<Self> {
        let is_vcpu = |path: &PathBuf| {
            let name = fs::read_to_string(path.join("comm"));
            name.is_ok_and(|name| name.starts_with("vcpu"))
        };
        let vcpus: Vec<_> = entries(process, "task")?
            .into_iter()
            .filter(is_vcpu)
            .collect();
        let sum = vcpus
            .iter()
            .map(|path| nanoseconds(path))
            .sum::<Option<f64>>()?;
        let probes = entries(process, "fdinfo")?;
        let probes: f64 = probes
            .iter()
            .filter_map(|path| probe_nanoseconds(path))
            .sum();
        (sum > 0.0).then_some(Self {
            vcpus: sum / 1e9,
            probes: probes / 1e9,
        })
    }
}

fn entries(process: u32, folder: &str) -> Option<Vec<PathBuf>> {
    let entries = fs::read_dir(format!("/proc/{process}/{folder}")).ok()?;
    Some(entries.flatten().map(|entry| entry.path()).collect())
}

fn nanoseconds(thread: &Path) -> Option<f64> {
    let times = fs::read_to_string(thread.join("schedstat")).ok()?;
    times.split(' ').next()?.parse().ok()
}

/// Only descriptors of BPF programs have this.
fn probe_nanoseconds(descriptor: &Path) -> Option<f64> {
    let info = fs::read_to_string(descriptor).ok()?;
    let time = info
        .lines()
        .find_map(|line| line.strip_prefix("run_time_ns:"))?;
    time.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_found_between_readings() {
        let begun = Instant::now();
        let ms = |ms| begun + Duration::from_millis(ms);
        let spent = |vcpus, probes| Spent { vcpus, probes };
        let times = Times(vec![
            (ms(0), spent(1.0, 0.1)),
            (ms(100), spent(1.1, 0.1)),
            (ms(200), spent(1.3, 0.3)),
        ]);
        let found = times.between(ms(50), ms(150)).unwrap();
        assert!((found.vcpus - 0.15).abs() < 1e-9, "{found:?}");
        assert!((found.probes - 0.1).abs() < 1e-9, "{found:?}");
        assert_eq!(times.between(ms(50), ms(300)), None);
    }

    #[test]
    fn a_process_without_vcpus_has_no_time_of_theirs() {
        assert_eq!(Spent::by(std::process::id()), None);
    }
}
