//! Demand paging of guest memory through userfaultfd.
//!
//! Between [`Paging::register`] and [`Paging::release`] every page of guest memory that has not
//! been placed is *missing*: whoever touches it waits until one of the `place_*` functions puts
//! it there. Each of them is atomic for a page and never overwrites: a page that is already there
//! is left as it is.
//!
//! The descriptor is opened when the process starts ([`Userfault::open`]), so that privileges can be
//! dropped afterwards, and is never closed while a vCPU lives: closing it would hand the guest
//! silent zero pages.

use std::{io, ops::Range, sync::Arc, time::Duration};

use userfaultfd::{Event, EventBuffer, FeatureFlags, Uffd, UffdBuilder};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    ioctls::{PlaceFrom, Placed, place},
    layout::{PAGE_SIZE, PageIndex},
    mapping::AnonymousMapping,
    memory::GuestMemory,
    staging::Staging,
};
use std::os::fd::AsRawFd;

/// Fault messages taken with one read.
const EVENTS_PER_READ: usize = 64;

/// How often, and after how long, a page is tried again for which there is no memory: a minute.
const NO_MEMORY_ATTEMPTS_MAX: u32 = 600;
const NO_MEMORY_PAUSE: Duration = Duration::from_millis(100);

/// What can go wrong with demand paging.
#[derive(Debug, thiserror::Error)]
pub enum PagingError {
    /// The kernel gave no userfaultfd.
    #[error(
        "userfaultfd is not to be had: run as root, or allow this user to open /dev/userfaultfd"
    )]
    Open(#[source] userfaultfd::Error),
    /// Registering or unregistering guest memory failed.
    #[error("cannot change what userfaultfd watches")]
    Register(#[source] userfaultfd::Error),
    /// A page could not be placed.
    #[error("cannot place page {page}")]
    Place {
        /// The page that failed.
        page: PageIndex,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Fault messages could not be read.
    #[error("cannot read page faults")]
    Read(#[source] userfaultfd::Error),
    /// Waiting for fault messages failed.
    #[error("cannot wait for page faults")]
    Wait(#[source] io::Error),
}

/// An open userfaultfd, and what the kernel offers with it.
#[derive(Debug)]
pub struct Userfault {
    uffd: Uffd,
    can_move: bool,
}

impl Userfault {
    /// Opens a userfaultfd with thread ids in its fault messages.
    pub fn open() -> Result<Self, PagingError> {
        let uffd = UffdBuilder::new()
            .close_on_exec(true)
            .non_blocking(true)
            // KVM itself touches guest memory: its faults must wait too, not fail.
            .user_mode_only(false)
            .require_features(FeatureFlags::THREAD_ID)
            .create()
            .map_err(PagingError::Open)?;
        let can_move = try_move(&uffd);
        Ok(Self { uffd, can_move })
    }

    /// Whether staged pages can be moved rather than copied (`UFFDIO_MOVE`, Linux 6.8).
    pub fn can_move(&self) -> bool {
        self.can_move
    }
}

/// Moves one page of scratch memory, to see whether the kernel can.
fn try_move(uffd: &Uffd) -> bool {
    let (Ok(from), Ok(to)) = (
        AnonymousMapping::new(PAGE_SIZE),
        AnonymousMapping::new(PAGE_SIZE),
    ) else {
        return false;
    };
    if uffd.register(to.as_ptr().cast(), PAGE_SIZE).is_err() {
        return false;
    }
    // SAFETY: both are whole mappings of one page that only this function knows; `to` is
    // registered, `from` is written first so that it is populated.
    let moved = unsafe {
        from.as_ptr().write(1);
        place(uffd, to.as_ptr(), PlaceFrom::Move(from.as_ptr()), PAGE_SIZE)
    };
    let unregistered = uffd.unregister(to.as_ptr().cast(), PAGE_SIZE);
    moved.error.is_none() && unregistered.is_ok()
}

/// One fault message: somebody waits for `page`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The missing page.
    pub page: PageIndex,
    /// Thread that waits; a hint, since KVM's asynchronous page faults wait in kernel workers.
    pub thread: i32,
}

/// Demand paging of one VM's memory.
#[derive(Debug)]
pub struct Paging {
    userfault: Arc<Userfault>,
    memory: GuestMemory,
    stop: EventFd,
}

impl Paging {
    /// Prepares demand paging; nothing is registered yet.
    pub fn new(userfault: Arc<Userfault>, memory: GuestMemory) -> Result<Self, PagingError> {
        let stop =
            EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(PagingError::Wait)?;
        Ok(Self {
            userfault,
            memory,
            stop,
        })
    }

    /// Makes every page missing. Nothing may be populated yet.
    pub fn register(&self) -> Result<(), PagingError> {
        self.memory.keep_free_pages(true);
        let len = self.memory.layout().size_bytes() as usize;
        self.userfault
            .uffd
            .register(self.memory.host_address().cast(), len)
            .map(drop)
            .map_err(PagingError::Register)
    }

    /// Takes pages out of demand paging. None of them may be missing in the sense that content
    /// for it exists elsewhere: a page that was never placed reads as zero from now on.
    pub fn release(&self, pages: Range<PageIndex>) -> Result<(), PagingError> {
        if pages.is_empty() {
            return Ok(());
        }
        let start = self.memory.host_address_of(pages.start);
        self.userfault
            .uffd
            .unregister(start.cast(), pages.len() * PAGE_SIZE)
            .map_err(PagingError::Register)?;
        if pages.len() == self.memory.layout().page_count() as usize {
            self.memory.keep_free_pages(false);
        }
        Ok(())
    }

    /// Places copies of consecutive pages from `page` on; `content` is whole pages. Gives how many
    /// pages this call placed (the others were there already).
    pub fn place_copy(&self, page: PageIndex, content: &[u8]) -> Result<u32, PagingError> {
        assert!(content.len().is_multiple_of(PAGE_SIZE), "whole pages");
        let count = (content.len() / PAGE_SIZE) as u32;
        self.place(page..page + count, |offset| {
            PlaceFrom::Copy(content[offset..].as_ptr())
        })
    }

    /// Places zero pages, which take no memory until they are written.
    pub fn place_zero(&self, pages: Range<PageIndex>) -> Result<u32, PagingError> {
        self.place(pages, |_| PlaceFrom::Zero)
    }

    /// Places staged pages, by moving them where the kernel can; all must have been staged.
    pub fn place_staged(
        &self,
        staging: &Staging,
        pages: Range<PageIndex>,
    ) -> Result<u32, PagingError> {
        if pages.is_empty() {
            return Ok(0);
        }
        let last = staging.address(pages.end - 1);
        let first = staging.address(pages.start);
        debug_assert_eq!(
            last as usize - first as usize,
            (pages.len() - 1) * PAGE_SIZE
        );
        self.place(pages, |offset| {
            let from = first.wrapping_add(offset).cast_const();
            if self.userfault.can_move {
                PlaceFrom::Move(from)
            } else {
                PlaceFrom::Copy(from)
            }
        })
    }

    fn place(
        &self,
        pages: Range<PageIndex>,
        from: impl Fn(usize) -> PlaceFrom,
    ) -> Result<u32, PagingError> {
        if pages.is_empty() {
            return Ok(0);
        }
        assert!(
            pages.end <= self.memory.layout().page_count(),
            "pages {pages:?} beyond RAM"
        );
        let start = self.memory.host_address_of(pages.start);
        let len = pages.len() * PAGE_SIZE;
        let (mut at, mut placed, mut attempts) = (0, 0, 0);
        let failed = |at: usize, errno| PagingError::Place {
            page: pages.start + (at / PAGE_SIZE) as u32,
            source: io::Error::from_raw_os_error(errno),
        };
        while at < len {
            // SAFETY: the destination is guest memory, checked above, which is registered while
            // pages are missing; the sources are `len` bytes of a slice or of staged pages, which
            // only the caller refers to.
            let Placed { done, error } = unsafe {
                place(
                    &self.userfault.uffd,
                    start.wrapping_add(at),
                    from(at),
                    len - at,
                )
            };
            at += done;
            placed += (done / PAGE_SIZE) as u32;
            match error {
                None | Some(libc::EAGAIN) => {}
                // A staged page that cannot be moved at this moment (pinned, part of a large page).
                Some(libc::EBUSY) if matches!(from(at), PlaceFrom::Move(_)) => {
                    let PlaceFrom::Move(source) = from(at) else {
                        continue;
                    };
                    // SAFETY: as above, for one page.
                    let copied = unsafe {
                        place(
                            &self.userfault.uffd,
                            start.wrapping_add(at),
                            PlaceFrom::Copy(source),
                            PAGE_SIZE,
                        )
                    };
                    match copied.error {
                        None => {
                            at += PAGE_SIZE;
                            placed += 1;
                        }
                        // The loop asks again, and meets the same answer if it stands.
                        Some(libc::EAGAIN | libc::EEXIST) => {}
                        Some(errno) => return Err(failed(at, errno)),
                    }
                }
                // The guest waits anyway: better later than never.
                Some(libc::ENOMEM) if attempts < NO_MEMORY_ATTEMPTS_MAX => {
                    attempts += 1;
                    tracing::warn!("no memory to place a page; trying again");
                    std::thread::sleep(NO_MEMORY_PAUSE);
                }
                // Already there: placed once, whole, and never overwritten.
                Some(libc::EEXIST) => at += PAGE_SIZE,
                Some(errno) => return Err(failed(at, errno)),
            }
        }
        Ok(placed)
    }

    /// Waits for faults and appends them to `faults`; the same page may come several times. Gives
    /// false, with nothing appended, once [`Paging::stop_faults`] was called.
    pub fn wait_faults(&self, faults: &mut Vec<Fault>) -> Result<bool, PagingError> {
        let mut buffer = EventBuffer::new(EVENTS_PER_READ);
        loop {
            for event in self
                .userfault
                .uffd
                .read_events(&mut buffer)
                .map_err(PagingError::Read)?
            {
                if let Event::Pagefault {
                    addr, thread_id, ..
                } = event.map_err(PagingError::Read)?
                {
                    // A message about memory that is gone (an attempt that failed) is nobody's.
                    if let Some(page) = self.page_at(addr as usize) {
                        faults.push(Fault {
                            page,
                            thread: thread_id.as_raw(),
                        });
                    }
                }
            }
            if !faults.is_empty() {
                return Ok(true);
            }
            if !self.wait_readable()? {
                return Ok(false);
            }
        }
    }

    fn page_at(&self, address: usize) -> Option<PageIndex> {
        let page = address.checked_sub(self.memory.host_address() as usize)? / PAGE_SIZE;
        PageIndex::try_from(page)
            .ok()
            .filter(|page| *page < self.memory.layout().page_count())
    }

    /// Wakes whoever waits for a page that is there already.
    pub fn wake(&self, page: PageIndex) -> Result<(), PagingError> {
        let address = self.memory.host_address_of(page);
        self.userfault
            .uffd
            .wake(address.cast(), PAGE_SIZE)
            .map_err(PagingError::Register)
    }

    /// Ends [`Paging::wait_faults`], now and for good.
    pub fn stop_faults(&self) {
        self.stop
            .write(1)
            .expect("an event counter far from its limit");
    }

    /// Whether there is something to read (true) or the end was asked for (false).
    fn wait_readable(&self) -> Result<bool, PagingError> {
        let watch = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut fds = [
            watch(self.userfault.uffd.as_raw_fd()),
            watch(self.stop.as_raw_fd()),
        ];
        loop {
            // SAFETY: `fds` is an array of two that lives across the call.
            if unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) } >= 0 {
                return Ok(fds[1].revents == 0);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(PagingError::Wait(error));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::RamLayout;

    fn paging() -> Option<(Arc<Paging>, GuestMemory)> {
        let userfault = match Userfault::open() {
            Ok(userfault) => Arc::new(userfault),
            Err(error) => {
                eprintln!("SKIPPED: {error}");
                return None;
            }
        };
        let memory = GuestMemory::new(RamLayout::new(16 << 20).unwrap()).unwrap();
        let paging = Paging::new(userfault, memory.clone()).unwrap();
        paging.register().unwrap();
        Some((Arc::new(paging), memory))
    }

    fn content(memory: &GuestMemory, page: PageIndex) -> u8 {
        let mut out = [0xee; PAGE_SIZE];
        memory.read_page(page, &mut out);
        assert!(out.iter().all(|byte| *byte == out[0]), "a torn page");
        out[0]
    }

    #[test]
    fn a_placed_page_is_never_overwritten() {
        let Some((paging, memory)) = paging() else {
            return;
        };
        assert_eq!(paging.place_copy(7, &[1; PAGE_SIZE]).unwrap(), 1);
        assert_eq!(paging.place_copy(6, &[2; 3 * PAGE_SIZE]).unwrap(), 2);
        assert_eq!([6, 7, 8].map(|page| content(&memory, page)), [2, 1, 2]);
    }

    #[test]
    fn staged_and_zero_pages_are_placed() {
        let Some((paging, memory)) = paging() else {
            return;
        };
        let mut staging = Staging::new(4096).unwrap();
        for page in 10..20 {
            staging.write(page, &[page as u8; PAGE_SIZE]);
        }
        assert_eq!(paging.place_staged(&staging, 10..20).unwrap(), 10);
        assert_eq!(paging.place_zero(20..4096).unwrap(), 4076);
        assert_eq!(
            [10, 19, 20, 4095].map(|page| content(&memory, page)),
            [10, 19, 0, 0]
        );
    }

    #[test]
    fn a_reader_waits_until_its_page_is_placed() {
        let Some((paging, memory)) = paging() else {
            return;
        };
        let reader = std::thread::spawn(move || content(&memory, 99));
        let mut faults = Vec::new();
        assert!(paging.wait_faults(&mut faults).unwrap());
        assert_eq!(faults[0].page, 99);
        assert_ne!(faults[0].thread, 0);
        paging.place_copy(99, &[5; PAGE_SIZE]).unwrap();
        assert_eq!(reader.join().unwrap(), 5);
        paging.stop_faults();
        faults.clear();
        while paging.wait_faults(&mut faults).unwrap() {
            assert!(faults.iter().all(|fault| fault.page == 99));
            faults.clear();
        }
    }

    #[test]
    fn released_pages_read_as_zero() {
        let Some((paging, memory)) = paging() else {
            return;
        };
        paging.place_copy(0, &[1; PAGE_SIZE]).unwrap();
        paging.release(0..4096).unwrap();
        assert_eq!([0, 1, 4095].map(|page| content(&memory, page)), [1, 0, 0]);
    }
}
