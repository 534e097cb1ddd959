//! What followers of a migration see while it runs.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use me2_engine::phase::{self, PhaseLog};
use tokio::sync::watch;

use super::tempo::Tempo;
use crate::{
    control::{
        MigrationEvents,
        types::{
            Event, MigrationStatus, Mode, Outcome, Phase, RecoveryStatus, Report, VmState, VmStatus,
        },
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
    /// When the phase or pass at hand began.
    phase_begun: Instant,
    tempo: Tempo,
    /// The link is broken, and that was told.
    is_paused: bool,
}

impl Inner {
    fn elapsed_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            events.tell(event);
        }
    }

    fn end_phase(&self) {
        self.tell(Event::PhaseEnd {
            id: self.status.id,
            phase: self.status.phase,
            pass: self.status.pass,
            duration_ms: self.phase_begun.elapsed().as_millis() as u64,
            elapsed_ms: self.elapsed_ms(),
        });
    }

    /// Works out what the status implies, and tells all of it.
    fn publish(&mut self) -> MigrationStatus {
        self.status.elapsed_ms = self.elapsed_ms();
        let now = self.started.elapsed();
        if self.tempo.observe(&mut self.status, now) {
            self.tell(Event::FaultBurst {
                id: self.status.id,
                faults_per_second: self.status.faults_per_second,
                faults: self.status.faults,
                elapsed_ms: self.status.elapsed_ms,
            });
        }
        if let Some(events) = &self.events {
            events.progress(self.status.clone());
        }
        self.status.clone()
    }
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
            phase_begun: started,
            tempo: Tempo::default(),
            is_paused: false,
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
        inner.end_phase();
        inner.phase_begun = Instant::now();
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
        let status = inner.publish();
        drop(inner);
        self.process
            .send_modify(|process| process.migration = Some(status));
    }

    /// There is a link behind the handover: the VM does not run here, and whoever follows sees it go on.
    pub fn link_is_up(&self) {
        let mut inner = self.lock();
        inner.status.recovery = None;
        inner.status.expected_downtime_ms = None;
        if std::mem::take(&mut inner.is_paused) || inner.status.epoch > 1 {
            inner.tell(Event::Recovered {
                id: inner.status.id,
                epoch: inner.status.epoch,
                elapsed_ms: inner.elapsed_ms(),
            });
        }
        drop(inner);
        self.process
            .send_modify(|process| process.vm_state = VmState::Paused);
    }

    /// The VM runs at the destination.
    pub fn switched_over(&self, downtime_ms: f64, missing_pages: u64) {
        let inner = self.lock();
        inner.tell(Event::Switchover {
            id: inner.status.id,
            downtime_ms,
            missing_pages,
            elapsed_ms: inner.elapsed_ms(),
        });
    }

    /// The link broke after the handover.
    pub fn link_is_broken(&self, error: &str) {
        let mut inner = self.lock();
        if !std::mem::replace(&mut inner.is_paused, true) {
            inner.tell(Event::Paused {
                id: inner.status.id,
                error: error.to_owned(),
                elapsed_ms: inner.elapsed_ms(),
            });
        }
    }

    /// The link is broken, and so it is going to be mended.
    pub fn tell_recovery(&self, recovery: RecoveryStatus) {
        let mut inner = self.lock();
        inner.status.recovery = Some(recovery);
        inner.status.bandwidth_bytes_per_second = 0;
        if let Some(risk) = &mut inner.status.risk {
            (risk.expected_ms, risk.is_late) = (None, true);
        }
        let status = inner.publish();
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
        let mut inner = self.lock();
        inner.end_phase();
        self.process.send_modify(|process| {
            if let Some(migration) = &mut process.migration {
                migration.is_under_way = false;
            }
        });
        if let Some(events) = inner.events.take() {
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
