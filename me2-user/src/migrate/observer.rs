//! What followers of a migration see while it runs.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use me2_engine::phase::{self, PhaseLog};
use tokio::sync::watch;

use crate::{
    control::{
        MigrationEvents,
        types::{MigrationStatus, Mode, Outcome, Phase, RecoveryStatus, Report, VmState, VmStatus},
    },
    process::published,
};

/// How often progress is told.
pub const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Publishes phases, progress and the end of one migration. Clones share it.
#[derive(Clone)]
pub struct Observer {
    inner: Arc<Mutex<Inner>>,
    process: watch::Sender<VmStatus>,
}

struct Inner {
    events: Option<MigrationEvents>,
    status: MigrationStatus,
    started: Instant,
    last: (Instant, u64),
}

impl Observer {
    /// Begins to observe.
    pub fn new(
        events: MigrationEvents,
        process: watch::Sender<VmStatus>,
        id: u64,
        epoch: u64,
        mode: Mode,
        started: Instant,
    ) -> Self {
        let status = MigrationStatus::begun(id, epoch, mode);
        events.phase(Phase::Setup, 0, 0);
        let inner = Inner {
            events: Some(events),
            status,
            started,
            last: (started, 0),
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            process,
        }
    }

    /// When the migration was asked for.
    pub fn started(&self) -> Instant {
        self.lock().started
    }

    /// A phase begins.
    pub fn enter(&self, log: &mut PhaseLog, phase: phase::Phase) {
        let mut inner = self.lock();
        let elapsed = inner.started.elapsed();
        log.enter(phase, elapsed);
        inner.status.phase = published::phase(phase);
        inner.status.pass = if let phase::Phase::Precopy(pass) = phase {
            pass
        } else {
            0
        };
        tracing::info!(
            pass = inner.status.pass,
            elapsed_ms = elapsed.as_millis() as u64,
            "phase {}",
            phase.name()
        );
        if let Some(events) = &inner.events {
            events.phase(
                inner.status.phase,
                inner.status.pass,
                elapsed.as_millis() as u64,
            );
        }
    }

    /// Changes what the next progress tells.
    pub fn update(&self, change: impl FnOnce(&mut MigrationStatus)) {
        change(&mut self.lock().status);
    }

    /// Tells progress: so many bytes were sent or received up to now.
    pub fn tick(&self, bytes: u64) {
        let mut inner = self.lock();
        let now = Instant::now();
        let (last_at, last_bytes) = inner.last;
        let seconds = now.duration_since(last_at).as_secs_f64();
        if seconds > 0.0 {
            inner.status.bandwidth_bytes_per_second =
                (bytes.saturating_sub(last_bytes) as f64 / seconds) as u64;
        }
        inner.last = (now, bytes);
        inner.status.sent_bytes = bytes;
        inner.status.elapsed_ms = inner.started.elapsed().as_millis() as u64;
        let status = inner.status.clone();
        if let Some(events) = &inner.events {
            events.progress(status.clone());
        }
        drop(inner);
        self.process
            .send_modify(|process| process.migration = Some(status));
    }

    /// There is a link behind the handover: the VM does not run here, and whoever follows sees it go on.
    pub fn link_is_up(&self) {
        self.lock().status.recovery = None;
        self.process
            .send_modify(|process| process.vm_state = VmState::Paused);
    }

    /// The link is broken, and so it is going to be mended.
    pub fn tell_recovery(&self, recovery: RecoveryStatus) {
        let mut inner = self.lock();
        inner.status.recovery = Some(recovery);
        inner.status.bandwidth_bytes_per_second = 0;
        inner.status.elapsed_ms = inner.started.elapsed().as_millis() as u64;
        if let Some(risk) = &mut inner.status.risk {
            (risk.expected_ms, risk.is_late) = (None, true);
        }
        let status = inner.status.clone();
        if let Some(events) = &inner.events {
            events.progress(status.clone());
        }
        drop(inner);
        self.process
            .send_modify(|process| process.migration = Some(status));
    }

    /// Counts another connection.
    pub fn count_connection(&self, epoch: u64) {
        self.lock().status.epoch = epoch;
    }

    /// The end: nothing is told afterwards.
    pub fn end(&self, outcome: Outcome, report: Report) {
        if let Some(events) = self.lock().events.take() {
            events.end(outcome, report);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panics under this lock")
    }
}

/// Ends a task when dropped.
pub struct AbortOnDrop(pub tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
