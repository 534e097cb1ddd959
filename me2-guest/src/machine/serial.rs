//! The serial port: lines, one CPU at a time, and heartbeats at any moment.

use core::fmt;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicBool, Ordering};

use me2_guest::line::Line;

use super::cpu;

const PORT: u16 = 0x3f8;
const LINE_STATUS: u16 = PORT + 5;
const TRANSMITTER_EMPTY: u8 = 0x20;

/// How often to look again for a transmitter that is not free.
const LOOKS_MAX: u32 = 10_000;

/// How often to look again for a lock that is not free: most of a second. A line takes a millisecond, unless
/// its CPU waits for a page.
const SPINS_MAX: u32 = 20_000_000;

static BUSY: AtomicBool = AtomicBool::new(false);

/// Prints a line, waiting for the port; if it stays busy (its CPU may wait for a page), all the same.
pub(crate) fn print_line(text: fmt::Arguments<'_>) {
    let line = Line::new(text);
    let locked = (0..SPINS_MAX).any(|_| {
        spin_loop();
        lock()
    });
    send(&line);
    if locked {
        BUSY.store(false, Ordering::Release);
    }
}

/// Prints a line unless another CPU is printing; whether it did.
pub(crate) fn try_print_line(text: fmt::Arguments<'_>) -> bool {
    let line = Line::new(text);
    if !lock() {
        return false;
    }
    send(&line);
    BUSY.store(false, Ordering::Release);
    true
}

/// Tells that this CPU has completed operations: one byte, which may fall into another CPU's line.
pub(crate) fn heartbeat(cpu: usize) {
    cpu::out_byte(PORT, 0x80 | cpu as u8);
}

/// Prints why the guest cannot work, and ends the machine.
macro_rules! refuse {
    ($($text:tt)*) => {{
        $crate::machine::serial::print_line(format_args!("me2-guest: {}", format_args!($($text)*)));
        $crate::machine::cpu::exit($crate::machine::cpu::Exit::Refused)
    }};
}
pub(crate) use refuse;

fn lock() -> bool {
    BUSY.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

fn send(line: &Line) {
    // Once a line: each look is an exit to the host, and an emulated port takes every byte at once.
    for _ in 0..LOOKS_MAX {
        if cpu::in_byte(LINE_STATUS) & TRANSMITTER_EMPTY != 0 {
            break;
        }
    }
    line.bytes()
        .iter()
        .for_each(|byte| cpu::out_byte(PORT, *byte));
}
