//! The probes: they mark the guest frames that one virtual machine touches and writes.
//!
//! Attached to two tracepoints, which fire in the vCPU's thread: `kvm_mmu_spte_requested` each time
//! KVM's memory management is asked to map a guest frame, and `fast_page_fault` where it only has to
//! give a permission back. With shadow paging, the first write after the dirty log has protected a
//! frame takes the first way; with nested paging it takes the second, and the first never sees it.
//! (Where the processor keeps the log, Intel's PML, such a write takes neither.) Either may be
//! missing on a host. A fault that passes both leaves the same marks twice. What they record is a
//! hint: emulated code and neighbours mapped along do not show up here. Why no others are attached:
//! docs/adr/0005.
//!
//! While a window is open they also note when each frame is used for the first time in it.
//!
//! The layout of the maps is in `me2-common`; the loader (me2-user, `explore/probes.rs`) sets the
//! globals below.
#![no_std]
#![no_main]

use core::{mem::size_of, ptr::read_volatile};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, bpf_pidns_info},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
        generated::{bpf_get_ns_current_pid_tgid, bpf_probe_read_kernel},
    },
    macros::{map, raw_tracepoint},
    maps::Array,
    programs::RawTracePointContext,
};
use me2_common::{
    CHUNK, COUNTERS_PER_CPU, FAULT_BYTES_MAX, FIRST_USE_CHUNK, LARGE_FAULTS, MAP_FAULTS,
    MARKS_OF_WRITE, OUT_OF_RANGE, PERMISSION_FAULTS, TOUCHED, UNREADABLE, chunk_of,
    first_use_chunk_of, offset_in_chunk, offset_in_first_use_chunk, stamp,
};

// Set by the loader before the program is loaded, read-only from then on: constants to the
// verifier.
/// The VM's process, as its own process id namespace numbers it.
#[unsafe(no_mangle)]
static TGID: u32 = 0;
/// That namespace: device (as the kernel encodes it) and inode of /proc/self/ns/pid.
#[unsafe(no_mangle)]
static PIDNS_DEV: u64 = 0;
/// See [`PIDNS_DEV`].
#[unsafe(no_mangle)]
static PIDNS_INO: u64 = 0;
/// Byte offsets of the members of the kernel's `struct kvm_page_fault`.
#[unsafe(no_mangle)]
static OFFSET_GFN: u32 = 0;
/// See [`OFFSET_GFN`].
#[unsafe(no_mangle)]
static OFFSET_WRITE: u32 = 0;
/// See [`OFFSET_GFN`].
#[unsafe(no_mangle)]
static OFFSET_GOAL_LEVEL: u32 = 0;
/// Up to where the last of these members reaches: at most [`FAULT_BYTES_MAX`].
#[unsafe(no_mangle)]
static FAULT_BYTES: u32 = 0;

/// The kernel's first process id namespace has this inode (`PROC_PID_INIT_INO`).
const PIDNS_INO_OF_HOST: u64 = 0xefff_fffc;
/// `goal_level` of a mapping of 4 KiB; above it, large pages.
const PG_LEVEL_4K: u8 = 1;
/// Frames that a mapping of the next level covers. (A still larger one is followed only around the
/// faulting frame.)
const LARGE_FRAMES: usize = 512;

/// `me2_common::MARKS_MAP`; the loader sets its length.
#[map]
static MARKS: Array<[u8; CHUNK]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// `me2_common::COUNTERS_MAP`; the loader sets its length.
#[map]
static COUNTERS: Array<[u64; COUNTERS_PER_CPU]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// `me2_common::FIRST_USES_MAP`; the loader sets its length.
#[map]
static FIRST_USES: Array<[u32; FIRST_USE_CHUNK]> = Array::with_max_entries(1, BPF_F_MMAPABLE);
/// `me2_common::WINDOW_MAP`.
#[map]
static WINDOW: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// TP_PROTO(struct kvm_page_fault *fault)
#[raw_tracepoint(tracepoint = "kvm_mmu_spte_requested")]
pub fn spte_requested(ctx: RawTracePointContext) -> i32 {
    observe(ctx.arg(0), MAP_FAULTS);
    0
}

/// TP_PROTO(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault, u64 *sptep, u64 old_spte, int ret)
#[raw_tracepoint(tracepoint = "fast_page_fault")]
pub fn fast_page_fault(ctx: RawTracePointContext) -> i32 {
    observe(ctx.arg(1), PERMISSION_FAULTS);
    0
}

#[inline(always)]
fn observe(fault: *const u8, counter: usize) {
    if !in_the_vm_process() {
        return;
    }
    count(counter);
    let Some(fault) = Fault::read(fault) else {
        count(UNREADABLE);
        return;
    };
    mark(&fault);
    if let Some(now) = stamp_in_window() {
        note_first_use(&fault, now);
    }
}

/// What the probes need of a `struct kvm_page_fault`.
struct Fault {
    gfn: u64,
    write: bool,
    large: bool,
}

impl Fault {
    /// Copies the members out in one go, since a call of the helper is most of the cost of a probe;
    /// None where the kernel refuses.
    #[inline(always)]
    fn read(fault: *const u8) -> Option<Self> {
        let mut copy = [0_u64; FAULT_BYTES_MAX / size_of::<u64>()];
        let copy = copy.as_mut_ptr();
        // SAFETY: `copy` is valid for writes of FAULT_BYTES_MAX bytes, and FAULT_BYTES is no more. The
        // helper is made for addresses that may be bad: it returns an error for them.
        let failed =
            unsafe { bpf_probe_read_kernel(copy.cast(), global(&FAULT_BYTES), fault.cast()) };
        if failed != 0 {
            return None;
        }
        let member = |offset| copy.cast::<u8>().wrapping_add(global(offset) as usize);
        // SAFETY: all members end before FAULT_BYTES, which the verifier checks too, and a u64 is
        // aligned in the kernel's structure as in the copy.
        let (gfn, write, goal_level) = unsafe {
            (
                member(&OFFSET_GFN).cast::<u64>().read(),
                member(&OFFSET_WRITE).read(),
                member(&OFFSET_GOAL_LEVEL).read(),
            )
        };
        Some(Self {
            gfn,
            write: write != 0,
            large: goal_level > PG_LEVEL_4K,
        })
    }
}

/// Records one fault. A write leaves all marks in one plain store; a read marks only a frame
/// without any. So marks are never taken back, save where a read and a write of two vCPUs meet in
/// the same untouched frame at the same instant.
#[inline(always)]
fn mark(fault: &Fault) {
    if fault.large {
        count(LARGE_FAULTS);
    }
    let chunk = match u32::try_from(chunk_of(fault.gfn)) {
        Ok(index) => MARKS.get_ptr_mut(index),
        Err(_) => None,
    };
    let Some(chunk) = chunk else {
        count(OUT_OF_RANGE);
        return;
    };
    if fault.large {
        touch_around(chunk.cast(), fault.gfn);
    }
    let byte = chunk.cast::<u8>().wrapping_add(offset_in_chunk(fault.gfn));
    // SAFETY: the map returned an element of CHUNK bytes, the offset is below CHUNK, and the
    // element lives as long as the program. User space and other CPUs access the same byte; all of
    // them do so by single-byte loads and stores.
    unsafe {
        if fault.write {
            byte.write_volatile(MARKS_OF_WRITE);
        } else if byte.read_volatile() == 0 {
            byte.write_volatile(TOUCHED);
        }
    }
}

/// Marks the frames of the 2 MiB around `gfn` as touched: from now on the guest accesses them without
/// a fault.
#[inline(always)]
fn touch_around(chunk: *mut u8, gfn: u64) {
    let first = offset_in_chunk(gfn) & !(LARGE_FRAMES - 1);
    for frame in 0..LARGE_FRAMES {
        let byte = chunk.wrapping_add(first + frame);
        // SAFETY: CHUNK is a multiple of LARGE_FRAMES, so `first + frame` is below it; otherwise as
        // in `mark`.
        unsafe {
            if byte.read_volatile() == 0 {
                byte.write_volatile(TOUCHED);
            }
        }
    }
}

/// The time as first uses have it, None while no window is open.
#[inline(always)]
fn stamp_in_window() -> Option<u32> {
    let opened = WINDOW.get_ptr(0)?;
    // SAFETY: the map returned its element, which lives as long as the program. User space stores
    // to it, a word at a time.
    let opened = unsafe { opened.read_volatile() };
    if opened == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    Some(stamp(opened, unsafe { bpf_ktime_get_ns() }))
}

/// Stores `now` for each frame that the fault maps, unless it has a time already. Two vCPUs that
/// meet in one frame at the same instant may store either's.
#[inline(always)]
fn note_first_use(fault: &Fault, now: u32) {
    let chunk = match u32::try_from(first_use_chunk_of(fault.gfn)) {
        Ok(index) => FIRST_USES.get_ptr_mut(index),
        Err(_) => None,
    };
    let Some(chunk) = chunk else { return }; // `mark` has counted it
    let chunk = chunk.cast::<u32>();
    let offset = offset_in_first_use_chunk(fault.gfn);
    if note(chunk, offset, now) {
        count(me2_common::FIRST_USES);
    }
    if !fault.large {
        return;
    }
    let first = offset & !(LARGE_FRAMES - 1);
    for frame in 0..LARGE_FRAMES {
        note(chunk, first + frame, now);
    }
}

/// Whether the frame had no time yet. `offset` is below FIRST_USE_CHUNK.
#[inline(always)]
fn note(chunk: *mut u32, offset: usize, now: u32) -> bool {
    let word = chunk.wrapping_add(offset);
    // SAFETY: inside of the element (FIRST_USE_CHUNK is a multiple of LARGE_FRAMES), which lives as
    // long as the program. User space and other CPUs access whole words of it too.
    unsafe {
        let is_first = word.read_volatile() == 0;
        if is_first {
            word.write_volatile(now);
        }
        is_first
    }
}

#[inline(always)]
fn in_the_vm_process() -> bool {
    if global(&PIDNS_INO) == PIDNS_INO_OF_HOST {
        // Whose numbers this helper gives, for less than the other.
        return (bpf_get_current_pid_tgid() >> 32) as u32 == global(&TGID);
    }
    let mut id = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: `id` is valid for writes of its size. The helper fails in every other namespace than
    // the named one.
    let failed = unsafe {
        bpf_get_ns_current_pid_tgid(
            global(&PIDNS_DEV),
            global(&PIDNS_INO),
            &raw mut id,
            size_of::<bpf_pidns_info>() as u32,
        )
    };
    failed == 0 && id.tgid == global(&TGID)
}

#[inline(always)]
fn count(counter: usize) {
    // SAFETY: the helper has no preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(row) = COUNTERS.get_ptr_mut(cpu as u32) {
        // SAFETY: every counter is below COUNTERS_PER_CPU, and only this CPU writes to its row: the
        // kernel does not run a program on a CPU where it is running already.
        unsafe { (*row)[counter] += 1 }
    }
}

/// The value that the loader gave to a global: without `read_volatile` the compiler takes the zero
/// from here.
#[inline(always)]
fn global<T: Copy>(value: &'static T) -> T {
    // SAFETY: a reference is valid for reads.
    unsafe { read_volatile(value) }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
