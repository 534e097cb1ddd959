//! The control interface of a VM process: JSON over HTTP on a Unix socket.
//!
//! ```text
//!  me2 hybrid-migrate ─┐                     ┌─ Command ──▶ the VM process's loop
//!  me2 status ─────────┼─ client ═socket═ server ◀ VmStatus ─┤
//!  any HTTP client ────┘                     └◀─ Event ──────┘
//! ```
//!
//! - [`types`]: what travels, the same at both ends;
//! - [`mod@channel`]: how the server and the VM process speak to each other;
//! - [`events`]: the account of a migration, which keeps its end for whoever is slow or late;
//! - [`console`]: what the guest wrote of late; [`metrics`]: what is counted;
//! - [`server`], [`client`]: the two ends of the socket; [`socket`]: where it is.
//!
//! A migration belongs to the VM process: it goes on when its client goes away.
//! There is no access control beyond the socket's mode, 0600.

pub mod channel;
pub mod client;
pub mod console;
pub mod events;
pub mod metrics;
pub mod server;
pub mod socket;
pub mod types;

pub use channel::{Command, ControlHandle, ControlPort, Refusal, Reply, channel};
pub use events::{EventHub, MigrationEvents, Subscription};

#[cfg(test)]
mod tests;
