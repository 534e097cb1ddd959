//! Which pages the guest is working with, reads included, where some of them will be missing when it
//! resumes: what it came back to first goes first.
//!
//! Finding out costs the guest time, and the migration too. So it is done only where pages will be
//! missing at all, and only on a link on which a miss costs more than a look: there for as long as
//! some misses take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use me2_engine::switch::Strategy;
use me2_wire::PageIndex;
use tokio::task::JoinHandle;

use super::{Attempt, link::Link};
use crate::{
    control::types::Part,
    explore::window::{WindowBudget, WorkingSet, observe_working_set},
    report,
};

/// Below this round trip a miss costs little, and the push is soon through.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(5);
/// So many misses pay for a window.
const WINDOW_ROUND_TRIPS: u32 = 10;
const WINDOW_MAX: Duration = Duration::from_secs(2);
/// Share of the guest's time that it may take.
const SLOWDOWN_MAX: f64 = 0.08;

/// A window that is open, on a thread of its own. Given up when dropped.
pub(super) struct Observing {
    task: JoinHandle<Option<WorkingSet>>,
    is_cancelled: Arc<AtomicBool>,
}

impl Drop for Observing {
    fn drop(&mut self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
    }
}

impl Attempt {
    /// How long a window pays: not at all where nothing will be missing, or on a short link.
    fn window_time(&self, link: &Link) -> Option<Duration> {
        let round_trip = link.connection.rtt();
        let pages_will_miss = match self.strategy {
            Strategy::Postcopy => true,
            Strategy::Hybrid => self.request.precopy_limit_ms.is_some(),
            Strategy::Precopy | Strategy::StopAndCopy => false,
        };
        let pays = pages_will_miss && round_trip >= ROUND_TRIP_MIN && self.uses(Part::WorkingSet);
        pays.then(|| (round_trip * WINDOW_ROUND_TRIPS).min(WINDOW_MAX))
    }

    /// Opens a window if it pays: at once, or so that it ends when pre-copy does.
    pub(super) fn observe_working_set(&self, link: &Link) -> Option<Observing> {
        let time_max = self.window_time(link)?;
        let limit = self.request.precopy_limit_ms.map(Duration::from_millis);
        let delay = match self.strategy {
            Strategy::Hybrid => limit?.saturating_sub(time_max),
            _ => Duration::ZERO,
        };
        let (machine, opens) = (self.machine.clone(), Instant::now() + delay);
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let cancelled = is_cancelled.clone();
        let task = tokio::spawn(async move {
            tokio::time::sleep_until(opens.into()).await;
            let observed = tokio::task::spawn_blocking(move || {
                let budget = WindowBudget {
                    slowdown_max: SLOWDOWN_MAX,
                    time_max,
                };
                let is_over = || cancelled.load(Ordering::Relaxed);
                observe_working_set(&machine.vm, &machine.probing, budget, is_over)
            });
            let observed = observed.await.expect("panics end the process");
            observed.unwrap_or_else(|error| {
                tracing::warn!("the working set is not known: {error}");
                None
            })
        });
        Some(Observing { task, is_cancelled })
    }

    /// Waits for the end of a window; `at_once`: ends it.
    pub(super) async fn note_working_set(&mut self, observing: Option<Observing>, at_once: bool) {
        let Some(mut observing) = observing else {
            return;
        };
        observing.is_cancelled.store(at_once, Ordering::Relaxed);
        let Ok(Some(seen)) = (&mut observing.task).await else {
            return;
        };
        self.report.explore.working_set = Some(report::WorkingSet {
            pages: seen.first_uses.len() as u64,
            faults: seen.faults,
            dropped_pages: seen.dropped_pages,
            time_ms: seen.took.as_secs_f64() * 1e3,
            complete: seen.complete,
        });
        self.working_set = seen.first_uses.iter().map(|used| used.page).collect();
    }

    /// Pages in the order in which the guest is expected to want them: the tables that it needs for
    /// all others, what it was seen to use, what it writes most often, what it ever touched, the
    /// rest. A page may come twice.
    pub(super) fn wanted_first(&self, pages: impl Iterator<Item = PageIndex>) -> Vec<PageIndex> {
        let layout = self.machine.vm.memory().layout();
        let mut rest: Vec<_> = pages.collect();
        if self.uses(Part::Probes) {
            rest = self.machine.probing.needed_first(layout, rest.into_iter());
        }
        if self.uses(Part::Heat) {
            rest = self.writes.heat.hottest_first(rest.into_iter());
        }
        let tables = self.stop.iter().flat_map(|stop| &stop.table_pages);
        let first = tables.chain(&self.working_set).copied();
        first.chain(rest).collect()
    }
}
