use super::*;
use crate::{ZERO_PAGE_HASH, frame::Header, page_hash, page_identity};

mod malformed;
mod properties;

type Page = [u8; PAGE_SIZE];

const ZSTD: Compression = Compression::Zstd { level: 1 };

fn noise(seed: u64) -> Page {
    let mut state = seed | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

/// A chunk as the decoder gets it.
fn payload(frame: Frame) -> Vec<u8> {
    let header = Header::decode(frame.bytes.first_chunk().unwrap()).unwrap();
    assert_eq!(header.length as usize, frame.bytes.len() - HEADER_BYTES);
    frame.bytes[HEADER_BYTES..].to_vec()
}

fn chunk_of(pages: &[Page], compression: Compression) -> Vec<u8> {
    let mut writer = ChunkWriter::new();
    for (index, page) in pages.iter().enumerate() {
        writer.push(index as PageIndex, 5, page, None);
    }
    payload(writer.take_frame(compression))
}

/// A plain chunk with any header and body.
fn plain(records: u16, body: &[u8]) -> Vec<u8> {
    let mut chunk = vec![1, 0];
    chunk.extend(records.to_le_bytes());
    chunk.extend((body.len() as u32).to_le_bytes());
    chunk.extend(body);
    chunk
}

fn opened(chunk: &[u8], total_pages: PageIndex) -> Result<usize, PageError> {
    let mut decoder = ChunkDecoder::new(total_pages);
    decoder.open(chunk).map(|records| records.len())
}

#[test]
fn the_cheapest_codec_is_chosen_and_counted() {
    let mut half = noise(1);
    half[..2048].fill(3);
    let mut newer = noise(2);
    newer[100] ^= 1;
    let mut writer = ChunkWriter::new();
    assert!(writer.is_empty());
    let zero = writer.push(0, 1, &[0; PAGE_SIZE], None);
    assert_eq!(
        (zero.codec, zero.hash, zero.bytes),
        (Codec::Zero, ZERO_PAGE_HASH, 3)
    );
    let rle = writer.push(1, 1, &half, None);
    let rle_bytes = 5 + 8 + 2 + 5 + 33 + 257 * 8;
    assert_eq!(
        (rle.codec, rle.hash, rle.bytes),
        (Codec::Rle, page_hash(&half), rle_bytes)
    );
    let raw = writer.push(2, 1, &noise(2), None);
    assert_eq!((raw.codec, raw.bytes), (Codec::Raw, 3 + 8 + PAGE_SIZE));
    let old = noise(2);
    let base = Some(Base {
        version: 1,
        content: &old,
    });
    let delta = writer.push_hashed(2, 2, &newer, base, page_identity(&newer) as u64);
    // An index that goes back by one, a version that goes up.
    assert_eq!((delta.codec, delta.bytes), (Codec::Delta, 4 + 8 + 2 + 12));
    let source = Source {
        page: 2,
        version: 2,
    };
    let reference = writer.push_reference(3, 2, source, page_hash(&newer));
    assert_eq!((reference.codec, reference.bytes), (Codec::Reference, 13));
    let bytes = (3 + rle_bytes + 11 + PAGE_SIZE + 26 + 13) as u64;
    let expected = ChunkCounts {
        pages: PerCodec {
            zero: 1,
            rle: 1,
            raw: 1,
            delta: 1,
            reference: 1,
        },
        bytes: PerCodec {
            zero: 3,
            rle: rle_bytes as u64,
            raw: 11 + PAGE_SIZE as u64,
            delta: 26,
            reference: 13,
        },
    };
    assert_eq!(expected.bytes.sum(), bytes);
    assert_eq!(writer.counts(), expected);
    let frame = writer.take_frame(Compression::None);
    assert_eq!(frame.plain_bytes, frame.bytes.len());
    assert_eq!(
        frame.bytes.len() as u64,
        bytes + (HEADER_BYTES + CHUNK_HEADER_BYTES) as u64
    );
    assert!(writer.is_empty());
    assert_eq!(writer.counts(), ChunkCounts::default());
}

#[test]
fn a_difference_is_taken_only_where_it_pays() {
    let mut writer = ChunkWriter::new();
    let (old, sparse) = (noise(7), {
        let mut page = [0; PAGE_SIZE];
        page[9] = 9;
        page
    });
    let base = Some(Base {
        version: 1,
        content: &old,
    });
    let codecs =
        [noise(8), sparse, [0; PAGE_SIZE], old].map(|page| writer.push(1, 2, &page, base).codec);
    assert_eq!(codecs, [Codec::Raw, Codec::Rle, Codec::Zero, Codec::Delta]);
}

#[test]
fn codecs_can_be_left_unused() {
    let mut writer = ChunkWriter::with_codecs(CodecSet {
        zero: false,
        rle: false,
    });
    for (index, page) in [[0; PAGE_SIZE], [7; PAGE_SIZE]].iter().enumerate() {
        let encoded = writer.push(index as u32, 1, page, None);
        assert_eq!((encoded.codec, encoded.hash), (Codec::Raw, page_hash(page)));
    }
    let chunk = payload(writer.take_frame(Compression::None));
    let mut decoder = ChunkDecoder::new(2);
    for record in decoder.open(&chunk).unwrap() {
        record.decode(None, &mut [1; PAGE_SIZE]).unwrap();
    }
}

#[test]
fn the_layout_is_fixed() {
    let mut writer = ChunkWriter::new();
    let page = [7; PAGE_SIZE];
    writer.push(0x0102, 4, &page, None);
    writer.push(0x0103, 4, &[0; PAGE_SIZE], None);
    let source = Source {
        page: 0x0102,
        version: 4,
    };
    writer.push_reference(0x0100, 6, source, 1);
    let mut expected = vec![2, 0, 0, 0, 50, 0, 0, 0, 1, 0, 3, 0, 42, 0, 0, 0];
    expected.extend([2, 1, 5]);
    expected.extend([0x84, 4, 0, 7]);
    expected.extend([8, 0, 4]);
    expected.extend([4, 3]);
    expected.extend([12, 0]);
    expected.extend(page_hash(&page).to_le_bytes());
    expected.extend(1u64.to_le_bytes());
    expected.extend([2, 1, 1, 1, 7, 7, 7, 7, 7, 7, 7, 7]);
    let frame = writer.take_frame(Compression::None);
    assert_eq!(frame.bytes, expected);
    assert!(!frame.is_compressed);
}

#[test]
fn a_full_chunk_of_noise_fits_its_frame() {
    for compression in [Compression::None, ZSTD] {
        let mut writer = ChunkWriter::new();
        while !writer.is_full() {
            let pages = writer.counts().pages.sum();
            let far = if pages.is_multiple_of(2) {
                0
            } else {
                u32::MAX / 2
            };
            writer.push(far, 1 + far, &noise(pages + 1), None);
        }
        let frame = writer.take_frame(compression);
        assert!(frame.bytes.len() <= HEADER_BYTES + CHUNK_HEADER_BYTES + BODY_BYTES_MAX);
        assert_eq!(opened(&payload(frame), u32::MAX), Ok(RECORDS_MAX));
    }
}

#[test]
fn zstd_is_used_where_it_helps_and_levels_may_change() {
    let mut writer = ChunkWriter::new();
    let pages: Vec<Page> = (0..40)
        .map(|page| noise(1).map(|byte| b"migration"[usize::from(byte) % 9] + page % 2))
        .collect();
    let mut lengths = Vec::new();
    for level in [1, -5, 3, 1] {
        for (index, page) in pages.iter().enumerate() {
            writer.push(index as u32, 1, page, None);
        }
        let frame = writer.take_frame(Compression::Zstd { level });
        assert!(frame.is_compressed && frame.bytes.len() < frame.plain_bytes / 2);
        lengths.push(frame.bytes.len());
        assert_eq!(opened(&payload(frame), 40), Ok(40));
    }
    assert_eq!(lengths[0], lengths[3]);
    assert!(lengths[1] > lengths[0]);
}
