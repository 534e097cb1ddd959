//! A migration: the engine's logic, driven over QUIC, KVM and userfaultfd.
//!
//! ```text
//!  source process                               destination process
//!  ──────────────                               ───────────────────
//!  source::Attempt   ── control stream ──────▶  destination::Incoming
//!    bulk encoders   ── bulk streams ────────▶    intake ─▶ staging / guest memory
//!    answers         ◀─ a stream a request ──▶    pager (userfaultfd)
//! ```
//!
//! `Setup → Explore → Precopy(n) → Stop → Handover → Postcopy → Complete`: written once, in
//! [`source::Attempt`]. The state of a migration lives in `Attempt` and `Incoming`, never in a
//! connection: when the link breaks after the handover, both keep everything and wait.

pub mod check;
pub mod destination;
pub mod observer;
mod risk;
pub mod source;
mod tempo;

use std::sync::Arc;

use me2_vmm::vm::Vm;

use crate::{explore::Probing, process::monitor::GuestMonitor};

/// A VM with what is observed of it.
pub struct Machine {
    /// The VM.
    pub vm: Vm,
    /// Its console.
    pub monitor: GuestMonitor,
    /// The probes of this process.
    pub probing: Arc<Probing>,
}

/// What belongs to a migration is logged in this span, with the same id at both ends.
pub fn span(migration: &[u8; 16]) -> tracing::Span {
    // As an error, so that no filter takes the id away from a line that it lets through.
    let id = format!("{:032x}", u128::from_be_bytes(*migration));
    tracing::error_span!("migration", id)
}

/// Pages of one frame of page records: 256 KiB before encoding.
const CHUNK_PAGES: usize = 64;
/// Bulk streams of a migration at least and at most, each with an encoder thread.
const BULK_STREAMS_MIN: usize = 2;
const BULK_STREAMS_MAX: usize = 8;
/// Pages of a region: 2 MiB.
const REGION_PAGES: u32 = 512;
/// Priorities of streams: what is written last goes ahead of the handover, its copy right behind it,
/// and what a vCPU waits for before everything else.
const PRIORITY_FINAL_SET: i32 = 40;
const PRIORITY_CONTROL: i32 = 30;
const PRIORITY_HANDOVER_COPY: i32 = 20;
const PRIORITY_FAULT: i32 = 10;
const PRIORITY_BULK: i32 = 0;

/// From this share of lost packets on, what a vCPU waits for is sent twice: a lost packet costs it a
/// round trip more, and the second copy next to nothing.
const LOSS_TO_DOUBLE: f64 = 0.005;
/// Packets that must have been sent before their loss means anything.
const PACKETS_TO_JUDGE: u64 = 200;

/// Whether a connection loses so many of the packets sent that urgent ones had better go twice.
fn loses_much(connection: &quinn::Connection) -> bool {
    let path = connection.stats().path;
    let share = path.lost_packets as f64 / path.sent_packets.max(1) as f64;
    path.sent_packets >= PACKETS_TO_JUDGE && share >= LOSS_TO_DOUBLE
}

/// Bulk streams of a migration from this host: as many as encoders can work side by side. A region
/// of memory always uses the same stream, and one lost packet holds up only its stream.
fn bulk_streams() -> usize {
    std::thread::available_parallelism()
        .map_or(BULK_STREAMS_MIN, std::num::NonZero::get)
        .clamp(BULK_STREAMS_MIN, BULK_STREAMS_MAX)
}
