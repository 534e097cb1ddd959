use super::*;

fn list(pages: &[PageIndex]) -> RangeList {
    let mut bitmap = Bitmap::new(4096);
    pages.iter().for_each(|page| _ = bitmap.set(*page));
    RangeList::from_bitmap(bitmap.words())
}

#[test]
fn what_is_missing_can_be_given_up() {
    let mut pages = DestinationPages::new(1000);
    assert_eq!(pages.take_missing(), []);
    pages.announce(1, &list(&[3, 4])).unwrap();
    pages.arrive(3, 1, 33, false).unwrap();
    pages.arrive(4, 1, 44, false).unwrap();
    pages.hand_over(2, &list(&[4, 5, 6, 900])).unwrap();
    assert_eq!(pages.fault(5), FaultAction::Request);
    assert_eq!(pages.take_missing(), [4..7, 900..901]);
    assert_eq!(pages.take_missing(), []);
    assert_eq!(pages.outstanding(), 0);
    assert_eq!(pages.fault(5), FaultAction::Wait);
    assert_eq!(pages.arrive(5, 2, 55, false), Ok(Arrival::Duplicate));
    pages.placed(4..7);
    assert_eq!(pages.fault(5), FaultAction::Wake);
    assert!(matches!(
        pages.fault(3),
        FaultAction::Place(Content::Staged, _)
    ));
}

#[test]
fn older_never_replaces_newer() {
    let mut pages = DestinationPages::new(4096);
    pages.announce(1, &list(&[7])).unwrap();
    // Streams are not ordered: version 2 overtakes version 1 and its own announcement.
    assert_eq!(pages.arrive(7, 2, 22, false), Ok(Arrival::Stage));
    assert_eq!(pages.arrive(7, 1, 11, false), Ok(Arrival::Duplicate));
    assert_eq!(pages.outstanding(), 1);
    pages.announce(2, &list(&[7, 8])).unwrap();
    assert_eq!(pages.outstanding(), 1);
    assert_eq!(
        pages.announce(1, &list(&[9])),
        Err(PageError::VersionOrder {
            announced: 1,
            latest: 2
        })
    );
    assert_eq!(
        pages.announce(2, &list(&[8])),
        Ok(()),
        "a second part of the same list"
    );
    assert_eq!(pages.announce(3, &list(&[4095])), Ok(()));
    assert_eq!(
        pages.arrive(4096, 3, 0, false),
        Err(PageError::BeyondMemory(4096))
    );
}

#[test]
fn what_has_changed_most_is_placed_first() {
    let mut pages = DestinationPages::new(3 * REGION_PAGES);
    let all = list(&(0..3 * REGION_PAGES).collect::<Vec<_>>());
    pages.announce(1, &all).unwrap();
    for page in 0..3 * REGION_PAGES {
        pages.arrive(page, 1, 1, false).unwrap();
    }
    pages.announce(2, &list(&[1030, 1031, 5])).unwrap();
    for page in [1030, 1031, 5] {
        pages.arrive(page, 2, 1, false).unwrap();
    }
    pages.hand_over(3, &RangeList::EMPTY).unwrap();
    let mut placed = Vec::new();
    while let Some((_, run)) = pages.next_run(400) {
        placed.push(run.clone());
        pages.placed(run);
    }
    assert_eq!(
        placed,
        [
            1024..1424,
            1424..1536,
            0..400,
            400..512,
            512..912,
            912..1024
        ]
    );
    assert!(pages.is_complete());
}

#[test]
fn what_is_withdrawn_is_not_waited_for_until_it_is_announced_again() {
    let mut pages = DestinationPages::new(4096);
    pages.announce(1, &list(&[1, 2, 3])).unwrap();
    pages.arrive(1, 1, 1, false).unwrap();
    pages.withdraw(&list(&[1, 2])).unwrap();
    assert_eq!(pages.outstanding(), 1, "page 3");
    pages.arrive(3, 1, 3, false).unwrap();
    assert_eq!(pages.outstanding(), 0);
    assert_eq!(pages.hand_over(2, &list(&[2])), Ok(1));
    assert_eq!(pages.fault(2), FaultAction::Request);
    assert_eq!(pages.withdraw(&list(&[2])), Err(PageError::Phase));
    let mut pages = DestinationPages::new(64);
    assert!(pages.withdraw(&list(&[64])).is_err());
}

#[test]
fn what_arrived_can_be_referred_to_until_it_is_replaced_or_placed() {
    let mut pages = DestinationPages::new(4096);
    pages.announce(1, &list(&[1, 2])).unwrap();
    assert_eq!(pages.holds(1, 1), None);
    pages.arrive(1, 1, 1, false).unwrap();
    assert_eq!(pages.holds(1, 1), Some(Content::Staged));
    assert_eq!(pages.holds(1, 2), None);
    assert_eq!(pages.holds(5000, 1), None);
    pages.hand_over(2, &list(&[1, 2])).unwrap();
    assert_eq!(
        pages.holds(1, 1),
        Some(Content::Staged),
        "stale: never placed, but good as a base"
    );
    assert!(!pages.is_superseded(1, 2));
    pages.arrive(1, 2, 3, false).unwrap();
    assert_eq!(pages.holds(1, 1), None);
    assert!(pages.is_superseded(1, 2));
}

#[test]
fn stale_pages_are_missing_and_holes_are_zero() {
    let mut pages = DestinationPages::new(4096);
    pages.announce(1, &list(&[1, 2, 3])).unwrap();
    for page in [1, 2, 3] {
        pages.arrive(page, 1, 1, page == 3).unwrap();
    }
    assert_eq!(pages.hand_over(2, &list(&[2])), Ok(1));
    assert_eq!(pages.fault(2), FaultAction::Request);
    assert_eq!(pages.fault(2), FaultAction::Wait);
    assert_eq!(pages.fault(1), FaultAction::Place(Content::Staged, 1..2));
    assert_eq!(pages.fault(1), FaultAction::Wait);
    pages.placed(1..2);
    assert_eq!(pages.fault(1), FaultAction::Wake);
    assert_eq!(pages.arrive(2, 1, 1, false), Ok(Arrival::Duplicate));
    assert_eq!(pages.arrive(2, 2, 5, false), Ok(Arrival::Place));
    assert_eq!(pages.arrive(2, 2, 5, false), Ok(Arrival::Duplicate));
    pages.placed(2..3);
    assert_eq!(pages.take_holes(0..2048, 3000), []);
    let holes = pages.take_holes(0..4096, 1000);
    assert_eq!((holes.len(), &holes[0]), (1, &(4..4096)));
    assert_eq!(pages.next_run(512), Some((Content::Zero, 0..1)));
    assert_eq!(pages.next_run(512), Some((Content::Zero, 3..4)));
    assert_eq!(pages.next_run(512), None);
    assert!(!pages.is_complete());
    pages.placed(0..1);
    pages.placed(3..4);
    assert!(pages.is_complete());
}

#[test]
fn what_is_used_is_counted() {
    let mut pages = DestinationPages::new(4096);
    pages.announce(1, &list(&[1, 2, 3])).unwrap();
    pages.announce(2, &list(&[2, 4])).unwrap();
    assert_eq!(pages.used(), 4);
    pages.arrive(1, 1, 1, false).unwrap();
    pages.withdraw(&list(&[1, 3])).unwrap();
    assert_eq!(pages.used(), 3, "3 is a hole again, 1 has come");
    pages.arrive(9, 1, 9, false).unwrap();
    pages.hand_over(3, &list(&[3, 9])).unwrap();
    assert_eq!(pages.used(), 5);
    let holes = (0..4096).filter(|page| pages.is_hole(*page)).count();
    assert_eq!(holes, 4096 - 5);
}

/// A table in which pages 1 and 2 are in place, with hashes of 11 and 12.
fn complete() -> DestinationPages {
    let mut pages = DestinationPages::new(4096);
    pages.hand_over(1, &list(&[1, 2])).unwrap();
    for page in [1, 2] {
        pages.arrive(page, 1, u64::from(page) + 10, false).unwrap();
        pages.placed(page..page + 1);
    }
    while let Some((_, run)) = pages.next_run(4096) {
        pages.placed(run);
    }
    assert!(pages.is_complete());
    pages
}

#[test]
fn a_page_that_differs_comes_again_and_is_compared_but_never_placed() {
    let mut pages = complete();
    assert_eq!(pages.dispute([1, 3, 5000]), [1], "holes are no pages");
    assert_eq!((pages.disputes(), pages.is_disputed(2)), (1, false));
    assert_eq!(pages.arrive(1, 1, 11, false), Ok(Arrival::Duplicate));
    assert!(pages.is_complete(), "it stays in place");

    // The account of it was wrong, and memory is as the source's.
    pages.compare(1, 99, 99);
    assert_eq!((pages.leaf_hashes(0)[1], pages.disputes()), (99, 0));
    // Only what is disputed is compared.
    pages.compare(2, 99, 99);
    assert_eq!(pages.leaf_hashes(0)[2], 12);
    // Memory has something else: it differs, and goes on to.
    pages.dispute([2]);
    pages.compare(2, 99, 98);
    assert_eq!((pages.leaf_hashes(0)[2], pages.disputes()), (12, 0));
}

#[test]
fn what_is_missing_is_told_after_a_reconnect() {
    let mut pages = DestinationPages::new(4096);
    pages.hand_over(1, &list(&[10, 11, 12])).unwrap();
    pages.fault(12);
    pages.arrive(10, 1, 1, false).unwrap();
    let (missing, wanted) = pages.missing();
    assert_eq!(missing.iter().collect::<Vec<_>>(), [11, 12]);
    assert_eq!(wanted, [12]);
}
