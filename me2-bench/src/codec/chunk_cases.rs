//! What is done to chunks of pages, by the writer and the decoder of a migration.

use std::{hint::black_box, rc::Rc};

use me2_guest::Random;
use me2_wire::{
    frame::HEADER_BYTES,
    page::{Base, ChunkDecoder, ChunkWriter, Compression},
};

use super::{
    Case, Planned,
    memory::{Memory, Page},
};

/// How pages become chunks.
#[derive(Clone)]
struct Way {
    codec: String,
    chunk_pages: usize,
    compression: Compression,
    /// Whether the destination has a version that differs a little.
    has_bases: bool,
}

/// Pages of a chunk where nothing else is said.
const CHUNK_PAGES: usize = 256;

/// The cases in the order of the table.
pub(super) fn plan(is_quick: bool) -> Vec<Planned> {
    let mut ways = vec![
        way("delta", CHUNK_PAGES, Compression::None, true),
        way("chunk", CHUNK_PAGES, Compression::None, false),
    ];
    let (levels, sizes) = match is_quick {
        true => (&[-1, 1, 3][..], &[CHUNK_PAGES][..]),
        false => (&[-5, -3, -1, 1, 3, 6, 9][..], &[64, CHUNK_PAGES][..]),
    };
    for &pages in sizes {
        for &level in levels {
            let name = format!("zstd_{level}_{pages}");
            ways.push(way(&name, pages, Compression::Zstd { level }, false));
        }
    }
    ways.into_iter()
        .flat_map(|way| [way.clone().encode(), way.decode()])
        .collect()
}

fn way(codec: &str, chunk_pages: usize, compression: Compression, has_bases: bool) -> Way {
    Way {
        codec: codec.to_owned(),
        chunk_pages,
        compression,
        has_bases,
    }
}

/// The version that the destination has, and the one that is sent.
const BASE_VERSION: u32 = 1;
const VERSION: u32 = 2;

impl Way {
    fn encode(self) -> Planned {
        let codec = format!("{}_encode", self.codec);
        let name = codec.clone();
        let make = move |memory: &mut Memory| {
            let bases = self.bases(memory);
            let mut writer = ChunkWriter::new();
            Some(Case {
                codec: name,
                pages: self.pages(memory),
                work: Box::new(move |memory, pages| {
                    let chunks = pages.chunks(self.chunk_pages);
                    let lengths = chunks.map(|chunk| {
                        let frame = self.frame(&mut writer, memory, chunk, bases.as_deref());
                        black_box(frame).len() as u64
                    });
                    lengths.sum()
                }),
            })
        };
        Planned {
            codec,
            make: Box::new(make),
        }
    }

    fn decode(self) -> Planned {
        let codec = format!("{}_decode", self.codec);
        let name = codec.clone();
        let make = move |memory: &mut Memory| {
            let pages = self.pages(memory);
            let bases = self.bases(memory);
            let mut writer = ChunkWriter::new();
            let chunks = pages.chunks(self.chunk_pages);
            let frames: Vec<_> = chunks
                .map(|chunk| self.frame(&mut writer, memory, chunk, bases.as_deref()))
                .collect();
            let bytes = frames.iter().map(|frame| frame.len() as u64).sum();
            let mut decoder = ChunkDecoder::new(memory.pages.len() as u32);
            let mut decode = move |memory: &mut Memory, _: &[u32]| {
                for frame in &frames {
                    decode_frame(&mut decoder, frame, bases.as_deref(), memory);
                }
                black_box(&mut memory.out);
                bytes
            };
            memory.spoil_out();
            decode(memory, &pages);
            assert!(memory.out_is_right(&pages), "what was encoded comes back");
            Some(Case {
                codec: name,
                pages,
                work: Box::new(decode),
            })
        };
        Planned {
            codec,
            make: Box::new(make),
        }
    }

    fn frame(
        &self,
        writer: &mut ChunkWriter,
        memory: &Memory,
        pages: &[u32],
        bases: Option<&[Page]>,
    ) -> Vec<u8> {
        for &page in pages {
            let base = bases.map(|bases| Base {
                version: BASE_VERSION,
                content: &bases[page as usize].0,
            });
            let content = black_box(&memory.pages[page as usize].0);
            writer.push(page, VERSION, content, base);
        }
        writer.take_frame(self.compression).bytes
    }

    fn pages(&self, memory: &Memory) -> Vec<u32> {
        match self.compression {
            Compression::None => memory.all(),
            Compression::Zstd { .. } => memory.enough(),
        }
    }

    /// The pages as they were before something small was written to each of them.
    fn bases(&self, memory: &Memory) -> Option<Rc<[Page]>> {
        self.has_bases.then(|| {
            let mut random = Random::new(1);
            let older = memory
                .pages
                .iter()
                .map(|page| changed_a_little(page, &mut random));
            older.collect()
        })
    }
}

fn decode_frame(
    decoder: &mut ChunkDecoder,
    frame: &[u8],
    bases: Option<&[Page]>,
    memory: &mut Memory,
) {
    let records = decoder.open(&frame[HEADER_BYTES..]).expect("just encoded");
    for record in records {
        let page = record.index as usize;
        let base = bases.map(|bases| &bases[page].0);
        let base = base.filter(|_| record.source().is_some());
        let out = &mut memory.out[page].0;
        record.decode(base, out).expect("just encoded");
    }
}

/// Most stretches that are written to in a page of [`Way::bases`].
const LINES_CHANGED_MAX: u64 = 4;

/// A page of which one to four stretches of 64 bytes are different.
fn changed_a_little(page: &Page, random: &mut Random) -> Page {
    let mut changed = page.clone();
    let (lines, _) = changed.0.as_chunks_mut::<64>();
    for _ in 0..=random.below(LINES_CHANGED_MAX) {
        let line = random.below(lines.len() as u64) as usize;
        for byte in &mut lines[line] {
            *byte = random.next() as u8;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_does_what_it_says_on_few_pages() {
        let mut memory = Memory::of_zeros(70);
        let mut random = Random::new(3);
        for page in memory.pages.iter_mut().step_by(3) {
            page.0.fill_with(|| random.next() as u8);
        }
        for planned in plan(true) {
            let mut case = (planned.make)(&mut memory).expect("all pages take part");
            let bytes = (case.work)(&mut memory, &case.pages);
            assert!(bytes > 0, "{}", case.codec);
            assert_eq!((case.work)(&mut memory, &case.pages), bytes);
        }
    }

    #[test]
    fn a_little_is_little() {
        let mut random = Random::new(9);
        let page = Page([7; 4096]);
        for _ in 0..100 {
            let changed = changed_a_little(&page, &mut random);
            let bytes = changed.0.iter().filter(|byte| **byte != 7).count();
            assert!((32..=4 * 64).contains(&bytes), "{bytes}");
        }
    }
}
