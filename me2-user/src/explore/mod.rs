//! What the VM uses: the probes, and what they are good for.

mod btf;
pub mod probes;
pub mod window;

use std::ops::Range;

use me2_vmm::layout::RamLayout;

use crate::report::Ebpf;
use probes::Probes;
pub use window::{Cancellation, FirstUse, Window, WindowBudget, WorkingSet, observe_working_set};

/// The probes of this process, or why there are none.
pub struct Probing {
    probes: Result<Probes, String>,
    /// Frames beyond have no marks (a VM larger than this host's memory).
    frames: u64,
}

impl Probing {
    /// Attaches the probes for frames up to `frames`; says once, in the log, if that cannot be.
    pub fn start(frames: u64) -> Self {
        let probes =
            Probes::open(frames).map_err(|error| format!("{:#}", anyhow::Error::from(error)));
        match &probes {
            Ok(probes) => tracing::debug!(probe = probes.name(), "probes attached"),
            Err(reason) => tracing::warn!("running without probes: {reason}"),
        }
        Self { probes, frames }
    }

    /// No probes, by the user's wish.
    pub fn disabled() -> Self {
        Self {
            probes: Err("switched off with --no-probes".into()),
            frames: 0,
        }
    }

    /// What they saw so far.
    pub fn report(&self) -> Ebpf {
        match &self.probes {
            Ok(probes) => {
                let counters = probes.counters();
                let (touched_pages, written_pages) = probes.touched_written();
                Ebpf {
                    attached: true,
                    probe: Some(probes.name().to_owned()),
                    reason: None,
                    events: counters.events(),
                    lost: counters.lost,
                    touched_pages,
                    written_pages,
                }
            }
            Err(reason) => Ebpf {
                reason: Some(reason.clone()),
                ..Ebpf::default()
            },
        }
    }

    /// Forgets which pages were written; [`Probing::needed_first`] looks at what was written since.
    pub fn forget_recent_writes(&self, layout: &RamLayout) {
        if let Ok(probes) = &self.probes {
            self.frame_ranges(layout)
                .for_each(|(frames, _)| probes.clear_recent(frames));
        }
    }

    /// Pages in the order in which the VM is expected to need them after the handover: those
    /// written of late, then those ever touched, then the rest.
    pub fn needed_first(&self, layout: &RamLayout, pages: impl Iterator<Item = u32>) -> Vec<u32> {
        self.order(layout, pages, |mark| match mark {
            mark if mark & me2_common::RECENT_WRITE != 0 => 0,
            mark if mark & me2_common::TOUCHED != 0 => 1,
            _ => 2,
        })
    }

    /// Whether a page was written since the last [`Probing::forget_recent_writes`]; false where
    /// there are no probes.
    pub fn is_recently_written(&self, layout: &RamLayout, page: u32) -> bool {
        self.mark(layout, page) & me2_common::RECENT_WRITE != 0
    }

    /// Calls `visit` with each page that the guest was seen to touch; with none where there are no
    /// probes.
    pub fn for_each_touched(&self, layout: &RamLayout, mut visit: impl FnMut(u32)) {
        let Ok(probes) = &self.probes else { return };
        for (frames, first_page) in self.frame_ranges(layout) {
            let first_frame = frames.start;
            probes.for_each_marked(frames, |frame, mark| {
                if mark & me2_common::TOUCHED != 0 {
                    visit(first_page + (frame - first_frame) as u32);
                }
            });
        }
    }

    fn order(
        &self,
        layout: &RamLayout,
        pages: impl Iterator<Item = u32>,
        class: impl Fn(u8) -> u8,
    ) -> Vec<u32> {
        let mut pages: Vec<u32> = pages.collect();
        if self.probes.is_ok() {
            pages.sort_by_cached_key(|page| class(self.mark(layout, *page)));
        }
        pages
    }

    fn mark(&self, layout: &RamLayout, page: u32) -> u8 {
        let frame = layout.frame_of_page(page);
        match &self.probes {
            Ok(probes) if frame < self.frames => probes.mark(frame),
            _ => 0,
        }
    }

    /// Frames of RAM that can have marks, with the page index of the first.
    fn frame_ranges<'a>(
        &'a self,
        layout: &'a RamLayout,
    ) -> impl Iterator<Item = (Range<u64>, u32)> + 'a {
        layout.slots().iter().map(|slot| {
            let first = slot.first_frame();
            let end = first + slot.pages().len() as u64;
            let marked = first.min(self.frames)..end.min(self.frames);
            (marked, slot.pages().start)
        })
    }
}
