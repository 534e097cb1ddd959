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

/// Guest frames per element of [`MARKS_MAP`].
pub const CHUNK: usize = 4096;

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
/// Counter: page faults of this VM that the probe has seen.
pub const EVENTS: usize = 0;
/// Counter: of [`EVENTS`], those that mapped a large page: all frames of its 2 MiB were marked as touched,
/// the faulting one as the fault was.
pub const LARGE_FAULTS: usize = 1;
/// Counter: of [`EVENTS`], those whose frame is beyond the end of [`MARKS_MAP`]: not marked.
pub const OUT_OF_RANGE: usize = 2;
/// Counter: of [`EVENTS`], those whose fields the kernel would not let the probe read: not marked.
pub const UNREADABLE: usize = 3;

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
