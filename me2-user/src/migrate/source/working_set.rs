//! Which pages the guest is working with, reads included, where some of them will be missing when it
//! resumes: what it came back to first goes first.
//!
//! Finding out costs the guest time, and the migration too. So it is done only where pages will be
//! missing at all, and only on a link on which a miss costs more than a look: there for as long as
//! some misses take.

use std::{sync::Arc, time::Duration};

use me2_engine::{ahead, switch::Strategy};
use me2_wire::PageIndex;
use tokio::task::block_in_place;

use super::{Attempt, link::Link};
use crate::{
    control::types::Part,
    explore::window::{Cancellation, WindowBudget, WorkingSet, observe_working_set},
    report,
};

/// Below this round trip a miss costs little, and the push is soon through.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(5);
/// So many misses pay for a window.
const WINDOW_ROUND_TRIPS: u32 = 10;
const WINDOW_MAX: Duration = Duration::from_secs(2);
/// How long the guest is looked at after the last mapping was dropped.
const OBSERVE: Duration = Duration::from_millis(100);
/// Of the time that an operator gives pre-copy, it takes a quarter at most.
const LIMIT_DIVISOR: u32 = 4;

/// Ends a window when dropped.
struct Ending(Arc<Cancellation>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Attempt {
    /// How long a window pays: not at all where nothing will be missing, on a short link, or if it may
    /// cost nothing.
    fn window_time(&self, link: &Link) -> Option<Duration> {
        let round_trip = link.connection.rtt();
        let limit = self.request.precopy_limit_ms.map(Duration::from_millis);
        let time_max = match self.strategy {
            Strategy::Postcopy => WINDOW_MAX,
            Strategy::Hybrid => limit? / LIMIT_DIVISOR,
            Strategy::Precopy | Strategy::StopAndCopy => return None,
        };
        let is_allowed = self.uses(Part::WorkingSet) && self.request.guest_slowdown_max() > 0.0;
        let pays = round_trip >= ROUND_TRIP_MIN && is_allowed;
        pays.then(|| {
            (round_trip * WINDOW_ROUND_TRIPS)
                .min(WINDOW_MAX)
                .min(time_max)
        })
    }

    /// Looks which pages the guest uses, where that pays. Before the first pass: KVM may map a page
    /// writable when it is read, and log it as written.
    pub(super) async fn observe_working_set(&mut self, link: &Link) {
        let Some(time_max) = self.window_time(link) else {
            return;
        };
        let machine = self.machine.clone();
        let cancellation = Arc::new(Cancellation::default());
        let _ending = Ending(cancellation.clone());
        let slowdown_max = self.request.guest_slowdown_max();
        let observed = tokio::task::spawn_blocking(move || {
            let budget = WindowBudget {
                slowdown_max,
                observe: OBSERVE,
                time_max,
            };
            observe_working_set(&machine.vm, &machine.probing, budget, &cancellation)
        });
        match observed.await.expect("panics end the process") {
            Ok(Some(seen)) => self.note_working_set(&seen),
            Ok(None) => {}
            Err(error) => tracing::warn!("the working set is not known: {error}"),
        }
    }

    fn note_working_set(&mut self, seen: &WorkingSet) {
        self.report.explore.guest_cost.time_ms += seen.guest_time().as_secs_f64() * 1e3;
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
    /// all others, what it wrote all the time until it stopped and what lies ahead of it, what it was
    /// seen to use, what it writes most often, what it ever touched, the rest. A page may come twice.
    pub(super) fn wanted_first(
        &self,
        tables: &[PageIndex],
        pages: impl Iterator<Item = PageIndex>,
    ) -> Vec<PageIndex> {
        let layout = self.machine.vm.memory().layout();
        let mut rest: Vec<_> = pages.collect();
        if self.uses(Part::Probes) {
            rest = self.machine.probing.needed_first(layout, rest.into_iter());
        }
        if self.uses(Part::Heat) {
            rest = self.writes.heat.hottest_first(rest.into_iter());
        }
        let first = tables.iter().copied().chain(self.at_hand());
        first
            .chain(self.working_set.iter().copied())
            .chain(rest)
            .collect()
    }

    /// What the guest was at when it stopped, and then what lies ahead of it, where it was looked at
    /// for that.
    fn at_hand(&self) -> Vec<PageIndex> {
        let Some((earlier, latest)) = self.writes.latest() else {
            return Vec::new();
        };
        let mut pages = ahead::at_hand(earlier, latest);
        pages.extend(ahead::lone(&self.pending));
        pages.extend(ahead::of_walks(earlier, latest, &self.pending));
        pages
    }

    /// The page tables of the stopped guest, at most so many; none where they cannot be found.
    pub(super) fn table_pages(&self, pages_max: usize) -> Vec<PageIndex> {
        let tables = block_in_place(|| self.machine.vm.table_pages(pages_max));
        tables.unwrap_or_else(|error| {
            tracing::debug!("the guest's page tables are not known: {error}");
            Vec::new()
        })
    }
}
