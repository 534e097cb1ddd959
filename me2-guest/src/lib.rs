//! What the workload guest does, apart from the machine it does it on.
//!
//! The binary (`main.rs`) starts the processors and hands each of them its share of the memory as
//! [`share::Pages`]; everything from there on is here, and runs on the host too, under test:
//!
//! - [`boot`]: the PVH start-info page and its tables
//! - [`cmdline`], [`sizes`]: the command line, and how much memory takes part
//! - [`ranges`]: which memory is free, and which page of the fill lies where
//! - [`page`]: stamps: a page that tells whether it is what was written
//! - [`contents`]: what real memory looks like
//! - [`share`]: one processor's pages with the versions they must have
//! - [`vary`]: contents like those of another page
//! - [`scattered`]: a working set
//! - [`disk`], [`echo`]: blocks on a disk, frames sent back
//! - [`kv`], [`zipf`]: the hash table and who asks it for what
//! - [`rewrite`], [`stream`], [`churn`], [`graph`]: the other workloads
//! - [`work`]: the loop body: what is due now, and when to come back
//! - [`clock`], [`pace`], [`mod@line`]: time, rates and text
//!
//! Nothing here touches hardware, and nothing but [`share::Pages`] gives access to memory.

#![cfg_attr(not(test), no_std)]

mod block;
pub mod boot;
pub mod churn;
pub mod clock;
pub mod cmdline;
pub mod contents;
pub mod disk;
pub mod echo;
mod generate;
pub mod graph;
pub mod kv;
pub mod line;
pub mod pace;
pub mod page;
pub mod ranges;
pub mod rewrite;
pub mod scattered;
pub mod share;
pub mod sizes;
pub mod stream;
pub mod vary;
pub mod work;
pub mod zipf;

/// The most CPUs the guest can use.
pub const CPUS_MAX: usize = 8;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;

/// Scatters `value` over all 64 bits; equal inputs give equal outputs, on every machine.
///
/// The finaliser of SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators").
pub const fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A stream of pseudo-random numbers: SplitMix64.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of this seed.
    pub const fn new(seed: u64) -> Self {
        Self {
            state: scatter(seed),
        }
    }

    /// The next number, any of 64 bits.
    pub const fn next(&mut self) -> u64 {
        let number = scatter(self.state);
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        number
    }

    /// The next number below `limit`, which is not 0. The bias is below `limit` / 2⁶⁴.
    pub const fn below(&mut self, limit: u64) -> u64 {
        ((self.next() as u128 * limit as u128) >> 64) as u64
    }
}
