//! Chunks of anything, whole and damaged.

use proptest::{collection::vec, prelude::*};

use super::*;

fn page() -> impl Strategy<Value = Page> {
    let filled = (any::<u64>(), 0..=PAGE_SIZE, any::<u8>()).prop_map(|(seed, filled, byte)| {
        let mut page = noise(seed);
        page[..filled].fill(byte & 1);
        page
    });
    prop_oneof![1 => Just([0; PAGE_SIZE]), 3 => filled]
}

/// What can be pushed: a page, or one after changes, or a reference to the one before.
#[derive(Debug, Clone)]
enum Push {
    Page(Page),
    Changed(Page, Vec<(usize, u8)>),
    Reference(Page),
}

fn pushes() -> impl Strategy<Value = Vec<(PageIndex, Version, Push)>> {
    let push = prop_oneof![
        page().prop_map(Push::Page),
        (page(), vec((0..PAGE_SIZE, any::<u8>()), 0..30))
            .prop_map(|(page, changes)| Push::Changed(page, changes)),
        page().prop_map(Push::Reference),
    ];
    let index = prop_oneof![0u32..100, 0..u32::MAX];
    let version = prop_oneof![2u32..10, 2..=u32::MAX];
    vec((index, version, push), 1..20)
}

fn compressions() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::None),
        (-7..4).prop_map(|level| Compression::Zstd { level }),
    ]
}

/// A chunk of them, and for each the content it builds on and the page to come out.
fn written(
    pushes: &[(PageIndex, Version, Push)],
    compression: Compression,
) -> (Vec<u8>, Vec<Encoded>, Vec<(Page, Page)>) {
    let mut writer = ChunkWriter::new();
    let mut contents = Vec::new();
    let mut encoded = Vec::new();
    for (index, version, push) in pushes {
        let (old, new) = match push {
            Push::Page(page) => {
                encoded.push(writer.push(*index, *version, page, None));
                ([0x77; PAGE_SIZE], *page)
            }
            Push::Changed(old, changes) => {
                let mut new = *old;
                changes.iter().for_each(|(at, byte)| new[*at] ^= byte);
                let base = Base {
                    version: version - 1,
                    content: old,
                };
                encoded.push(writer.push(*index, *version, &new, Some(base)));
                (*old, new)
            }
            Push::Reference(page) => {
                let source = Source {
                    page: index / 2,
                    version: version - 1,
                };
                encoded.push(writer.push_reference(*index, *version, source, page_hash(page)));
                (*page, *page)
            }
        };
        contents.push((old, new));
    }
    let bytes: usize = encoded.iter().map(|encoded| encoded.bytes).sum();
    assert_eq!(writer.counts().bytes.sum(), bytes as u64);
    let frame = writer.take_frame(compression);
    assert_eq!(frame.plain_bytes, bytes + HEADER_BYTES + CHUNK_HEADER_BYTES);
    assert!(frame.bytes.len() <= frame.plain_bytes);
    (payload(frame), encoded, contents)
}

proptest! {
    #[test]
    fn chunks_round_trip(pushes in pushes(), compression in compressions()) {
        let (chunk, encoded, contents) = written(&pushes, compression);
        let mut decoder = ChunkDecoder::new(u32::MAX);
        let records = decoder.open(&chunk).unwrap();
        prop_assert_eq!(records.len(), pushes.len());
        for (at, record) in records.enumerate() {
            let (index, version, push) = &pushes[at];
            prop_assert_eq!((record.index, record.version), (*index, *version));
            prop_assert_eq!((record.codec, record.hash), (encoded[at].codec, encoded[at].hash));
            let source_page = match (push, record.codec) {
                (Push::Reference(_), _) => Some(index / 2),
                (_, Codec::Delta) => Some(*index),
                _ => None,
            };
            let source = source_page.map(|page| Source { page, version: version - 1 });
            prop_assert_eq!(record.source(), source);
            let mut out = [0x55; PAGE_SIZE];
            record.decode(source.map(|_| &contents[at].0), &mut out).unwrap();
            prop_assert!(out == contents[at].1);
        }
    }

    #[test]
    fn a_cut_chunk_is_an_error(
        pushes in pushes(),
        compression in compressions(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (chunk, ..) = written(&pushes, compression);
        prop_assert!(opened(&chunk[..cut.index(chunk.len())], u32::MAX).is_err());
    }

    /// Whatever is changed in a chunk makes no difference to a page, or is noticed.
    #[test]
    fn a_damaged_chunk_never_gives_another_page(
        pushes in pushes(),
        compression in compressions(),
        damages in vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        early in any::<bool>(),
    ) {
        let (mut chunk, _, contents) = written(&pushes, compression);
        for (at, damage) in damages {
            // Half of the time in the headers, which are few bytes.
            let end = if early { chunk.len().min(100) } else { chunk.len() };
            chunk[at.index(end)] ^= damage;
        }
        let mut decoder = ChunkDecoder::new(u32::MAX);
        for record in decoder.open(&chunk).into_iter().flatten() {
            for (source, _) in &contents {
                let mut out = [0; PAGE_SIZE];
                if record.decode(Some(source), &mut out).is_ok() {
                    prop_assert!(
                        out == [0; PAGE_SIZE] && record.codec == Codec::Zero
                            || contents.iter().any(|(old, new)| out == *old || out == *new)
                    );
                }
            }
        }
        prop_assert!(decoder.held_bytes() <= BODY_BYTES_MAX);
    }

    #[test]
    fn garbage_never_panics(
        records in 0u16..20,
        bytes in vec(prop_oneof![5 => 0u8..6, 1 => any::<u8>()], 0..300),
        kind in 0u8..3,
        total_pages in prop_oneof![Just(0), Just(1 << 20), Just(u32::MAX)],
    ) {
        let mut chunk = plain(records, &bytes);
        chunk[0] = kind;
        let mut decoder = ChunkDecoder::new(total_pages);
        for record in decoder.open(&chunk).into_iter().flatten() {
            _ = record.decode(Some(&[1; PAGE_SIZE]), &mut [0; PAGE_SIZE]);
        }
    }
}
