//! How a vCPU goes through memory, by its page faults: which pages it will want next.
//!
//! What comes with an answer costs little; what has to be asked for costs a round trip. So a vCPU
//! that walks gets more with every step, and one that follows pointers gets nothing that it did not
//! ask for.

use std::collections::VecDeque;

use me2_wire::{PageIndex, message::Likely};

/// Threads that are followed: more vCPUs than most VMs have, and KVM's workers.
const THREADS_MAX: usize = 64;
/// The widest step that is taken for one, in pages.
const STRIDE_MAX: i64 = 64;
/// What comes with the first fault of a thread, of which nothing is known; and with one that begins
/// to walk.
const PAGES_FIRST: u8 = 3;
/// The most that comes with a fault: a walk of 4 KiB steps covers 256 KiB.
const PAGES_MAX: u8 = 63;

/// The walks of all threads, the one that faulted last at the end.
#[derive(Debug, Default)]
pub struct Patterns {
    threads: VecDeque<Walk>,
}

#[derive(Debug, Clone, Copy)]
struct Walk {
    thread: i32,
    page: PageIndex,
    /// 0: it does not walk.
    stride: i64,
    likely: u8,
}

impl Patterns {
    /// A thread waits for a page: what it is likely to want next.
    pub fn fault(&mut self, thread: i32, page: PageIndex) -> Likely {
        let known = self.threads.iter().position(|walk| walk.thread == thread);
        let before = known.and_then(|index| self.threads.remove(index));
        let walk = before.map_or_else(|| Walk::first(thread, page), |walk| walk.to(page));
        if self.threads.len() >= THREADS_MAX {
            self.threads.pop_front();
        }
        self.threads.push_back(walk);
        Likely {
            pages: walk.likely,
            stride: walk.stride as i32,
        }
    }
}

impl Walk {
    fn first(thread: i32, page: PageIndex) -> Self {
        Self {
            thread,
            page,
            stride: 1,
            likely: PAGES_FIRST,
        }
    }

    fn to(self, page: PageIndex) -> Self {
        let step = i64::from(page) - i64::from(self.page);
        let reach = self.stride * (i64::from(self.likely) + 1);
        let goes_on = self.stride != 0
            && step.signum() == self.stride.signum()
            && step % self.stride == 0
            && step.abs() <= reach.abs();
        let (stride, likely) = if goes_on {
            (self.stride, (self.likely * 2 + 1).min(PAGES_MAX))
        } else if step != 0 && step.abs() <= STRIDE_MAX {
            (step, PAGES_FIRST)
        } else {
            (0, 0)
        };
        Self {
            page,
            stride,
            likely,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(patterns: &mut Patterns, pages: &[PageIndex]) -> Vec<(u8, i32)> {
        let fault = |page: &PageIndex| {
            let likely = patterns.fault(1, *page);
            (likely.pages, likely.stride)
        };
        pages.iter().map(fault).collect()
    }

    #[test]
    fn a_walk_gets_more_with_every_step() {
        // Each fault comes behind what the answer before had brought.
        let likely = faults(&mut Patterns::default(), &[100, 104, 112, 128, 160, 224]);
        assert_eq!(
            likely,
            [(3, 1), (7, 1), (15, 1), (31, 1), (63, 1), (63, 1)],
            "one after the other"
        );
        let likely = faults(&mut Patterns::default(), &[1000, 992, 984, 952]);
        assert_eq!(
            likely,
            [(3, 1), (3, -8), (7, -8), (15, -8)],
            "strided, down"
        );
    }

    #[test]
    fn pointers_get_nothing() {
        let likely = faults(&mut Patterns::default(), &[5, 90_000, 123, 70_001]);
        assert_eq!(likely, [(3, 1), (0, 0), (0, 0), (0, 0)]);
        let likely = faults(&mut Patterns::default(), &[5, 90_000, 90_001, 90_002]);
        assert_eq!(likely, [(3, 1), (0, 0), (3, 1), (7, 1)], "it walks again");
    }

    #[test]
    fn threads_are_told_apart_and_bounded() {
        let mut patterns = Patterns::default();
        for step in 0..4 {
            patterns.fault(1, 100 + step);
            patterns.fault(2, 50_000 * (step + 1));
        }
        assert_eq!(patterns.fault(1, 104).pages, 63);
        assert_eq!(patterns.fault(2, 7).pages, 0);
        (0..1000).for_each(|thread| _ = patterns.fault(thread, 1));
        assert_eq!(patterns.threads.len(), THREADS_MAX);
    }
}
