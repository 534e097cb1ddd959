//! The 32-bit boot protocol of Linux: a bzImage, which unpacks itself whatever it is packed with,
//! entered in 32-bit protected mode without paging, with the address of its parameters in ESI.
//! Source: Linux, Documentation/arch/x86/boot.rst.

use std::io;

use linux_loader::{
    configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator},
    loader::{
        BzImage, KernelLoader,
        bootparam::{boot_e820_entry, boot_params, setup_header},
    },
};
use vm_memory::{Bytes, GuestAddress};

use super::{
    BootError, BootSource, COMMAND_LINE, COMMAND_LINE_BYTES_MAX, E820_RAM, Entry, KERNEL_START,
    Kernel, Protocol, acpi, load_module, ram_map, write_command_line,
};
use crate::{layout::PAGE_SIZE, memory::GuestMemory};

/// Where a bzImage has [`MAGIC`].
pub(super) const MAGIC_OFFSET: usize = 0x202;
pub(super) const MAGIC: &[u8; 4] = b"HdrS";

const DESCRIPTORS: GuestAddress = GuestAddress(0x500);
/// Null, unused, and what the protocol wants as 0x10 and 0x18: flat code and data of 4 GiB.
const DESCRIPTOR_TABLE: [u64; 4] = [0, 0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
const PARAMETERS: GuestAddress = GuestAddress(0x7000);
/// The first version that says where the kernel unpacks itself, and into how much memory.
const VERSION_MIN: u16 = 0x020a;
/// "No loader that has a number of its own."
const LOADER_OTHER: u8 = 0xff;

pub(super) fn load(memory: &GuestMemory, source: &BootSource) -> Result<Entry, BootError> {
    let guest = memory.guest();
    let loaded = match &source.kernel {
        Kernel::File(kernel) => BzImage::load(guest, Some(KERNEL_START), &mut &kernel.file, None),
        Kernel::Builtin(bytes) => {
            let mut bytes = io::Cursor::new(bytes);
            BzImage::load(guest, Some(KERNEL_START), &mut bytes, None)
        }
    }
    .map_err(|error| BootError::Load {
        kernel: source.kernel.to_string(),
        source: error,
    })?;
    let mut header = loaded.setup_header.expect("every bzImage has one");
    let end = kernel_end(&header, loaded.kernel_end, source)?;
    let memory_end = memory.layout().slots()[0].size_bytes;
    if end > memory_end {
        return Err(BootError::KernelTooLarge {
            kernel: source.kernel.to_string(),
            bytes: end,
        });
    }
    write_command_line(
        memory,
        source,
        COMMAND_LINE_BYTES_MAX.min(header.cmdline_size as usize),
    )?;
    header.type_of_loader = LOADER_OTHER;
    header.cmd_line_ptr = COMMAND_LINE.0 as u32;
    if let Some(file) = &source.initrd {
        // High up, where the kernel leaves it alone wherever it unpacks itself.
        let room = end..memory_end.min(u64::from(header.initrd_addr_max) + 1);
        let module = load_module(memory, file, room, |room, bytes| {
            room.end.saturating_sub(bytes) / PAGE_SIZE as u64 * PAGE_SIZE as u64
        })?;
        // Below 4 GiB, as all of the first slot is.
        header.ramdisk_image = module.start as u32;
        header.ramdisk_size = module.bytes as u32;
    }
    write_parameters(memory, header)?;
    for (number, descriptor) in DESCRIPTOR_TABLE.into_iter().enumerate() {
        let at = GuestAddress(DESCRIPTORS.0 + 8 * number as u64);
        guest.write_obj(descriptor, at).map_err(BootError::Write)?;
    }
    Ok(Entry {
        instruction: KERNEL_START.0,
        protocol: Protocol::Linux {
            parameters: PARAMETERS.0,
            descriptors: DESCRIPTORS.0,
            descriptors_bytes: size_of_val(&DESCRIPTOR_TABLE) as u16,
        },
    })
}

/// The end of what the kernel may use before it reads its memory map.
fn kernel_end(
    header: &setup_header,
    loaded_end: u64,
    source: &BootSource,
) -> Result<u64, BootError> {
    let version = header.version;
    if version < VERSION_MIN {
        return Err(BootError::TooOld {
            kernel: source.kernel.to_string(),
            version,
        });
    }
    let start = header.pref_address.max(KERNEL_START.0);
    Ok(start
        .saturating_add(header.init_size.into())
        .max(loaded_end))
}

fn write_parameters(memory: &GuestMemory, header: setup_header) -> Result<(), BootError> {
    let mut parameters = boot_params {
        hdr: header,
        acpi_rsdp_addr: acpi::FIRST_TABLE,
        ..Default::default()
    };
    for (number, ram) in ram_map(memory.layout()).enumerate() {
        parameters.e820_table[number] = boot_e820_entry {
            addr: ram.start,
            size: ram.end - ram.start,
            r#type: E820_RAM,
        };
        parameters.e820_entries += 1;
    }
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&parameters, PARAMETERS),
        memory.guest(),
    )
    .map_err(BootError::Parameters)
}
