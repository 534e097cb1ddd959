//! The machine that the guest runs on, seen from ring 3.
//!
//! Ring 0 is entered for start-up and for sleep alone (`start.S`, a few dozen instructions in all): some
//! hosts emulate it, a thousand times slower than ring 3.

pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod disk;
mod intrinsics;
pub(crate) mod memory;
pub(crate) mod net;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod serial;
pub(crate) mod smp;
mod start;
mod virtio;
