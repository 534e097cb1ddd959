//! The state of a stopped VM, in pieces with a kind and a version each: what travels at the
//! handover besides memory.
//!
//! Saving may write guest memory, so the dirty log is read after it. Restoring may *read* guest
//! memory (the clock pages that MSRs name), so a destination serves page faults before it restores.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, Xsave, kvm_clock_data,
    kvm_debugregs, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2,
    kvm_regs, kvm_vcpu_events, kvm_xcrs, kvm_xsave, kvm_xsave2,
};
use kvm_ioctls::VcpuFd;
use me2_wire::blob::StateBlob;
use serde::{Deserialize, Serialize};
use vmm_sys_util::{eventfd::EventFd, fam::FamStruct};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    clock::monotonic_ns,
    devices::{SERIAL_IRQ, SerialRegisters, transport::DeviceState},
    ioctls::{self, SREGS2_BYTES},
    vm::{Vm, VmError, failed},
};

mod pages;

/// What a piece of state is. 0 is never valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
enum Kind {
    Registers = 1,
    SpecialRegisters = 2,
    Xsave = 3,
    ExtendedControl = 4,
    Msrs = 5,
    LocalApic = 6,
    Events = 7,
    Multiprocessing = 8,
    DebugRegisters = 9,
    TscOffset = 10,
    InterruptController = 32,
    IntervalTimer = 33,
    Clock = 34,
    Serial = 64,
    Virtio = 65,
}

/// Every kind: state that this me2 does not know is refused, never left out.
const KINDS: [u16; 15] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 32, 33, 34, 64, 65];

/// The version of every kind, so far.
const STATE_VERSION: u16 = 1;

/// Why a VM's state could not be saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A KVM call failed.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// A piece has a version that this me2 does not know.
    #[error("state of kind {kind} has version {version}; this me2 knows version {STATE_VERSION}")]
    Version {
        /// Its kind.
        kind: u16,
        /// Its version.
        version: u16,
    },
    /// A piece of a kind that this me2 does not know.
    #[error("state of kind {0} is unknown to this me2")]
    Unknown(u16),
    /// A piece is missing.
    #[error("state of kind {kind} for number {index} is missing")]
    Missing {
        /// Its kind.
        kind: u16,
        /// vCPU or device number.
        index: u16,
    },
    /// A piece has the wrong size or impossible content.
    #[error("state of kind {0} is malformed")]
    Malformed(u16),
    /// The host does not take an MSR that the guest has.
    #[error("this host does not take the guest's MSR {0:#x}")]
    Msr(u32),
}

/// How much time the guest missed while it was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Elapsed {
    /// Source and destination are one host: its clocks tell.
    SameHost,
    /// They are not: as measured, in nanoseconds.
    Nanoseconds(u64),
}

/// The clocks at the moment of saving.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Clocks {
    kvmclock_ns: u64,
    monotonic_ns: u64,
    host_tsc: u64,
}

const MSR_TSC: u32 = 0x10;
/// KVM's wall clock MSRs only make KVM write the clock page once; the page itself travels.
const MSR_WALL_CLOCK: [u32; 2] = [0x11, 0x4b56_4d00];

impl Vm {
    /// Saves the state of the stopped VM.
    pub fn save(&self) -> Result<Vec<StateBlob>, StateError> {
        let mut blobs = Vec::new();
        for index in 0..self.vcpus().count() {
            self.save_vcpu(index as u16, &mut blobs)?;
        }
        for chip in [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ] {
            let mut state = kvm_irqchip {
                chip_id: chip,
                ..Default::default()
            };
            self.fd
                .get_irqchip(&mut state)
                .map_err(failed("KVM_GET_IRQCHIP"))?;
            blobs.push(blob(
                Kind::InterruptController,
                chip as u16,
                state.as_bytes(),
            ));
        }
        let pit = self.fd.get_pit2().map_err(failed("KVM_GET_PIT2"))?;
        blobs.push(blob(Kind::IntervalTimer, 0, pit.as_bytes()));
        blobs.push(blob(Kind::Serial, 0, &json(&self.devices.console.save())));
        for (index, device) in self.devices.virtio().enumerate() {
            let state = json(&device.save());
            blobs.push(blob(Kind::Virtio, index as u16, &state));
        }
        let clocks = Clocks {
            kvmclock_ns: self.fd.get_clock().map_err(failed("KVM_GET_CLOCK"))?.clock,
            monotonic_ns: monotonic_ns(),
            host_tsc: ioctls::host_tsc(),
        };
        blobs.push(blob(Kind::Clock, 0, &json(&clocks)));
        Ok(blobs)
    }

    /// Restores state into the stopped VM. Faults on the guest memory that the state refers to.
    pub fn restore(&self, blobs: &[StateBlob], elapsed: Elapsed) -> Result<(), StateError> {
        check(blobs, self.vcpus().count() as u32)?;
        self.restore_virtio(blobs)?;
        let clocks: Clocks = parse_json(blobs, Kind::Clock)?;
        let elapsed_ns = match elapsed {
            Elapsed::SameHost => monotonic_ns().saturating_sub(clocks.monotonic_ns),
            Elapsed::Nanoseconds(ns) => ns,
        };
        for chip in [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ] {
            let mut state: kvm_irqchip = parse(blobs, Kind::InterruptController, chip as u16)?;
            state.chip_id = chip;
            self.fd
                .set_irqchip(&state)
                .map_err(failed("KVM_SET_IRQCHIP"))?;
        }
        let pit: kvm_pit_state2 = parse(blobs, Kind::IntervalTimer, 0)?;
        self.fd.set_pit2(&pit).map_err(failed("KVM_SET_PIT2"))?;
        self.restore_serial(parse_json(blobs, Kind::Serial)?)?;
        let clock = kvm_clock_data {
            clock: clocks.kvmclock_ns.saturating_add(elapsed_ns),
            ..Default::default()
        };
        self.fd.set_clock(&clock).map_err(failed("KVM_SET_CLOCK"))?;
        let tsc_shift = match elapsed {
            Elapsed::SameHost => 0,
            Elapsed::Nanoseconds(ns) => {
                let ticks =
                    (u128::from(ns) * u128::from(self.document().tsc_khz) / 1_000_000) as u64;
                clocks
                    .host_tsc
                    .wrapping_add(ticks)
                    .wrapping_sub(ioctls::host_tsc())
            }
        };
        for index in 0..self.vcpus().count() {
            self.restore_vcpu(index as u16, blobs, tsc_shift)?;
        }
        Ok(())
    }

    fn save_vcpu(&self, index: u16, blobs: &mut Vec<StateBlob>) -> Result<(), StateError> {
        let fd = self.vcpus().fd(index as usize);
        // First, since reading the others depends on events not being half delivered.
        let mp_state = fd.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?;
        let mut add = |kind, bytes: &[u8]| blobs.push(blob(kind, index, bytes));
        add(Kind::Multiprocessing, mp_state.as_bytes());
        add(
            Kind::Registers,
            fd.get_regs().map_err(failed("KVM_GET_REGS"))?.as_bytes(),
        );
        add(
            Kind::SpecialRegisters,
            &ioctls::get_sregs2(&fd).map_err(failed("KVM_GET_SREGS2"))?,
        );
        add(Kind::Xsave, &get_xsave(&fd, self.xsave_bytes)?);
        add(
            Kind::ExtendedControl,
            fd.get_xcrs().map_err(failed("KVM_GET_XCRS"))?.as_bytes(),
        );
        add(
            Kind::DebugRegisters,
            fd.get_debug_regs()
                .map_err(failed("KVM_GET_DEBUGREGS"))?
                .as_bytes(),
        );
        let lapic = fd.get_lapic().map_err(failed("KVM_GET_LAPIC"))?;
        add(Kind::LocalApic, lapic.as_bytes());
        add(Kind::Msrs, get_msrs(&fd, &self.msr_indices)?.as_bytes());
        let offset =
            ioctls::get_tsc_offset(&fd).map_err(failed("KVM_GET_DEVICE_ATTR (TSC offset)"))?;
        add(Kind::TscOffset, &offset.to_le_bytes());
        add(
            Kind::Events,
            fd.get_vcpu_events()
                .map_err(failed("KVM_GET_VCPU_EVENTS"))?
                .as_bytes(),
        );
        Ok(())
    }

    fn restore_vcpu(
        &self,
        index: u16,
        blobs: &[StateBlob],
        tsc_shift: u64,
    ) -> Result<(), StateError> {
        let fd = self.vcpus().fd(index as usize);
        let sregs: [u8; SREGS2_BYTES] = parse(blobs, Kind::SpecialRegisters, index)?;
        ioctls::set_sregs2(&fd, sregs).map_err(failed("KVM_SET_SREGS2"))?;
        let regs: kvm_regs = parse(blobs, Kind::Registers, index)?;
        fd.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
        set_xsave(&fd, find(blobs, Kind::Xsave, index)?, self.xsave_bytes)?;
        let xcrs: kvm_xcrs = parse(blobs, Kind::ExtendedControl, index)?;
        fd.set_xcrs(&xcrs).map_err(failed("KVM_SET_XCRS"))?;
        let debug: kvm_debugregs = parse(blobs, Kind::DebugRegisters, index)?;
        fd.set_debug_regs(&debug)
            .map_err(failed("KVM_SET_DEBUGREGS"))?;
        let lapic: kvm_lapic_state = parse(blobs, Kind::LocalApic, index)?;
        fd.set_lapic(&lapic).map_err(failed("KVM_SET_LAPIC"))?;
        let offset: [u8; 8] = parse(blobs, Kind::TscOffset, index)?;
        let offset = u64::from_le_bytes(offset).wrapping_add(tsc_shift);
        ioctls::set_tsc_offset(&fd, offset).map_err(failed("KVM_SET_DEVICE_ATTR (TSC offset)"))?;
        // Behind the LAPIC and the TSC: the deadline timer's MSR needs both.
        set_msrs(&fd, find(blobs, Kind::Msrs, index)?)?;
        tell_paused(&fd)?;
        let events: kvm_vcpu_events = parse(blobs, Kind::Events, index)?;
        fd.set_vcpu_events(&events)
            .map_err(failed("KVM_SET_VCPU_EVENTS"))?;
        let mp_state: kvm_mp_state = parse(blobs, Kind::Multiprocessing, index)?;
        fd.set_mp_state(mp_state)
            .map_err(failed("KVM_SET_MP_STATE"))?;
        Ok(())
    }

    /// Before anything else: it can be refused, and reads no memory.
    fn restore_virtio(&self, blobs: &[StateBlob]) -> Result<(), StateError> {
        let malformed = || StateError::Malformed(Kind::Virtio as u16);
        let saved = blobs.iter().filter(|blob| blob.kind == Kind::Virtio as u16);
        if saved.count() != self.devices.virtio().count() {
            return Err(malformed());
        }
        for (index, device) in self.devices.virtio().enumerate() {
            let state = find(blobs, Kind::Virtio, index as u16)?;
            let state: DeviceState = serde_json::from_slice(state).map_err(|_| malformed())?;
            if !device.restore(state) {
                return Err(malformed());
            }
        }
        Ok(())
    }

    fn restore_serial(&self, registers: SerialRegisters) -> Result<(), StateError> {
        let interrupt = EventFd::new(libc::EFD_CLOEXEC).map_err(VmError::Threads)?;
        self.fd
            .register_irqfd(&interrupt, SERIAL_IRQ)
            .map_err(failed("KVM_IRQFD"))?;
        let restored = self.devices.console.restore(interrupt, registers);
        if restored {
            Ok(())
        } else {
            Err(StateError::Malformed(Kind::Serial as u16))
        }
    }
}

/// That the pieces of a VM with so many vCPUs are known, all there, and of the size that KVM takes.
/// Needs no VM: KVM is not asked before all of it is seen to be sound.
pub fn check(blobs: &[StateBlob], cpus: u32) -> Result<(), StateError> {
    if let Some(unknown) = blobs.iter().find(|blob| blob.version != STATE_VERSION) {
        return Err(StateError::Version {
            kind: unknown.kind,
            version: unknown.version,
        });
    }
    if let Some(unknown) = blobs.iter().find(|blob| !KINDS.contains(&blob.kind)) {
        return Err(StateError::Unknown(unknown.kind));
    }
    parse_json::<Clocks>(blobs, Kind::Clock)?;
    parse_json::<SerialRegisters>(blobs, Kind::Serial)?;
    for device in blobs.iter().filter(|blob| blob.kind == Kind::Virtio as u16) {
        serde_json::from_slice::<DeviceState>(&device.bytes)
            .map_err(|_| StateError::Malformed(device.kind))?;
    }
    for chip in [
        KVM_IRQCHIP_PIC_MASTER,
        KVM_IRQCHIP_PIC_SLAVE,
        KVM_IRQCHIP_IOAPIC,
    ] {
        parse::<kvm_irqchip>(blobs, Kind::InterruptController, chip as u16)?;
    }
    parse::<kvm_pit_state2>(blobs, Kind::IntervalTimer, 0)?;
    (0..cpus as u16).try_for_each(|index| check_vcpu(blobs, index))
}

fn check_vcpu(blobs: &[StateBlob], index: u16) -> Result<(), StateError> {
    parse::<kvm_regs>(blobs, Kind::Registers, index)?;
    parse::<[u8; SREGS2_BYTES]>(blobs, Kind::SpecialRegisters, index)?;
    split_xsave(find(blobs, Kind::Xsave, index)?)?;
    parse::<kvm_xcrs>(blobs, Kind::ExtendedControl, index)?;
    parse_msrs(find(blobs, Kind::Msrs, index)?)?;
    parse::<kvm_lapic_state>(blobs, Kind::LocalApic, index)?;
    parse::<kvm_vcpu_events>(blobs, Kind::Events, index)?;
    parse::<kvm_mp_state>(blobs, Kind::Multiprocessing, index)?;
    parse::<kvm_debugregs>(blobs, Kind::DebugRegisters, index)?;
    parse::<[u8; 8]>(blobs, Kind::TscOffset, index)?;
    Ok(())
}

fn blob(kind: Kind, index: u16, bytes: &[u8]) -> StateBlob {
    StateBlob {
        kind: kind as u16,
        version: STATE_VERSION,
        index,
        bytes: bytes.to_vec(),
    }
}

fn find(blobs: &[StateBlob], kind: Kind, index: u16) -> Result<&[u8], StateError> {
    blobs
        .iter()
        .find(|blob| blob.kind == kind as u16 && blob.index == index)
        .map(|blob| &blob.bytes[..])
        .ok_or(StateError::Missing {
            kind: kind as u16,
            index,
        })
}

fn parse<T: FromBytes + Immutable>(
    blobs: &[StateBlob],
    kind: Kind,
    index: u16,
) -> Result<T, StateError> {
    T::read_from_bytes(find(blobs, kind, index)?).map_err(|_| StateError::Malformed(kind as u16))
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain numbers")
}

fn parse_json<T: for<'a> Deserialize<'a>>(
    blobs: &[StateBlob],
    kind: Kind,
) -> Result<T, StateError> {
    serde_json::from_slice(find(blobs, kind, 0)?).map_err(|_| StateError::Malformed(kind as u16))
}

/// Words of an XSAVE area beyond the 4 KiB that every host has.
fn extra_words(xsave_bytes: usize) -> usize {
    xsave_bytes
        .saturating_sub(size_of::<kvm_xsave>())
        .div_ceil(4)
}

fn get_xsave(fd: &VcpuFd, xsave_bytes: usize) -> Result<Vec<u8>, StateError> {
    if xsave_bytes == 0 {
        return Ok(fd
            .get_xsave()
            .map_err(failed("KVM_GET_XSAVE"))?
            .as_bytes()
            .to_vec());
    }
    let mut area = Xsave::new(extra_words(xsave_bytes))
        .map_err(|_| StateError::Malformed(Kind::Xsave as u16))?;
    // SAFETY: the area is as large as KVM_CAP_XSAVE2 said; no dynamic feature is enabled later.
    unsafe { fd.get_xsave2(&mut area) }.map_err(failed("KVM_GET_XSAVE2"))?;
    let mut bytes = area.as_fam_struct_ref().xsave.as_bytes().to_vec();
    bytes.extend_from_slice(area.as_slice().as_bytes());
    Ok(bytes)
}

/// The 4 KiB that every host has, and whole words behind them.
fn split_xsave(bytes: &[u8]) -> Result<(&[u8], &[u8]), StateError> {
    bytes
        .split_at_checked(size_of::<kvm_xsave>())
        .filter(|(_, extra)| extra.len().is_multiple_of(4))
        .ok_or(StateError::Malformed(Kind::Xsave as u16))
}

fn set_xsave(fd: &VcpuFd, bytes: &[u8], xsave_bytes: usize) -> Result<(), StateError> {
    let malformed = || StateError::Malformed(Kind::Xsave as u16);
    let (head, extra) = split_xsave(bytes)?;
    let words = extra_words(xsave_bytes);
    if extra.len() / 4 > words {
        return Err(malformed());
    }
    let mut area = Xsave::new(words).map_err(|_| malformed())?;
    for (word, bytes) in area.as_mut_slice().iter_mut().zip(extra.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    // SAFETY: only the plain registers are replaced, not the length of the words behind them.
    let fam: &mut kvm_xsave2 = unsafe { area.as_mut_fam_struct() };
    debug_assert_eq!(fam.len(), words);
    fam.xsave = kvm_xsave::read_from_bytes(head).map_err(|_| malformed())?;
    // SAFETY: the area is at least as large as KVM_CAP_XSAVE2 said.
    unsafe { fd.set_xsave2(&area) }.map_err(failed("KVM_SET_XSAVE"))?;
    Ok(())
}

/// Tells a guest that uses kvmclock that it was stopped, so that its watchdogs take the silence for
/// no lock-up.
fn tell_paused(fd: &VcpuFd) -> Result<(), StateError> {
    match fd.kvmclock_ctrl() {
        Err(error) if error.errno() == libc::EINVAL => Ok(()), // it uses none
        told => Ok(told.map_err(failed("KVM_KVMCLOCK_CTRL"))?),
    }
}

/// All MSRs of the list that the vCPU has, but for the TSC and the wall clock.
fn get_msrs(fd: &VcpuFd, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, StateError> {
    let mut left: Vec<kvm_msr_entry> = indices
        .iter()
        .filter(|index| **index != MSR_TSC && !MSR_WALL_CLOCK.contains(index))
        .map(|index| kvm_msr_entry {
            index: *index,
            ..Default::default()
        })
        .collect();
    let mut all = Vec::new();
    while !left.is_empty() {
        let mut msrs =
            Msrs::from_entries(&left).map_err(|_| StateError::Malformed(Kind::Msrs as u16))?;
        let count = fd.get_msrs(&mut msrs).map_err(failed("KVM_GET_MSRS"))?;
        all.extend_from_slice(&msrs.as_slice()[..count]);
        // KVM stops at one that this vCPU does not have: leave it out.
        left.drain(..(count + 1).min(left.len()));
    }
    Ok(all)
}

fn parse_msrs(bytes: &[u8]) -> Result<Msrs, StateError> {
    let malformed = || StateError::Malformed(Kind::Msrs as u16);
    if !bytes.len().is_multiple_of(size_of::<kvm_msr_entry>()) {
        return Err(malformed());
    }
    let entries: Vec<kvm_msr_entry> = bytes
        .chunks_exact(size_of::<kvm_msr_entry>())
        .map(|entry| kvm_msr_entry::read_from_bytes(entry).expect("a whole entry"))
        .collect();
    Msrs::from_entries(&entries).map_err(|_| malformed())
}

fn set_msrs(fd: &VcpuFd, bytes: &[u8]) -> Result<(), StateError> {
    let msrs = parse_msrs(bytes)?;
    let count = fd.set_msrs(&msrs).map_err(failed("KVM_SET_MSRS"))?;
    match msrs.as_slice().get(count) {
        None => Ok(()),
        Some(refused) => Err(StateError::Msr(refused.index)),
    }
}
