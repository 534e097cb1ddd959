//! What all CPUs work by, and the memory that is theirs.

use core::cell::UnsafeCell;
use core::hint::black_box;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};
use core::{ptr, slice};

use me2_guest::boot::Extent;
use me2_guest::cmdline::{Fill, Options};
use me2_guest::contents::{Origin, Source};
use me2_guest::page::Page;
use me2_guest::ranges::Ranges;
use me2_guest::share::Pages;
use me2_guest::sizes::Sizes;
use me2_guest::work::part;
use me2_guest::{CPUS_MAX, PAGE_SIZE};

use super::serial::refuse;

/// Made by CPU 0, then read by all.
pub(crate) struct Plan {
    pub(crate) options: Options,
    pub(crate) sizes: Sizes,
    /// Bytes to fill with; size 0 if there are none.
    pub(crate) module: Extent,
    /// The whole pages of it.
    pub(crate) module_pages: Ranges,
    pub(crate) cpus: usize,
    /// The free memory; once placed, the pages to fill are the first of these.
    pub(crate) fill: Ranges,
    /// Each CPU's table of versions: the address.
    pub(crate) versions: [u64; CPUS_MAX],
}

impl Plan {
    /// Takes the tables of versions out of the free memory, and checks that the rest holds the fill, or
    /// that the fill is the module.
    pub(crate) fn place(mut self) -> Self {
        let pages = self.sizes.fill_pages;
        for cpu in 0..self.cpus {
            let bytes = part(pages, cpu, self.cpus) * size_of::<u32>() as u64;
            self.versions[cpu] = self.fill.take(bytes.div_ceil(PAGE_SIZE)).unwrap_or(0);
        }
        let placed = self.versions[..self.cpus]
            .iter()
            .all(|address| *address != 0);
        if placed && self.in_place() {
            self.fill = self.module_pages;
        }
        if !placed || self.fill.pages() < pages {
            let mib = |pages: u64| (pages * PAGE_SIZE) >> 20;
            refuse!(
                "fill={}M does not fit, {}M are free",
                mib(pages),
                mib(self.fill.pages())
            );
        }
        self
    }

    /// Lets all CPUs see it.
    pub(crate) fn publish(self) {
        assert!(!PUBLISHED.load(Ordering::Relaxed), "there is one plan");
        // SAFETY: nobody reads before PUBLISHED is set, and CPU 0 comes here once.
        unsafe { (*PLAN.0.get()).write(self) };
        PUBLISHED.store(true, Ordering::Release);
    }

    /// The plan, once there is one.
    pub(crate) fn get() -> Option<&'static Self> {
        // SAFETY: it was written before PUBLISHED was set, and never is again.
        PUBLISHED
            .load(Ordering::Acquire)
            .then(|| unsafe { (*PLAN.0.get()).assume_init_ref() })
    }

    /// Where contents come from.
    pub(crate) fn source(&self) -> Source<'static> {
        let origin = if self.in_place() {
            Origin::InPlace
        } else if self.module.size == 0 {
            Origin::Generated
        } else {
            let start = ptr::with_exposed_provenance(self.module.address as usize);
            // SAFETY: it lies in mapped RAM, and was taken out of what is written to: it is not the fill.
            Origin::Module(unsafe { slice::from_raw_parts(start, self.module.size as usize) })
        };
        Source {
            seed: self.options.seed,
            origin,
        }
    }

    fn in_place(&self) -> bool {
        self.options.fill == Some(Fill::Module)
    }

    /// The pages of one CPU. To be called once for each.
    pub(crate) fn share(&'static self, cpu: usize) -> PhysicalPages {
        let count = part(self.sizes.fill_pages, cpu, self.cpus) as usize;
        let table = ptr::with_exposed_provenance_mut(self.versions[cpu] as usize);
        // SAFETY: `place` took this memory for this CPU's table alone; any bytes are numbers.
        let versions = unsafe { slice::from_raw_parts_mut(table, count) };
        PhysicalPages {
            plan: self,
            cpu,
            versions,
        }
    }
}

struct PlanCell(UnsafeCell<MaybeUninit<Plan>>);

// SAFETY: written once by CPU 0, read by others only after PUBLISHED says so.
unsafe impl Sync for PlanCell {}

static PLAN: PlanCell = PlanCell(UnsafeCell::new(MaybeUninit::uninit()));
static PUBLISHED: AtomicBool = AtomicBool::new(false);

/// One CPU's pages, where they lie in memory.
pub(crate) struct PhysicalPages {
    plan: &'static Plan,
    cpu: usize,
    versions: &'static mut [u32],
}

impl Pages for PhysicalPages {
    fn count(&self) -> usize {
        self.versions.len()
    }

    fn number(&self, local: usize) -> u64 {
        (local * self.plan.cpus + self.cpu) as u64
    }

    fn address(&self, local: usize) -> u64 {
        self.plan.fill.address(self.number(local))
    }

    fn page(&mut self, local: usize) -> &mut Page {
        assert!(local < self.versions.len(), "the page is another CPU's");
        // The compiler must not know whose memory it is: what it wrote there is to be read back.
        let page = black_box(ptr::with_exposed_provenance_mut::<Page>(
            self.address(local) as usize,
        ));
        // SAFETY: mapped RAM, page-aligned; shares do not overlap, and this one is borrowed as a whole.
        unsafe { &mut *page }
    }

    fn version(&self, local: usize) -> u32 {
        self.versions[local]
    }

    fn set_version(&mut self, local: usize, version: u32) {
        self.versions[local] = version;
    }
}
