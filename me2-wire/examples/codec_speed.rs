//! How fast pages are scanned, hashed, encoded and decoded on one core, as a ratio to `memcpy` of
//! the same pages, at each level of vector instructions; and what zstd makes of whole chunks.
//!
//! `cargo run --release -p me2-wire --example codec_speed [-- FILE…]`
//!
//! Each file is a population of pages, taken from real memory and longer than the caches. Besides
//! them there are some made up, for what is hard.

use std::{fs, hint::black_box, time::Instant};

use me2_wire::{
    PAGE_SIZE, Simd,
    page::{Base, ChunkDecoder, ChunkWriter, CodecSet, Compression, RECORDS_MAX},
    page_hash, rle,
};

type Page = [u8; PAGE_SIZE];

/// Pages where memory has them.
#[repr(align(4096))]
#[derive(Clone, PartialEq)]
struct Aligned(Page);

/// Pages of the populations that are made up: more than caches hold.
const PAGES: usize = 32 << 10;
/// Most pages taken from a file.
const FILE_PAGES_MAX: usize = 64 << 10;
/// Pages timed together.
const STRETCH: usize = 128;
const RUNS: usize = 5;

fn main() -> std::io::Result<()> {
    println!("vector instructions in use: {}", me2_wire::simd_level());
    println!("ratio to memcpy of the same pages, best of {RUNS}; packed: percent of all bytes");
    print!("{:<22}{:>9}", "population", "level");
    println!(
        "{:>9}{:>8}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "GB/s", "zero?", "hash", "encode", "decode", "delta", "packed"
    );
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    report("zeros", &pages(|_| 0));
    report("one repeated word", &pages(|_| 0x0101));
    report("alternating 0 and x", &pages(|at| at as u64 % 2 * 77));
    report(
        "half the words, random",
        &pages(|_| (random.next() & 1).wrapping_neg() & random.next()),
    );
    report("noise", &pages(|_| random.next()));
    for file in std::env::args().skip(1) {
        let bytes = fs::read(&file)?;
        let (pages, _) = bytes.as_chunks::<PAGE_SIZE>();
        let pages = &pages[..pages.len().min(FILE_PAGES_MAX)];
        let name = file.rsplit('/').next().expect("a name");
        report(name, pages);
        chunks(pages);
    }
    Ok(())
}

fn report(name: &str, pages: &[Page]) {
    let mut copy = vec![Aligned([1; PAGE_SIZE]); pages.len()];
    let memcpy = seconds(pages, |at, page| copy[at].0 = *page);
    for simd in Simd::supported() {
        let zero = seconds(pages, |_, page| _ = black_box(simd.is_zero(page)));
        let hash = seconds(pages, |_, page| _ = black_box(page_hash(page)));
        let mut encoded = Vec::with_capacity(2 * PAGE_SIZE);
        let encode = seconds(pages, |_, page| {
            encoded.clear();
            black_box(rle::encode_with(simd, page, usize::MAX, &mut encoded));
        });
        let mut all = Vec::with_capacity(pages.len() * rle::ENCODED_BYTES_MAX);
        let mut ends = Vec::new();
        for page in pages {
            rle::encode_with(simd, page, usize::MAX, &mut all);
            ends.push(all.len());
        }
        let decode = seconds(pages, |at, _| {
            let start = at.checked_sub(1).map_or(0, |before| ends[before]);
            rle::decode_with(simd, &all[start..ends[at]], &mut copy[at].0).expect("just encoded");
        });
        assert!(copy.iter().zip(pages).all(|(copy, page)| copy.0 == *page));
        let delta = seconds(pages, |at, page| simd.xor(&mut copy[at].0, page));
        println!(
            "{name:<22}{:>9}{:>9.1}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>8.2}{:>7.1}%",
            simd.name(),
            (pages.len() * PAGE_SIZE) as f64 / memcpy / 1e9,
            memcpy / zero,
            memcpy / hash,
            memcpy / encode,
            memcpy / decode,
            memcpy / delta,
            all.len() as f64 * 100.0 / (pages.len() * PAGE_SIZE) as f64
        );
    }
}

/// Whole chunks, with and without run-length encoding before zstd.
fn chunks(pages: &[Page]) {
    println!(
        "  chunks{:>14}{:>8}{:>12}{:>12}{:>9}",
        "", "level", "encode MB/s", "decode MB/s", "packed"
    );
    for rle in [true, false] {
        let none = [Compression::None];
        let levels = [-5, -1, 1, 3].map(|level| Compression::Zstd { level });
        for compression in none.iter().chain(&levels) {
            chunk(pages, rle, *compression);
        }
    }
    let mut writer = ChunkWriter::new();
    let mut changed = 0;
    for (at, page) in pages.iter().enumerate().skip(1) {
        let base = Base {
            version: 1,
            content: &pages[at - 1],
        };
        changed += writer.push(at as u32, 2, page, Some(base)).bytes;
        if writer.is_full() {
            writer.clear();
        }
    }
    let percent = changed as f64 * 100.0 / (pages.len() * PAGE_SIZE) as f64;
    println!("  each page against the one before: {percent:.1}%");
}

fn chunk(pages: &[Page], rle: bool, compression: Compression) {
    let mut writer = ChunkWriter::with_codecs(CodecSet { zero: true, rle });
    let mut decoder = ChunkDecoder::new(u32::MAX);
    let mut out = [0; PAGE_SIZE];
    let (mut encode, mut decode, mut bytes) = (0.0, 0.0, 0);
    for pages in pages.chunks(RECORDS_MAX) {
        let (mut encode_best, mut decode_best) = (f64::INFINITY, f64::INFINITY);
        for run in 0..RUNS {
            let start = Instant::now();
            for (at, page) in pages.iter().enumerate() {
                writer.push(at as u32, 1, page, None);
            }
            let frame = writer.take_frame(compression);
            encode_best = start.elapsed().as_secs_f64().min(encode_best);
            bytes += if run == 0 { frame.bytes.len() } else { 0 };
            let start = Instant::now();
            for record in decoder.open(&frame.bytes[8..]).expect("just made") {
                record.decode(None, &mut out).expect("just made");
            }
            decode_best = start.elapsed().as_secs_f64().min(decode_best);
        }
        encode += encode_best;
        decode += decode_best;
    }
    let megabytes = (pages.len() * PAGE_SIZE) as f64 / 1e6;
    println!(
        "  {:<18}{:>10}{:>12.0}{:>12.0}{:>8.1}%",
        if rle { "with rle" } else { "without rle" },
        match compression {
            Compression::None => "none".to_owned(),
            Compression::Zstd { level } => level.to_string(),
        },
        megabytes / encode,
        megabytes / decode,
        bytes as f64 / megabytes / 1e4
    );
}

/// Time for all pages: of each short stretch the best run, since other programs run here too.
fn seconds(pages: &[Page], mut work: impl FnMut(usize, &Page)) -> f64 {
    let mut best = vec![f64::INFINITY; pages.len().div_ceil(STRETCH)];
    for _ in 0..RUNS {
        let stretches = black_box(pages).chunks(STRETCH);
        for (number, (stretch, best)) in stretches.zip(&mut best).enumerate() {
            let start = Instant::now();
            for (at, page) in stretch.iter().enumerate() {
                work(number * STRETCH + at, page);
            }
            *best = best.min(start.elapsed().as_secs_f64());
        }
    }
    best.iter().sum()
}

fn pages(mut word: impl FnMut(usize) -> u64) -> Vec<Page> {
    let mut pages = vec![[0; PAGE_SIZE]; PAGES];
    for (at, chunk) in pages.as_flattened_mut().chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word(at).to_le_bytes());
    }
    pages
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
