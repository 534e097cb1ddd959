//! What the machine tells about its memory, and the mapping of all of it.

use core::{ptr, slice, str};

use me2_guest::boot::{self, Extent, MEMORY_ENTRY_SIZE, MODULE_ENTRY_SIZE, StartInfo};
use me2_guest::ranges::Ranges;

use super::serial::refuse;
use super::start;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Start-up maps this much.
const MAPPED_AT_START: u64 = GIB;

/// Memory above this is left alone.
const ADDRESS_MAX: u64 = 64 * GIB;

const COMMAND_LINE_MAX: u64 = 1024;

/// What was found at start.
pub(crate) struct BootInfo {
    /// The guest's own copy.
    pub(crate) command_line: &'static str,
    /// All ordinary memory.
    pub(crate) ram: Ranges,
    /// The first module; size 0 if there is none.
    pub(crate) module: Extent,
}

/// Reads the start-info page and what it points to.
pub(crate) fn read_boot_info() -> BootInfo {
    // SAFETY: written in ring 0 before this code ran.
    let address = u64::from(unsafe { (&raw const start::boot_start_info).read_volatile() });
    let info = StartInfo::parse(&read(address)).unwrap_or_else(|error| refuse!("{error}"));
    let mut ram = Ranges::new();
    for index in 0..u64::from(info.memory_entries) {
        let entry = read::<MEMORY_ENTRY_SIZE>(
            info.memory_map
                .saturating_add(index * MEMORY_ENTRY_SIZE as u64),
        );
        if let Some(extent) = boot::memory_entry(&entry) {
            ram.add(
                extent.address.min(ADDRESS_MAX),
                extent.end().min(ADDRESS_MAX),
            );
        }
    }
    let module = match info.modules {
        0 => Extent {
            address: 0,
            size: 0,
        },
        _ => boot::module_entry(&read::<MODULE_ENTRY_SIZE>(info.module_list)),
    };
    if module.size > 0 && !ram.contain(module.address, module.end()) {
        refuse!("the module is not in RAM");
    }
    BootInfo {
        command_line: copy_command_line(info.command_line),
        ram,
        module,
    }
}

/// Takes away what must not be written to: the first MiB, the image, the module.
pub(crate) fn reserve(free: &mut Ranges, boot: &BootInfo) {
    free.remove(0, MIB);
    free.remove(
        &raw const start::image_start as u64,
        &raw const start::image_end as u64,
    );
    if boot.module.size > 0 {
        free.remove(boot.module.address, boot.module.end());
    }
}

/// Maps all of `ram`, in pages of 2 MiB, for ring 3. Takes page tables from `free`, as many as it needs.
pub(crate) fn map(ram: &Ranges, free: &mut Ranges) {
    for &(start, end) in ram.iter() {
        for gib in start.max(MAPPED_AT_START) / GIB..end.div_ceil(GIB) {
            let first = start.max(gib * GIB) & !(LARGE_PAGE - 1);
            map_in_gib(gib as usize, first, end.min((gib + 1) * GIB), free);
        }
    }
}

/// Maps the 2 MiB at `address` below 4 GiB, where devices are, for ring 3.
pub(crate) fn map_device(address: u64, free: &mut Ranges) {
    map_in_gib(
        (address / GIB) as usize,
        address,
        address + LARGE_PAGE,
        free,
    );
}

/// Takes zeroed pages in one piece.
pub(crate) fn take_zeroed(free: &mut Ranges, pages: u64) -> Option<u64> {
    let address = free.take(pages)?;
    // SAFETY: nobody has these pages yet, and they are mapped (checked by the caller for page tables, true
    // for all memory afterwards).
    unsafe {
        ptr::with_exposed_provenance_mut::<u64>(address as usize)
            .write_bytes(0, pages as usize * 512)
    };
    Some(address)
}

const LARGE_PAGE: u64 = 2 * MIB;
const PRESENT_WRITE_USER: u64 = 0x7;
const LARGE: u64 = 0x80;
const ADDRESS_BITS: u64 = 0x000f_ffff_ffff_f000;

fn map_in_gib(gib: usize, first: u64, end: u64, free: &mut Ranges) {
    // SAFETY: only CPU 0 runs yet. The table is mapped, and the processor reads it, too, but what is
    // added was not present, so nothing that is cached becomes wrong.
    unsafe {
        let entry = (&raw mut start::pdpt).cast::<u64>().add(gib);
        let mut table = entry.read_volatile() & ADDRESS_BITS;
        let new = table == 0;
        if new {
            table = match free.iter().next() {
                Some((lowest, _)) if *lowest < MAPPED_AT_START => take_zeroed(free, 1).unwrap_or(0),
                _ => refuse!("no memory for page tables"),
            };
        }
        for address in (first..end).step_by(LARGE_PAGE as usize) {
            let index = (address % GIB / LARGE_PAGE) as usize;
            let slot = ptr::with_exposed_provenance_mut::<u64>(table as usize).add(index);
            slot.write_volatile(address | PRESENT_WRITE_USER | LARGE);
        }
        if new {
            entry.write_volatile(table | PRESENT_WRITE_USER);
        }
    }
}

/// The bytes at a physical address, which must be where start-up has mapped memory.
fn read<const SIZE: usize>(address: u64) -> [u8; SIZE] {
    if address.saturating_add(SIZE as u64) > MAPPED_AT_START {
        refuse!("boot information above 1 GiB");
    }
    // SAFETY: mapped by start-up; nothing writes there before the plan is made.
    unsafe { ptr::with_exposed_provenance::<[u8; SIZE]>(address as usize).read_unaligned() }
}

/// Copies the command line into the image, since where it is may be needed for something else.
fn copy_command_line(address: u64) -> &'static str {
    static mut COPY: [u8; COMMAND_LINE_MAX as usize] = [0; COMMAND_LINE_MAX as usize];
    if address == 0 {
        return "";
    }
    let mut length = 0;
    loop {
        let [byte] = read::<1>(address.saturating_add(length));
        if byte == 0 {
            break;
        }
        if length == COMMAND_LINE_MAX {
            refuse!("the command line is longer than {COMMAND_LINE_MAX} bytes");
        }
        // SAFETY: within the array, and only CPU 0 runs.
        unsafe {
            (&raw mut COPY)
                .cast::<u8>()
                .add(length as usize)
                .write(byte)
        };
        length += 1;
    }
    // SAFETY: this is called once, so nothing writes to the array any more.
    let bytes = unsafe { slice::from_raw_parts((&raw const COPY).cast::<u8>(), length as usize) };
    str::from_utf8(bytes).unwrap_or_else(|_| refuse!("the command line is not text"))
}
