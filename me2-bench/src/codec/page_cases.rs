//! What is done to single pages.

use std::{collections::HashMap, hint::black_box};

use me2_wire::{
    PAGE_SIZE, is_zero_page,
    page::{RECORDS_MAX, RLE_PAYS_BELOW_BYTES},
    page_hash, page_identity, rle,
};

use super::{Case, Planned, memory::Memory};

/// The cases in the order of the table.
pub(super) fn plan() -> Vec<Planned> {
    vec![
        each("zero_scan", |page| u64::from(is_zero_page(page))),
        each("page_hash", page_hash),
        each("page_identity", |page| page_identity(page) as u64),
        planned("reference_lookup", reference_lookup),
        planned("rle_encode", rle_encode),
        planned("rle_decode", rle_decode),
    ]
}

fn planned(codec: &str, make: impl FnOnce(&mut Memory) -> Option<Case> + 'static) -> Planned {
    Planned {
        codec: codec.to_owned(),
        make: Box::new(make),
    }
}

/// Something that looks at every page, and makes nothing.
fn each(codec: &'static str, look: impl Fn(&[u8; PAGE_SIZE]) -> u64 + 'static) -> Planned {
    planned(codec, move |memory| {
        Some(Case {
            codec: codec.to_owned(),
            pages: memory.all(),
            work: Box::new(move |memory, pages| {
                for &page in pages {
                    black_box(look(black_box(&memory.pages[page as usize].0)));
                }
                0
            }),
        })
    })
}

/// Looks every page up among all of them by its identity.
fn reference_lookup(memory: &mut Memory) -> Option<Case> {
    let pages = memory.all();
    let identity = |page: &u32| page_identity(&memory.pages[*page as usize].0);
    let known: HashMap<u128, u32> = pages.iter().map(|page| (identity(page), *page)).collect();
    Some(Case {
        codec: "reference_lookup".to_owned(),
        pages,
        work: Box::new(move |memory, pages| {
            for &page in pages {
                let identity = page_identity(black_box(&memory.pages[page as usize].0));
                black_box(known.get(&identity));
            }
            0
        }),
    })
}

/// Encodes every page into a buffer as large as a chunk; what does not pay counts as a raw page.
fn rle_encode(memory: &mut Memory) -> Option<Case> {
    let mut buffer = Vec::with_capacity(RECORDS_MAX * PAGE_SIZE);
    Some(Case {
        codec: "rle_encode".to_owned(),
        pages: memory.all(),
        work: Box::new(move |memory, pages| {
            let mut bytes = 0;
            for pages in pages.chunks(RECORDS_MAX) {
                buffer.clear();
                for &page in pages {
                    let page = black_box(&memory.pages[page as usize].0);
                    let length = rle::encode(page, RLE_PAYS_BELOW_BYTES, &mut buffer);
                    bytes += length.unwrap_or(PAGE_SIZE) as u64;
                }
                black_box(&buffer);
            }
            bytes
        }),
    })
}

/// Decodes all pages that are worth encoding.
fn rle_decode(memory: &mut Memory) -> Option<Case> {
    let mut encoded = Vec::new();
    let mut lengths = Vec::new();
    let mut pages = memory.all();
    pages.retain(|page| {
        let page = &memory.pages[*page as usize].0;
        let length = rle::encode(page, RLE_PAYS_BELOW_BYTES, &mut encoded);
        lengths.extend(length);
        length.is_some()
    });
    let decode = move |memory: &mut Memory, pages: &[u32]| {
        let mut rest = &encoded[..];
        for (page, length) in pages.iter().zip(&lengths) {
            let (payload, after) = rest.split_at(*length);
            let out = &mut memory.out[*page as usize].0;
            rle::decode(black_box(payload), out).expect("just encoded");
            rest = after;
        }
        black_box(&mut memory.out);
        encoded.len() as u64
    };
    memory.spoil_out();
    decode(memory, &pages);
    assert!(memory.out_is_right(&pages), "what was encoded comes back");
    Some(Case {
        codec: "rle_decode".to_owned(),
        pages,
        work: Box::new(decode),
    })
}
