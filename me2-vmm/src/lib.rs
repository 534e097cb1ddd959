//! The machine: a small KVM VMM whose memory can be moved while it runs.
//!
//! - [`vm`]: a VM: built from a [`machine`] document, booted ([`boot`]) or restored ([`state`]).
//! - [`memory`], [`layout`]: guest memory, and how its pages are numbered.
//! - [`vcpu`]: threads that run the guest, and how they are stopped.
//! - [`devices`]: serial port, disks, network cards and other virtio devices.
//! - [`dirty`], [`pagemap`]: what was written, and what is populated at all.
//! - [`large_pages`]: small pages become large ones.
//! - [`staging`], [`paging`]: the destination's side: pages that wait, and pages that are missing.
//!
//! Host unsafe code lives in this crate alone. It knows nothing of networks, of migrations, or of
//! an asynchronous runtime.

pub mod boot;
pub mod clock;
pub mod cpuid;
pub mod devices;
pub mod dirty;
mod ioctls;
pub mod large_pages;
mod last_state;
pub mod layout;
pub mod machine;
pub mod mapping;
pub mod memory;
pub mod pagemap;
pub mod paging;
pub mod staging;
pub mod state;
pub mod vcpu;
pub mod vm;

pub use devices::ConsoleSink;
pub use last_state::LastState;
