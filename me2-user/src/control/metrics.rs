//! What a VM process counts and measures, for Prometheus: the text of OpenMetrics 1.0.
//!
//! Names and units follow Prometheus' conventions: base units, `_total` for counters. What is not known
//! is absent. `docs/metrics.md` lists them.

mod collect;

use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use me2_engine::quantile::Histogram;
use prometheus_client::{encoding::text, registry::Registry};
use tokio::sync::watch;

use super::types::{MigrationStatus, Outcome, Report, Role, VmStatus};

/// The type of what [`Metrics::text`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one VM process. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    counts: Arc<Counts>,
}

/// What is counted over the life of a process, however many migrations it sees.
#[derive(Debug, Default)]
struct Counts {
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    faults: AtomicU64,
    ended: Mutex<Ended>,
    /// Up to where the migration under way is counted.
    counted: Mutex<Counted>,
    /// How long accesses waited for pages here.
    fault_latency: Mutex<Histogram>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    id: u64,
    bytes: u64,
    faults: u64,
}

/// Migrations that have ended, from here.
#[derive(Debug, Default, Clone)]
struct Ended {
    by_outcome: Vec<(Outcome, u64)>,
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    duration_seconds: f64,
    /// None if the VM was not stopped.
    downtime_seconds: Option<f64>,
}

impl Metrics {
    /// Those of the process whose status this is.
    pub fn new(status: watch::Receiver<VmStatus>) -> Self {
        let counts = Arc::<Counts>::default();
        let mut registry = Registry::with_prefix("me2");
        let collector = collect::Collect {
            status,
            counts: counts.clone(),
        };
        registry.register_collector(Box::new(collector));
        Self {
            registry: Arc::new(registry),
            counts,
        }
    }

    /// What there is to tell now.
    pub fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }

    /// Counts how far a migration has come since this was called last.
    pub fn progress(&self, role: Role, status: &MigrationStatus) {
        let counts = &self.counts;
        let mut counted = lock(&counts.counted);
        // Another migration, or the same with a new connection, begins at 0.
        let since = |before: u64, now: u64| match counted.id == status.id && now >= before {
            true => now - before,
            false => now,
        };
        let bytes = match role {
            Role::Source => &counts.sent_bytes,
            Role::Receiver => &counts.received_bytes,
        };
        bytes.fetch_add(since(counted.bytes, status.sent_bytes), Relaxed);
        let faults = since(counted.faults, status.faults);
        counts.faults.fetch_add(faults, Relaxed);
        *counted = Counted {
            id: status.id,
            bytes: status.sent_bytes,
            faults: status.faults,
        };
    }

    /// Counts the end of a migration from here.
    pub fn end(&self, outcome: Outcome, report: &Report) {
        let mut ended = lock(&self.counts.ended);
        match ended.by_outcome.iter_mut().find(|(of, _)| *of == outcome) {
            Some((_, count)) => *count += 1,
            None => ended.by_outcome.push((outcome, 1)),
        }
        let has_stopped = report.downtime_source.is_some();
        ended.last = Some(Last {
            duration_seconds: report.total_time_ms / 1e3,
            downtime_seconds: has_stopped.then_some(report.downtime_ms / 1e3),
        });
    }

    /// How long accesses have waited for pages here so far.
    pub fn fault_latency(&self, waits: Histogram) {
        *lock(&self.counts.fault_latency) = waits;
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("no panics under this lock")
}

#[cfg(test)]
mod tests;
