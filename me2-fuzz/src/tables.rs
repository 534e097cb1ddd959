//! What a peer's messages do to the page tables: neither side loses count, whatever comes.

use std::{collections::HashSet, ops::Range};

use me2_engine::{
    bitmap::Bitmap,
    destination::{Arrival, DestinationPages, FaultAction},
    source::{ANSWER_PAGES_MAX, SourcePages},
};
use me2_wire::{PageIndex, Version, message::Likely, range::RangeList};

use crate::input::Choices;

/// Pages of the memory: two regions, the second one not full.
const PAGES: PageIndex = 700;
/// Pages of a request.
const WANTED_MAX: u8 = 64;

/// A destination with a source that says anything, or a source with a destination that asks anything.
pub fn both(input: &[u8]) {
    let mut choices = Choices(input);
    match choices.byte() % 2 {
        0 => destination(&mut choices),
        _ => source(&mut choices),
    }
}

/// As the pager drives it; what it was given to place is placed some time later.
fn destination(choices: &mut Choices<'_>) {
    let mut table = DestinationPages::new(PAGES);
    let mut given: Vec<Range<PageIndex>> = Vec::new();
    while !choices.is_over() {
        match choices.byte() % 8 {
            // A peer's mistake is an error that changes nothing, and ends its connection.
            0 => _ = table.announce(version(choices), &range(choices)),
            1 => _ = table.withdraw(&range(choices)),
            2 | 3 => {
                let index = PageIndex::from(choices.short()) % (PAGES + 1);
                let (version, is_zero) =
                    (version(choices).max(1), choices.byte().is_multiple_of(2));
                let arrival = table.arrive(index, version, 7, is_zero);
                if arrival == Ok(Arrival::Place) {
                    given.push(index..index + 1);
                }
            }
            4 => _ = table.hand_over(version(choices), &range(choices)),
            5 if table.is_handed_over() => {
                let page = PageIndex::from(choices.short()) % PAGES;
                if let FaultAction::Place(_, run) = table.fault(page) {
                    assert!(run.contains(&page));
                    given.push(run);
                }
            }
            6 if table.is_handed_over() => {
                given.extend(
                    table
                        .next_run(1 + PageIndex::from(choices.byte()))
                        .map(|run| run.1),
                );
            }
            7 => given.pop().into_iter().for_each(|run| table.placed(run)),
            _ => _ = table.missing(),
        }
    }
    if table.is_handed_over() {
        finish(table, given);
    }
}

/// With nothing outstanding, what is there makes it complete; else that many pages are missing.
fn finish(mut table: DestinationPages, mut given: Vec<Range<PageIndex>>) {
    _ = table.take_holes(0..PAGES, 64);
    while let Some((_, run)) = table.next_run(PAGES) {
        given.push(run);
    }
    // What a fault took before the cursor came there is not looked at again.
    for page in 0..PAGES {
        if let FaultAction::Place(_, run) = table.fault(page) {
            given.push(run);
        }
    }
    given.into_iter().for_each(|run| table.placed(run));
    assert_eq!(table.missing().0.count(), table.outstanding());
    assert_eq!(table.unplaced(), table.outstanding());
    assert_eq!(table.is_complete(), table.outstanding() == 0);
}

fn source(choices: &mut Choices<'_>) {
    let mut table = SourcePages::new(PAGES);
    let mut used = Bitmap::new(PAGES);
    for page in range(choices).iter().filter(|page| *page < PAGES) {
        used.set(page);
    }
    table.begin_version(&used);
    table.set_push_order((0..PAGES).rev().collect());
    let mut answered = HashSet::new();
    while !choices.is_over() {
        match choices.byte() % 4 {
            0 => {
                let missing = range(choices);
                // As the source checks it before.
                if missing.check(PAGES).is_ok() {
                    let mut pages = Bitmap::new(PAGES);
                    pages.extend(&missing);
                    table.reset_unsent(&pages);
                    answered.clear();
                }
            }
            1 => {
                let pushed = table.claim_push(usize::from(choices.byte()));
                assert!(pushed.iter().all(|page| !table.is_hole(*page)));
            }
            _ => {
                let wanted: Vec<_> = (0..choices.byte() % WANTED_MAX)
                    .map(|_| PageIndex::from(choices.short()))
                    .collect();
                let likely = Likely {
                    pages: choices.byte(),
                    stride: choices.number().cast_signed(),
                };
                let claimed = table.claim_answer(&wanted, likely);
                assert!(claimed.len() <= ANSWER_PAGES_MAX);
                for page in claimed.iter().filter(|page| wanted.contains(page)) {
                    assert!(!table.is_hole(*page), "holes are left out");
                    assert!(answered.insert(*page), "a page is answered once");
                }
            }
        }
    }
}

fn version(choices: &mut Choices<'_>) -> Version {
    Version::from(choices.byte() % 8)
}

/// One range, perhaps beyond the memory.
fn range(choices: &mut Choices<'_>) -> RangeList {
    let start = PageIndex::from(choices.short()) % (PAGES + 8);
    let mut list = RangeList::EMPTY;
    list.push(start..start + 1 + PageIndex::from(choices.byte()));
    list
}
