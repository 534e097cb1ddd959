//! Starting the other CPUs: INIT and SIPI through the local APIC, from ring 3.

use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use me2_guest::PAGE_SIZE;
use me2_guest::ranges::Ranges;

use super::clock::Clock;
use super::plan::Plan;
use super::serial::refuse;
use super::{cpu, memory, run, start};

/// The page below 1 MiB that CPUs start at. Loaders leave it free: their tables lie below it or are read
/// before it is written.
const TRAMPOLINE: u64 = 0x1_0000;

const STACK_PAGES: u64 = 16;

/// How long a CPU may take to come up.
const START_NS_MAX: u64 = 1_000_000_000;
/// How long to wait between INIT and SIPI, and before the second SIPI.
const STEP_NS: u64 = 1_000_000;

/// The number of the CPU that came up last.
static CAME_UP: AtomicUsize = AtomicUsize::new(0);

/// Where the time page of the CPU that is being started is.
static CLOCK_PAGE: AtomicU64 = AtomicU64::new(0);

/// The clock of CPU 0, for others to make theirs from.
static CLOCK: ClockCell = ClockCell(core::cell::UnsafeCell::new(None));

struct ClockCell(core::cell::UnsafeCell<Option<Clock>>);

// SAFETY: written by CPU 0 before it starts another, read by those only.
unsafe impl Sync for ClockCell {}

/// Starts a CPU and waits until it runs in ring 3; false if it does not.
pub(crate) fn start(cpu: usize, ram: &Ranges, free: &mut Ranges, clock: &mut Clock) -> bool {
    if !ram.contain(TRAMPOLINE, TRAMPOLINE + PAGE_SIZE) {
        refuse!("no memory at {TRAMPOLINE:#x} to start CPUs from");
    }
    let (Some(stack), Some(clock_page)) = (free.take(STACK_PAGES), memory::take_zeroed(free, 1))
    else {
        refuse!("no memory for cpu {cpu}")
    };
    if clock_page > u64::from(u32::MAX) {
        refuse!("no memory below 4 GiB for cpu {cpu}");
    }
    lay_out(cpu, stack + STACK_PAGES * PAGE_SIZE, clock_page, clock);
    cpu::send_init(cpu);
    wait(clock, STEP_NS, cpu);
    cpu::send_startup(cpu, TRAMPOLINE);
    if wait(clock, STEP_NS, cpu) {
        return true;
    }
    cpu::send_startup(cpu, TRAMPOLINE);
    wait(clock, START_NS_MAX, cpu)
}

/// What the other CPUs do.
pub(crate) fn other_cpu(cpu: usize) -> ! {
    cpu::enable_local_apic();
    let page = CLOCK_PAGE.load(Ordering::Acquire);
    // SAFETY: written before this CPU was started, and not while it runs.
    let clock = unsafe { (*CLOCK.0.get()).as_ref() }.map(|clock| clock.of_cpu(cpu, page));
    CAME_UP.store(cpu, Ordering::Release);
    let plan = loop {
        if let Some(plan) = Plan::get() {
            break plan;
        }
        spin_loop();
    };
    match clock {
        Some(clock) if cpu < plan.cpus => run::fill_and_run(cpu, clock, run::Polled::default()),
        // It came up too late to be counted.
        _ => cpu::park(),
    }
}

/// Puts down what the CPU's start-up reads.
fn lay_out(cpu: usize, stack_end: u64, clock_page: u64, clock: &Clock) {
    let code = &raw const start::ap_trampoline;
    let bytes = &raw const start::ap_trampoline_end as usize - code as usize;
    let tss = &raw const start::tss as u64 + 256 * cpu as u64;
    const TSS_LIMIT: u64 = 0xe8;
    const PRESENT_TSS: u64 = 0x8900;
    let descriptor = [
        TSS_LIMIT | (tss & 0xff_ffff) << 16 | PRESENT_TSS << 32 | (tss >> 24 & 0xff) << 56,
        tss >> 32,
    ];
    // SAFETY: no CPU is starting now, so nobody reads these; the trampoline's page is RAM that nothing
    // else uses any more.
    unsafe {
        ptr::copy_nonoverlapping(
            code,
            ptr::with_exposed_provenance_mut(TRAMPOLINE as usize),
            bytes,
        );
        (&raw mut start::gdt_tss)
            .cast::<[u64; 2]>()
            .add(cpu)
            .write_volatile(descriptor);
        (&raw mut start::boot_cpu).write_volatile(cpu as u32);
        (&raw mut start::boot_clock).write_volatile(clock_page as u32);
        // A function finds its return address at 8 below a multiple of 16.
        (&raw mut start::boot_frame)
            .cast::<u64>()
            .add(3)
            .write_volatile(stack_end - 8);
        *CLOCK.0.get() = Some(clock.of_cpu(0, 0));
    }
    CLOCK_PAGE.store(clock_page, Ordering::Release);
}

/// Waits for the CPU to come up; whether it has.
fn wait(clock: &mut Clock, ns: u64, cpu: usize) -> bool {
    let end = clock.now_ns() + ns;
    while CAME_UP.load(Ordering::Acquire) != cpu {
        if clock.now_ns() >= end {
            return false;
        }
        spin_loop();
    }
    true
}
