//! How a vCPU goes through memory, by its page faults: which pages it will want next.
//!
//! What comes with an answer costs little; what has to be asked for costs a round trip. So a vCPU
//! that walks gets more with every step, and one that follows pointers gets nothing that it did not
//! ask for.

use std::collections::VecDeque;

use me2_wire::{PageIndex, message::Likely};

/// Walks that are followed: more than most VMs have vCPUs, and KVM workers, times those of each.
const WALKS_MAX: usize = 128;
/// Walks of one thread: a loop goes through a few things at once, and through the page tables of
/// each.
const WALKS_OF_THREAD_MAX: usize = 4;
/// The widest step that is taken for one, in pages.
const STRIDE_MAX: i64 = 64;
/// What comes with the first fault of a thread, of which nothing is known; and with one that begins
/// to walk.
const PAGES_FIRST: u8 = 3;
/// The most that comes with a fault: a walk of 4 KiB steps covers 256 KiB.
const PAGES_MAX: u8 = 63;

/// The walks of all threads, the one that went on last at the end.
#[derive(Debug, Default)]
pub struct Patterns {
    walks: VecDeque<Walk>,
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
        let (walk, replaced) = self.walk_to(thread, page);
        if let Some(index) = replaced {
            self.walks.remove(index);
        } else if self.walks.len() >= WALKS_MAX {
            self.walks.pop_front();
        }
        self.walks.push_back(walk);
        Likely {
            pages: walk.likely,
            stride: walk.stride as i32,
        }
    }

    /// The walk that comes to this page, and which one it takes the place of: that which it goes on
    /// with, or that which was near, or the oldest if the thread has enough.
    fn walk_to(&self, thread: i32, page: PageIndex) -> (Walk, Option<usize>) {
        let of_thread = || {
            let walks = self.walks.iter().enumerate().rev();
            walks.filter(move |(_, walk)| walk.thread == thread)
        };
        let near = |(index, walk): (usize, &Walk)| Some((walk.turned_to(page)?, Some(index)));
        let goes_on = |(index, walk): (usize, &Walk)| Some((walk.gone_on_to(page)?, Some(index)));
        if let Some(found) = of_thread().find_map(goes_on).or(of_thread().find_map(near)) {
            return found;
        }
        let has_enough = of_thread().count() >= WALKS_OF_THREAD_MAX;
        let oldest = of_thread().next_back().map(|(index, _)| index);
        match oldest {
            None => (Walk::first(thread, page), None),
            Some(_) => (Walk::elsewhere(thread, page), oldest.filter(|_| has_enough)),
        }
    }
}

impl Walk {
    /// Of a thread of which nothing is known.
    fn first(thread: i32, page: PageIndex) -> Self {
        Self {
            thread,
            page,
            stride: 1,
            likely: PAGES_FIRST,
        }
    }

    /// Of a thread that was anywhere else before.
    fn elsewhere(thread: i32, page: PageIndex) -> Self {
        Self {
            stride: 0,
            likely: 0,
            ..Self::first(thread, page)
        }
    }

    /// It goes on to this page, if that is where it was going.
    fn gone_on_to(&self, page: PageIndex) -> Option<Self> {
        let step = self.step_to(page);
        let reach = self.stride * (i64::from(self.likely) + 1);
        let goes_on = self.stride != 0
            && step.signum() == self.stride.signum()
            && step % self.stride == 0
            && step.abs() <= reach.abs();
        goes_on.then(|| Self {
            page,
            likely: (self.likely * 2 + 1).min(PAGES_MAX),
            ..*self
        })
    }

    /// It begins to go to this page, if that is near.
    fn turned_to(&self, page: PageIndex) -> Option<Self> {
        let step = self.step_to(page);
        let is_near = step != 0 && step.abs() <= STRIDE_MAX;
        is_near.then_some(Self {
            page,
            stride: step,
            likely: PAGES_FIRST,
            ..*self
        })
    }

    fn step_to(&self, page: PageIndex) -> i64 {
        i64::from(page) - i64::from(self.page)
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
        (0..1000).for_each(|page| _ = patterns.fault(3, page * 1000));
        let of_third = patterns.walks.iter().filter(|walk| walk.thread == 3);
        assert_eq!(of_third.count(), WALKS_OF_THREAD_MAX);
        (0..1000).for_each(|thread| _ = patterns.fault(thread, 1));
        assert_eq!(patterns.walks.len(), WALKS_MAX);
    }

    #[test]
    fn a_thread_may_be_on_several_walks() {
        let likely = faults(&mut Patterns::default(), &[100, 7000, 104, 7001, 112, 7005]);
        assert_eq!(likely, [(3, 1), (0, 0), (7, 1), (3, 1), (15, 1), (7, 1)]);
    }
}
