//! What the fuzz targets do: every decoder of bytes that a peer can send, and the tables that its
//! messages change, each as a function of bytes that panics if something is wrong.
//!
//! The programs of `fuzz/` call these by `cargo xtask fuzz`, under a nightly compiler's sanitizers;
//! `tests/short.rs` calls them with every other test, with the seeds and changed seeds as input.
//!
//! - [`wire`]: streams, messages, range lists, encoded pages
//! - [`chunk`]: chunks of pages, and whole ones that were changed
//! - [`machine`]: the machine document, pieces of state
//! - [`tables`]: what a peer's messages do to the page tables of either side
//! - [`seeds`]: inputs to begin with, written to `fuzz/seeds` by `examples/seeds.rs`

#![forbid(unsafe_code)]

pub mod chunk;
mod input;
pub mod machine;
pub mod seeds;
pub mod tables;
pub mod wire;

use seeds::Seed;

/// A fuzz target: its name, what it does with an input, and what to begin with.
pub struct Target {
    /// Of the program in `fuzz/`, and of the folder with its seeds.
    pub name: &'static str,
    /// Panics if something is wrong.
    pub run: fn(&[u8]),
    /// Inputs that reach far.
    pub seeds: fn() -> Vec<Seed>,
}

/// All targets.
pub const TARGETS: [Target; 12] = [
    target("stream", wire::stream, seeds::stream),
    target(
        "to_destination",
        wire::to_destination,
        seeds::to_destination,
    ),
    target("to_source", wire::to_source, seeds::to_source),
    target("page_request", wire::page_request, seeds::page_request),
    target("ranges", wire::ranges, seeds::ranges),
    target("rle", wire::rle, seeds::rle),
    target("delta", wire::delta, seeds::delta),
    target("chunk", chunk::chunk, seeds::chunk),
    target("changed_chunk", chunk::changed, seeds::changed_chunk),
    target("machine", machine::document, seeds::machine),
    target("state", machine::state, seeds::state),
    target("tables", tables::both, seeds::tables),
];

const fn target(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Seed>) -> Target {
    Target { name, run, seeds }
}
