//! The layout of the maps that the probes (me2-ebpf) and their loader (me2-user) share, and nothing
//! else.
//!
//! Only plain integers live here, so that one definition serves both targets.
//!
//! # Marks
//! [`MARKS_MAP`] holds one byte per guest frame, at index [`chunk_of`] and offset
//! [`offset_in_chunk`]. Its elements are as long as a page, so in an `mmap` of the map the bytes
//! lie back to back: byte `gfn` belongs to frame `gfn`.
//!
//! # First uses
//! [`FIRST_USES_MAP`] holds one `u32` per guest frame, at index [`first_use_chunk_of`] and offset
//! [`offset_in_first_use_chunk`]; in an `mmap` word `gfn` belongs to frame `gfn`. While a window is
//! open, the first access to a frame whose word is 0 stores the time, as [`stamp`] makes it. Words
//! of several vCPUs need no order among themselves, a frame that is used again keeps its first
//! time, and nothing can overflow: what a ring of records would have to sort, merge and count as
//! lost is not there. The price is 4 bytes a frame, and an order as fine as the clock.
//!
//! [`WINDOW_MAP`] is one `u64`: when the window was opened, in nanoseconds of the monotonic clock;
//! 0 while none is open. User space opens and closes a window by one plain store.
//!
//! # Counters
//! [`COUNTERS_MAP`] holds one row of [`COUNTERS_PER_CPU`] `u64` for each possible CPU. A probe adds
//! to the row of the CPU that it runs on, so no increment is lost without atomics; the reader adds
//! the rows up.
#![no_std]

/// Name of the map of marks: an mmapable array of `[u8; CHUNK]`, one byte per guest frame.
pub const MARKS_MAP: &str = "MARKS";
/// Name of the map of counters: an mmapable array of `[u64; COUNTERS_PER_CPU]`, one element per
/// possible CPU.
pub const COUNTERS_MAP: &str = "COUNTERS";

/// Name of the map of first uses: an mmapable array of `[u32; FIRST_USE_CHUNK]`, one word per guest
/// frame.
pub const FIRST_USES_MAP: &str = "FIRST_USES";
/// Name of the map that opens a window: an mmapable array of one `u64`.
pub const WINDOW_MAP: &str = "WINDOW";

/// Guest frames per element of [`MARKS_MAP`].
pub const CHUNK: usize = 4096;
/// Guest frames per element of [`FIRST_USES_MAP`]: as long as a page too.
pub const FIRST_USE_CHUNK: usize = CHUNK / size_of::<u32>();

/// Most bytes that are read of the kernel's description of a fault.
pub const FAULT_BYTES_MAX: usize = 128;

/// A unit of the times in [`FIRST_USES_MAP`] is `1 << STAMP_SHIFT` nanoseconds: about a microsecond,
/// less than a fault takes.
pub const STAMP_SHIFT: u32 = 10;

/// Mark: the guest has accessed the frame since the probes were attached.
pub const TOUCHED: u8 = 1;
/// Mark: the guest has written to the frame since the probes were attached.
pub const WRITTEN: u8 = 1 << 1;
/// Mark: the guest has written to the frame since user space last cleared this mark.
pub const RECENT_WRITE: u8 = 1 << 2;
/// What a write leaves: every mark, in one plain store.
pub const MARKS_OF_WRITE: u8 = TOUCHED | WRITTEN | RECENT_WRITE;

/// `u64` slots in a CPU's row of counters: a cache line, so that CPUs do not share one.
pub const COUNTERS_PER_CPU: usize = 8;
/// Counter: page faults of this VM for which KVM was asked to map a frame.
pub const MAP_FAULTS: usize = 0;
/// Counter: page faults of this VM that KVM tried to mend by giving a permission back. Where that
/// fails, the same fault is among [`MAP_FAULTS`] too; its marks are the same, and so merge.
pub const PERMISSION_FAULTS: usize = 4;
/// Counter: of all faults, those that mapped a large page: all frames of its 2 MiB were marked as touched,
/// the faulting one as the fault was.
pub const LARGE_FAULTS: usize = 1;
/// Counter: of all faults, those whose frame is beyond the end of [`MARKS_MAP`]: not marked.
pub const OUT_OF_RANGE: usize = 2;
/// Counter: of all faults, those whose fields the kernel would not let the probe read: not marked.
pub const UNREADABLE: usize = 3;
/// Counter: of all faults, those that were the first use of their frame in a window.
pub const FIRST_USES: usize = 5;

/// Index in [`MARKS_MAP`] of the element that holds the mark of frame `gfn`.
#[inline(always)]
pub const fn chunk_of(gfn: u64) -> u64 {
    gfn / CHUNK as u64
}

/// Offset of the mark of frame `gfn` in its element of [`MARKS_MAP`], always below [`CHUNK`].
#[inline(always)]
pub const fn offset_in_chunk(gfn: u64) -> usize {
    (gfn % CHUNK as u64) as usize
}

/// Index in [`FIRST_USES_MAP`] of the element that holds the word of frame `gfn`.
#[inline(always)]
pub const fn first_use_chunk_of(gfn: u64) -> u64 {
    gfn / FIRST_USE_CHUNK as u64
}

/// Offset, in words, of frame `gfn` in its element of [`FIRST_USES_MAP`]; below
/// [`FIRST_USE_CHUNK`].
#[inline(always)]
pub const fn offset_in_first_use_chunk(gfn: u64) -> usize {
    (gfn % FIRST_USE_CHUNK as u64) as usize
}

/// What the first use at `now` stores in a window that was opened at `opened`: never 0. Longer than
/// an hour after it wraps; no window lasts that long.
#[inline(always)]
pub const fn stamp(opened: u64, now: u64) -> u32 {
    // CPUs' clocks may differ by a little.
    match (now.saturating_sub(opened) >> STAMP_SHIFT) as u32 {
        u32::MAX => u32::MAX,
        units => units + 1,
    }
}

/// Nanoseconds after the opening of its window that a `stamp` other than 0 stands for.
#[inline(always)]
pub const fn stamp_ns(stamp: u32) -> u64 {
    (stamp.saturating_sub(1) as u64) << STAMP_SHIFT
}
