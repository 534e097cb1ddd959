//! The assembly, and the names in it that Rust refers to.

use core::arch::global_asm;

global_asm!(include_str!("start.S"), options(att_syntax));

unsafe extern "C" {
    // Halts until an interrupt.
    pub(crate) fn sleep_call();

    // Bounds of the image, by the linker script.
    pub(crate) static image_start: u8;
    pub(crate) static image_end: u8;

    // Tables of the processor.
    pub(crate) static mut pdpt: [u64; 512];
    pub(crate) static mut gdt_tss: [[u64; 2]; 8];
    pub(crate) static tss: [[u8; 256]; 8];
    pub(crate) static mut idt: [[u64; 2]; 256];
    pub(crate) static exception_entries: [[u8; 16]; 32];
    pub(crate) static invalid_opcode_entry: u8;
    pub(crate) static interrupt_entry: u8;

    // What a starting CPU is given, and what it tells.
    pub(crate) static mut boot_frame: [u64; 5];
    pub(crate) static mut boot_cpu: u32;
    pub(crate) static mut boot_clock: u32;
    pub(crate) static boot_clock_on: u32;
    pub(crate) static boot_start_info: u32;
    pub(crate) static clock_0: u8;
    pub(crate) static ap_trampoline: u8;
    pub(crate) static ap_trampoline_end: u8;
}
