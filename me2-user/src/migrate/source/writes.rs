//! What the guest writes while its memory travels: the dirty log, looked at now and then during a
//! pass, so that each page's heat is known by its end, and what is written before it is sent is not
//! sent twice.

use std::time::{Duration, Instant};

use anyhow::Context;
use me2_engine::{bitmap::Bitmap, heat::WriteHeat};
use me2_vmm::dirty::Collect;
use me2_wire::PageIndex;
use tokio::task::block_in_place;

use super::{Attempt, Failure};
use crate::report::SendsSaved;

/// What it costs the guest that a page it goes on writing was protected again: a fault.
const FAULT: Duration = Duration::from_micros(4);
/// What looks are to cost, of what exploration may: a window is short, they go on and on. If there
/// would hardly be any, they may cost all of it.
const PART_OF_SLOWDOWN: f64 = 3.0 / 8.0;
/// The shortest time between looks, and the longest.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(2);
/// What a guest writes in so short a time says where it is.
const SHORT: Duration = Duration::from_millis(40);

/// What is known of the guest's writes.
pub(super) struct Writes {
    pub(super) heat: WriteHeat,
    /// The share of the vCPUs' time that exploration may cost; 0: no looks during a pass.
    slowdown_max: f64,
    looked: Instant,
    /// Found by the last look.
    found: u64,
    /// What the last two looks found, and in which time each of them.
    latest: [(Bitmap, Duration); 2],
    /// In this pass written before they were sent.
    before_sent: Bitmap,
    pub(super) saved: SendsSaved,
}

impl Writes {
    /// Nothing is known of so many pages, and finding out, with all else, may cost this share of the
    /// guest's time.
    pub(super) fn new(page_count: PageIndex, slowdown_max: f64) -> Self {
        Self {
            heat: WriteHeat::new(page_count),
            slowdown_max,
            looked: Instant::now(),
            found: 0,
            latest: [(); 2].map(|()| (Bitmap::new(page_count), Duration::MAX)),
            before_sent: Bitmap::new(page_count),
            saved: SendsSaved::default(),
        }
    }

    /// The dirty log begins.
    pub(super) fn begin(&mut self) {
        self.looked = Instant::now();
    }

    /// Whether looks that no pass needs may be taken at all.
    pub(super) fn may_look(&self) -> bool {
        self.slowdown_max > 0.0
    }

    /// When to look next during a pass, if at all, so that it costs the guest no more than it may:
    /// with so many vCPUs the faults come side by side.
    pub(super) fn next_look(&self, vcpus: usize) -> Option<Instant> {
        let cost = FAULT.as_secs_f64() * self.found as f64 / vcpus.max(1) as f64;
        let paid_in = |share: f64| Duration::from_secs_f64(cost / share);
        self.may_look().then(|| {
            let interval = paid_in(self.slowdown_max * PART_OF_SLOWDOWN);
            let interval = interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
            self.looked + interval.max(paid_in(self.slowdown_max))
        })
    }

    /// What the last two looks found, the earlier one first, if both were so short that they tell what
    /// the guest is at.
    pub(super) fn latest(&self) -> Option<(&Bitmap, &Bitmap)> {
        let [earlier, latest] = &self.latest;
        let are_short = earlier.1.max(latest.1) <= SHORT;
        are_short.then_some((&earlier.0, &latest.0))
    }

    /// A pass has been sent: of what was written before it was sent, only what was written again is
    /// `pending`.
    pub(super) fn end_pass(&mut self, pending: &Bitmap) {
        let mut saved = std::mem::replace(&mut self.before_sent, Bitmap::new(pending.len()));
        saved.subtract(pending);
        self.saved.written_before_sent += saved.count();
    }
}

impl Attempt {
    /// A look that no pass needs: what it costs the guest is the price of knowing.
    pub(super) fn explore_writes(&mut self) -> Result<(), Failure> {
        self.look_at_writes()?;
        let cost = &mut self.report.explore.guest_cost;
        cost.looks += 1;
        cost.protected_pages += self.writes.found;
        cost.time_ms += FAULT.as_secs_f64() * 1e3 * self.writes.found as f64;
        Ok(())
    }

    /// Looks at the dirty log. What was written and sent before is pending again; what has not been
    /// read yet for this pass is not: it is protected now, and will be read as it is.
    pub(super) fn look_at_writes(&mut self) -> Result<(), Failure> {
        let vm = &self.machine.vm;
        let dirty = block_in_place(|| vm.collect_dirty(Collect::AndProtect))
            .context("cannot read the dirty log")?;
        self.note_writes(dirty);
        Ok(())
    }

    /// Notes what the dirty log told.
    pub(super) fn note_writes(&mut self, dirty: Vec<u64>) {
        let mut dirty = Bitmap::from_words(dirty, self.pending.len());
        let now = Instant::now();
        let writes = &mut self.writes;
        let since_last = now - writes.looked;
        writes.heat.look(&dirty, since_last);
        (writes.looked, writes.found) = (now, dirty.count());
        writes.latest.swap(0, 1);
        writes.latest[1] = (dirty.clone(), since_last);
        // Only after the pages were protected: whoever claims one later reads what was written.
        let mut unsent = dirty.clone();
        dirty.subtract(
            self.pages
                .lock()
                .expect("no panics under this lock")
                .unsent(),
        );
        unsent.subtract(&dirty);
        writes.before_sent.union(&unsent);
        tracing::debug!(
            written = writes.found,
            not_yet_sent = unsent.count(),
            "looked at the dirty log"
        );
        self.pending.union(&dirty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval_ms(found: u64, slowdown_max: f64, vcpus: usize) -> Option<u128> {
        let mut writes = Writes::new(1, slowdown_max);
        writes.found = found;
        let next = writes.next_look(vcpus)?;
        Some((next - writes.looked).as_millis())
    }

    #[test]
    fn looks_keep_to_their_share() {
        assert_eq!(interval_ms(0, 0.08, 1), Some(100));
        // 7,500 faults of 4 us are 3% of a second.
        assert_eq!(interval_ms(7_500, 0.08, 1), Some(1_000));
        assert_eq!(interval_ms(7_500, 0.16, 1), Some(500));
        assert_eq!(interval_ms(7_500, 0.08, 2), Some(500));
        // Less seldom than every 2 s only where that would be more than 8%.
        assert_eq!(interval_ms(40_000, 0.08, 1), Some(2_000));
        assert_eq!(interval_ms(400_000, 0.08, 1), Some(20_000));
        assert_eq!(interval_ms(7_500, 0.01, 1), Some(3_000));
    }

    #[test]
    fn no_share_means_no_looks() {
        assert_eq!(interval_ms(0, 0.0, 1), None);
        assert_eq!(interval_ms(7_500, 0.0, 2), None);
    }
}
