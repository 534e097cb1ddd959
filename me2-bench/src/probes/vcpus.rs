//! How much processor time the vCPUs of a process have had, over time.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

const INTERVAL: Duration = Duration::from_millis(20);

/// Seconds of all vCPUs since they began, and when they were read.
pub(super) struct VcpuTime(Vec<(Instant, f64)>);

/// A thread that reads them.
pub(super) struct Watching {
    end: Sender<()>,
    reader: JoinHandle<VcpuTime>,
}

impl VcpuTime {
    /// Reads until it is told to end.
    pub(super) fn watch(process: u32) -> Watching {
        let (end, is_over) = channel();
        let reader = thread::spawn(move || {
            let mut read = Vec::new();
            while is_over.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                read.extend(seconds(process).map(|seconds| (Instant::now(), seconds)));
            }
            Self(read)
        });
        Watching { end, reader }
    }

    /// Processor time between these moments, seconds; `None` if they were not watched.
    pub(super) fn between(&self, from: Instant, until: Instant) -> Option<f64> {
        let seconds = self.at(until)? - self.at(from)?;
        (seconds > 0.0).then_some(seconds)
    }

    fn at(&self, at: Instant) -> Option<f64> {
        let next = self.0.partition_point(|(read, _)| *read < at);
        let (until, after) = *self.0.get(next)?;
        let (from, before) = *self.0.get(next.checked_sub(1)?)?;
        let part = (at - from).as_secs_f64() / (until - from).as_secs_f64();
        Some(before + part * (after - before))
    }
}

impl Watching {
    pub(super) fn ended(self) -> VcpuTime {
        drop(self.end);
        self.reader.join().expect("reading does not panic")
    }
}

/// `None` if the process has no vCPU.
fn seconds(process: u32) -> Option<f64> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    let paths: Vec<PathBuf> = threads.flatten().map(|thread| thread.path()).collect();
    let is_vcpu = |path: &PathBuf| {
        let name = fs::read_to_string(path.join("comm"));
        name.is_ok_and(|name| name.starts_with("vcpu"))
    };
    let vcpus: Vec<_> = paths.into_iter().filter(is_vcpu).collect();
    let sum = vcpus
        .iter()
        .map(|path| nanoseconds(path))
        .sum::<Option<f64>>()?;
    (sum > 0.0).then_some(sum / 1e9)
}

fn nanoseconds(thread: &Path) -> Option<f64> {
    let times = fs::read_to_string(thread.join("schedstat")).ok()?;
    times.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_found_between_readings() {
        let begun = Instant::now();
        let ms = |ms| begun + Duration::from_millis(ms);
        let time = VcpuTime(vec![(ms(0), 1.0), (ms(100), 1.1), (ms(200), 1.3)]);
        let found = time.between(ms(50), ms(150)).unwrap();
        assert!((found - 0.15).abs() < 1e-9, "{found}");
        assert_eq!(time.between(ms(50), ms(300)), None);
    }

    #[test]
    fn a_process_without_vcpus_has_no_time_of_theirs() {
        assert_eq!(seconds(std::process::id()), None);
    }
}
