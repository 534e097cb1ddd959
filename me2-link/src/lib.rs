//! A link to measure on: two network namespaces joined at layer 3 by an emulated wide-area link.
//!
//! ```no_run
//! use me2_link::{End, Link, LinkSpec};
//!
//! let link = Link::start(LinkSpec::b())?;
//! let mut ping = link.command(End::A, "ping");
//! ping.args(["-c", "1", &link.address(End::B).to_string()]);
//! println!("{:?}", ping.status());
//! println!("{} bytes", link.stats().bytes());
//! # Ok::<(), me2_link::LinkError>(())
//! ```
//!
//! ```text
//!  namespace A                this process                     namespace B
//!  10.77.0.1 ── TUN ──▶ queue, rate, loss, delay ──▶ TUN ── 10.77.0.2
//!            ◀── TUN ◀── delay, loss, rate, queue ◀── TUN
//! ```
//!
//! Where the kernel has netem, the two are joined by a veth pair with netem at both ends instead;
//! [`Backend`] says what is different.
//!
//! Each packet passes, in this order: a cut (dropped), the queue's limit (dropped at the tail), the
//! transmission at the link's rate, the loss, and the delay with its jitter. Rates and counts are
//! of IP packets, headers included. [`Counters`] says what is counted where.

#![forbid(unsafe_code)]

mod counters;
pub mod direction;
mod emulator;
mod error;
mod link;
mod loss;
mod namespace;
mod netem;
mod pool;
mod sampler;
mod spec;
mod tun;

pub use counters::{Counters, LinkStats, Sample};
pub use error::LinkError;
pub use link::Link;
pub use loss::Loss;
pub use spec::{
    Action, Backend, Change, DELAY_MAX, DirectionSpec, End, LinkSpec, MTU, Queue, RATE_MAX,
};
