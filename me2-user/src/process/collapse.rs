//! Large pages for a VM that came in small ones.
//!
//! Pages arrive, are placed and waited for one by one, so the memory of a VM that was received is made
//! of small pages. Once nothing is missing any more, each stretch of it that can be one large page is
//! made one, while the guest runs: on a host with nested paging it finds its way through memory in
//! fewer steps. Stretches with many holes stay as they are, since filling them would take memory.

use std::{
    io,
    sync::{Arc, Condvar, Mutex},
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use me2_vmm::{
    large_pages::{self, CollapseError},
    memory::GuestMemory,
};

/// What it may take of one processor: a guest that needs a page just then waits for it.
const SHARE: f64 = 0.25;
/// Behind vCPUs and everything else.
const NICENESS: i32 = 10;

/// Makes large pages, in a thread of its own, as long as this lives.
pub(super) struct Collapsing {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl Collapsing {
    /// Begins with memory whose pages are all there.
    pub(super) fn start(memory: GuestMemory) -> io::Result<Self> {
        let stop = Arc::<Stop>::default();
        let stopped = stop.clone();
        let run = move || {
            if let Err(error) = collapse(&memory, &stopped) {
                tracing::warn!("the VM keeps its small pages: {error:#}");
            }
        };
        let thread = Builder::new().name("large-pages".into()).spawn(run)?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Collapsing {
    fn drop(&mut self) {
        self.stop.say();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it panics nowhere");
        }
    }
}

#[derive(Default)]
struct Stop {
    is_said: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn say(&self) {
        *self.is_said.lock().expect("no panics under this lock") = true;
        self.changed.notify_all();
    }

    /// Lets this time pass; true, at once, if it shall stop.
    fn within(&self, time: Duration) -> bool {
        let said = self.is_said.lock().expect("no panics under this lock");
        let waited = self.changed.wait_timeout_while(said, time, |said| !*said);
        *waited.expect("no panics under this lock").0
    }
}

fn collapse(memory: &GuestMemory, stop: &Stop) -> anyhow::Result<()> {
    let begun = Instant::now();
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!("large pages are made at the guest's expense: {error}");
    }
    let stretches = large_pages::stretches(memory)?;
    let (of, mut collapsed) = (stretches.len(), 0);
    for stretch in stretches {
        let begun = Instant::now();
        match large_pages::collapse(memory, stretch) {
            Ok(()) => collapsed += 1,
            Err(error @ CollapseError::Kernel) => return Err(error.into()),
            Err(CollapseError::NotNow(_)) => {}
        }
        let pause = begun.elapsed().mul_f64(1.0 / SHARE - 1.0);
        if stop.within(pause) {
            return Ok(());
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    tracing::info!(collapsed, of, seconds, "the VM has large pages");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_told_to_stop_waits_for_nothing() {
        let stop = Stop::default();
        assert!(!stop.within(Duration::ZERO));
        stop.say();
        assert!(stop.within(Duration::from_secs(3600)));
    }
}
