//! How fast pages are scanned, hashed, encoded and decoded on one core, for some typical contents.
//!
//! `cargo run --release -p me2-wire --example codec_speed`

use std::{hint::black_box, time::Instant};

use me2_wire::{PAGE_SIZE, is_zero_page, page::RLE_PAYS_BELOW_BYTES, page_hash, rle};

type Page = [u8; PAGE_SIZE];

/// Pages worked on: few enough to stay in the cache, so that the code is measured, not memory.
const PAGES: usize = 64;
const REPETITIONS: usize = 2000;
const RUNS: usize = 5;

fn main() {
    println!("MB/s of decoded pages, best of {RUNS}; packed: percent of a page");
    println!(
        "{:<22}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "content", "zero?", "hash", "encode", "decode", "packed"
    );
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    report("zeros", &pages(|_| 0));
    report("one repeated word", &pages(|_| 0x0101));
    report(
        "sparse, 1 word in 16",
        &pages(|at| if at % 16 == 5 { at as u64 + 1 } else { 0 }),
    );
    report(
        "half noise",
        &pages(|at| if at % 512 < 256 { random.next() } else { 0 }),
    );
    report("alternating 0 and x", &pages(|at| at as u64 % 2 * 77));
    report("pairs of equal words", &pages(|at| at as u64 / 2 + 1));
    report("noise", &pages(|_| random.next()));
}

fn report(name: &str, pages: &[Page]) {
    let mut encoded = Vec::with_capacity(2 * PAGE_SIZE);
    let zero = rate(pages, |page| _ = black_box(is_zero_page(page)));
    let hash = rate(pages, |page| _ = black_box(page_hash(page)));
    let encode = rate(pages, |page| {
        encoded.clear();
        black_box(rle::encode(page, RLE_PAYS_BELOW_BYTES, &mut encoded));
    });
    encoded.clear();
    let Some(length) = rle::encode(&pages[0], RLE_PAYS_BELOW_BYTES, &mut encoded) else {
        println!(
            "{name:<22}{zero:>8.0}{hash:>8.0}{encode:>8.0}{:>8}{:>8}",
            "-", "raw"
        );
        return;
    };
    let mut out = [0; PAGE_SIZE];
    let decode = rate(pages, |_| {
        rle::decode(black_box(&encoded), &mut out).expect("just encoded");
        black_box(&out);
    });
    let packed = length as f64 * 100.0 / PAGE_SIZE as f64;
    println!("{name:<22}{zero:>8.0}{hash:>8.0}{encode:>8.0}{decode:>8.0}{packed:>7.1}%");
}

/// Megabytes a second, the best of some runs.
fn rate(pages: &[Page], mut work: impl FnMut(&Page)) -> f64 {
    let seconds = (0..RUNS).map(|_| {
        let start = Instant::now();
        for _ in 0..REPETITIONS {
            black_box(pages).iter().for_each(&mut work);
        }
        start.elapsed().as_secs_f64()
    });
    let best = seconds.fold(f64::INFINITY, f64::min);
    (pages.len() * REPETITIONS * PAGE_SIZE) as f64 / best / 1e6
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
