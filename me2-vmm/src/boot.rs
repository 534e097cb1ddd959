//! Booting by the PVH protocol: any ELF with the note `XEN_ELFNOTE_PHYS32_ENTRY`, entered in
//! 32-bit protected mode without paging, with the start-info page's address in EBX.
//! Source: Xen, docs/misc/pvh.pandoc.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::{
    configurator::{BootConfigurator, BootParams, pvh::PvhBootConfigurator},
    loader::{
        Elf, KernelLoader,
        elf::{
            PvhBootCapability,
            start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info},
        },
    },
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::memory::GuestMemory;

/// What to start.
#[derive(Debug)]
pub struct BootSource {
    /// The PVH ELF.
    pub kernel: Kernel,
    /// A module for it (an initrd, for Linux).
    pub initrd: Option<BootFile>,
    /// Its command line.
    pub command_line: String,
}

/// Where the kernel's ELF is.
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
    /// The kernel is no ELF, or does not fit.
    #[error("cannot load {kernel} (is it an ELF that fits into the VM's memory?)")]
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
    /// The module does not fit.
    #[error("the initrd of {bytes} bytes does not fit behind the kernel: more --memory is needed")]
    InitrdTooLarge {
        /// Its size.
        bytes: u64,
    },
    /// The command line is too long.
    #[error("the command line has {0} bytes; the limit is {COMMAND_LINE_BYTES_MAX}")]
    CommandLine(usize),
    /// Guest memory could not be written.
    #[error("cannot write boot data into guest memory")]
    Write(#[source] vm_memory::GuestMemoryError),
    /// The start-info page could not be written.
    #[error("cannot write the start-info page")]
    StartInfo(#[source] linux_loader::configurator::Error),
}

/// Longest command line in bytes.
pub const COMMAND_LINE_BYTES_MAX: usize = 4095;

const START_INFO: GuestAddress = GuestAddress(0x6000);
const MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
const MODULE_LIST: GuestAddress = GuestAddress(0x6040);
const COMMAND_LINE: GuestAddress = GuestAddress(0x2_0000);
const KERNEL_START: GuestAddress = GuestAddress(0x10_0000);
/// End of conventional memory; up to 1 MiB lies what PCs use for firmware and video.
const LOW_MEMORY_END: u64 = 0x9_fc00;
const START_MAGIC: u32 = 0x336e_c578;
const E820_RAM: u32 = 1;

/// Loads kernel, module and boot data; gives the registers with which vCPU 0 starts.
pub(crate) fn load(memory: &GuestMemory, source: &BootSource) -> Result<Entry, BootError> {
    let command_line = source.command_line.as_bytes();
    if command_line.len() > COMMAND_LINE_BYTES_MAX {
        return Err(BootError::CommandLine(command_line.len()));
    }
    let loaded = match &source.kernel {
        Kernel::File(kernel) => {
            Elf::load(memory.guest(), None, &mut &kernel.file, Some(KERNEL_START))
        }
        Kernel::Builtin(bytes) => Elf::load(
            memory.guest(),
            None,
            &mut io::Cursor::new(bytes),
            Some(KERNEL_START),
        ),
    }
    .map_err(|error| BootError::Load {
        kernel: source.kernel.to_string(),
        source: error,
    })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NotPvh(source.kernel.to_string()));
    };
    let module = match &source.initrd {
        Some(file) => Some(load_module(memory, file, loaded.kernel_end)?),
        None => None,
    };
    let guest = memory.guest();
    guest
        .write_slice(command_line, COMMAND_LINE)
        .map_err(BootError::Write)?;
    guest
        .write_obj(
            0u8,
            GuestAddress(COMMAND_LINE.0 + command_line.len() as u64),
        )
        .map_err(BootError::Write)?;
    write_start_info(memory, module)?;
    Ok(Entry {
        instruction: entry.0,
    })
}

/// Puts the module on the first page boundary of 2 MiB behind the kernel.
fn load_module(
    memory: &GuestMemory,
    module: &BootFile,
    kernel_end: u64,
) -> Result<hvm_modlist_entry, BootError> {
    let failed = |source| BootError::File {
        path: module.path.clone(),
        source,
    };
    let mut file = &module.file;
    let bytes = file.metadata().map_err(failed)?.len();
    let start = kernel_end.next_multiple_of(2 << 20);
    let end = memory.layout().slots()[0].size_bytes;
    if start
        .checked_add(bytes)
        .is_none_or(|module_end| module_end > end)
    {
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
    Ok(hvm_modlist_entry {
        paddr: start,
        size: bytes,
        ..Default::default()
    })
}

fn write_start_info(
    memory: &GuestMemory,
    module: Option<hvm_modlist_entry>,
) -> Result<(), BootError> {
    let ram = |addr, size| hvm_memmap_table_entry {
        addr,
        size,
        type_: E820_RAM,
        reserved: 0,
    };
    let mut map = vec![ram(0, LOW_MEMORY_END)];
    for slot in memory.layout().slots() {
        let start = slot.guest_address.max(KERNEL_START.0);
        map.push(ram(start, slot.guest_address + slot.size_bytes - start));
    }
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        cmdline_paddr: COMMAND_LINE.0,
        memmap_paddr: MEMORY_MAP.0,
        memmap_entries: map.len() as u32,
        nr_modules: u32::from(module.is_some()),
        modlist_paddr: if module.is_some() { MODULE_LIST.0 } else { 0 },
        ..Default::default()
    };
    let mut parameters = BootParams::new(&info, START_INFO);
    parameters.set_sections(&map, MEMORY_MAP);
    if let Some(module) = module {
        parameters.set_modules(&[module], MODULE_LIST);
    }
    PvhBootConfigurator::write_bootparams(&parameters, memory.guest())
        .map_err(BootError::StartInfo)?;
    debug_assert!(memory.guest().check_address(START_INFO).is_some());
    Ok(())
}

/// Where vCPU 0 starts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    instruction: u64,
}

impl Entry {
    pub(crate) fn registers(&self) -> kvm_regs {
        kvm_regs {
            rip: self.instruction,
            rbx: START_INFO.0,
            rflags: 2,
            ..Default::default()
        }
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
        sregs.cs = flat(CODE, 0x8);
        sregs.ds = flat(DATA, 0x10);
        sregs.es = sregs.ds;
        sregs.fs = sregs.ds;
        sregs.gs = sregs.ds;
        sregs.ss = sregs.ds;
        sregs.tr = kvm_segment {
            // As after a reset, and as other VMMs have it: what lies there is an I/O bitmap of zeros,
            // which lets a guest's ring 3 use ports before it has a task state segment of its own.
            limit: 0xffff,
            selector: 0x18,
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
mod tests {
    use super::*;
    use crate::layout::RamLayout;

    #[test]
    fn what_is_no_pvh_elf_is_refused() {
        let memory = GuestMemory::new(RamLayout::new(16 << 20).unwrap()).unwrap();
        let source = |kernel, command_line: String| BootSource {
            kernel,
            initrd: None,
            command_line,
        };
        let garbage = source(
            Kernel::Builtin(b"not an ELF at all, just text that is long enough"),
            String::new(),
        );
        assert!(matches!(
            load(&memory, &garbage),
            Err(BootError::Load { .. })
        ));
        let absent = BootFile::open(Path::new("/nonexistent"));
        assert!(matches!(absent, Err(BootError::File { .. })));
        let long = source(Kernel::Builtin(b""), "x".repeat(5000));
        assert!(matches!(
            load(&memory, &long),
            Err(BootError::CommandLine(5000))
        ));
    }
}
