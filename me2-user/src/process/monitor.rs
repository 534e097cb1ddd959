//! The guest's console: where its output goes, and what the built-in guest tells of itself in it.
//!
//! The built-in guest writes a line per vCPU every 100 ms (`me2-guest cpu=0 t_ms=… ops=…
//! verified=… errors=…`), and in between single bytes `0x80 | cpu` when operations were completed.
//! Other guests' output passes unread.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use me2_vmm::clock::monotonic_ns;

use super::console::ConsoleWriter;
use crate::control::{console::ConsoleLog, types::GuestStatus};

/// Longest line that is looked at; a longer one passes unread.
const LINE_BYTES_MAX: usize = 256;
/// vCPUs whose reports are kept.
const CPUS_MAX: usize = 64;
/// Shortest time over which a rate means anything: half of the guest's reporting interval.
const RATE_SPAN_MIN: Duration = Duration::from_millis(50);
/// How far back the rate of operations is remembered.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// Watches what a guest writes to its console.
#[derive(Clone)]
pub struct GuestMonitor {
    inner: Arc<Mutex<Inner>>,
    output: ConsoleWriter,
}

struct Inner {
    builtin: bool,
    line: Vec<u8>,
    cpus: Vec<CpuReport>,
    /// Sums over all vCPUs, when they were told.
    samples: VecDeque<(Instant, u64)>,
    /// First sign of progress since [`GuestMonitor::expect_progress`], in monotonic nanoseconds.
    progress_ns: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct CpuReport {
    operations: u64,
    errors: u64,
    /// Reported since the last sample.
    is_new: bool,
}

impl GuestMonitor {
    /// Passes output on to `output` and `log`; reads it if the built-in guest writes it.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn new(output: Box<dyn Write + Send>, log: ConsoleLog, builtin: bool) -> io::Result<Self> {
        let inner = Inner {
            builtin,
            line: Vec::new(),
            cpus: Vec::new(),
            samples: VecDeque::new(),
            progress_ns: None,
        };
        Ok(Self {
            inner: Arc::new(Mutex::new(inner)),
            output: ConsoleWriter::start(output, log)?,
        })
    }

    /// The end that the serial port writes to.
    pub fn console(&self) -> me2_vmm::ConsoleSink {
        Box::new(Console(self.clone()))
    }

    /// What the guest told last; `None` if it tells nothing.
    pub fn status(&self) -> Option<GuestStatus> {
        let inner = self.lock();
        let (_, operations) = *inner.samples.back()?;
        let errors = inner.cpus.iter().map(|cpu| cpu.errors).sum();
        let rate = inner.rate(Instant::now() - Duration::from_secs(1), Instant::now());
        Some(GuestStatus {
            operations,
            errors,
            rate: rate.unwrap_or(0.0),
        })
    }

    /// Operations per second between two times; `None` if the guest told less than two things.
    pub fn rate(&self, from: Instant, to: Instant) -> Option<f64> {
        self.lock().rate(from, to)
    }

    /// Forgets progress: [`GuestMonitor::progress_ns`] tells the next sign of it.
    pub fn expect_progress(&self) {
        self.lock().progress_ns = None;
    }

    /// When the guest first completed an operation since then, in monotonic nanoseconds.
    pub fn progress_ns(&self) -> Option<u64> {
        self.lock().progress_ns
    }

    /// Waits, a bounded time, until what the guest wrote is out.
    pub fn drain(&self) {
        self.output.drain();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panics under this lock")
    }
}

impl Inner {
    fn rate(&self, from: Instant, to: Instant) -> Option<f64> {
        let mut within = self
            .samples
            .iter()
            .filter(|(at, _)| (from..=to).contains(at));
        let (first_at, first) = within.next()?;
        let (last_at, last) = within.next_back()?;
        let seconds = last_at.duration_since(*first_at).as_secs_f64();
        (seconds >= RATE_SPAN_MIN.as_secs_f64()).then(|| (last - first) as f64 / seconds)
    }

    fn take(&mut self, byte: u8, output: &ConsoleWriter) {
        if byte >= 0x80 {
            self.progress_ns.get_or_insert_with(monotonic_ns);
            return;
        }
        if self.line.len() < LINE_BYTES_MAX {
            self.line.push(byte);
        }
        if byte == b'\n' {
            let line = std::mem::take(&mut self.line);
            self.report(&String::from_utf8_lossy(&line));
            output.write(&line);
        }
    }

    fn report(&mut self, line: &str) {
        let Some(fields) = line.trim().strip_prefix("me2-guest cpu=") else {
            return;
        };
        let mut fields = fields.split_ascii_whitespace();
        let Some(cpu) = fields.next().and_then(|cpu| cpu.parse::<usize>().ok()) else {
            return;
        };
        if cpu >= CPUS_MAX {
            return;
        }
        let mut report = CpuReport::default();
        for (name, value) in fields.filter_map(|field| field.split_once('=')) {
            let Ok(value) = value.parse() else { return };
            match name {
                "ops" => report.operations = value,
                "errors" => report.errors = value,
                _ => {}
            }
        }
        if self.cpus.len() <= cpu {
            self.cpus.resize(cpu + 1, CpuReport::default());
        }
        report.is_new = true;
        let is_first_round = self.cpus[cpu].operations == 0;
        self.cpus[cpu] = report;
        let now = Instant::now();
        let operations = self.cpus.iter().map(|cpu| cpu.operations).sum();
        // A sum is the whole once every vCPU has told; before the first vCPU's second report it is
        // not known how many there are.
        if !is_first_round && self.cpus.iter().all(|cpu| cpu.is_new) {
            self.samples.push_back((now, operations));
            self.cpus.iter_mut().for_each(|cpu| cpu.is_new = false);
        }
        while self
            .samples
            .front()
            .is_some_and(|(at, _)| now.duration_since(*at) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
    }
}

struct Console(GuestMonitor);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let GuestMonitor { output, .. } = &self.0;
        let mut inner = self.0.lock();
        if inner.builtin {
            bytes.iter().for_each(|byte| inner.take(*byte, output));
        } else {
            output.write(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn reports_are_read_and_heartbeats_are_not_shown() {
        let sink = Sink::default();
        let monitor =
            GuestMonitor::new(Box::new(sink.clone()), ConsoleLog::default(), true).unwrap();
        let mut console = monitor.console();
        console
            .write_all(b"me2-guest cpu=0 t_ms=1 ops=10 veri\x80fied=9 errors=0\n")
            .unwrap();
        assert!(monitor.progress_ns().is_some());
        assert_eq!(monitor.status(), None);
        console
            .write_all(b"me2-guest cpu=1 t_ms=1 ops=5 verified=9 errors=2\nother\n")
            .unwrap();
        console
            .write_all(b"me2-guest cpu=0 t_ms=2 ops=12 verified=9 errors=0\n")
            .unwrap();
        let status = monitor.status().unwrap();
        assert_eq!((status.operations, status.errors), (17, 2));
        console
            .write_all(b"me2-guest cpu=99 ops=x\nme2-guest cpu=\xff\n")
            .unwrap();
        monitor.expect_progress();
        assert_eq!(monitor.progress_ns(), None);
        monitor.drain();
        let shown = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        assert!(
            shown.starts_with("me2-guest cpu=0 t_ms=1 ops=10 verified=9 errors=0\n"),
            "{shown}"
        );
    }

    #[test]
    fn another_guest_passes_unread() {
        let sink = Sink::default();
        let monitor =
            GuestMonitor::new(Box::new(sink.clone()), ConsoleLog::default(), false).unwrap();
        monitor.console().write_all(b"login: \xe4").unwrap();
        monitor.drain();
        assert_eq!(*sink.0.lock().unwrap(), b"login: \xe4");
        assert_eq!(monitor.status(), None);
    }
}
