//! A VM on its way here whose pages have all arrived, and wait in the staging area.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use me2_user::{
    explore::Probing,
    migrate::{
        Machine,
        destination::pager::{ArrivedPage, Origin, Pager, Wanted},
    },
    process::monitor::GuestMonitor,
};
use me2_vmm::{
    layout::PAGE_SIZE,
    memory::GuestMemory,
    paging::{Paging, Userfault},
    vm::{Host, Vm},
};
use me2_wire::{PageIndex, page_hash, range::RangeList};
use tokio::sync::mpsc::{self, UnboundedReceiver};

/// Pages that come in one frame.
const CHUNK_PAGES: PageIndex = 64;

/// Such a VM; it never runs.
pub(super) struct Destination {
    machine: Arc<Machine>,
    pub(super) pager: Arc<Pager>,
    /// Nobody touches what is missing: nothing is asked for.
    _wanted: UnboundedReceiver<Wanted>,
}

impl Destination {
    /// With so much memory, every page of it in version 1.
    pub(super) fn filled(memory_bytes: u64) -> Result<Self> {
        let userfault = Arc::new(Userfault::open()?);
        let host = Host::open(userfault.clone())?;
        let document = host.describe("paging", memory_bytes, 1, true)?;
        let monitor = GuestMonitor::new(Box::new(io::sink()), Default::default(), true)?;
        let vm = Vm::build(&host, document, monitor.console(), Arc::new(|_| ()))?;
        let paging = Paging::new(userfault, vm.memory().clone())?;
        paging.register()?;
        let machine = Arc::new(Machine {
            vm,
            monitor,
            probing: Arc::new(Probing::disabled()),
        });
        let (want, wanted) = mpsc::unbounded_channel();
        let pager = Pager::new(machine.clone(), paging, want).context("no staging area")?;
        let destination = Self {
            machine,
            pager: Arc::new(pager),
            _wanted: wanted,
        };
        destination.pager.start().context("no threads")?;
        destination.fill()?;
        Ok(destination)
    }

    pub(super) fn memory(&self) -> &GuestMemory {
        self.machine.vm.memory()
    }

    pub(super) fn page_count(&self) -> PageIndex {
        self.pager.page_count()
    }

    pub(super) fn none_stale(&self) -> RangeList {
        RangeList::default()
    }

    /// The first `count` pages of each region.
    pub(super) fn stale(&self, region_pages: PageIndex, count: PageIndex) -> RangeList {
        let regions = (0..self.page_count()).step_by(region_pages as usize);
        RangeList::from_ascending(regions.flat_map(|start| start..start + count))
    }

    /// Reads a page as whoever runs in the VM would; how long it took.
    pub(super) fn touch(&self, page: PageIndex) -> Duration {
        let mut content = [0; PAGE_SIZE];
        let begun = Instant::now();
        self.machine.vm.memory().read_page(page, &mut content);
        let took = begun.elapsed();
        assert_eq!(content, content_of(page), "page {page}");
        took
    }

    fn fill(&self) -> Result<()> {
        let mut all = RangeList::default();
        all.push(0..self.page_count());
        self.pager.announce(1, &all)?;
        for start in (0..self.page_count()).step_by(CHUNK_PAGES as usize) {
            let end = self.page_count().min(start + CHUNK_PAGES);
            let contents: Vec<_> = (start..end).map(content_of).collect();
            let batch: Vec<_> = (start..end)
                .zip(&contents)
                .map(|(page, content)| ArrivedPage {
                    page,
                    version: 1,
                    hash: page_hash(content),
                    is_zero: false,
                })
                .collect();
            self.pager
                .arrive(Origin::Bulk, &batch, contents.as_flattened())?;
        }
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.pager.shut_down();
    }
}

/// Not zero, and another for each page near by.
fn content_of(page: PageIndex) -> [u8; PAGE_SIZE] {
    [(page % 251) as u8 + 1; PAGE_SIZE]
}
