//! Free memory of the host that has been touched before: the first touch of a page can cost ten
//! times as much as any later one, and must not fall into a timed run.
//!
//! A host that is itself a VM may tell its hypervisor which of its memory is free, and then has it
//! taken away: after 2 s (Linux's free page reporting) what was warm is cold again. So it is held
//! until the timed part begins.

use std::{hint::black_box, thread};

/// Guest memory at the destination, what waits there, and what the source keeps of it.
const COPIES: u64 = 3;

const PAGE_SIZE: usize = 4096;

/// Memory that has been touched. Dropped, it is free, and warm for a second or two.
pub(crate) struct Warm {
    _memory: Vec<u8>,
}

/// Touches as much memory as a migration of a guest of this size will need beside the guest's own.
pub(crate) fn warm(guest_memory_bytes: u64) -> Warm {
    let bytes = (guest_memory_bytes * COPIES).min(available().unwrap_or(u64::MAX) / 10 * 8);
    // Of a thread's own, so that nothing of it stays in this one's heap.
    let toucher = thread::spawn(move || {
        let mut memory = vec![0_u8; usize::try_from(bytes).unwrap_or(0)];
        memory
            .iter_mut()
            .step_by(PAGE_SIZE)
            .for_each(|byte| *byte = 1);
        black_box(memory)
    });
    let memory = toucher.join().expect("touching memory does not panic");
    Warm { _memory: memory }
}

fn available() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
