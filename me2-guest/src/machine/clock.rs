//! This CPU's time: kvmclock, or a counter of known frequency.

use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{Ordering, fence};

use me2_guest::clock::{Forward, TimePage};

use super::cpu::time_stamp_counter;
use super::serial::{print_line, refuse};
use super::start;

/// A step back that is told; smaller ones are differences between CPUs.
const STEP_TOLD_NS: u64 = 1_000_000;

/// How often to look for the host's first update of the time page.
const SPINS_MAX: u32 = 100_000_000;

/// The time of one CPU. It never goes back.
pub(crate) struct Clock {
    cpu: usize,
    source: Source,
    forward: Forward,
}

#[derive(Clone, Copy)]
enum Source {
    /// The page that the host writes the time to.
    Kvm(*const Shared),
    /// The counter alone, at this many kHz.
    Counter(u64),
}

/// `struct pvclock_vcpu_time_info`.
#[repr(C)]
struct Shared {
    version: u32,
    pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    tsc_to_system_mul: u32,
    tsc_shift: i8,
    flags: u8,
    pad_end: [u8; 2],
}

impl Clock {
    /// CPU 0's clock. Refuses a machine without kvmclock unless `tsc_khz` is given.
    pub(crate) fn new(cpu: usize, tsc_khz: Option<u64>) -> Self {
        // SAFETY: written in ring 0 before this code ran.
        let on = unsafe { (&raw const start::boot_clock_on).read_volatile() } != 0;
        let source = match tsc_khz {
            _ if on => Source::Kvm((&raw const start::clock_0).cast()),
            Some(khz) => Source::Counter(khz),
            None => refuse!("no kvmclock, set tsc_khz="),
        };
        let clock = Self {
            cpu,
            source,
            forward: Forward::default(),
        };
        clock.await_first_update();
        clock
    }

    /// The clock of another CPU, whose time page is at `page`.
    pub(crate) fn of_cpu(&self, cpu: usize, page: u64) -> Self {
        let source = match self.source {
            Source::Kvm(_) => Source::Kvm(ptr::with_exposed_provenance(page as usize)),
            counter => counter,
        };
        Self {
            cpu,
            source,
            forward: Forward::default(),
        }
    }

    /// Nanoseconds since some moment that is the same for all CPUs.
    pub(crate) fn now_ns(&mut self) -> u64 {
        let source_ns = match self.source {
            Source::Kvm(page) => read(page),
            Source::Counter(khz) => {
                (u128::from(time_stamp_counter()) * 1_000_000 / u128::from(khz)) as u64
            }
        };
        let (now_ns, back_ns) = self.forward.advance(source_ns);
        if back_ns > STEP_TOLD_NS {
            print_line(format_args!(
                "me2-guest note cpu={} clock_back_us={}",
                self.cpu,
                back_ns / 1000
            ));
        }
        now_ns
    }

    fn await_first_update(&self) {
        let Source::Kvm(page) = self.source else {
            return;
        };
        for _ in 0..SPINS_MAX {
            // SAFETY: the page is mapped, and only ever read.
            if unsafe { (&raw const (*page).tsc_to_system_mul).read_volatile() } != 0 {
                return;
            }
            spin_loop();
        }
        refuse!("kvmclock does not tick")
    }
}

/// The time by the page, read again if the host wrote meanwhile: an odd version says that it is writing.
fn read(page: *const Shared) -> u64 {
    loop {
        // SAFETY: `page` is a time page of a CPU: mapped, never written by the guest. The host writes it
        // while this CPU is not running, so volatile reads see whole fields.
        let (before, time, tsc, after) = unsafe {
            let before = (&raw const (*page).version).read_volatile();
            fence(Ordering::Acquire);
            let time = TimePage {
                tsc_timestamp: (&raw const (*page).tsc_timestamp).read_volatile(),
                system_ns: (&raw const (*page).system_time).read_volatile(),
                tsc_to_system_mul: (&raw const (*page).tsc_to_system_mul).read_volatile(),
                tsc_shift: (&raw const (*page).tsc_shift).read_volatile(),
            };
            let tsc = time_stamp_counter();
            fence(Ordering::Acquire);
            (
                before,
                time,
                tsc,
                (&raw const (*page).version).read_volatile(),
            )
        };
        if before == after && before & 1 == 0 {
            return time.time_ns(tsc);
        }
        spin_loop();
    }
}
