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
/// The share of the vCPUs' time that looks may cost.
const GUEST_SHARE: f64 = 0.03;
/// The shortest time between looks, and the longest.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(2);

/// What is known of the guest's writes.
pub(super) struct Writes {
    pub(super) heat: WriteHeat,
    looked: Instant,
    /// Found by the last look.
    found: u64,
    /// In this pass written before they were sent.
    before_sent: Bitmap,
    pub(super) saved: SendsSaved,
}

impl Writes {
    /// Nothing is known of so many pages.
    pub(super) fn new(page_count: PageIndex) -> Self {
        Self {
            heat: WriteHeat::new(page_count),
            looked: Instant::now(),
            found: 0,
            before_sent: Bitmap::new(page_count),
            saved: SendsSaved::default(),
        }
    }

    /// The dirty log begins.
    pub(super) fn begin(&mut self) {
        self.looked = Instant::now();
    }

    /// When to look next, so that it costs the guest little: with so many vCPUs the faults come side
    /// by side.
    pub(super) fn next_look(&self, vcpus: usize) -> Instant {
        let cost = FAULT.as_secs_f64() * self.found as f64 / vcpus.max(1) as f64;
        let interval = Duration::from_secs_f64(cost / GUEST_SHARE);
        self.looked + interval.clamp(INTERVAL_MIN, INTERVAL_MAX)
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
        writes.heat.look(&dirty, now - writes.looked);
        (writes.looked, writes.found) = (now, dirty.count());
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
