//! The working-set window: which pages a running VM uses, reads included, and in which order.
//!
//! KVM's mappings are dropped once, slice by slice; each page that the guest comes back to is then a
//! fault, of which the probes note the time. A page counts from the moment its own slice was
//! dropped: what comes back first is in use now, what does not come back within the window is not.
//!
//! It costs the guest a fault for each page that it uses. So it goes by a budget: the next slice is
//! dropped when the faults so far have been paid for by the time that has passed.
//!
//! It belongs under the dirty log, for two reasons. Without it one fault can map neighbours, or a
//! large page, of which only the first use would be seen; with it, KVM maps each page by itself. And
//! what is mapped again by a read is mapped writable and logged as written: so the dirty log has to
//! be collected, and forgotten, between a window and the time from which it counts.
//!
//! What is seen is a hint, as everything that the probes see.

use std::{
    io,
    ops::Range,
    sync::{Condvar, Mutex},
    time::{Duration, Instant},
};

use me2_vmm::{
    layout::{PageIndex, RamLayout},
    vm::Vm,
};

use super::{Probing, probes::Probes};

/// What a working-set window may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WindowBudget {
    /// Share of the guest's time, over all vCPUs, that the faults may take: above 0, up to 1.
    pub slowdown_max: f64,
    /// How long each slice is observed at least, which is how long the window goes on after the last
    /// one was dropped: what the guest uses at longer intervals is not seen.
    pub observe: Duration,
    /// Longest time; slices that are not dropped by then stay mapped.
    pub time_max: Duration,
}

/// Ends a window before its time, from another thread.
#[derive(Debug, Default)]
pub struct Cancellation {
    is_cancelled: Mutex<bool>,
    told: Condvar,
}

impl Cancellation {
    /// Ends the window that waits with this, or will.
    pub fn cancel(&self) {
        *self.is_cancelled.lock().expect("no panics under this lock") = true;
        self.told.notify_all();
    }

    /// Waits so long, at most; whether it was cancelled.
    fn wait(&self, time: Duration) -> bool {
        let is_cancelled = self.is_cancelled.lock().expect("no panics under this lock");
        let waited = self.told.wait_timeout_while(is_cancelled, time, |is| !*is);
        *waited.expect("no panics under this lock").0
    }
}

/// A page that the guest used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstUse {
    /// The page.
    pub page: PageIndex,
    /// When it was used first: since the window was opened, or in a [`WorkingSet`] since its mapping
    /// was dropped.
    pub after: Duration,
}

/// What the VM came back to, and what it cost to find out.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkingSet {
    /// In the order of first use; those of the same microsecond by index.
    pub first_uses: Vec<FirstUse>,
    /// How long the window was open.
    pub took: Duration,
    /// Faults of the guest that it had because of the window.
    pub faults: u64,
    /// Time that dropping mappings took, in this thread.
    pub dropping: Duration,
    /// Pages whose mappings were dropped. Slices in which the guest was never seen to touch anything
    /// are left alone.
    pub dropped_pages: u64,
    /// Whether every slice had its time; not if the window was cancelled, or the time ran out.
    pub complete: bool,
}

impl WorkingSet {
    /// What it cost the guest, over all vCPUs: its faults by what one is assumed to cost, and the time
    /// for which its mappings were locked.
    pub fn guest_time(&self) -> Duration {
        guest_time(self.faults, self.dropping)
    }
}

/// Opens a window on the running VM, drops the mappings of its memory within the budget, and returns
/// what it came back to; None where there are no probes. Returns once it is cancelled, with what was
/// seen by then. Blocks: not for a thread that runs tasks.
///
/// The dirty log is to be on. It tells of all that the guest used since, reads included: whoever
/// needs to know what was written collects it afterwards, and reads all that there is *then*.
///
/// # Errors
/// As [`me2_vmm::memory::GuestMemory::drop_mappings`]. The VM runs on.
pub fn observe_working_set(
    vm: &Vm,
    probing: &Probing,
    budget: WindowBudget,
    cancellation: &Cancellation,
) -> io::Result<Option<WorkingSet>> {
    assert!(
        budget.slowdown_max > 0.0 && budget.slowdown_max <= 1.0,
        "a share of {}",
        budget.slowdown_max
    );
    let Some(window) = probing.open_window(vm.memory().layout()) else {
        return Ok(None);
    };
    let observation = Observation {
        deadline: window.opened + budget.time_max,
        observe: budget.observe,
        share: budget.slowdown_max * vm.vcpus().count() as f64,
        window,
        cancellation,
        dropped: Vec::new(),
        dropping: Duration::ZERO,
    };
    observation.run(vm).map(Some)
}

/// A window during which the first use of each page is noted. Closed when dropped. There is one at a
/// time: the next one forgets what this one noted.
pub struct Window<'a> {
    probing: &'a Probing,
    probes: &'a Probes,
    layout: &'a RamLayout,
    opened: Instant,
    faults_before: u64,
}

impl Probing {
    /// Opens a window on the VM's pages; None where there are no probes. By itself it drops no
    /// mappings: it sees the faults that happen anyway.
    pub fn open_window<'a>(&'a self, layout: &'a RamLayout) -> Option<Window<'a>> {
        let probes = self.probes.as_ref().ok()?;
        for (frames, _) in self.frame_ranges(layout) {
            probes.forget_first_uses(frames);
        }
        let faults_before = probes.counters().first_uses;
        let opened = Instant::now();
        probes.open_window();
        Some(Window {
            probing: self,
            probes,
            layout,
            opened,
            faults_before,
        })
    }
}

impl Window<'_> {
    /// The pages used so far, in the order of their first use since the window was opened.
    pub fn first_uses(&self) -> Vec<FirstUse> {
        let mut uses = Vec::new();
        for (frames, first_page) in self.probing.frame_ranges(self.layout) {
            let first_frame = frames.start;
            self.probes.for_each_first_use(frames, |frame, ns| {
                uses.push(FirstUse {
                    page: first_page + (frame - first_frame) as PageIndex,
                    after: Duration::from_nanos(ns),
                });
            });
        }
        uses.sort_unstable_by_key(|first_use| (first_use.after, first_use.page));
        uses
    }

    /// How many faults were a first use.
    pub fn faults(&self) -> u64 {
        self.probes.counters().first_uses - self.faults_before
    }

    /// Parts of memory that are dropped at once: those in which the guest ever touched anything.
    fn slices(&self) -> Vec<Slice> {
        let mut slices = Vec::new();
        for (frames, first_page) in self.probing.frame_ranges(self.layout) {
            for start in frames.clone().step_by(SLICE_FRAMES as usize) {
                let slice = Slice {
                    frames: start..frames.end.min(start + SLICE_FRAMES),
                    first_page: first_page + (start - frames.start) as PageIndex,
                };
                if self.is_touched(slice.frames.clone()) {
                    slices.push(slice);
                }
            }
        }
        slices
    }

    fn is_touched(&self, frames: Range<u64>) -> bool {
        let mut touched = false;
        self.probes
            .for_each_marked(frames, |_, mark| touched |= mark & me2_common::TOUCHED != 0);
        touched
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.probes.close_window();
    }
}

/// Frames whose mappings are dropped at once: 2 MiB, so that the host's large pages stay whole.
const SLICE_FRAMES: u64 = 512;
/// What a fault is assumed to cost the guest: 4.4 µs is the median where memory is shadowed, and
/// one in four costs more than this; with nested paging it is less.
const FAULT_COST: Duration = Duration::from_micros(8);
/// Shortest wait that is worth one.
const WAIT_MIN: Duration = Duration::from_micros(100);

/// Frames without a hole, with the page index of the first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slice {
    frames: Range<u64>,
    first_page: PageIndex,
}

impl Slice {
    fn pages(&self) -> Range<PageIndex> {
        self.first_page..self.first_page + (self.frames.end - self.frames.start) as PageIndex
    }
}

/// A window on its way through the slices.
struct Observation<'a> {
    window: Window<'a>,
    cancellation: &'a Cancellation,
    deadline: Instant,
    observe: Duration,
    /// Of the time that passes, how much faults may take. A share of all vCPUs, so it may exceed 1.
    share: f64,
    /// Slices so far, by page index, each with when it was dropped since the window was opened.
    dropped: Vec<(Range<PageIndex>, Duration)>,
    dropping: Duration,
}

impl Observation<'_> {
    fn run(mut self, vm: &Vm) -> io::Result<WorkingSet> {
        let mut complete = true;
        for slice in self.window.slices() {
            if !self.wait_until_paid() {
                complete = false;
                break;
            }
            self.drop_slice(vm, &slice)?;
        }
        complete = complete && self.wait(self.observe);
        let took = self.window.opened.elapsed();
        self.window.probes.close_window();
        Ok(WorkingSet {
            first_uses: since_dropped(self.window.first_uses(), &self.dropped),
            took,
            faults: self.window.faults(),
            dropping: self.dropping,
            dropped_pages: self
                .dropped
                .iter()
                .map(|(pages, _)| pages.len() as u64)
                .sum(),
            complete,
        })
    }

    fn drop_slice(&mut self, vm: &Vm, slice: &Slice) -> io::Result<()> {
        // Uses until now were of other mappings.
        self.window.probes.forget_first_uses(slice.frames.clone());
        let begun = self.window.opened.elapsed();
        vm.memory().drop_mappings(slice.pages())?;
        self.dropping += self.window.opened.elapsed() - begun;
        self.dropped.push((slice.pages(), begun));
        Ok(())
    }

    /// Waits until the faults so far, and the time for which the guest's mappings were locked, are
    /// within the share of the time that has passed. False if it is over before.
    fn wait_until_paid(&self) -> bool {
        loop {
            let spent = guest_time(self.window.faults(), self.dropping);
            let paid_after = spent.div_f64(self.share);
            let left = paid_after.saturating_sub(self.window.opened.elapsed());
            // Faults that come meanwhile make it longer, never shorter.
            let wait = if left.is_zero() {
                left
            } else {
                left.max(WAIT_MIN)
            };
            if !self.wait(wait) {
                return false;
            }
            if left.is_zero() {
                return true;
            }
        }
    }

    /// Waits so long; false if the window was over before.
    fn wait(&self, time: Duration) -> bool {
        let left = self.deadline.saturating_duration_since(Instant::now());
        !self.cancellation.wait(time.min(left)) && time < left
    }
}

fn guest_time(faults: u64, dropping: Duration) -> Duration {
    let faults = u32::try_from(faults).unwrap_or(u32::MAX);
    FAULT_COST.saturating_mul(faults) + dropping
}

/// The uses in the order in which they followed the drop of their slice. Uses outside of `dropped`,
/// which is in the order of pages, count from the opening of the window.
fn since_dropped(
    mut uses: Vec<FirstUse>,
    dropped: &[(Range<PageIndex>, Duration)],
) -> Vec<FirstUse> {
    for first_use in &mut uses {
        let next = dropped.partition_point(|(pages, _)| pages.start <= first_use.page);
        if let Some((pages, at)) = dropped[..next].last()
            && pages.contains(&first_use.page)
        {
            // An access may come between forgetting and dropping.
            first_use.after = first_use.after.saturating_sub(*at);
        }
    }
    uses.sort_unstable_by_key(|first_use| (first_use.after, first_use.page));
    uses
}

#[cfg(test)]
mod tests;
