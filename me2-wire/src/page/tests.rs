use proptest::{collection::vec, prelude::*};

use super::*;

fn noise(seed: u64) -> [u8; PAGE_SIZE] {
    let mut state = seed | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

/// A chunk's payload with one record for each page.
fn chunk_of(pages: &[[u8; PAGE_SIZE]]) -> Vec<u8> {
    let mut writer = ChunkWriter::new();
    for (index, page) in pages.iter().enumerate() {
        writer.push(index as PageIndex, 5, page);
    }
    writer.frame()[HEADER_BYTES..].to_vec()
}

fn read_all(chunk: &[u8], total_pages: PageIndex) -> Result<Vec<Record<'_>>, PageError> {
    ChunkReader::new(chunk, total_pages).collect()
}

#[test]
fn the_cheapest_codec_is_chosen_and_counted() {
    let mut half = noise(1);
    half[..2048].fill(3);
    let mut writer = ChunkWriter::new();
    assert!(writer.is_empty());
    assert_eq!(
        writer.push(0, 1, &[0; PAGE_SIZE]),
        Encoded {
            codec: Codec::Zero,
            hash: ZERO_PAGE_HASH,
            bytes: RECORD_HEADER_BYTES
        }
    );
    let rle = writer.push(1, 1, &half);
    assert_eq!(
        (rle.codec, rle.hash, rle.bytes),
        (
            Codec::Rle,
            page_hash(&half),
            RECORD_HEADER_BYTES + 10 + 2 + 2048
        )
    );
    let raw = writer.push(2, 1, &noise(2));
    assert_eq!(
        (raw.codec, raw.bytes),
        (Codec::Raw, RECORD_HEADER_BYTES + PAGE_SIZE)
    );
    let bytes = (24 + rle.bytes + raw.bytes) as u64;
    assert_eq!(
        writer.counts(),
        ChunkCounts {
            zero: 1,
            rle: 1,
            raw: 1,
            bytes
        }
    );
    assert_eq!(writer.frame().len() as u64, bytes + HEADER_BYTES as u64);
    writer.clear();
    assert!(writer.is_empty());
    assert_eq!(writer.counts(), ChunkCounts::default());
}

#[test]
fn the_layout_is_fixed() {
    let mut writer = ChunkWriter::new();
    let page = [7; PAGE_SIZE];
    writer.push(0x0102, 0x0304, &page);
    let mut expected = vec![2, 0, 0, 0, 34, 0, 0, 0, 2, 1, 0, 0, 4, 3, 0, 0, 0, 0, 0, 0];
    expected.extend(page_hash(&page).to_le_bytes());
    expected.extend([2, 0, 10, 0]);
    expected.extend([0, 0x82, 7, 7, 7, 7, 7, 7, 7, 7]);
    assert_eq!(writer.take_frame(), expected);
    assert!(writer.is_empty());
}

#[test]
fn a_full_chunk_of_noise_fits_its_frame() {
    let mut writer = ChunkWriter::new();
    while !writer.is_full() {
        let index = writer.counts().pages();
        writer.push(index as PageIndex, 1, &noise(index + 1));
    }
    let header = Header::decode(writer.frame().first_chunk().unwrap()).unwrap();
    assert_eq!(header.length as usize, FRAME_BYTES_MAX - HEADER_BYTES);
    assert_eq!(
        read_all(&writer.frame()[HEADER_BYTES..], 512)
            .unwrap()
            .len(),
        RECORDS_MAX
    );
}

#[test]
fn one_record_too_many_is_refused() {
    let one = chunk_of(&[[0; PAGE_SIZE]]);
    assert!(read_all(&one.repeat(RECORDS_MAX), 1).is_ok());
    assert_eq!(
        read_all(&one.repeat(RECORDS_MAX + 1), 1),
        Err(PageError::TooMany)
    );
}

#[test]
fn malformed_headers_are_refused() {
    let chunk = chunk_of(&[[9; PAGE_SIZE]]);
    let with = |at: usize, byte: u8| {
        let mut chunk = chunk.clone();
        chunk[at] = byte;
        read_all(&chunk, 1).map(|records| records.len())
    };
    assert_eq!(with(0, 0), Ok(1));
    assert_eq!(
        with(0, 1),
        Err(PageError::BeyondMemory {
            page: 1,
            total_pages: 1
        })
    );
    assert_eq!(with(4, 0), Err(PageError::Malformed(0)));
    assert_eq!(with(8, 1), Err(PageError::Malformed(0)));
    assert_eq!(with(20, 0), Err(PageError::Malformed(0)));
    assert_eq!(
        with(20, 1),
        Err(PageError::PayloadLength {
            page: 0,
            length: 10
        })
    );
    assert_eq!(
        with(20, 3),
        Err(PageError::PayloadLength {
            page: 0,
            length: 10
        })
    );
    assert_eq!(with(20, 4), Err(PageError::UnsupportedCodec(4)));
    assert_eq!(with(20, 255), Err(PageError::UnsupportedCodec(255)));
    assert_eq!(with(21, 1), Err(PageError::Malformed(0)));
    assert_eq!(
        with(22, 0),
        Err(PageError::PayloadLength { page: 0, length: 0 })
    );
    assert_eq!(with(22, 11), Err(PageError::Truncated));
    assert_eq!(
        with(23, 16),
        Err(PageError::PayloadLength {
            page: 0,
            length: 4106
        })
    );
    assert_eq!(
        read_all(&chunk, 0),
        Err(PageError::BeyondMemory {
            page: 0,
            total_pages: 0
        })
    );
}

#[test]
fn a_reader_stops_at_the_first_error() {
    let mut chunk = chunk_of(&[[0; PAGE_SIZE]; 3]);
    chunk[RECORD_HEADER_BYTES + 20] = 77;
    let read: Vec<_> = ChunkReader::new(&chunk, 3).collect();
    assert_eq!(read.len(), 2);
    assert_eq!(read[1], Err(PageError::UnsupportedCodec(77)));
}

#[test]
fn a_wrong_hash_is_noticed_whatever_the_codec() {
    for page in [[0; PAGE_SIZE], [4; PAGE_SIZE], noise(3)] {
        let mut chunk = chunk_of(&[page]);
        let mut out = [0xaa; PAGE_SIZE];
        read_all(&chunk, 1).unwrap()[0].decode(&mut out).unwrap();
        assert!(out == page);
        chunk[12] ^= 1;
        assert_eq!(
            read_all(&chunk, 1).unwrap()[0].decode(&mut out),
            Err(PageError::Hash { page: 0 })
        );
    }
}

#[test]
fn a_bad_payload_is_an_error_with_its_cause() {
    let mut chunk = chunk_of(&[[9; PAGE_SIZE]]);
    chunk[RECORD_HEADER_BYTES + 1] = 0;
    let error = read_all(&chunk, 1).unwrap()[0].decode(&mut [0; PAGE_SIZE]);
    assert_eq!(
        error,
        Err(PageError::Rle {
            page: 0,
            source: RleError::Token(0)
        })
    );
}

fn pages() -> impl Strategy<Value = Vec<[u8; PAGE_SIZE]>> {
    let page = (any::<u64>(), 0..=PAGE_SIZE, any::<u8>()).prop_map(|(seed, filled, byte)| {
        let mut page = noise(seed);
        page[..filled].fill(byte & 1);
        page
    });
    vec(prop_oneof![1 => Just([0; PAGE_SIZE]), 3 => page], 1..20)
}

proptest! {
    #[test]
    fn chunks_round_trip(pages in pages(), version in 1u32.., stride in 1u32..1000) {
        let mut writer = ChunkWriter::new();
        let encoded: Vec<_> = pages
            .iter()
            .enumerate()
            .map(|(at, page)| writer.push(at as u32 * stride, version, page))
            .collect();
        let counts = writer.counts();
        let frame = writer.take_frame();
        prop_assert_eq!(counts.bytes as usize + HEADER_BYTES, frame.len());
        let total_pages = (pages.len() as u32 - 1) * stride + 1;
        let records = read_all(&frame[HEADER_BYTES..], total_pages).unwrap();
        prop_assert_eq!(records.len(), pages.len());
        for (at, (record, page)) in records.iter().zip(&pages).enumerate() {
            prop_assert_eq!((record.index, record.version), (at as u32 * stride, version));
            prop_assert_eq!((record.codec, record.hash), (encoded[at].codec, encoded[at].hash));
            let mut out = [0x55; PAGE_SIZE];
            record.decode(&mut out).unwrap();
            prop_assert!(out == *page);
        }
    }

    #[test]
    fn a_cut_chunk_never_gives_all_its_records(pages in pages(), cut in any::<prop::sample::Index>()) {
        let chunk = chunk_of(&pages);
        let cut = &chunk[..cut.index(chunk.len())];
        match read_all(cut, 512) {
            Ok(records) => prop_assert!(records.len() < pages.len()),
            Err(error) => prop_assert_eq!(error, PageError::Truncated),
        }
    }

    /// A flipped bit either makes no difference to the page, or is noticed.
    #[test]
    fn a_flipped_bit_never_gives_another_page(pages in pages(), bit in any::<prop::sample::Index>()) {
        let mut chunk = chunk_of(&pages);
        let bit = bit.index(chunk.len() * 8);
        chunk[bit / 8] ^= 1 << (bit % 8);
        for record in ChunkReader::new(&chunk, 512).map_while(Result::ok) {
            let mut out = [0; PAGE_SIZE];
            if record.decode(&mut out).is_ok() {
                prop_assert!(pages.contains(&out));
            }
        }
    }

    #[test]
    fn garbage_never_panics(
        bytes in vec(prop_oneof![5 => 0u8..5, 1 => any::<u8>()], 0..300),
        total_pages in prop_oneof![Just(0), Just(1 << 20), Just(u32::MAX)],
    ) {
        for record in ChunkReader::new(&bytes, total_pages).map_while(Result::ok) {
            _ = record.decode(&mut [0; PAGE_SIZE]);
        }
    }
}
