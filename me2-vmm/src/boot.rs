//! Booting a kernel: by the PVH protocol if it is an ELF ([`pvh`]), by that of Linux if it is a
//! bzImage ([`linux`]). Both enter it in 32-bit protected mode without paging, and tell it of RAM,
//! of its command line and of one module; processors, devices and interrupts are in the tables of [`acpi`].

mod acpi;
mod linux;
mod pvh;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use crate::{layout::RamLayout, machine::MmioDevice, memory::GuestMemory};

/// What to start.
#[derive(Debug)]
pub struct BootSource {
    /// A PVH ELF, or a bzImage.
    pub kernel: Kernel,
    /// A module for it (an initrd, for Linux).
    pub initrd: Option<BootFile>,
    /// Its command line.
    pub command_line: String,
}

/// Where the kernel is.
#[derive(Debug)]
pub enum Kernel {
    /// A file.
    File(BootFile),
    /// In this program.
    Builtin(&'static [u8]),
}

/// A file to boot from, opened: whoever reads it needs no right to find it.
#[derive(Debug)]
pub struct BootFile {
    path: PathBuf,
    file: File,
}

impl BootFile {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self, BootError> {
        let path = path.to_owned();
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(BootError::File { path, source }),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => file.path.display().fmt(f),
            Self::Builtin(_) => f.write_str("the built-in guest"),
        }
    }
}

/// Why a VM could not be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel is of no known kind.
    #[error(
        "{0} is no kernel that can be booted: give a Linux bzImage (vmlinuz) or a PVH ELF (vmlinux)"
    )]
    NoKernel(String),
    /// The kernel is damaged, or does not fit.
    #[error("cannot load {kernel} (is it whole, and does it fit into the VM's memory?)")]
    Load {
        /// The file.
        kernel: String,
        /// Why.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// The kernel has no PVH entry point.
    #[error("{0} has no PVH entry point (note XEN_ELFNOTE_PHYS32_ENTRY)")]
    NotPvh(String),
    /// A bzImage that does not say what is needed to place it.
    #[error("{kernel} has boot protocol {version:#06x}: Linux 2.6.31 (0x020a) or later is needed")]
    TooOld {
        /// The file.
        kernel: String,
        /// Its version of the protocol.
        version: u16,
    },
    /// The kernel does not fit once it has unpacked itself.
    #[error("{kernel} needs the memory up to byte {bytes}: more --memory is needed")]
    KernelTooLarge {
        /// The file.
        kernel: String,
        /// Where it ends.
        bytes: u64,
    },
    /// The module does not fit.
    #[error("the initrd of {bytes} bytes does not fit behind the kernel: more --memory is needed")]
    InitrdTooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The command line is too long.
    #[error("the command line has {bytes} bytes; this kernel takes {limit}")]
    CommandLine {
        /// Its length.
        bytes: usize,
        /// The longest.
        limit: usize,
    },
    /// Guest memory could not be written.
    #[error("cannot write boot data into guest memory")]
    Write(#[source] vm_memory::GuestMemoryError),
    /// What the kernel is told could not be written.
    #[error("cannot write the kernel's boot parameters")]
    Parameters(#[source] linux_loader::configurator::Error),
}

/// Longest command line in bytes.
pub const COMMAND_LINE_BYTES_MAX: usize = 4095;

const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
const KERNEL_START: GuestAddress = GuestAddress(0x10_0000);
/// End of conventional memory; up to 1 MiB lies what PCs use for firmware and video.
const LOW_MEMORY_END: u64 = 0x9_fc00;
const E820_RAM: u32 = 1;
const ELF_MAGIC: &[u8; 4] = b"\x7fELF";

/// Loads kernel, module and boot data; gives the registers with which vCPU 0 starts.
pub(crate) fn load(
    memory: &GuestMemory,
    source: &BootSource,
    cpus: u8,
    devices: &[MmioDevice],
) -> Result<Entry, BootError> {
    let start = source.kernel.start()?;
    let is_bzimage = start.get(linux::MAGIC_OFFSET..) == Some(linux::MAGIC);
    let entry = if start.starts_with(ELF_MAGIC) {
        pvh::load(memory, source)?
    } else if is_bzimage {
        linux::load(memory, source)?
    } else {
        return Err(BootError::NoKernel(source.kernel.to_string()));
    };
    acpi::write(memory, cpus, devices)?;
    Ok(entry)
}

impl Kernel {
    /// As many bytes as it takes to tell what it is, or fewer.
    fn start(&self) -> Result<Vec<u8>, BootError> {
        let length = linux::MAGIC_OFFSET + linux::MAGIC.len();
        match self {
            Self::Builtin(bytes) => Ok(bytes[..length.min(bytes.len())].to_vec()),
            Self::File(kernel) => {
                let mut start = vec![0; length];
                let read = kernel.file.read_at(&mut start, 0);
                let read = read.map_err(|source| BootError::File {
                    path: kernel.path.clone(),
                    source,
                })?;
                start.truncate(read);
                Ok(start)
            }
        }
    }
}

/// The stretches of memory that the guest may take for RAM.
fn ram_map(layout: &RamLayout) -> impl Iterator<Item = Range<u64>> {
    let slots = layout.slots().iter().map(|slot| {
        let end = slot.guest_address + slot.size_bytes;
        slot.guest_address.max(KERNEL_START.0)..end
    });
    std::iter::once(0..LOW_MEMORY_END).chain(slots)
}

fn write_command_line(
    memory: &GuestMemory,
    source: &BootSource,
    limit: usize,
) -> Result<(), BootError> {
    let mut line = source.command_line.clone().into_bytes();
    if line.len() > limit {
        let bytes = line.len();
        return Err(BootError::CommandLine { bytes, limit });
    }
    line.push(0);
    let guest = memory.guest();
    guest
        .write_slice(&line, COMMAND_LINE)
        .map_err(BootError::Write)
}

/// A module in guest memory.
#[derive(Debug, Clone, Copy)]
struct Module {
    start: u64,
    bytes: u64,
}

/// Puts the module where `place` has it, which takes the room there is and the module's size.
fn load_module(
    memory: &GuestMemory,
    module: &BootFile,
    room: Range<u64>,
    place: impl FnOnce(&Range<u64>, u64) -> u64,
) -> Result<Module, BootError> {
    let failed = |source| BootError::File {
        path: module.path.clone(),
        source,
    };
    let mut file = &module.file;
    let bytes = file.metadata().map_err(failed)?.len();
    let start = place(&room, bytes);
    let end = start.checked_add(bytes);
    if start < room.start || end.is_none_or(|end| end > room.end) {
        return Err(BootError::InitrdTooLarge { bytes });
    }
    let mut at = start;
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let len = file
            .read(&mut buffer[..left.min(1 << 20) as usize])
            .map_err(failed)?;
        if len == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        memory
            .guest()
            .write_slice(&buffer[..len], GuestAddress(at))
            .map_err(BootError::Write)?;
        at += len as u64;
        left -= len as u64;
    }
    Ok(Module { start, bytes })
}

/// Where vCPU 0 starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    instruction: u64,
    protocol: Protocol,
}

/// How the kernel finds what it is told.
#[derive(Debug, Clone, Copy)]
enum Protocol {
    Pvh {
        start_info: u64,
    },
    Linux {
        parameters: u64,
        descriptors: u64,
        descriptors_bytes: u16,
    },
}

impl Entry {
    pub(crate) fn registers(&self) -> kvm_regs {
        let mut registers = kvm_regs {
            rip: self.instruction,
            rflags: 2,
            ..Default::default()
        };
        match self.protocol {
            Protocol::Pvh { start_info } => registers.rbx = start_info,
            Protocol::Linux { parameters, .. } => registers.rsi = parameters,
        }
        registers
    }

    /// Flat 32-bit segments, protected mode, no paging.
    pub(crate) fn special_registers(&self, mut sregs: kvm_sregs) -> kvm_sregs {
        let flat = |type_, selector| kvm_segment {
            base: 0,
            limit: 0xffff_ffff,
            selector,
            type_,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        const CODE: u8 = 0xb;
        const DATA: u8 = 0x3;
        const BUSY_TSS: u8 = 0xb;
        let first_selector = match self.protocol {
            Protocol::Pvh { .. } => 0x8,
            Protocol::Linux {
                descriptors,
                descriptors_bytes,
                ..
            } => {
                sregs.gdt = kvm_dtable {
                    base: descriptors,
                    limit: descriptors_bytes - 1,
                    ..Default::default()
                };
                0x10
            }
        };
        sregs.cs = flat(CODE, first_selector);
        sregs.ds = flat(DATA, first_selector + 0x8);
        sregs.es = sregs.ds;
        sregs.fs = sregs.ds;
        sregs.gs = sregs.ds;
        sregs.ss = sregs.ds;
        sregs.tr = kvm_segment {
            // As after a reset, and as other VMMs have it: what lies there is an I/O bitmap of zeros,
            // which lets a guest's ring 3 use ports before it has a task state segment of its own.
            limit: 0xffff,
            selector: first_selector + 0x10,
            type_: BUSY_TSS,
            present: 1,
            ..Default::default()
        };
        sregs.cr0 = 1;
        sregs.cr4 = 0;
        sregs.efer = 0;
        sregs
    }
}

#[cfg(test)]
mod tests;
