//! How well a file packs.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use anyhow::Result;
use zstd::{bulk::Compressor, stream::write::Encoder};

/// What is packed by itself when a migration packs it, bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// The long window, as a power of 2: 128 MiB.
const LONG_WINDOW_LOG: u32 = 27;

/// Raw by compressed size in pieces of 256 KiB, with zstd at this level.
pub(crate) fn packed_ratio(path: &Path, level: i32) -> Result<f64> {
    let mut file = File::open(path)?;
    let mut compressor = Compressor::new(level)?;
    let mut chunk = Vec::with_capacity(CHUNK_BYTES);
    let mut sizes = Sizes::default();
    loop {
        chunk.clear();
        (&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            return Ok(sizes.ratio());
        }
        sizes.raw += chunk.len() as u64;
        sizes.packed += compressor.compress(&chunk)?.len() as u64;
    }
}

/// The same for the file as a whole, with the level's own window or with a long one.
pub(crate) fn whole_ratio(path: &Path, level: i32, has_long_window: bool) -> Result<f64> {
    let mut encoder = Encoder::new(Counter::default(), level)?;
    if has_long_window {
        encoder.window_log(LONG_WINDOW_LOG)?;
        encoder.long_distance_matching(true)?;
    }
    let raw = io::copy(&mut File::open(path)?, &mut encoder)?;
    let packed = encoder.finish()?.bytes;
    Ok(Sizes { raw, packed }.ratio())
}

#[derive(Default)]
struct Sizes {
    raw: u64,
    packed: u64,
}

impl Sizes {
    fn ratio(&self) -> f64 {
        self.raw as f64 / self.packed.max(1) as f64
    }
}

/// Counts what is written to it.
#[derive(Default)]
struct Counter {
    bytes: u64,
}

impl Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise of 4 MiB, `times` over.
    fn repeated_noise(times: usize) -> tempfile::NamedTempFile {
        let mut random = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 56) as u8
        })
        .take(4 << 20)
        .collect();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&noise.repeat(times)).unwrap();
        file
    }

    #[test]
    fn a_long_window_finds_what_a_short_one_does_not() {
        let file = repeated_noise(2);
        assert!(packed_ratio(file.path(), 1).unwrap() < 1.01);
        assert!(whole_ratio(file.path(), 3, false).unwrap() < 1.01);
        assert!(whole_ratio(file.path(), 3, true).unwrap() > 1.9);
    }

    #[test]
    fn ratios_of_what_packs_well() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; (1 << 20) + 5]).unwrap();
        assert!(packed_ratio(file.path(), 1).unwrap() > 1000.0);
    }
}
