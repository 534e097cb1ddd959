//! Chunks of pages.

use me2_wire::{
    PAGE_SIZE, PageIndex, Version,
    frame::HEADER_BYTES,
    page::{Base, ChunkDecoder, ChunkWriter, Compression, RECORDS_MAX, Source},
    page_hash,
};

use crate::input::{Choices, noise};

/// Pages of the memory that the chunks are of.
const TOTAL_PAGES: PageIndex = 1000;
/// Records of a chunk that [`changed`] writes, and changes made to it, at most.
const WRITTEN_MAX: u8 = 6;
const CHANGES_MAX: u8 = 4;

type Page = [u8; PAGE_SIZE];

/// The payload of a pages frame. What records build on is noise, by page and version.
pub fn chunk(input: &[u8]) {
    let decoded = decode(input);
    for part in decoded.chunks(RECORDS_MAX) {
        let mut writer = ChunkWriter::new();
        for (index, version, page) in part {
            writer.push(*index, *version, page, None);
        }
        let frame = writer.take_frame(Compression::None).bytes;
        assert_eq!(decode(&frame[HEADER_BYTES..]), part);
    }
}

/// A chunk as a source writes it, then changed: what is not refused has its hash, and an unchanged
/// one comes out as it went in.
pub fn changed(input: &[u8]) {
    let mut choices = Choices(input);
    let (mut payload, pages) = written(&mut choices);
    let changes = choices.byte() % (CHANGES_MAX + 1);
    for _ in 0..changes {
        // Two in three near the beginning, where the headers of records are.
        let place = match choices.byte() % 3 {
            0 => choices.number() as usize,
            _ => usize::from(choices.byte()),
        };
        let place = place % payload.len();
        match choices.byte() % 4 {
            0 => _ = payload.remove(place),
            1 => payload.insert(place, choices.byte()),
            _ => payload[place] ^= choices.byte(),
        }
        if payload.is_empty() {
            return;
        }
    }
    let decoded = decode(&payload);
    if changes == 0 {
        assert_eq!(decoded, pages);
    }
}

/// The pages of a chunk that can be decoded, until the first that cannot.
fn decode(payload: &[u8]) -> Vec<(PageIndex, Version, Page)> {
    let mut decoder = ChunkDecoder::new(TOTAL_PAGES);
    let mut pages = Vec::new();
    let Ok(records) = decoder.open(payload) else {
        return pages;
    };
    assert!((1..=RECORDS_MAX).contains(&records.len()));
    for record in records {
        let mut page = [0xee; PAGE_SIZE];
        let source = record.source().map(content);
        assert!(record.index < TOTAL_PAGES && record.version != 0);
        if record.decode(source.as_ref(), &mut page).is_err() {
            break;
        }
        assert_eq!(page_hash(&page), record.hash);
        pages.push((record.index, record.version, page));
    }
    pages
}

fn content(source: Source) -> Page {
    assert!(source.page < TOTAL_PAGES && source.version != 0);
    noise(u64::from(source.page) << 32 | u64::from(source.version))
}

fn written(choices: &mut Choices<'_>) -> (Vec<u8>, Vec<(PageIndex, Version, Page)>) {
    let mut writer = ChunkWriter::new();
    let mut pages = Vec::new();
    let compression = match choices.byte() % 2 {
        0 => Compression::None,
        _ => Compression::Zstd { level: 1 },
    };
    for _ in 0..=choices.byte() % WRITTEN_MAX {
        let index = PageIndex::from(choices.short()) % TOTAL_PAGES;
        let version = 2 + Version::from(choices.byte());
        let source = Source {
            page: index,
            version: version - 1,
        };
        let mut page = content(source);
        match choices.byte() % 4 {
            0 => page = [choices.byte(); PAGE_SIZE],
            1 => page[..usize::from(choices.short()) % PAGE_SIZE].fill(choices.byte()),
            2 => page[usize::from(choices.short()) % PAGE_SIZE] ^= choices.byte(),
            _ => {
                writer.push_reference(index, version, source, page_hash(&page));
                pages.push((index, version, page));
                continue;
            }
        }
        let base_content = content(source);
        let base = choices.byte().is_multiple_of(2).then_some(Base {
            version: source.version,
            content: &base_content,
        });
        writer.push(index, version, &page, base);
        pages.push((index, version, page));
    }
    let frame = writer.take_frame(compression).bytes;
    (frame[HEADER_BYTES..].to_vec(), pages)
}
