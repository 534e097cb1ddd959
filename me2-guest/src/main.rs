//! The workload guest: a PVH kernel that fills its memory, works on it, and checks all of it.
//!
//! ```text
//! pvh_start (ring 0) → boot_entry (ring 3) → memory → clock → other CPUs → fill → ready → run
//! ```
//! Everything but the start-up and the sleep runs in ring 3 ([`machine`] says why); what it does there is in
//! the library. Memory that is not used is never touched.

#![no_std]
#![no_main]

mod machine;

use core::panic::PanicInfo;

use me2_guest::CPUS_MAX;
use me2_guest::cmdline::Options;
use me2_guest::ranges::Ranges;
use me2_guest::sizes::Sizes;

use crate::machine::clock::Clock;
use crate::machine::cpu::{self, Exit};
use crate::machine::disk::Disk;
use crate::machine::net::Net;
use crate::machine::plan::Plan;
use crate::machine::run::Polled;
use crate::machine::serial::{print_line, refuse};
use crate::machine::{memory, run, smp};

/// Where each CPU comes out of start-up, in ring 3, on a stack of its own.
#[unsafe(no_mangle)]
extern "C" fn boot_entry(cpu: u32) -> ! {
    match cpu as usize {
        0 => first_cpu(),
        cpu => smp::other_cpu(cpu),
    }
}

fn first_cpu() -> ! {
    cpu::fill_interrupt_table();
    cpu::enable_local_apic();
    cpu::mask_legacy_interrupts();
    let boot = memory::read_boot_info();
    let options = Options::parse(boot.command_line).unwrap_or_else(|error| refuse!("{error}"));
    let mut module_pages = Ranges::new();
    module_pages.add(boot.module.address, boot.module.end());
    let sizes = Sizes::resolve(&options, boot.ram.pages(), module_pages.pages())
        .unwrap_or_else(|error| refuse!("{error}"));
    let mut free = boot.ram;
    memory::reserve(&mut free, &boot);
    memory::map(&boot.ram, &mut free);
    let disk = options.disk.map(|bytes| Disk::open(bytes, &mut free));
    let net = options.echo.then(|| Net::open(&mut free));
    let mut clock = Clock::new(0, options.tsc_khz);
    let cpus = start_others(&options, &boot.ram, &mut free, &mut clock);
    Plan {
        options,
        sizes,
        module: boot.module,
        module_pages,
        cpus,
        fill: free,
        versions: [0; CPUS_MAX],
    }
    .place()
    .publish();
    run::fill_and_run(0, clock, Polled { disk, net })
}

/// Starts the CPUs asked for; how many there are then. Not having been asked, it makes do with one.
fn start_others(options: &Options, ram: &Ranges, free: &mut Ranges, clock: &mut Clock) -> usize {
    const CPUS_DEFAULT: usize = 2;
    let cpus = options.cpus.unwrap_or(CPUS_DEFAULT);
    for cpu in 1..cpus {
        if !smp::start(cpu, ram, free, clock) {
            match options.cpus {
                Some(_) => refuse!("cpu {cpu} did not start, has the machine {cpus} CPUs?"),
                None => return cpu,
            }
        }
    }
    cpus
}

/// An exception in ring 3, passed on by ring 0: always a bug, or memory that is not as it should be.
#[unsafe(no_mangle)]
extern "C" fn fault_entry(vector: u64, error: u64, rip: u64, address: u64) -> ! {
    let cpu = cpu::local_apic_id();
    print_line(format_args!(
        "me2-guest PANIC cpu={cpu} exception={vector} error={error:#x} rip={rip:#x} address={address:#x}"
    ));
    cpu::exit(Exit::Panic)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let cpu = cpu::local_apic_id();
    let line = info.location().map_or(0, |location| location.line());
    let file = info.location().map_or("?", |location| location.file());
    print_line(format_args!(
        "me2-guest PANIC cpu={cpu} {file}:{line} {}",
        info.message()
    ));
    cpu::exit(Exit::Panic)
}
