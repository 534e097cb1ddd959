//! Puts pages where the guest sees them: on fault, behind the resumed guest, and as they arrive.
//!
//! Nothing here touches guest memory through the guest's own view: pages are placed from the
//! staging area or from network buffers by userfaultfd.

use std::{
    collections::HashMap,
    io,
    ops::Range,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
        mpsc as thread_mpsc,
    },
    thread::JoinHandle,
    time::Instant,
};

use me2_engine::{
    destination::{Arrival, Content, DestinationPages, FaultAction, PageError},
    pattern::Patterns,
    quantile::Histogram,
};
use me2_vmm::{
    paging::{Paging, PagingError},
    staging::Staging,
};
use me2_wire::{PAGE_SIZE, PageIndex, Version, message::Likely, page_hash, range::RangeList};
use tokio::sync::{Notify, mpsc};

use crate::migrate::Machine;

/// Pages moved at a time behind the running guest: enough to make the system call's cost vanish.
const MOVE_RUN_PAGES: PageIndex = 512;
/// Smallest hole that leaves userfaultfd rather than being filled with zero pages, and the part of
/// RAM that makes it larger: so there are at most a thousand of them.
const HOLE_PAGES_MIN: PageIndex = 512;
const HOLES_MAX: PageIndex = 1000;
/// Pages looked at for holes before faults get their turn.
const HOLE_SCAN_PAGES: PageIndex = 32768;

/// One decoded page; its content lies in the batch that it came with.
#[derive(Debug, Clone, Copy)]
pub struct ArrivedPage {
    /// Which.
    pub page: PageIndex,
    /// Its version.
    pub version: Version,
    /// Of its content.
    pub hash: u64,
    /// Whether that is all zero.
    pub is_zero: bool,
}

/// Why pages came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Unasked: a pass or the push.
    Bulk,
    /// Asked for.
    Answer,
}

/// Pages that came after the handover.
#[derive(Debug, Default, Clone, Copy)]
pub struct ArrivedCount {
    /// Unasked.
    pub pushed: u64,
    /// Asked for, with their neighbours.
    pub demanded: u64,
    /// There already. Also counted before the handover.
    pub duplicates: u64,
}

/// What would be lost with the source.
#[derive(Debug, Clone, Copy)]
pub struct AtStake {
    /// Pages that are no holes.
    pub useful: u64,
    /// Those that have not come.
    pub missing: u64,
    /// Those of them that a vCPU waits for.
    pub waiting: u64,
}

/// A page that a vCPU waits for, and what it is likely to want next.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The missing page.
    pub page: PageIndex,
    /// Pages near it.
    pub likely: Likely,
}

/// Places pages of one VM.
pub struct Pager {
    machine: Arc<Machine>,
    paging: Paging,
    table: Mutex<Table>,
    /// Written only while the table is locked and before the handover; read afterwards.
    staging: RwLock<Option<Staging>>,
    want: mpsc::UnboundedSender<Wanted>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// The word to the thread that places, while there is one.
    place: Mutex<Option<thread_mpsc::SyncSender<()>>>,
    local_faults: AtomicU64,
    changed: Notify,
}

struct Table {
    pages: DestinationPages,
    /// Missing pages that somebody waits for, since when.
    waiting: HashMap<PageIndex, Instant>,
    waits: Histogram,
    arrived: ArrivedCount,
}

impl Pager {
    /// Everything is missing, nothing is announced. Pages to ask for go to `want`.
    pub fn new(
        machine: Arc<Machine>,
        paging: Paging,
        want: mpsc::UnboundedSender<Wanted>,
    ) -> io::Result<Self> {
        let pages = machine.vm.memory().layout().page_count();
        let table = Table {
            pages: DestinationPages::new(pages),
            waiting: HashMap::new(),
            waits: Histogram::default(),
            arrived: ArrivedCount::default(),
        };
        Ok(Self {
            machine,
            paging,
            table: Mutex::new(table),
            staging: RwLock::new(Some(Staging::new(pages)?)),
            want,
            threads: Mutex::default(),
            place: Mutex::default(),
            local_faults: AtomicU64::new(0),
            changed: Notify::new(),
        })
    }

    /// Pages of the VM.
    pub fn page_count(&self) -> PageIndex {
        self.machine.vm.memory().layout().page_count()
    }

    /// A page, as people know it.
    pub fn name(&self, page: PageIndex) -> String {
        let layout = self.machine.vm.memory().layout();
        format!("the page at guest frame {:x}", layout.frame_of_page(page))
    }

    /// The source announces a version.
    pub fn announce(&self, version: Version, pages: &RangeList) -> Result<(), PageError> {
        self.lock().pages.announce(version, pages)
    }

    /// The source takes back what it announced last of these pages.
    pub fn withdraw(&self, pages: &RangeList) -> Result<(), PageError> {
        self.lock().pages.withdraw(pages)
    }

    /// Starts the threads: all that could fail for want of one, before anything depends on it. They end
    /// with [`Pager::shut_down`].
    pub fn start(self: &Arc<Self>) -> io::Result<()> {
        let (place, may_place) = thread_mpsc::sync_channel(1);
        *self.place.lock().expect("no panics under this lock") = Some(place);
        let [faults, placing] = [self.clone(), self.clone()];
        let started = self
            .spawn("faults", move || faults.serve_faults())
            .and_then(|()| {
                self.spawn("placing", move || {
                    if may_place.recv().is_ok() {
                        placing.release_holes();
                        placing.place_arrived();
                    }
                })
            });
        if started.is_err() {
            self.shut_down();
        }
        started
    }

    /// Freezes the table. From now on there may be faults. Gives the number of missing pages.
    pub fn hand_over(&self, version: Version, pages: &RangeList) -> Result<u64, PageError> {
        self.lock().pages.hand_over(version, pages)
    }

    /// Begins to place everything that is here, behind the running guest.
    pub fn start_placing(&self) {
        let place = self.place.lock().expect("no panics under this lock");
        let place = place.as_ref().expect("started, and not shut down");
        // The second word is one too many: it places already.
        let _ = place.try_send(());
    }

    /// Pages arrived; `contents` has 4096 bytes for each.
    pub fn arrive(
        &self,
        origin: Origin,
        batch: &[ArrivedPage],
        contents: &[u8],
    ) -> Result<(), PageError> {
        assert_eq!(batch.len() * PAGE_SIZE, contents.len(), "a page each");
        self.make_room(batch);
        let (mut to_place, mut disputed) = (Vec::new(), Vec::new());
        {
            let mut table = self.lock();
            let mut staging = None;
            for (index, (page, content)) in batch
                .iter()
                .zip(contents.as_chunks::<PAGE_SIZE>().0)
                .enumerate()
            {
                match table
                    .pages
                    .arrive(page.page, page.version, page.hash, page.is_zero)?
                {
                    Arrival::Stage if page.is_zero => {}
                    Arrival::Stage => staging
                        .get_or_insert_with(|| {
                            self.staging.write().unwrap_or_else(PoisonError::into_inner)
                        })
                        .as_mut()
                        .expect("there until the migration is settled")
                        .write(page.page, content),
                    Arrival::Place => to_place.push(index),
                    Arrival::Duplicate if table.pages.is_disputed(page.page) => {
                        disputed.push(page);
                    }
                    Arrival::Duplicate => table.arrived.duplicates += 1,
                }
            }
            // Counted before they are placed: the last one completes the migration.
            match origin {
                Origin::Bulk => table.arrived.pushed += to_place.len() as u64,
                Origin::Answer => table.arrived.demanded += to_place.len() as u64,
            }
            if table.pages.outstanding() == 0 {
                self.changed.notify_one();
            }
        }
        disputed.into_iter().for_each(|page| self.compare(page));
        for run in to_place.chunk_by(|a, b| follows(&batch[*a], &batch[*b]) && a + 1 == *b) {
            let (first, last) = (run[0], run[run.len() - 1]);
            let pages = batch[first].page..batch[last].page + 1;
            let placed = if batch[first].is_zero {
                self.paging.place_zero(pages.clone())
            } else {
                self.paging.place_copy(
                    pages.start,
                    &contents[first * PAGE_SIZE..(last + 1) * PAGE_SIZE],
                )
            };
            self.placed(pages, placed);
        }
        Ok(())
    }

    /// Populates room to stage these pages, run by run rather than by a page fault each.
    fn make_room(&self, batch: &[ArrivedPage]) {
        if self.lock().pages.is_handed_over() {
            return;
        }
        let staging = self.staging.read().unwrap_or_else(PoisonError::into_inner);
        for run in batch.chunk_by(follows) {
            let (first, last) = (&run[0], &run[run.len() - 1]);
            if let Some(staging) = &*staging
                && !first.is_zero
            {
                staging.populate(first.page..last.page + 1);
            }
        }
    }

    /// Copies out a version of a page as it arrived, for a record that refers to it. False if it
    /// is not at hand (any more).
    pub fn read_arrived(
        &self,
        page: PageIndex,
        version: Version,
        content: &mut [u8; PAGE_SIZE],
    ) -> bool {
        // Locked all the while: nobody stages another version meanwhile.
        let table = self.lock();
        match table.pages.holds(page, version) {
            None => return false,
            Some(Content::Zero) => content.fill(0),
            Some(Content::Staged) => self
                .staging
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .expect("there until the migration is settled")
                .read(page, content),
        }
        true
    }

    /// Whether this version of a page, or a newer one, has arrived. If so, it is counted as a
    /// duplicate.
    pub fn is_superseded(&self, page: PageIndex, version: Version) -> bool {
        let mut table = self.lock();
        let is_superseded = table.pages.is_superseded(page, version);
        table.arrived.duplicates += u64::from(is_superseded);
        is_superseded
    }

    /// Resolved when something may have become true: all announced pages are in, or all pages are
    /// in place. One waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Wakes whoever waits in [`Pager::changed`].
    pub fn poke(&self) {
        self.changed.notify_one();
    }

    /// Pages announced and not in.
    pub fn outstanding(&self) -> u64 {
        self.lock().pages.outstanding()
    }

    /// What would be lost with the source now.
    pub fn at_stake(&self) -> AtStake {
        let table = self.lock();
        AtStake {
            useful: table.pages.used(),
            missing: table.pages.outstanding(),
            waiting: table.waiting.len() as u64,
        }
    }

    /// Asks for pages once more whose hashes are not the source's. Gives how many: each is told of by
    /// [`Pager::changed`] when it has come.
    pub fn dispute(&self, frames: &[u64]) -> usize {
        let layout = self.machine.vm.memory().layout();
        let pages = frames
            .iter()
            .filter_map(|frame| layout.page_of_frame(*frame));
        let disputed = self.lock().pages.dispute(pages);
        for page in &disputed {
            let likely = Likely::default();
            // Nobody listens only when the process ends.
            _ = self.want.send(Wanted {
                page: *page,
                likely,
            });
        }
        disputed.len()
    }

    /// What was asked for once more does not come over a new connection.
    pub fn forget_disputes(&self) {
        self.lock().pages.forget_disputes();
    }

    /// Pages that were asked for once more, and did not come yet.
    pub fn disputes(&self) -> usize {
        self.lock().pages.disputes()
    }

    /// Compares a page that came once more with what the guest has.
    fn compare(&self, page: &ArrivedPage) {
        let mut content = [0; PAGE_SIZE];
        // In place: reading it waits for nothing.
        self.machine.vm.memory().read_page(page.page, &mut content);
        self.lock()
            .pages
            .compare(page.page, page.hash, page_hash(&content));
        self.changed.notify_one();
    }

    /// Whether every page is visible in its final version.
    pub fn is_complete(&self) -> bool {
        self.lock().pages.is_complete()
    }

    /// Pages that have not arrived, and those of them that the guest waits for.
    pub fn missing(&self) -> (RangeList, Vec<PageIndex>) {
        self.lock().pages.missing()
    }

    /// The hash tree over what was placed.
    pub fn leaves(&self) -> Vec<u64> {
        self.lock().pages.leaves()
    }

    /// Page hashes of a leaf.
    pub fn leaf_hashes(&self, leaf: usize) -> Vec<u64> {
        self.lock().pages.leaf_hashes(leaf)
    }

    /// Whether a page was never announced.
    pub fn is_hole(&self, page: PageIndex) -> bool {
        self.lock().pages.is_hole(page)
    }

    /// How long faults waited for the source.
    pub fn waits(&self) -> Histogram {
        self.lock().waits.clone()
    }

    /// Pages that arrived, by why.
    pub fn arrived(&self) -> ArrivedCount {
        self.lock().arrived
    }

    /// Faults that were answered with what was here.
    pub fn local_faults(&self) -> u64 {
        self.local_faults.load(Ordering::Relaxed)
    }

    /// The VM will never run here: whoever waits for a page gets zeros, so that nobody waits for
    /// ever. To be called when that has been promised, not before.
    pub fn give_up_missing(&self) {
        let missing = self.lock().pages.take_missing();
        for run in missing {
            self.place(Content::Zero, run);
        }
    }

    /// All pages are in place: guest memory leaves userfaultfd, staging and table are freed.
    pub fn settle(&self) -> anyhow::Result<()> {
        assert!(
            self.is_complete(),
            "no range with a missing page is ever released"
        );
        self.paging.release(0..self.page_count())?;
        self.shut_down();
        *self.staging.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.lock().pages = DestinationPages::new(0);
        Ok(())
    }

    /// Ends the threads.
    pub fn shut_down(&self) {
        self.paging.stop_faults();
        *self.place.lock().expect("no panics under this lock") = None;
        let threads = std::mem::take(&mut *self.threads.lock().expect("no panics under this lock"));
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panics under this lock")
    }

    fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let span = tracing::Span::current();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || span.in_scope(run))?;
        self.threads
            .lock()
            .expect("no panics under this lock")
            .push(thread);
        Ok(())
    }

    fn serve_faults(&self) {
        let (mut faults, mut patterns) = (Vec::new(), Patterns::default());
        while self
            .paging
            .wait_faults(&mut faults)
            .unwrap_or_else(|error| give_up(&error))
        {
            for fault in faults.drain(..) {
                self.machine
                    .vm
                    .vcpus()
                    .note_waiting(fault.thread, fault.page);
                self.serve_fault(fault.page, || patterns.fault(fault.thread, fault.page));
            }
        }
    }

    fn serve_fault(&self, page: PageIndex, likely: impl FnOnce() -> Likely) {
        let action = {
            let mut table = self.lock();
            let action = table.pages.fault(page);
            if action == FaultAction::Request {
                table.waiting.insert(page, Instant::now());
            }
            action
        };
        match action {
            FaultAction::Place(content, pages) => {
                self.local_faults.fetch_add(1, Ordering::Relaxed);
                self.place(content, pages);
            }
            // Nobody listens only when the process ends.
            FaultAction::Request => {
                let likely = likely();
                _ = self.want.send(Wanted { page, likely });
            }
            FaultAction::Wait => {}
            FaultAction::Wake => {
                // Failing means that the page has left userfaultfd, which woke everybody.
                let _ = self.paging.wake(page);
                self.machine.vm.vcpus().page_placed(page..page + 1);
            }
        }
    }

    fn release_holes(&self) {
        let total = self.page_count();
        let min = HOLE_PAGES_MIN.max(total / HOLES_MAX);
        for start in (0..total).step_by(HOLE_SCAN_PAGES as usize) {
            let holes = self
                .lock()
                .pages
                .take_holes(start..start.saturating_add(HOLE_SCAN_PAGES), min);
            for hole in holes {
                if let Err(error) = self.paging.release(hole.clone()) {
                    give_up(&error);
                }
                self.machine.vm.vcpus().page_placed(hole);
            }
        }
        self.tell_if_complete();
    }

    fn place_arrived(&self) {
        loop {
            let run = self.lock().pages.next_run(MOVE_RUN_PAGES);
            let Some((content, pages)) = run else { return };
            self.place(content, pages);
        }
    }

    fn place(&self, content: Content, pages: Range<PageIndex>) {
        let placed = match content {
            Content::Zero => self.paging.place_zero(pages.clone()),
            Content::Staged => {
                let staging = self.staging.read().unwrap_or_else(PoisonError::into_inner);
                self.paging.place_staged(
                    staging.as_ref().expect("there until settled"),
                    pages.clone(),
                )
            }
        };
        self.placed(pages, placed);
    }

    fn placed(&self, pages: Range<PageIndex>, result: Result<u32, PagingError>) {
        if let Err(error) = result {
            give_up(&error);
        }
        {
            let mut table = self.lock();
            table.pages.placed(pages.clone());
            if !table.waiting.is_empty() {
                for page in pages.clone() {
                    if let Some(since) = table.waiting.remove(&page) {
                        table.waits.record(since.elapsed().as_micros() as u64);
                    }
                }
            }
        }
        self.machine.vm.vcpus().page_placed(pages);
        self.tell_if_complete();
    }

    fn tell_if_complete(&self) {
        if self.is_complete() {
            self.changed.notify_one();
        }
    }
}

fn follows(a: &ArrivedPage, b: &ArrivedPage) -> bool {
    a.page + 1 == b.page && a.is_zero == b.is_zero
}

/// Paging failed in a way that leaves vCPUs waiting for ever, or would show them wrong memory: the
/// process ends at once, as on a panic, and the source still has everything.
fn give_up(error: &PagingError) -> ! {
    panic!("guest memory cannot be paged any more: {error:?}")
}
