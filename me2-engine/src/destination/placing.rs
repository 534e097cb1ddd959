//! Which pages become visible next: those that are waited for, then the others in runs.

use std::{cmp::Reverse, ops::Range};

use me2_wire::PageIndex;

use super::{Content, DestinationPages, FaultAction, REGION_PAGES, State};

/// Pages around a fault that are placed with it, where their content is at hand.
const AROUND_FAULT: PageIndex = 16;

impl DestinationPages {
    /// The guest touched a page that it cannot see.
    pub fn fault(&mut self, index: PageIndex) -> FaultAction {
        assert!(
            self.handed_over && (index as usize) < self.pages.len(),
            "nobody faults before, or beyond RAM"
        );
        match self.final_state(index) {
            State::Placed => FaultAction::Wake,
            State::Placing => FaultAction::Wait,
            State::Absent => {
                let asked_before =
                    std::mem::replace(&mut self.pages[index as usize].requested, true);
                if asked_before {
                    FaultAction::Wait
                } else {
                    FaultAction::Request
                }
            }
            State::Staged => FaultAction::Place(
                Content::Staged,
                self.claim_run(index, State::Staged, AROUND_FAULT),
            ),
            State::Zero => FaultAction::Place(
                Content::Zero,
                self.claim_run(index, State::Zero, AROUND_FAULT),
            ),
        }
    }

    /// The next pages whose content is at hand, to be placed behind the running guest: at most
    /// `count`, all of one kind, first where most has changed. `None` once all of them have been
    /// given out.
    pub fn next_run(&mut self, count: PageIndex) -> Option<(Content, Range<PageIndex>)> {
        if self.order.is_empty() {
            self.order = (0..self.changes.len() as PageIndex).collect();
            self.order
                .sort_by_key(|region| Reverse(self.changes[*region as usize]));
        }
        while let Some(region) = self.order.get(self.cursor.0) {
            let start = region * REGION_PAGES;
            let end = start
                .saturating_add(REGION_PAGES)
                .min(self.pages.len() as PageIndex);
            while start + self.cursor.1 < end {
                let index = start + self.cursor.1;
                let state = self.final_state(index);
                let content = match state {
                    State::Staged => Content::Staged,
                    State::Zero => Content::Zero,
                    _ => {
                        self.cursor.1 += 1;
                        continue;
                    }
                };
                let run = self.claim_run(index, state, count.min(end - index));
                self.cursor.1 = run.end - start;
                return Some((content, run));
            }
            self.cursor = (self.cursor.0 + 1, 0);
        }
        None
    }

    fn claim_run(&mut self, first: PageIndex, state: State, count: PageIndex) -> Range<PageIndex> {
        let end = first
            .saturating_add(count)
            .min(self.pages.len() as PageIndex);
        let mut run = first..first;
        while run.end < end && self.final_state(run.end) == state {
            self.pages[run.end as usize].state = State::Placing;
            run.end += 1;
        }
        run
    }

    /// These pages, given out before, are visible now.
    pub fn placed(&mut self, pages: Range<PageIndex>) {
        for page in &mut self.pages[pages.start as usize..pages.end as usize] {
            assert_eq!(
                page.state,
                State::Placing,
                "only pages that were given out are placed"
            );
            page.state = State::Placed;
            self.unplaced -= 1;
        }
    }

    /// Stretches of at least `min` holes among `within`; they count as placed from now on. Only
    /// after the handover.
    pub fn take_holes(
        &mut self,
        within: Range<PageIndex>,
        min: PageIndex,
    ) -> Vec<Range<PageIndex>> {
        assert!(
            self.handed_over,
            "what is a hole is known after the handover"
        );
        let end = within.end.min(self.pages.len() as PageIndex);
        let mut holes = Vec::new();
        let mut first = within.start;
        for index in within.start..=end {
            if index < end && self.is_hole(index) && self.final_state(index) == State::Zero {
                continue;
            }
            if index - first >= min {
                holes.push(first..index);
            }
            first = index + 1;
        }
        for hole in &holes {
            for page in &mut self.pages[hole.start as usize..hole.end as usize] {
                page.state = State::Placed;
            }
            self.unplaced -= hole.len() as u64;
        }
        holes
    }

    /// The VM will never run here, and who waits for a page shall go on all the same: every missing
    /// page counts as come, as zeros, and is to be placed by the caller.
    pub fn take_missing(&mut self) -> Vec<Range<PageIndex>> {
        let mut runs: Vec<Range<PageIndex>> = Vec::new();
        if !self.handed_over {
            return runs;
        }
        for index in 0..self.pages.len() as PageIndex {
            if self.final_state(index) != State::Absent {
                continue;
            }
            let page = &mut self.pages[index as usize];
            self.outstanding -= u64::from(page.expected != page.arrived);
            page.arrived = page.expected;
            page.state = State::Placing;
            match runs.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    /// Pages that the guest cannot see yet.
    pub fn unplaced(&self) -> u64 {
        self.unplaced
    }
}
