//! Who may run the VM: the state machine of the handover, on both sides.
//!
//! One VM, one place. The source never runs the VM again once the handover may have left, unless
//! the destination says that it refused it before any vCPU ran. Whenever it cannot be known which
//! side owns the VM, nobody runs it until the source has asked, or an operator asserts that the
//! other side is dead and fenced.
//!
//! ```text
//! Source                                             Destination
//!
//!   Owner ◀──────────────────────┐                     Idle
//!     │ prepare                  │                       │ Prepare e
//!   Preparing e ──── Refused, ───┤                       ▼            Abort, link lost,
//!     │ Prepared     abort,      │                     Prepared e ─── RecoverAsk, refuse ──▶ Refused e
//!   Ready e ──────── link lost ──┤                       │ Handover e                         │  ▲
//!     │ handover_sending         │                       ▼                                    │  │
//! ════╪══════════════════════════╪═════              Accepted e ──── refuse ──────────────────┼──┘
//!     ▼                          │                       │ resume                             │
//!   HandedOver e ─── Refused e ──┤              ═════════╪═══════════════     Prepare of a later
//!     │ Resumed e                │                       ▼                    epoch: Prepared
//!     ▼                          │                     Running e
//!   Released e ───── the ────────┘                       │ all_pages_in
//!     │              operator                            ▼
//!     │ Complete e, verified                           Complete e
//!     ▼                                                  │ CompleteAck e (or the operator)
//!   Done e                                               ▼
//!                                                      Owner e
//! ```
//!
//! The source may run the VM above its double line, the destination below its own. Between the two
//! lines nobody does, and only the destination's word moves anything.
//!
//! **Epochs.** Every attempt has its own, larger than all before, given by the source. A message
//! of an earlier epoch is stale and ignored. A destination that gives up an epoch is *fenced*: it
//! stays in `Refused` and will not run that epoch, whatever still arrives. That makes the answer
//! to `RecoverAsk` final, and the source free to go on.
//!
//! **Only this process can refuse.** A destination answers `Refused` for an epoch that it prepared
//! itself. Of an epoch that it never heard of it says [`PeerState::Unknown`], which proves nothing:
//! a process before it may have run the VM. So a machine belongs to one migration, for as long as
//! the process lives; for a migration without a machine, the answer is `Unknown`.
//!
//! **A violation** is a message that no honest peer sends, in whatever order and however often its
//! messages arrive (the exhaustive test checks this too). It changes nothing: the driver closes the
//! connection, and treats that as a lost link.
//!
//! Not here: the transport, retries and time-outs, what the messages carry besides, and whether the
//! memory is complete; the driver says that.

mod destination;
mod source;

pub use destination::{Destination, DestinationAction, DestinationState};
pub use source::{Source, SourceAction, SourceState};

/// Number of an attempt to move the VM; 0 is none.
pub type Epoch = u64;

/// What the source says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceMessage {
    /// Get ready to take the VM over.
    Prepare {
        /// The attempt.
        epoch: Epoch,
    },
    /// The attempt is over before the handover; the VM stays at the source.
    Abort {
        /// The attempt.
        epoch: Epoch,
    },
    /// The VM is the destination's. Sent once an epoch.
    Handover {
        /// The attempt.
        epoch: Epoch,
        /// No page is missing: the destination does not need the source any more.
        whole: bool,
    },
    /// What became of this epoch? Asked after a reconnect.
    RecoverAsk {
        /// The attempt.
        epoch: Epoch,
    },
    /// The source knows that the destination has everything.
    CompleteAck {
        /// The attempt.
        epoch: Epoch,
    },
}

/// What the destination says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DestinationMessage {
    /// Everything is ready to take the VM over.
    Prepared {
        /// The attempt.
        epoch: Epoch,
    },
    /// This process never ran the VM in this epoch, and never will.
    Refused {
        /// The attempt.
        epoch: Epoch,
    },
    /// The VM runs here.
    Resumed {
        /// The attempt.
        epoch: Epoch,
    },
    /// Every page is in.
    Complete {
        /// The attempt.
        epoch: Epoch,
        /// The page hashes of both sides agree. The destination says yes; the source's driver
        /// compares, and puts the result here before its machine sees the message.
        verified: bool,
    },
    /// The answer to `RecoverAsk`.
    PeerState {
        /// The attempt that was asked for.
        epoch: Epoch,
        /// What became of it.
        state: PeerState,
    },
}

/// What became of an epoch at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// This process knows nothing of it, which proves nothing.
    Unknown,
    /// The same promise as [`DestinationMessage::Refused`].
    Refused,
    /// The handover is in; no vCPU runs yet.
    Accepted,
    /// The VM runs here; pages may be missing.
    Running,
    /// The VM runs here, and every page is in. Whether the hashes agree is for
    /// [`DestinationMessage::Complete`] to say, which follows.
    Complete,
}

/// What must not happen in a state. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// The peer sent what an honest one never sends now: it contradicts itself.
    #[error("{message:?} from the destination contradicts {state:?}")]
    Destination {
        /// What it sent.
        message: DestinationMessage,
        /// The state of this side.
        state: SourceState,
    },
    /// The same, from the source.
    #[error("{message:?} from the source contradicts {state:?}")]
    Source {
        /// What it sent.
        message: SourceMessage,
        /// The state of this side.
        state: DestinationState,
    },
    /// A step of this side that its state does not allow.
    #[error("the source cannot {step} as {state:?}")]
    SourceStep {
        /// What was asked for.
        step: &'static str,
        /// The state of this side.
        state: SourceState,
    },
    /// The same, at the destination.
    #[error("the destination cannot {step} as {state:?}")]
    DestinationStep {
        /// What was asked for.
        step: &'static str,
        /// The state of this side.
        state: DestinationState,
    },
    /// An operator says that the other side is dead and fenced, but it answers.
    #[error("the other side answers, so it is not fenced")]
    PeerAnswers,
}

impl SourceMessage {
    /// The attempt that it is about.
    pub fn epoch(&self) -> Epoch {
        match *self {
            Self::Prepare { epoch }
            | Self::Abort { epoch }
            | Self::Handover { epoch, .. }
            | Self::RecoverAsk { epoch }
            | Self::CompleteAck { epoch } => epoch,
        }
    }
}

impl DestinationMessage {
    /// The attempt that it is about.
    pub fn epoch(&self) -> Epoch {
        match *self {
            Self::Prepared { epoch }
            | Self::Refused { epoch }
            | Self::Resumed { epoch }
            | Self::Complete { epoch, .. }
            | Self::PeerState { epoch, .. } => epoch,
        }
    }
}

#[cfg(test)]
mod tests;
