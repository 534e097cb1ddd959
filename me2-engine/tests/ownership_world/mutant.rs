//! The rules, broken one at a time, around the real machines.

use me2_engine::ownership::{
    Destination, DestinationAction, DestinationMessage, DestinationState, Epoch, PeerState, Source,
    SourceAction, SourceMessage, SourceState, Violation,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Takes whatever it hears to be about the present epoch.
    SourceIgnoresEpochs,
    DestinationIgnoresEpochs,
    /// Answers `RecoverAsk` with `Refused`, and would take the handover all the same.
    DestinationDoesNotFence,
    SourceResumesWhenTheLinkIsLost,
    SourceTakesUnknownForRefused,
    SourceLetsGoWhenResumed,
    SourceDoesNotVerify,
    /// Does not answer a second `Complete`.
    SourceAcknowledgesOnce,
    DestinationRefusesWhileRunning,
    DestinationCompletesEarly,
    /// Takes the VM back without asking whether the peer answers.
    OperatorIsNotChecked,
}

pub(super) fn to_source(
    source: &mut Source,
    message: DestinationMessage,
    broken: Option<Broken>,
) -> Result<SourceAction, Violation> {
    use DestinationMessage::*;
    let state = source.state();
    let message = match (broken, message) {
        (Some(Broken::SourceIgnoresEpochs), _) => about(message, source_epoch(state)),
        (
            Some(Broken::SourceTakesUnknownForRefused),
            PeerState {
                epoch,
                state: self::PeerState::Unknown,
            },
        ) => Refused { epoch },
        (Some(Broken::SourceLetsGoWhenResumed), Resumed { epoch })
        | (Some(Broken::SourceDoesNotVerify), Complete { epoch, .. }) => Complete {
            epoch,
            verified: true,
        },
        (Some(Broken::SourceAcknowledgesOnce), Complete { .. })
            if matches!(state, SourceState::Done { .. }) =>
        {
            return Ok(SourceAction::Ignore);
        }
        _ => message,
    };
    source.on_peer(message)
}

pub(super) fn to_host(
    machine: &mut Destination,
    message: SourceMessage,
    broken: Option<Broken>,
) -> Result<DestinationAction, Violation> {
    use SourceMessage::*;
    let before = *machine;
    match (broken, before.state(), message) {
        (
            Some(Broken::DestinationIgnoresEpochs),
            DestinationState::Prepared { epoch },
            Handover { whole, .. },
        ) => machine.on_peer(Handover { epoch, whole }),
        (
            Some(Broken::DestinationDoesNotFence),
            DestinationState::Prepared { .. },
            RecoverAsk { .. },
        ) => {
            let answer = machine.on_peer(message);
            *machine = before;
            answer
        }
        _ => machine.on_peer(message),
    }
}

pub(super) fn source_loses_link(source: &mut Source, broken: Option<Broken>) {
    source.link_lost();
    let handed_over = matches!(source.state(), SourceState::HandedOver { .. });
    if broken == Some(Broken::SourceResumesWhenTheLinkIsLost) && handed_over {
        source
            .operator_asserts_peer_fenced(false)
            .expect("handed over");
    }
}

pub(super) fn host_refuses(
    machine: &mut Destination,
    broken: Option<Broken>,
) -> Option<DestinationMessage> {
    match machine.state() {
        DestinationState::Running { epoch }
            if broken == Some(Broken::DestinationRefusesWhileRunning) =>
        {
            Some(DestinationMessage::Refused { epoch })
        }
        _ => machine.refuse().ok(),
    }
}

pub(super) fn host_epoch(state: DestinationState) -> Epoch {
    use DestinationState::*;
    match state {
        Idle => 0,
        Prepared { epoch } | Refused { epoch } | Accepted { epoch } => epoch,
        Running { epoch } | Complete { epoch } | Owner { epoch } => epoch,
    }
}

pub(super) fn source_epoch(state: SourceState) -> Epoch {
    use SourceState::*;
    match state {
        Owner { last_epoch: epoch } | Preparing { epoch } | Ready { epoch } => epoch,
        HandedOver { epoch } | Released { epoch } | Done { epoch } => epoch,
    }
}

fn about(message: DestinationMessage, epoch: Epoch) -> DestinationMessage {
    use DestinationMessage::*;
    match message {
        Prepared { .. } => Prepared { epoch },
        Refused { .. } => Refused { epoch },
        Resumed { .. } => Resumed { epoch },
        Complete { verified, .. } => Complete { epoch, verified },
        PeerState { state, .. } => PeerState { epoch, state },
    }
}
