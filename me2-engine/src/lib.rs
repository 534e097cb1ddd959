//! The logic of a migration without its machinery: no socket, no clock, no KVM, no runtime.
//!
//! - [`ownership`]: who may run the VM; the state machine of the handover, on both sides.
//! - [`source`], [`destination`]: the page tables: version and state of every page.
//! - [`pattern`]: how vCPUs go through memory, by their page faults.
//! - [`phase`]: the phases, and how long each took.
//! - [`recovery`]: when to connect again after the link broke; [`forecast`]: when all pages will be
//!   there, and whether that is late.
//! - [`compression`]: how hard to compress.
//! - [`congestion`]: how much may be under way.
//! - [`heat`]: how often pages are written; [`ahead`]: where the guest goes with its writes.
//! - [`switch`]: whether another pre-copy pass pays.
//! - [`tree`], [`bitmap`], [`quantile`]: what these are made of.

#![forbid(unsafe_code)]

pub mod ahead;
pub mod bitmap;
pub mod compression;
pub mod congestion;
pub mod destination;
pub mod forecast;
pub mod heat;
pub mod ownership;
pub mod pattern;
pub mod phase;
pub mod quantile;
pub mod recovery;
pub mod source;
pub mod switch;
pub mod tree;
