//! Free memory of the host that has been touched before: the first touch of a page can cost ten
//! times as much as any later one, and must not fall into a timed run.

use std::{hint::black_box, thread};

/// Guest memory at both ends, what waits at the destination, the rest of the processes.
const COPIES: u64 = 3;

const PAGE_SIZE: usize = 4096;

/// Touches and frees as much memory as a migration of a guest of this size will need.
pub(crate) fn warm(guest_memory_bytes: u64) {
    let bytes = (guest_memory_bytes * COPIES).min(available().unwrap_or(u64::MAX) / 10 * 8);
    // Of a thread's own, so that nothing of it stays in this one's heap.
    let toucher = thread::spawn(move || {
        let mut memory = vec![0_u8; usize::try_from(bytes).unwrap_or(0)];
        memory
            .iter_mut()
            .step_by(PAGE_SIZE)
            .for_each(|byte| *byte = 1);
        black_box(&memory);
    });
    toucher.join().expect("touching memory does not panic");
}

fn available() -> Option<u64> {
    let table = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = table
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_ascii_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}
