//! The probes, loaded and attached: which guest frames the VM of this process touches and writes.
//!
//! Everything here is a hint. The dirty log decides what is sent: a fault may map neighbours that
//! no event tells of, code that KVM emulates makes no event, and a read of a writable page may map
//! it writable.

mod error;

use std::{
    fs, io,
    ops::Range,
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned, maps::Map, programs::RawTracePoint, util::nr_cpus,
};
use me2_common::{
    CHUNK, COUNTERS_MAP, COUNTERS_PER_CPU, FAULT_BYTES_MAX, FIRST_USE_CHUNK, FIRST_USES,
    FIRST_USES_MAP, LARGE_FAULTS, MAP_FAULTS, MARKS_MAP, OUT_OF_RANGE, PERMISSION_FAULTS,
    RECENT_WRITE, TOUCHED, UNREADABLE, WINDOW_MAP, WRITTEN, stamp_ns,
};
use me2_vmm::{clock, mapping::SharedMapping};

pub use self::error::ProbesError;
use self::error::{LoadError, io_error};
use super::btf::{self, BtfError};

/// Most frames followed: 8 TiB of guest physical addresses, whose maps take 10 GiB.
pub const FRAMES_MAX: u64 = 1 << 31;

/// Programs of the object, each with its tracepoint. Both are names inside KVM, which may go; any
/// one of them will do. The first does for shadow paging; with nested paging, writes to frames that
/// the dirty log had protected show up in the second alone.
const PROGRAMS: [(&str, &str); 2] = [
    ("spte_requested", "kvm_mmu_spte_requested"),
    ("fast_page_fault", "fast_page_fault"),
];
/// Built from me2-ebpf by the build script; empty if it was told to leave the probes out.
const OBJECT: &[u8] = include_bytes_aligned!(env!("ME2_EBPF_OBJECT_PATH"));

/// What the probes counted since they were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Page faults of the VM for which KVM was asked to map a frame.
    pub map_faults: u64,
    /// Page faults of the VM that KVM tried to mend by giving a permission back; where that failed,
    /// the fault is among `map_faults` too.
    pub permission_faults: u64,
    /// Of all these, those that mapped a large page: its 2 MiB are marked as touched.
    pub large_faults: u64,
    /// Of all these, those that were the first use of their frame in a window.
    pub first_uses: u64,
    /// Of all these, those that left no mark: outside of the map, or unreadable.
    pub lost: u64,
}

impl Counters {
    /// How often probes fired for this VM.
    pub fn events(&self) -> u64 {
        self.map_faults + self.permission_faults
    }
}

/// Probes attached to the VM of one process. Dropping them detaches them.
#[derive(Debug)]
pub struct Probes {
    /// Keeps programs, links and maps alive.
    _programs: Ebpf,
    marks: SharedMapping,
    first_uses: SharedMapping,
    window: SharedMapping,
    counters: SharedMapping,
    frames: u64,
    cpus: usize,
    name: String,
}

impl Probes {
    /// Loads the probes and attaches them to the VM of this process, whose guest frame numbers are
    /// below `frames`.
    ///
    /// # Errors
    /// Whatever is missing on this host, as one sentence. Migration works without probes.
    pub fn open(frames: u64) -> Result<Self, ProbesError> {
        Self::open_for(std::process::id(), frames)
    }

    /// As [`Probes::open`], for another process of the same process id namespace.
    pub(crate) fn open_for(process: u32, frames: u64) -> Result<Self, ProbesError> {
        if OBJECT.is_empty() {
            return Err(ProbesError::NotBuilt);
        }
        if frames > FRAMES_MAX {
            return Err(ProbesError::TooManyFrames { frames });
        }
        let chunks = frames.div_ceil(CHUNK as u64).max(1) as u32;
        let layout = FaultLayout::of_this_kernel().map_err(ProbesError::NoLayout)?;
        let cpus = nr_cpus().map_err(|(_, error)| ProbesError::NoSysfs(error))?;
        let mut programs = load(process, chunks, cpus as u32, &layout)
            .map_err(|error| ProbesError::from_load(frames, error))?;
        let attached = attach_what_exists(&mut programs)?;
        let frames_mapped = chunks as usize * CHUNK;
        let counters_len = cpus * COUNTERS_PER_CPU * size_of::<u64>();
        Ok(Self {
            marks: map_view(&programs, MARKS_MAP, frames_mapped)?,
            first_uses: map_view(&programs, FIRST_USES_MAP, frames_mapped * size_of::<u32>())?,
            window: map_view(&programs, WINDOW_MAP, size_of::<u64>())?,
            counters: map_view(&programs, COUNTERS_MAP, counters_len)?,
            _programs: programs,
            frames,
            cpus,
            name: format!("raw_tracepoint:{}", attached.join("+")),
        })
    }

    /// What is attached, as reports name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the probes counted so far.
    pub fn counters(&self) -> Counters {
        let total = |counter: usize| -> u64 {
            let slots = (0..self.cpus).map(|cpu| cpu * COUNTERS_PER_CPU + counter);
            slots
                .map(|slot| self.counters.load_u64(slot * size_of::<u64>()))
                .sum()
        };
        Counters {
            map_faults: total(MAP_FAULTS),
            permission_faults: total(PERMISSION_FAULTS),
            large_faults: total(LARGE_FAULTS),
            first_uses: total(FIRST_USES),
            lost: total(OUT_OF_RANGE) + total(UNREADABLE),
        }
    }

    /// The marks of a frame: bits of `me2_common` (`TOUCHED`, `WRITTEN`, `RECENT_WRITE`).
    ///
    /// # Panics
    /// If the probes were opened with fewer frames.
    pub fn mark(&self, gfn: u64) -> u8 {
        assert!(gfn < self.frames, "frame {gfn} of {}", self.frames);
        self.marks.load(gfn as usize)
    }

    /// Calls `visit` with the number and the marks of each frame in `gfns` that has any, in
    /// ascending order.
    ///
    /// # Panics
    /// If the range goes beyond the frames that the probes were opened with.
    pub fn for_each_marked(&self, gfns: Range<u64>, mut visit: impl FnMut(u64, u8)) {
        let mut chunk = [0; CHUNK];
        let bytes = self.bytes_of(gfns);
        for start in bytes.clone().step_by(CHUNK) {
            let marks = &mut chunk[..CHUNK.min(bytes.end - start)];
            self.marks.copy_out(start, marks);
            if marks.iter().all(|&mark| mark == 0) {
                continue; // most chunks of most VMs; the check is vectorised
            }
            for (index, &mark) in marks.iter().enumerate() {
                if mark != 0 {
                    visit((start + index) as u64, mark);
                }
            }
        }
    }

    /// Calls `visit` with each frame in `gfns` written since the last call, and forgets that it
    /// was.
    ///
    /// A write is told at least once: one that comes in between is told by this call or by the
    /// next.
    ///
    /// # Panics
    /// As [`Probes::for_each_marked`].
    pub fn take_recent_writes(&self, gfns: Range<u64>, mut visit: impl FnMut(u64)) {
        self.for_each_marked(gfns, |gfn, mark| {
            if mark & RECENT_WRITE != 0 {
                // The probes leave the other two with it, so nothing that they store meanwhile is
                // undone.
                self.marks.store(gfn as usize, TOUCHED | WRITTEN);
                visit(gfn);
            }
        });
    }

    /// Forgets which of the frames `gfns` were written recently.
    ///
    /// # Panics
    /// As [`Probes::for_each_marked`].
    pub fn clear_recent(&self, gfns: Range<u64>) {
        self.take_recent_writes(gfns, |_| ());
    }

    /// How many frames were touched, and how many of them written, since the probes were attached.
    pub fn touched_written(&self) -> (u64, u64) {
        let (mut touched, mut written) = (0, 0);
        self.for_each_marked(0..self.frames, |_, mark| {
            touched += u64::from(mark & TOUCHED != 0);
            written += u64::from(mark & WRITTEN != 0);
        });
        (touched, written)
    }

    /// Opens a window: from now on the first use of each frame is noted, of those that
    /// [`Probes::forget_first_uses`] has been called for.
    pub fn open_window(&self) {
        self.window.store_u64(0, clock::monotonic_ns());
    }

    /// Closes the window; what was noted stays.
    pub fn close_window(&self) {
        self.window.store_u64(0, 0);
    }

    /// Calls `visit` with each frame in `gfns` that was used in the window, and when that was for
    /// the first time, in nanoseconds after the window was opened; in the order of the frames.
    ///
    /// # Panics
    /// As [`Probes::for_each_marked`].
    pub fn for_each_first_use(&self, gfns: Range<u64>, mut visit: impl FnMut(u64, u64)) {
        for pair in self.pairs_of(gfns.clone()) {
            let stamps = self.first_uses.load_u64(pair * size_of::<u64>());
            if stamps == 0 {
                continue;
            }
            for (gfn, stamp) in (2 * pair as u64..).zip([stamps as u32, (stamps >> 32) as u32]) {
                if stamp != 0 && gfns.contains(&gfn) {
                    visit(gfn, stamp_ns(stamp));
                }
            }
        }
    }

    /// Has the first use of each of the frames `gfns` noted again; also of a neighbour at either
    /// end, to make the range one of pairs.
    ///
    /// # Panics
    /// As [`Probes::for_each_marked`].
    pub fn forget_first_uses(&self, gfns: Range<u64>) {
        for pair in self.pairs_of(gfns) {
            self.first_uses.store_u64(pair * size_of::<u64>(), 0);
        }
    }

    /// First uses lie in their mapping two to a `u64`, the even frame's lower: which hold `gfns`.
    fn pairs_of(&self, gfns: Range<u64>) -> Range<usize> {
        let frames = self.bytes_of(gfns);
        frames.start / 2..frames.end.div_ceil(2)
    }

    /// Where the marks of `gfns` lie in their mapping.
    fn bytes_of(&self, gfns: Range<u64>) -> Range<usize> {
        assert!(
            gfns.start <= gfns.end && gfns.end <= self.frames,
            "frames {gfns:?} of {}",
            self.frames
        );
        gfns.start as usize..gfns.end as usize
    }
}

/// Byte offsets of the members of `struct kvm_page_fault` that the probe reads.
struct FaultLayout {
    gfn: u32,
    write: u32,
    goal_level: u32,
    /// The last of them ends here.
    end: u32,
}

impl FaultLayout {
    fn of_this_kernel() -> Result<Self, BtfError> {
        let members = ["gfn", "write", "goal_level"];
        let [gfn, write, goal_level] =
            btf::kernel_member_offsets("kvm", "kvm_page_fault", members)?;
        let last = gfn.max(write).max(goal_level);
        // A kernel that has it further on has another structure.
        let end = last
            .checked_add(size_of::<u64>() as u32)
            .filter(|end| *end as usize <= FAULT_BYTES_MAX)
            .ok_or(BtfError::Malformed("struct kvm_page_fault is too long"))?;
        Ok(Self {
            gfn,
            write,
            goal_level,
            end,
        })
    }
}

/// Creates the maps, and gives the probes what they need to know of process and kernel.
fn load(process: u32, chunks: u32, cpus: u32, layout: &FaultLayout) -> Result<Ebpf, LoadError> {
    let namespace = fs::metadata("/proc/self/ns/pid").map_err(LoadError::Namespace)?;
    let (device, inode) = (kernel_device(namespace.dev()), namespace.ino());
    let programs = EbpfLoader::new()
        .btf(None) // the probes have no relocations against the kernel's types
        .override_global("TGID", &process, true)
        .override_global("PIDNS_DEV", &device, true)
        .override_global("PIDNS_INO", &inode, true)
        .override_global("OFFSET_GFN", &layout.gfn, true)
        .override_global("OFFSET_WRITE", &layout.write, true)
        .override_global("OFFSET_GOAL_LEVEL", &layout.goal_level, true)
        .override_global("FAULT_BYTES", &layout.end, true)
        .map_max_entries(MARKS_MAP, chunks)
        .map_max_entries(FIRST_USES_MAP, chunks * (CHUNK / FIRST_USE_CHUNK) as u32)
        .map_max_entries(COUNTERS_MAP, cpus)
        .load(OBJECT)?;
    Ok(programs)
}

/// Attaches every program whose tracepoint this kernel has; the tracepoints, or why there is none.
fn attach_what_exists(programs: &mut Ebpf) -> Result<Vec<&'static str>, ProbesError> {
    let mut attached = Vec::new();
    let mut missing = None;
    for (program, tracepoint) in PROGRAMS {
        match attach(programs, program, tracepoint) {
            Ok(()) => attached.push(tracepoint),
            Err(ProbesError::NoTracepoint(cause)) => missing = Some(cause),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(cause) if attached.is_empty() => Err(ProbesError::NoTracepoint(cause)),
        _ => Ok(attached),
    }
}

fn attach(programs: &mut Ebpf, name: &str, tracepoint: &str) -> Result<(), ProbesError> {
    let program = programs.program_mut(name);
    let program = program.expect("the object holds the program that it was built from");
    let program: &mut RawTracePoint = program.try_into().map_err(ProbesError::from_program)?;
    program.load().map_err(ProbesError::from_program)?;
    match program.attach(tracepoint) {
        Ok(_link) => Ok(()), // owned by the program
        Err(error) => match io_error(&error) {
            Some(cause) if cause.kind() == io::ErrorKind::NotFound => {
                Err(ProbesError::NoTracepoint(cause))
            }
            _ => Err(ProbesError::from_program(error)),
        },
    }
}

fn map_view(programs: &Ebpf, name: &str, len: usize) -> Result<SharedMapping, ProbesError> {
    let Some(Map::Array(map)) = programs.map(name) else {
        panic!("the object holds the array {name}");
    };
    SharedMapping::new(map.fd().as_fd(), len).map_err(|error| ProbesError::Refused(error.into()))
}

/// A device number as the kernel's helpers take it, from the encoding that stat(2) gives.
fn kernel_device(stat: u64) -> u64 {
    let major = stat >> 8 & 0xfff;
    let minor = stat & 0xff | stat >> 12 & 0xf_ff00;
    major << 20 | minor
}

#[cfg(test)]
mod tests {
    use me2_common::MARKS_OF_WRITE;

    use super::*;

    /// Probes where the host permits them; elsewhere the reason has to be one that is foreseen.
    fn open(frames: u64) -> Option<Probes> {
        match Probes::open(frames) {
            Ok(probes) => Some(probes),
            Err(error @ ProbesError::Refused(_)) => panic!("{error}: {error:?}"),
            Err(error) => {
                eprintln!("skipped: {error}");
                None
            }
        }
    }

    #[test]
    fn marks_lie_at_their_frames() {
        let frames = 2 * CHUNK as u64 + 100;
        let Some(probes) = open(frames) else { return };
        assert_eq!(probes.touched_written(), (0, 0));
        let last = frames - 1;
        for (gfn, mark) in [
            (3, TOUCHED),
            (CHUNK as u64, MARKS_OF_WRITE),
            (last, TOUCHED),
        ] {
            probes.marks.store(gfn as usize, mark);
        }
        assert_eq!(probes.touched_written(), (3, 1));
        assert_eq!([2, 3, 4].map(|gfn| probes.mark(gfn)), [0, TOUCHED, 0]);
        assert_eq!(probes.mark(last), TOUCHED);
        let mut seen = Vec::new();
        probes.for_each_marked(4..frames, |gfn, mark| seen.push((gfn, mark)));
        assert_eq!(seen, [(CHUNK as u64, MARKS_OF_WRITE), (last, TOUCHED)]);
    }

    #[test]
    fn a_recent_write_is_told_once() {
        let Some(probes) = open(CHUNK as u64) else {
            return;
        };
        probes.marks.store(7, MARKS_OF_WRITE);
        probes.marks.store(8, TOUCHED);
        let recent = || {
            let mut gfns = Vec::new();
            probes.take_recent_writes(0..CHUNK as u64, |gfn| gfns.push(gfn));
            gfns
        };
        assert_eq!(recent(), [7]);
        assert!(recent().is_empty());
        assert_eq!(probes.touched_written(), (2, 1));
    }

    #[test]
    fn first_uses_lie_at_their_frames() {
        let Some(probes) = open(CHUNK as u64 + 10) else {
            return;
        };
        let set = |gfn: u64, stamp: u32| {
            let bytes = stamp.to_ne_bytes();
            for (at, byte) in (4 * gfn as usize..).zip(bytes) {
                probes.first_uses.store(at, byte);
            }
        };
        let seen = |gfns| {
            let mut seen = Vec::new();
            probes.for_each_first_use(gfns, |gfn, ns| seen.push((gfn, ns)));
            seen
        };
        let all = 0..CHUNK as u64 + 10;
        for (gfn, stamp) in [(2, 1), (3, 3), (1027, 1001), (4099, 2)] {
            set(gfn, stamp);
        }
        let expected = [(2, 0), (3, 2048), (1027, 1_024_000), (4099, 1024)];
        assert_eq!(seen(all.clone()), expected);
        assert_eq!(seen(3..1027), expected[1..2], "both ends within a pair");
        probes.forget_first_uses(2..1028);
        assert_eq!(seen(all), expected[3..]);
    }

    #[test]
    fn times_become_stamps() {
        use me2_common::stamp;
        assert_eq!([0, 1023, 1024].map(|ns| stamp(5000, 5000 + ns)), [1, 1, 2]);
        assert_eq!(stamp(5000, 4000), 1, "a clock that is behind");
        assert_eq!(stamp_ns(stamp(7, 7 + (3 << 30))), 3 << 30);
        assert_eq!(stamp(0, u64::MAX), u32::MAX, "never 0");
    }

    #[test]
    fn too_many_frames_are_refused() {
        let error = Probes::open(FRAMES_MAX + 1).map(drop);
        assert!(matches!(
            error,
            Err(ProbesError::TooManyFrames { .. } | ProbesError::NotBuilt)
        ));
    }

    #[test]
    fn device_numbers_are_those_of_the_kernel() {
        assert_eq!(kernel_device(4), 4);
        assert_eq!(kernel_device(0x0010_0004), 0x104); // minor 260
        assert_eq!(kernel_device(0x0801), 0x80_0001); // 8:1, /dev/sda1
    }
}
