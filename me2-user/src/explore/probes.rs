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
    CHUNK, COUNTERS_MAP, COUNTERS_PER_CPU, EVENTS, LARGE_FAULTS, MARKS_MAP, OUT_OF_RANGE,
    RECENT_WRITE, TOUCHED, UNREADABLE, WRITTEN,
};
use me2_vmm::mapping::SharedMapping;

pub use self::error::ProbesError;
use self::error::{LoadError, io_error};
use super::btf::{self, BtfError};

/// Most frames followed: 8 TiB of guest physical addresses, whose marks take 2 GiB.
pub const FRAMES_MAX: u64 = 1 << 31;

const TRACEPOINT: &str = "kvm_mmu_spte_requested";
const PROGRAM: &str = "spte_requested";
/// With nested paging, writes to frames that the dirty log had protected show up here alone.
const FAST_TRACEPOINT: &str = "fast_page_fault";
const FAST_PROGRAM: &str = "fast_page_fault";
/// Built from me2-ebpf by the build script; empty if it was told to leave the probes out.
const OBJECT: &[u8] = include_bytes_aligned!(env!("ME2_EBPF_OBJECT_PATH"));

/// What the probes counted since they were attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Page faults of the VM that were seen.
    pub events: u64,
    /// Of these, those that mapped a large page: its 2 MiB are marked as touched.
    pub large_faults: u64,
    /// Of these, those that left no mark: outside of the map, or unreadable.
    pub lost: u64,
}

/// Probes attached to the VM of one process. Dropping them detaches them.
#[derive(Debug)]
pub struct Probes {
    /// Keeps programs, links and maps alive.
    _programs: Ebpf,
    marks: SharedMapping,
    counters: SharedMapping,
    frames: u64,
    cpus: usize,
    name: &'static str,
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
        attach(&mut programs, PROGRAM, TRACEPOINT)?;
        let name = match attach(&mut programs, FAST_PROGRAM, FAST_TRACEPOINT) {
            Ok(()) => "raw_tracepoint:kvm_mmu_spte_requested+fast_page_fault",
            // A name inside KVM: it may go. The other one does for shadow paging.
            Err(ProbesError::NoTracepoint(_)) => "raw_tracepoint:kvm_mmu_spte_requested",
            Err(error) => return Err(error),
        };
        let marks_len = chunks as usize * CHUNK;
        let counters_len = cpus * COUNTERS_PER_CPU * size_of::<u64>();
        Ok(Self {
            marks: map_view(&programs, MARKS_MAP, marks_len)?,
            counters: map_view(&programs, COUNTERS_MAP, counters_len)?,
            _programs: programs,
            frames,
            cpus,
            name,
        })
    }

    /// What is attached, as reports name it.
    pub fn name(&self) -> &'static str {
        self.name
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
            events: total(EVENTS),
            large_faults: total(LARGE_FAULTS),
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
}

impl FaultLayout {
    fn of_this_kernel() -> Result<Self, BtfError> {
        let members = ["gfn", "write", "goal_level"];
        let [gfn, write, goal_level] =
            btf::kernel_member_offsets("kvm", "kvm_page_fault", members)?;
        Ok(Self {
            gfn,
            write,
            goal_level,
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
        .map_max_entries(MARKS_MAP, chunks)
        .map_max_entries(COUNTERS_MAP, cpus)
        .load(OBJECT)?;
    Ok(programs)
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
