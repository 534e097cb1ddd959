//! What is refused.

use super::*;

#[test]
fn malformed_chunk_headers_are_refused() {
    let one = chunk_of(&[[9; PAGE_SIZE]], Compression::None);
    assert_eq!(opened(&one, 1), Ok(1));
    for cut in 0..one.len() {
        assert_eq!(opened(&one[..cut], 1), Err(PageError::Truncated));
    }
    let with = |at: usize, byte: u8| {
        let mut chunk = one.clone();
        chunk[at] = byte;
        opened(&chunk, 1)
    };
    assert_eq!(with(0, 0), Err(PageError::ChunkKind(0)));
    assert_eq!(with(0, 2), Err(PageError::Decompression));
    assert_eq!(with(0, 3), Err(PageError::ChunkKind(3)));
    assert_eq!(with(1, 1), Err(PageError::ChunkHeader));
    assert_eq!(with(2, 0), Err(PageError::RecordCount(0)));
    assert_eq!(with(3, 2), Err(PageError::RecordCount(513)));
    assert_eq!(with(7, 1), Err(PageError::BodyLength((1 << 24) + 25)));
    assert_eq!(with(4, one[4] + 1), Err(PageError::Truncated));
    assert_eq!(with(4, one[4] - 1), Err(PageError::Trailing));
    assert_eq!(opened(&[], 1), Err(PageError::Truncated));
    assert_eq!(
        opened(&plain(1, &[1, 0, 2, 0]), 1),
        Err(PageError::Trailing)
    );
}

#[test]
fn malformed_records_are_refused() {
    let body = |body: &[u8]| opened(&plain(1, body), 10);
    assert_eq!(body(&[1, 0, 2]), Ok(1));
    assert_eq!(body(&[0, 0, 2]), Err(PageError::UnsupportedCodec(0)));
    assert_eq!(body(&[6, 0, 2]), Err(PageError::UnsupportedCodec(6)));
    assert_eq!(body(&[1, 0, 0]), Err(PageError::Malformed(0)));
    assert_eq!(body(&[1, 0x80, 0]), Err(PageError::Number));
    let beyond = |page| PageError::BeyondMemory {
        page,
        total_pages: 10,
    };
    assert_eq!(body(&[1, 18, 2]), Ok(1));
    assert_eq!(body(&[1, 20, 2]), Err(beyond(10)));
    assert_eq!(body(&[1, 1, 2]), Err(beyond(u32::MAX)));
    assert_eq!(
        body(&[3, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]),
        Err(PageError::Truncated)
    );
    let length = |codec: u8, source: &[u8], length: u16| {
        let mut bytes = vec![codec, 0, 8];
        bytes.extend(source);
        bytes.extend(length.to_le_bytes());
        bytes.extend(vec![0; 8 + usize::from(length)]);
        body(&bytes)
    };
    for (codec, source) in [(2, &[][..]), (4, &[1])] {
        assert_eq!(length(codec, source, 1), Ok(1));
        assert_eq!(length(codec, source, 4095), Ok(1));
        for bytes in [0, 4096, u16::MAX] {
            assert_eq!(
                length(codec, source, bytes),
                Err(PageError::PayloadLength {
                    page: 0,
                    length: bytes.into()
                })
            );
        }
    }
}

#[test]
fn sources_that_cannot_be_are_refused() {
    let source = |codec: u8, source: &[u8]| {
        let mut body = vec![codec, 4, 8];
        body.extend(source);
        if codec == 4 {
            body.extend([1, 0]);
        }
        body.extend([0; 8]);
        body.extend(vec![0; usize::from(codec == 4)]);
        opened(&plain(1, &body), 10)
    };
    // Page 2 in version 4.
    let malformed = Err(PageError::Malformed(2));
    assert_eq!(source(4, &[3]), Ok(1));
    assert_eq!(source(4, &[0]), malformed, "of itself");
    assert_eq!(source(4, &[4]), malformed, "of version 0");
    assert_eq!(source(4, &[5]), malformed, "of version -1");
    assert_eq!(source(5, &[2, 0]), Ok(1));
    assert_eq!(source(5, &[0, 1]), Ok(1));
    assert_eq!(source(5, &[0, 0]), malformed, "to itself");
    assert_eq!(source(5, &[2, 7]), malformed, "to version 0");
    let beyond = PageError::BeyondMemory {
        page: 10,
        total_pages: 10,
    };
    assert_eq!(source(5, &[16, 0]), Err(beyond));
}

#[test]
fn a_compressed_body_must_be_one_frame_of_the_promised_length() {
    let pages = [[9; PAGE_SIZE]; 40];
    let plain = chunk_of(&pages, Compression::None);
    let (header, body) = plain.split_at(CHUNK_HEADER_BYTES);
    let with = |length: u32, body: &[u8]| {
        let mut chunk = header.to_vec();
        chunk[0] = ChunkKind::Zstd as u8;
        chunk[4..8].copy_from_slice(&length.to_le_bytes());
        chunk.extend(body);
        opened(&chunk, 40)
    };
    let length = body.len() as u32;
    let packed = zstd::bulk::compress(body, 1).unwrap();
    assert_eq!(with(length, &packed), Ok(40));
    assert_eq!(with(length, body), Err(PageError::Decompression));
    assert_eq!(with(length - 1, &packed), Err(PageError::Decompression));
    assert_eq!(with(length + 1, &packed), Err(PageError::Decompression));
    let cut = &packed[..packed.len() - 1];
    assert_eq!(with(length, cut), Err(PageError::Decompression));
    let more = [&packed[..], &[0]].concat();
    assert_eq!(with(length, &more), Err(PageError::Decompression));
    let (first, second) = body.split_at(body.len() / 2);
    let two = [first, second].map(|part| zstd::bulk::compress(part, 1).unwrap());
    assert_eq!(with(length, &two.concat()), Err(PageError::Decompression));
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    assert_eq!(with(length, &bomb), Err(PageError::Decompression));
    assert_eq!(with(64 << 20, &bomb), Err(PageError::BodyLength(64 << 20)));
}

#[test]
fn a_wrong_hash_is_noticed_whatever_the_codec() {
    let (old, mut new) = (noise(4), noise(4));
    new[0] ^= 1;
    let mut wrong = old;
    wrong[1] ^= 1;
    let mut writer = ChunkWriter::new();
    let base = Some(Base {
        version: 1,
        content: &old,
    });
    writer.push(0, 2, &[4; PAGE_SIZE], None);
    writer.push(1, 2, &noise(3), None);
    writer.push(2, 2, &new, base);
    let source = Source {
        page: 2,
        version: 1,
    };
    writer.push_reference(3, 2, source, page_hash(&old));
    let chunk = payload(writer.take_frame(Compression::None));
    let mut decoder = ChunkDecoder::new(4);
    let mut out = [0; PAGE_SIZE];
    for record in decoder.open(&chunk).unwrap() {
        let content = record.source().map(|_| &old);
        record.decode(content, &mut out).unwrap();
        let mut other = record;
        other.hash ^= 1;
        let page = record.index;
        let refused = Err(PageError::Hash { page });
        assert_eq!(other.decode(content, &mut out), refused);
        if let Some(source_content) = record.source() {
            assert_eq!(source_content, source);
            assert_eq!(record.decode(Some(&wrong), &mut out), refused);
            let missing = PageError::SourceMissing {
                page,
                source_content,
            };
            assert_eq!(record.decode(None, &mut out), Err(missing));
        }
    }
}

#[test]
fn a_bad_payload_is_an_error_with_its_cause() {
    let mut chunk = chunk_of(&[[9; PAGE_SIZE]], Compression::None);
    let at = chunk.len() - 12;
    chunk[at] = 0;
    let mut decoder = ChunkDecoder::new(1);
    let record = decoder.open(&chunk).unwrap().next().unwrap();
    assert_eq!(
        record.decode(None, &mut [0; PAGE_SIZE]),
        Err(PageError::Rle {
            page: 0,
            source: RleError::Mode(0)
        })
    );
}
