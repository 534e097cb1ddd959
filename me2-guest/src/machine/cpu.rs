//! The processor's own devices, from ring 3: ports, the local APIC, the interrupt table, sleep.

use core::arch::asm;
use core::ptr;

use super::start;

/// Why the machine ends; the value written to the exit port.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Exit {
    /// `run_ms=` is over.
    Done = 0,
    /// A check failed.
    Error = 1,
    /// The command line or the machine cannot be used.
    Refused = 2,
    /// A bug.
    Panic = 3,
}

/// Ends the machine, if it has the exit port; otherwise this CPU stands still.
pub(crate) fn exit(exit: Exit) -> ! {
    const EXIT_PORT: u16 = 0xf4;
    // SAFETY: nothing else listens on this port; the machine ends, or nothing happens.
    unsafe {
        asm!("out dx, eax", in("dx") EXIT_PORT, in("eax") exit as u32, options(nomem, nostack))
    };
    park()
}

/// Stands still for ever.
pub(crate) fn park() -> ! {
    loop {
        sleep(SLEEP_NS_MAX);
    }
}

/// Writes a byte to a port.
pub(crate) fn out_byte(port: u16, byte: u8) {
    // SAFETY: ports reach devices, not memory; the TSS's I/O bitmap allows these.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags))
    };
}

/// Reads a byte from a port.
pub(crate) fn in_byte(port: u16) -> u8 {
    let byte;
    // SAFETY: ports reach devices, not memory; the TSS's I/O bitmap allows these.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack, preserves_flags))
    };
    byte
}

/// The time-stamp counter, read after all that comes before it.
pub(crate) fn time_stamp_counter() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter. (Not `nomem`: it must stay between the reads of the time page.)
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Sleeps until about `ns` from now or until an interrupt; may come back early.
///
/// The timer is periodic, so even a tick lost on the way to another host only makes the sleep longer.
pub(crate) fn sleep(ns: u64) {
    // KVM's APIC timer counts nanoseconds. Where it does not, the caller finds itself early or late.
    local_apic_write(TIMER_COUNT, ns.clamp(SLEEP_NS_MIN, SLEEP_NS_MAX) as u32);
    // SAFETY: halts in ring 0 until an interrupt, and comes back as a function does.
    unsafe { start::sleep_call() };
}

/// The shortest sleep that is worth its way through ring 0.
pub(crate) const SLEEP_NS_MIN: u64 = 200_000;
const SLEEP_NS_MAX: u64 = 1_000_000_000;

/// Switches this CPU's local APIC on, with its timer alone.
pub(crate) fn enable_local_apic() {
    const MASKED: u32 = 1 << 16;
    const PERIODIC: u32 = 1 << 17;
    const DIVIDE_BY_1: u32 = 0b1011;
    local_apic_write(SPURIOUS, 0x100 | SPURIOUS_VECTOR);
    local_apic_write(LINT0, MASKED);
    local_apic_write(LINT1, MASKED);
    local_apic_write(TIMER_DIVIDE, DIVIDE_BY_1);
    local_apic_write(TIMER, PERIODIC | TIMER_VECTOR);
}

/// This CPU's number.
pub(crate) fn local_apic_id() -> u32 {
    local_apic_read(ID) >> 24
}

/// Sends INIT to a CPU.
pub(crate) fn send_init(cpu: usize) {
    local_apic_write(COMMAND_HIGH, (cpu as u32) << 24);
    local_apic_write(COMMAND_LOW, 0x4500);
}

/// Sends a start-up interrupt to a CPU that had INIT: it starts at the page at `address`, in real mode.
pub(crate) fn send_startup(cpu: usize, address: u64) {
    local_apic_write(COMMAND_HIGH, (cpu as u32) << 24);
    local_apic_write(COMMAND_LOW, 0x4600 | (address >> 12) as u32);
}

/// Masks the old interrupt controllers: firmware may have left the PIT ticking.
pub(crate) fn mask_legacy_interrupts() {
    out_byte(0x21, 0xff);
    out_byte(0xa1, 0xff);
}

/// Writes the interrupt table that all CPUs share.
pub(crate) fn fill_interrupt_table() {
    const EXCEPTIONS: usize = 32;
    let mut gates = [[0u64; 2]; 256];
    for (vector, gate) in gates.iter_mut().enumerate().take(EXCEPTIONS) {
        *gate = interrupt_gate(&raw const start::exception_entries as u64 + 16 * vector as u64);
    }
    gates[INVALID_OPCODE] = interrupt_gate(&raw const start::invalid_opcode_entry as u64);
    for vector in [TIMER_VECTOR, SPURIOUS_VECTOR] {
        gates[vector as usize] = interrupt_gate(&raw const start::interrupt_entry as u64);
    }
    // SAFETY: only CPU 0 runs yet, and no interrupt comes before the first sleep.
    unsafe { (&raw mut start::idt).write(gates) };
}

/// A gate to ring-0 code, interrupts off.
fn interrupt_gate(entry: u64) -> [u64; 2] {
    const CODE: u64 = 0x08;
    const PRESENT_INTERRUPT: u64 = 0x8e00;
    [
        (entry & 0xffff) | CODE << 16 | PRESENT_INTERRUPT << 32 | (entry >> 16 & 0xffff) << 48,
        entry >> 32,
    ]
}

const INVALID_OPCODE: usize = 6;
const TIMER_VECTOR: u32 = 32;
const SPURIOUS_VECTOR: u32 = 255;

// Registers of the local APIC: offsets into its page.
const ID: usize = 0x20;
const SPURIOUS: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const TIMER: usize = 0x320;
const LINT0: usize = 0x350;
const LINT1: usize = 0x360;
const TIMER_COUNT: usize = 0x380;
const TIMER_DIVIDE: usize = 0x3e0;

const LOCAL_APIC: usize = 0xfee0_0000;

fn local_apic_write(register: usize, value: u32) {
    // SAFETY: the page is mapped, uncached, from the start; it is a device that each CPU has for itself.
    unsafe { ptr::with_exposed_provenance_mut::<u32>(LOCAL_APIC + register).write_volatile(value) };
}

fn local_apic_read(register: usize) -> u32 {
    // SAFETY: as for writing.
    unsafe { ptr::with_exposed_provenance::<u32>(LOCAL_APIC + register).read_volatile() }
}
