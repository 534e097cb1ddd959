//! Takes samples of the counts at fixed intervals.

use std::collections::VecDeque;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::LinkError;
use crate::counters::{LinkStats, Sample};

/// Most samples that are kept; the oldest go first. 27 hours at the usual interval.
const SAMPLES_MAX: usize = 1_000_000;

/// A thread that takes samples. Dropping it stops the thread.
#[derive(Debug)]
pub(crate) struct Sampler {
    samples: Arc<Mutex<VecDeque<Sample>>>,
    /// Closed to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    pub(crate) fn start(
        interval: Duration,
        started: Instant,
        stats: impl Fn() -> LinkStats + Send + 'static,
    ) -> Result<Self, LinkError> {
        let samples = Arc::<Mutex<VecDeque<Sample>>>::default();
        let (stop, stopped) = channel::<()>();
        let take = {
            let samples = Arc::clone(&samples);
            move || {
                let at_ms = started.elapsed().as_nanos() as f64 / 1e6;
                let sample = Sample {
                    at_ms,
                    stats: stats(),
                };
                let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
                if samples.len() == SAMPLES_MAX {
                    samples.pop_front();
                }
                samples.push_back(sample);
            }
        };
        let work = move || {
            let mut next = started;
            loop {
                take();
                // Late samples do not shift those after them; skipped ones are not made up for.
                next = (next + interval).max(Instant::now());
                let wait = next.saturating_duration_since(Instant::now());
                if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("link samples".into())
            .spawn(work)
            .map_err(LinkError::system("cannot start a thread"))?;
        Ok(Self {
            samples,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// All samples until now.
    pub(crate) fn history(&self) -> Vec<Sample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().copied().collect()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed.
            let _ = thread.join();
        }
    }
}
