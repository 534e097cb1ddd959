//! One thing, three vocabularies: the engine's, the wire's, and what people see.

use me2_engine::{ownership::PeerState, phase, switch::Strategy};
use me2_wire::message::{PeerOwnership, Scheme};

use crate::control::types::{Mode, Phase};

/// A phase, as people see it.
pub fn phase(phase: phase::Phase) -> Phase {
    match phase {
        phase::Phase::Setup => Phase::Setup,
        phase::Phase::Explore => Phase::Explore,
        phase::Phase::Precopy(_) => Phase::Precopy,
        phase::Phase::Stop => Phase::Stop,
        phase::Phase::Handover => Phase::Handover,
        phase::Phase::Postcopy => Phase::Postcopy,
        phase::Phase::Complete => Phase::Complete,
    }
}

/// A mode, as the engine sees it.
pub fn strategy(mode: Mode) -> Strategy {
    match mode {
        Mode::Hybrid => Strategy::Hybrid,
        Mode::Precopy => Strategy::Precopy,
        Mode::Postcopy => Strategy::Postcopy,
        Mode::StopAndCopy => Strategy::StopAndCopy,
    }
}

/// A mode, on the wire.
pub fn scheme(mode: Mode) -> Scheme {
    match mode {
        Mode::Hybrid => Scheme::Hybrid,
        Mode::Precopy => Scheme::Precopy,
        Mode::Postcopy => Scheme::Postcopy,
        Mode::StopAndCopy => Scheme::StopAndCopy,
    }
}

/// A mode from the wire.
pub fn mode(scheme: Scheme) -> Mode {
    match scheme {
        Scheme::Hybrid => Mode::Hybrid,
        Scheme::Precopy => Mode::Precopy,
        Scheme::Postcopy => Mode::Postcopy,
        Scheme::StopAndCopy => Mode::StopAndCopy,
    }
}

/// What the destination said of its ownership, for the engine.
pub fn peer_state(ownership: PeerOwnership) -> PeerState {
    match ownership {
        PeerOwnership::Unknown => PeerState::Unknown,
        PeerOwnership::Refused => PeerState::Refused,
        PeerOwnership::Accepted => PeerState::Accepted,
        PeerOwnership::Running => PeerState::Running,
        PeerOwnership::Complete => PeerState::Complete,
    }
}

/// What the engine knows of this side's ownership, for the wire.
pub fn peer_ownership(state: PeerState) -> PeerOwnership {
    match state {
        PeerState::Unknown => PeerOwnership::Unknown,
        PeerState::Refused => PeerOwnership::Refused,
        PeerState::Accepted => PeerOwnership::Accepted,
        PeerState::Running => PeerOwnership::Running,
        PeerState::Complete => PeerOwnership::Complete,
    }
}
