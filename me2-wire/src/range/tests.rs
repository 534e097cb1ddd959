use proptest::{collection::vec, prelude::*};

use super::*;

fn list(ranges: &[Range<PageIndex>]) -> RangeList {
    let mut list = RangeList::EMPTY;
    ranges.iter().cloned().for_each(|range| list.push(range));
    list
}

fn decode(bytes: &[u8]) -> Result<RangeList, RangeError> {
    RangeList::decode(bytes, RANGES_MAX, PageIndex::MAX)
}

#[test]
fn the_encoding_is_fixed() {
    let pages = list(&[0..1, 2..4, 300..1000]);
    assert_eq!(pages.encode(), [0, 0, 0, 1, 0xa7, 0x02, 0xbb, 0x05]);
    assert_eq!(decode(&pages.encode()), Ok(pages));
    assert_eq!(RangeList::EMPTY.encode(), []);
}

#[test]
fn the_whole_address_space_is_one_range() {
    let mut all = RangeList::EMPTY;
    all.push(0..PageIndex::MAX);
    assert_eq!(all.count(), u64::from(PageIndex::MAX));
    assert_eq!(decode(&all.encode()), Ok(all.clone()));
    assert!(all.check(PageIndex::MAX).is_ok());
    assert_eq!(
        all.check(10),
        Err(RangeError::BeyondMemory { total_pages: 10 })
    );
}

#[test]
fn malformed_lists_are_refused() {
    let beyond = Err(RangeError::BeyondMemory {
        total_pages: PageIndex::MAX,
    });
    assert_eq!(decode(&[0]), Err(RangeError::Truncated));
    assert_eq!(decode(&[0x80]), Err(RangeError::Truncated));
    assert_eq!(decode(&[0x80, 0, 0]), Err(RangeError::Number));
    assert_eq!(
        decode(&[0xff, 0xff, 0xff, 0xff, 0x10, 0]),
        Err(RangeError::Number)
    );
    assert_eq!(decode(&[0xff; 6]), Err(RangeError::Number));
    assert_eq!(decode(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f]), beyond);
    assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]), beyond);
    // A range after one that ends with the address space.
    assert_eq!(decode(&[0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0]), beyond);
}

#[test]
fn limits_hold() {
    let pages = list(&[0..2, 8..10]);
    let bytes = pages.encode();
    assert_eq!(
        RangeList::decode(&bytes, 1, 10),
        Err(RangeError::TooMany { ranges: 2, max: 1 })
    );
    assert_eq!(
        RangeList::decode(&bytes, 2, 9),
        Err(RangeError::BeyondMemory { total_pages: 9 })
    );
    assert_eq!(RangeList::decode(&bytes, 2, 10), Ok(pages));
}

#[test]
fn serde_checks_what_it_reads() {
    let pages = list(&[3..70, 4000..4001]);
    let bytes = postcard::to_stdvec(&pages).unwrap();
    assert_eq!(postcard::from_bytes::<RangeList>(&bytes).unwrap(), pages);
    assert!(postcard::from_bytes::<RangeList>(&[1, 0]).is_err());
    assert!(postcard::from_bytes::<RangeList>(&[0xff, 0xff, 0xff, 0x7f, 0, 0]).is_err());
}

#[test]
#[should_panic(expected = "ascend")]
fn descending_pages_are_our_own_bug() {
    RangeList::from_ascending([2, 1]);
}

proptest! {
    #[test]
    fn a_bitmap_round_trips(words in vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..40)) {
        let set = |page: usize| words[page / 64] >> (page % 64) & 1 == 1;
        let pages: Vec<_> =
            (0..words.len() * 64).filter(|page| set(*page)).map(|page| page as PageIndex).collect();
        let list = RangeList::from_bitmap(&words);
        prop_assert_eq!(&list, &RangeList::from_ascending(pages.iter().copied()));
        prop_assert_eq!(list.count(), pages.len() as u64);
        prop_assert_eq!(list.iter().collect::<Vec<_>>(), pages);
        for page in 0..words.len() * 64 {
            prop_assert_eq!(list.contains(page as PageIndex), set(page));
        }
        prop_assert!(!list.contains(words.len() as PageIndex * 64));
        prop_assert!(list.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
        let total_pages = words.len() as PageIndex * 64;
        prop_assert_eq!(RangeList::decode(&list.encode(), RANGES_MAX, total_pages), Ok(list));
    }

    #[test]
    fn splitting_loses_no_page(pages in prop::collection::btree_set(0u32..2000, 0..400), ranges_max in 1usize..20) {
        let list = RangeList::from_ascending(pages.iter().copied());
        let parts: Vec<_> = list.split(ranges_max).collect();
        prop_assert!(parts.iter().all(|part| part.ranges().len() <= ranges_max));
        prop_assert!(parts.iter().flat_map(RangeList::iter).eq(pages));
    }

    #[test]
    fn what_is_taken_is_what_it_encodes_to(bytes in vec(prop_oneof![0u8..4, any::<u8>()], 0..60)) {
        if let Ok(list) = decode(&bytes) {
            prop_assert_eq!(list.encode(), &bytes[..]);
            prop_assert!(list.ranges.capacity() <= bytes.len() / 2);
            prop_assert!(list.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }

    #[test]
    fn a_cut_list_is_never_the_whole(pages in vec(1u32..100_000, 1..50), cut in any::<prop::sample::Index>()) {
        let mut page = 0;
        let list = RangeList::from_ascending(pages.iter().map(|gap| { page += gap; page }));
        let bytes = list.encode();
        prop_assert_ne!(decode(&bytes[..cut.index(bytes.len())]), Ok(list));
    }
}
