//! The PVH protocol: any ELF with the note `XEN_ELFNOTE_PHYS32_ENTRY`, entered in 32-bit protected
//! mode without paging, with the start-info page's address in EBX.
//! Source: Xen, docs/misc/pvh.pandoc.

use std::io;

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
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::{
    BootError, BootSource, COMMAND_LINE, COMMAND_LINE_BYTES_MAX, E820_RAM, Entry, KERNEL_START,
    Kernel, Module, Protocol, acpi, load_module, ram_map, write_command_line,
};
use crate::memory::GuestMemory;

const START_INFO: GuestAddress = GuestAddress(0x6000);
const MODULE_LIST: GuestAddress = GuestAddress(0x6040);
const MEMORY_MAP: GuestAddress = GuestAddress(0x7000);
const START_MAGIC: u32 = 0x336e_c578;
/// Modules start on such a boundary behind the kernel.
const MODULE_ALIGNMENT: u64 = 2 << 20;

pub(super) fn load(memory: &GuestMemory, source: &BootSource) -> Result<Entry, BootError> {
    write_command_line(memory, source, COMMAND_LINE_BYTES_MAX)?;
    let guest = memory.guest();
    let loaded = match &source.kernel {
        Kernel::File(kernel) => Elf::load(guest, None, &mut &kernel.file, Some(KERNEL_START)),
        Kernel::Builtin(bytes) => {
            let mut bytes = io::Cursor::new(bytes);
            Elf::load(guest, None, &mut bytes, Some(KERNEL_START))
        }
    }
    .map_err(|error| BootError::Load {
        kernel: source.kernel.to_string(),
        source: error,
    })?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NotPvh(source.kernel.to_string()));
    };
    let module = match &source.initrd {
        Some(file) => {
            let end = memory.layout().slots()[0].size_bytes;
            let start = loaded.kernel_end.next_multiple_of(MODULE_ALIGNMENT);
            Some(load_module(memory, file, start..end, |room, _| room.start)?)
        }
        None => None,
    };
    write_start_info(memory, module)?;
    Ok(Entry {
        instruction: entry.0,
        protocol: Protocol::Pvh {
            start_info: START_INFO.0,
        },
    })
}

fn write_start_info(memory: &GuestMemory, module: Option<Module>) -> Result<(), BootError> {
    let map: Vec<_> = ram_map(memory.layout())
        .map(|ram| hvm_memmap_table_entry {
            addr: ram.start,
            size: ram.end - ram.start,
            type_: E820_RAM,
            reserved: 0,
        })
        .collect();
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        cmdline_paddr: COMMAND_LINE.0,
        memmap_paddr: MEMORY_MAP.0,
        memmap_entries: map.len() as u32,
        rsdp_paddr: acpi::FIRST_TABLE,
        nr_modules: u32::from(module.is_some()),
        modlist_paddr: if module.is_some() { MODULE_LIST.0 } else { 0 },
        ..Default::default()
    };
    let mut parameters = BootParams::new(&info, START_INFO);
    parameters.set_sections(&map, MEMORY_MAP);
    if let Some(module) = module {
        let entry = hvm_modlist_entry {
            paddr: module.start,
            size: module.bytes,
            ..Default::default()
        };
        parameters.set_modules(&[entry], MODULE_LIST);
    }
    PvhBootConfigurator::write_bootparams(&parameters, memory.guest())
        .map_err(BootError::Parameters)?;
    debug_assert!(memory.guest().check_address(START_INFO).is_some());
    Ok(())
}
