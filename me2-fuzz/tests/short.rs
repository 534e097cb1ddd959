//! A short form of the fuzzing, without a nightly compiler: the seeds, and changed seeds, always the
//! same ones. `cargo xtask fuzz` is the long form.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    thread,
};

use me2_fuzz::{TARGETS, Target};

/// Changed inputs for each target.
const INPUTS: u32 = 20_000;
/// Changes made to each, at most.
const CHANGES_MAX: u64 = 6;
/// The longest input, as of the long form.
const INPUT_BYTES_MAX: usize = 16 << 10;
const SEEDS_BYTES_MAX: usize = 64 << 10;

/// What a target is given just now: told if it panics.
struct Shown<'a>(&'a Target, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let hex: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("the target {} cannot take: {hex}", self.0.name);
        }
    }
}

fn run(target: &Target, input: &[u8]) {
    let shown = Shown(target, input);
    (target.run)(input);
    drop(shown);
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds")
}

/// The files of a target: its seeds, and what once was found.
fn files(target: &Target) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder().join(target.name)).expect("every target has seeds");
    entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let name = entry.file_name().into_string().expect("plain");
            (name, fs::read(entry.path()).expect("readable"))
        })
        .collect()
}

#[test]
fn the_seeds_are_what_the_generator_makes() {
    let mut total = 0;
    for target in TARGETS {
        let files = files(&target);
        for (name, bytes) in (target.seeds)() {
            let target = target.name;
            assert_eq!(
                files.get(&name),
                Some(&bytes),
                "{target}/{name}: run `cargo run -p me2-fuzz --example seeds`"
            );
        }
        total += files.values().map(Vec::len).sum::<usize>();
    }
    assert!(total <= SEEDS_BYTES_MAX, "{total} bytes of seeds");
}

#[test]
fn every_target_has_a_program() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).expect("it is there");
    let programs: Vec<_> = manifest
        .lines()
        .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'))
        .filter(|name| !name.starts_with("me2-"))
        .collect();
    assert_eq!(programs, TARGETS.map(|target| target.name));
}

#[test]
fn no_target_finds_fault_with_seeds_and_changed_seeds() {
    for target in TARGETS {
        let seeds: Vec<_> = files(&target).into_values().collect();
        seeds.iter().for_each(|seed| run(&target, seed));
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for _ in 0..INPUTS {
            let mut input = random.pick(&seeds).clone();
            for _ in 0..=random.below(CHANGES_MAX) {
                change(&mut input, &seeds, &mut random);
            }
            input.truncate(INPUT_BYTES_MAX);
            run(&target, &input);
        }
    }
}

/// One change of the kinds that fuzzers make.
fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    const TELLING: [u32; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xffff, 0x7fff_ffff, u32::MAX];
    let at = random.below(input.len() as u64 + 1) as usize;
    let length = (random.below(16) as usize).min(input.len() - at);
    match random.below(7) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = random.next() as u8,
        2 => input.insert(at, random.next() as u8),
        3 => _ = input.drain(at..at + length),
        4 => {
            let copied = input[at..at + length].to_vec();
            input.splice(at..at, copied);
        }
        5 => {
            let other = random.pick(seeds);
            let from = random.below(other.len() as u64 + 1) as usize;
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let number = random.pick(&TELLING).to_le_bytes();
            let length = number.len().min(input.len() - at);
            input[at..at + length].copy_from_slice(&number[..length]);
        }
    }
}

/// xorshift64 (Marsaglia, "Xorshift RNGs").
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
