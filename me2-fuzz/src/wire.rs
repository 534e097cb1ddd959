//! Streams, messages, range lists, encoded pages.

use me2_wire::{
    PAGE_SIZE, Simd, delta,
    frame::{FrameKind, HEADER_BYTES, Header, PREFACE_BYTES, Preface},
    message::{self, PageRequest, TEXT_BYTES_MAX, ToDestination, ToSource},
    range::RangeList,
    rle,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{chunk, input};

/// Most ranges that [`ranges`] takes.
const RANGES_MAX: usize = 4096;

/// A stream as a receiver reads it: a preface, then frames.
pub fn stream(mut input: &[u8]) {
    let Some((preface, rest)) = input.split_first_chunk::<PREFACE_BYTES>() else {
        return;
    };
    let Ok(decoded) = Preface::decode(preface) else {
        return;
    };
    assert_eq!(decoded.encode(), *preface);
    input = rest;
    while let Some((header, rest)) = input.split_first_chunk::<HEADER_BYTES>() {
        let Ok(decoded) = Header::decode(header) else {
            return;
        };
        assert_eq!(decoded.encode(), *header);
        assert!((1..=decoded.kind.bytes_max()).contains(&decoded.length));
        let Some((payload, rest)) = rest.split_at_checked(decoded.length as usize) else {
            return;
        };
        match decoded.kind {
            FrameKind::Message => to_destination(payload),
            FrameKind::Pages => chunk::chunk(payload),
        }
        input = rest;
    }
}

/// What a destination takes on the control stream.
pub fn to_destination(input: &[u8]) {
    let Some(message) = round_trip::<ToDestination>(input) else {
        return;
    };
    match &message {
        ToDestination::Announce { pages, .. } | ToDestination::Withdraw { pages } => list(pages),
        ToDestination::Handover(handover) => {
            list(&handover.pages);
            assert!(handover.state.len() <= me2_wire::blob::BLOBS_MAX);
            assert!(handover.state.iter().all(|blob| blob.kind != 0));
        }
        _ => {}
    }
}

/// What a source takes on the control stream.
pub fn to_source(input: &[u8]) {
    let Some(message) = round_trip::<ToSource>(input) else {
        return;
    };
    match &message {
        ToSource::Refused { reason, .. } => {
            let clean = message::clean_text(reason);
            assert!(clean.len() <= TEXT_BYTES_MAX && !clean.contains(char::is_control));
        }
        ToSource::Missing { pages } | ToSource::Recovering { missing: pages, .. } => list(pages),
        _ => {}
    }
}

/// What a source takes on a fault answer stream.
pub fn page_request(input: &[u8]) {
    _ = round_trip::<PageRequest>(input);
}

/// Decoded, encoded and decoded again it is the same, and no longer than it came.
fn round_trip<T: Serialize + DeserializeOwned>(input: &[u8]) -> Option<T> {
    let message: T = message::decode(input).ok()?;
    let encoded = message::encode(&message);
    assert!(encoded.len() <= input.len());
    let again: T = message::decode(&encoded).expect("what was encoded can be decoded");
    assert_eq!(message::encode(&again), encoded);
    Some(message)
}

/// A list of pages by itself, behind the number of pages of the memory.
pub fn ranges(input: &[u8]) {
    let Some((total, bytes)) = input.split_first_chunk::<4>() else {
        return;
    };
    let total = u32::from_le_bytes(*total);
    let Ok(decoded) = RangeList::decode(bytes, RANGES_MAX, total) else {
        return;
    };
    assert_eq!(decoded.encode(), bytes, "a list has one encoding");
    assert!(decoded.ranges().len() <= RANGES_MAX && decoded.count() <= u64::from(total));
    assert_eq!(decoded.check(total), Ok(()));
    list(&decoded);
}

fn list(pages: &RangeList) {
    let mut end = None;
    for range in pages.ranges() {
        assert!(range.start < range.end && end.is_none_or(|end| end < range.start));
        assert!(pages.contains(range.start) && pages.contains(range.end - 1));
        assert!(!pages.contains(range.end));
        end = Some(range.end);
    }
    let parts: Vec<_> = pages
        .split(3)
        .flat_map(|part| part.ranges().to_vec())
        .collect();
    assert_eq!(parts, pages.ranges());
}

/// A page without its zeros or repeats.
pub fn rle(input: &[u8]) {
    let decoded = alike(|simd, page| rle::decode_with(simd, input, page).is_ok());
    if let Some(page) = decoded {
        let mut encoded = Vec::new();
        rle::encode(&page, usize::MAX, &mut encoded).expect("there is no limit");
        let mut again = [0; PAGE_SIZE];
        rle::decode(&encoded, &mut again).expect("what was encoded can be decoded");
        assert_eq!(again, page);
        assert!(encoded.len() <= input.len(), "the shorter mode is taken");
    }
}

/// A page as the difference from a base, which the first byte chooses.
pub fn delta(input: &[u8]) {
    let Some((base, input)) = input.split_first() else {
        return;
    };
    let base = match base {
        0 => [0; PAGE_SIZE],
        seed => input::noise(u64::from(*seed)),
    };
    let decoded = alike(|simd, page| delta::decode_with(simd, input, &base, page).is_ok());
    if let Some(page) = decoded {
        let mut encoded = Vec::new();
        delta::encode(&page, &base, usize::MAX, &mut encoded).expect("there is no limit");
        let mut again = [0; PAGE_SIZE];
        delta::decode(&encoded, &base, &mut again).expect("what was encoded can be decoded");
        assert_eq!(again, page);
    }
}

/// What all vector instructions of this processor make of it, which is the same.
fn alike(decode: impl Fn(Simd, &mut [u8; PAGE_SIZE]) -> bool) -> Option<[u8; PAGE_SIZE]> {
    let decode = |simd| {
        let mut page = [0xee; PAGE_SIZE];
        decode(simd, &mut page).then_some(page)
    };
    let plain = decode(Simd::portable());
    for simd in Simd::supported() {
        assert_eq!(decode(simd), plain, "{}", simd.name());
    }
    plain
}
