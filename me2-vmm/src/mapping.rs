//! Memory mappings that unmap themselves: anonymous memory, and a shared view of a file descriptor.

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU8, AtomicU64, Ordering},
};

/// Private anonymous memory: zero until written, populated on first touch.
#[derive(Debug)]
pub struct AnonymousMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory without thread affinity; whoever derives references or
// copies from the pointer has to order its own accesses.
unsafe impl Send for AnonymousMapping {}
// SAFETY: as above; shared references only give out the address.
unsafe impl Sync for AnonymousMapping {}

impl AnonymousMapping {
    /// Maps `len` bytes, aligned to 2 MiB so that large pages are possible, without reserving swap.
    pub fn new(len: usize) -> io::Result<Self> {
        const ALIGN: usize = 2 << 20;
        let padded = len
            .checked_add(ALIGN)
            .ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let raw = map(
            padded,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
        )?;
        let head = raw.as_ptr().align_offset(ALIGN);
        // SAFETY: head < ALIGN, so the address stays inside the mapping of len + ALIGN bytes.
        let start = unsafe { raw.add(head) };
        unmap(raw, head);
        // SAFETY: start + len is still inside, since head + len <= padded.
        unmap(unsafe { start.add(len) }, padded - head - len);
        Ok(Self { start, len })
    }

    /// Asks for large pages; a host that has none goes on with small ones.
    pub fn prefer_large_pages(&self) {
        self.advise(0..self.len, libc::MADV_HUGEPAGE);
    }

    /// Makes large pages of these bytes, now; what they hold stays.
    pub(crate) fn collapse(&self, bytes: Range<usize>) -> io::Result<()> {
        self.try_advise(bytes, libc::MADV_COLLAPSE)
    }

    /// Populates these bytes, whole pages, as if all of them were written; a host that cannot does
    /// so on first touch.
    pub fn populate(&self, bytes: Range<usize>) {
        self.advise(bytes, libc::MADV_POPULATE_WRITE);
    }

    /// Gives these bytes, whole pages, back: they take no memory and read as zero until they are
    /// written.
    pub(crate) fn give_back(&self, bytes: Range<usize>) {
        self.advise(bytes, libc::MADV_DONTNEED);
    }

    /// Makes every other view of these bytes, whole pages, forget how it maps them: a VM that runs
    /// in them faults on its next access to each page. What they hold, and what this process may do
    /// with them, stays as it is.
    ///
    /// The kernel tells KVM of each change of protection. So that there is one, the bytes may be
    /// executed for a moment. No permission is ever taken away that a vCPU may be using: `KVM_RUN`
    /// would return EFAULT.
    pub fn drop_secondary_mappings(&self, bytes: Range<usize>) -> io::Result<()> {
        const ORDINARY: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;
        self.protect(bytes.clone(), ORDINARY | libc::PROT_EXEC)?;
        self.protect(bytes, ORDINARY)
    }

    fn protect(&self, bytes: Range<usize>, protection: libc::c_int) -> io::Result<()> {
        assert!(bytes.start <= bytes.end && bytes.end <= self.len);
        assert!(protection & libc::PROT_READ != 0 && protection & libc::PROT_WRITE != 0);
        // SAFETY: the range lies in this mapping, and stays readable and writable (asserted), so
        // every access of every thread remains valid. That it may be executed does no harm: nothing
        // of this process jumps there.
        let result = unsafe {
            libc::mprotect(
                self.start.as_ptr().add(bytes.start).cast(),
                bytes.len(),
                protection,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn advise(&self, bytes: Range<usize>, advice: libc::c_int) {
        if let Err(error) = self.try_advise(bytes, advice) {
            tracing::debug!("advice {advice}: {error}");
        }
    }

    fn try_advise(&self, bytes: Range<usize>, advice: libc::c_int) -> io::Result<()> {
        assert!(bytes.start <= bytes.end && bytes.end <= self.len);
        // SAFETY: the range lies in this mapping, plain memory, and stays mapped; only `give_back`
        // changes what it contains, which nobody has references into.
        let result = unsafe {
            libc::madvise(
                self.start.as_ptr().add(bytes.start).cast(),
                bytes.len(),
                advice,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Address of the first byte.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for AnonymousMapping {
    fn drop(&mut self) {
        unmap(self.start, self.len);
    }
}

/// A shared view of memory that others write too: the kernel (the map of a BPF program), or other
/// processes (a file). Every access is atomic, so it may be read and written meanwhile.
#[derive(Debug)]
pub struct SharedMapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: every access goes through atomics.
unsafe impl Send for SharedMapping {}
// SAFETY: every access goes through atomics.
unsafe impl Sync for SharedMapping {}

impl SharedMapping {
    /// Maps the first `len` bytes of `fd` (rounded up to whole pages), readable and writable. A file
    /// must have them, and keep them: an access beyond its end kills the process.
    pub fn new(fd: BorrowedFd<'_>, len: usize) -> io::Result<Self> {
        let len = len.next_multiple_of(4096);
        let start = map(len, libc::MAP_SHARED, fd.as_raw_fd())?;
        Ok(Self { start, len })
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The byte at `offset`; panics beyond the mapping.
    pub fn load(&self, offset: usize) -> u8 {
        self.byte(offset).load(Ordering::Relaxed)
    }

    /// Sets the byte at `offset`; panics beyond the mapping.
    pub fn store(&self, offset: usize, value: u8) {
        self.byte(offset).store(value, Ordering::Relaxed);
    }

    /// The native-endian word at `offset`, which must be a multiple of 8; panics beyond the mapping.
    pub fn load_u64(&self, offset: usize) -> u64 {
        self.word(offset).load(Ordering::Relaxed)
    }

    /// Sets the native-endian word at `offset`, which must be a multiple of 8; panics beyond the
    /// mapping.
    pub fn store_u64(&self, offset: usize, value: u64) {
        self.word(offset).store(value, Ordering::Relaxed);
    }

    /// Puts `new` in the place of `current` into the word at `offset`, a multiple of 8. If another
    /// value is there, that one is returned, and it stays. Panics beyond the mapping.
    pub fn compare_exchange_u64(&self, offset: usize, current: u64, new: u64) -> Result<(), u64> {
        self.word(offset)
            .compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed)
            .map(drop)
    }

    /// Copies `out.len()` bytes from `offset` on; panics beyond the mapping.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        for (i, byte) in out.iter_mut().enumerate() {
            *byte = self.load(offset + i);
        }
    }

    fn byte(&self, offset: usize) -> &AtomicU8 {
        assert!(offset < self.len, "offset {offset} beyond the mapping");
        // SAFETY: inside the mapping (asserted), which lives as long as `self`; all accesses to it
        // from this process are atomic.
        unsafe { AtomicU8::from_ptr(self.start.as_ptr().add(offset)) }
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(
            offset.is_multiple_of(8) && offset + 8 <= self.len,
            "offset {offset} is no word of the mapping"
        );
        // SAFETY: aligned and inside the page-aligned mapping (asserted), which lives as long as
        // `self`; all accesses to it from this process are atomic.
        unsafe { AtomicU64::from_ptr(self.start.as_ptr().add(offset).cast()) }
    }
}

impl Drop for SharedMapping {
    fn drop(&mut self) {
        unmap(self.start, self.len);
    }
}

fn map(len: usize, flags: libc::c_int, fd: libc::c_int) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice changes no existing memory.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            fd,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(NonNull::new(start.cast()).expect("mmap does not return null"))
}

fn unmap(start: NonNull<u8>, len: usize) {
    if len > 0 {
        // SAFETY: the callers own this part of the mapping, and nothing refers to it any more.
        let failed = unsafe { libc::munmap(start.as_ptr().cast(), len) } != 0;
        assert!(!failed, "munmap: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_aligned() {
        let mapping = AnonymousMapping::new(3 << 20).unwrap();
        assert_eq!(mapping.as_ptr() as usize % (2 << 20), 0);
        assert_eq!(mapping.len(), 3 << 20);
    }

    #[test]
    fn dropped_mappings_keep_what_they_hold() {
        let mapping = AnonymousMapping::new(4 << 20).unwrap();
        let byte = mapping.as_ptr().wrapping_add(5000);
        // SAFETY: inside of the mapping, to which nothing else refers.
        unsafe { byte.write_volatile(7) };
        mapping.drop_secondary_mappings(4096..(2 << 20)).unwrap();
        // SAFETY: as above; it is readable and writable still.
        let read = unsafe {
            byte.write_volatile(byte.read_volatile() + 1);
            byte.read_volatile()
        };
        assert_eq!(read, 8);
    }

    #[test]
    fn a_shared_view_shows_and_changes_the_file() {
        use std::os::{fd::AsFd, unix::fs::FileExt};
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 8192], 0).unwrap();
        let view = SharedMapping::new(file.as_fd(), 5000).unwrap();
        assert_eq!(view.len(), 8192);
        assert_eq!(view.load_u64(4096), 0x0707_0707_0707_0707);
        view.store(4100, 9);
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4100).unwrap();
        assert_eq!((byte[0], view.load(4100)), (9, 9));
    }

    #[test]
    fn a_word_is_exchanged_if_nobody_was_faster() {
        use std::os::fd::AsFd;
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let one = SharedMapping::new(file.as_fd(), 4096).unwrap();
        let other = SharedMapping::new(file.as_fd(), 4096).unwrap();
        assert_eq!(one.compare_exchange_u64(8, 0, 5), Ok(()));
        assert_eq!(other.compare_exchange_u64(8, 0, 7), Err(5));
        assert_eq!(other.load_u64(8), 5);
    }
}
