//! What a hostile peer can do to one machine: nothing that matters. (What two honest ones do to
//! each other is explored in `tests/ownership_model.rs`.)

use std::{collections::HashSet, fmt::Debug, hash::Hash};

use super::*;

const EPOCHS: [Epoch; 5] = [0, 1, 2, 3, Epoch::MAX];

fn source_messages() -> impl Iterator<Item = SourceMessage> {
    EPOCHS.into_iter().flat_map(|epoch| {
        [
            SourceMessage::Prepare { epoch },
            SourceMessage::Abort { epoch },
            SourceMessage::Handover {
                epoch,
                whole: false,
            },
            SourceMessage::Handover { epoch, whole: true },
            SourceMessage::RecoverAsk { epoch },
            SourceMessage::CompleteAck { epoch },
        ]
    })
}

fn destination_messages() -> impl Iterator<Item = DestinationMessage> {
    use PeerState::*;
    let states = [Unknown, Refused, Accepted, Running, Complete];
    EPOCHS.into_iter().flat_map(move |epoch| {
        [
            DestinationMessage::Prepared { epoch },
            DestinationMessage::Refused { epoch },
            DestinationMessage::Resumed { epoch },
            DestinationMessage::Complete {
                epoch,
                verified: false,
            },
            DestinationMessage::Complete {
                epoch,
                verified: true,
            },
        ]
        .into_iter()
        .chain(states.map(|state| DestinationMessage::PeerState { epoch, state }))
    })
}

/// Everything that can be reached from a machine.
fn reachable<T: Copy + Eq + Hash + Debug>(
    start: T,
    successors: impl Fn(T) -> Vec<T>,
) -> HashSet<T> {
    let mut seen = HashSet::from([start]);
    let mut rest = vec![start];
    while let Some(machine) = rest.pop() {
        rest.extend(
            successors(machine)
                .into_iter()
                .filter(|next| seen.insert(*next)),
        );
    }
    seen
}

/// Applies a step to a copy.
fn after<T: Copy, R>(machine: T, step: impl FnOnce(&mut T) -> R) -> T {
    let mut next = machine;
    step(&mut next);
    next
}

fn sources() -> HashSet<Source> {
    reachable(Source::new(0), |source| {
        let within = |next: &Source| match next.state() {
            SourceState::Preparing { epoch } => epoch <= 3,
            _ => true,
        };
        let mut next = vec![
            after(source, Source::prepare),
            after(source, Source::abort),
            after(source, Source::handover_sending),
            after(source, Source::link_lost),
            after(source, |source| source.operator_asserts_peer_fenced(false)),
        ];
        next.extend(
            destination_messages().map(|message| after(source, |source| source.on_peer(message))),
        );
        next.retain(within);
        next
    })
}

fn destinations() -> HashSet<Destination> {
    reachable(Destination::new(), |destination| {
        let mut next = vec![
            after(destination, Destination::refuse),
            after(destination, Destination::resume),
            after(destination, Destination::all_pages_in),
            after(destination, Destination::link_lost),
            after(destination, |destination| {
                destination.operator_asserts_peer_fenced(false)
            }),
        ];
        next.extend(
            source_messages()
                .map(|message| after(destination, |destination| destination.on_peer(message))),
        );
        next
    })
}

#[test]
fn the_source_runs_again_only_on_refusal_and_lets_go_only_on_completion() {
    let sources = sources();
    assert!(sources.len() >= 16, "{sources:?}");
    for source in sources {
        for message in destination_messages() {
            let mut next = source;
            let answer = next.on_peer(message);
            if answer.is_err() {
                assert_eq!(next, source, "a violation changes nothing");
            }
            if source.may_run() {
                assert!(next.may_run(), "{source:?} {message:?}");
            } else if next.may_run() {
                let refused = matches!(
                    message,
                    DestinationMessage::Refused { .. }
                        | DestinationMessage::PeerState {
                            state: PeerState::Refused,
                            ..
                        }
                );
                let epoch = message.epoch();
                assert!(refused && source.state() == SourceState::HandedOver { epoch });
            }
            if source.needs_memory() && !next.needs_memory() {
                assert!(matches!(
                    message,
                    DestinationMessage::Complete { verified: true, .. }
                ));
                assert!(!source.may_run());
            }
        }
        assert_eq!(after(source, Source::link_lost).may_run(), source.may_run());
        assert!(after(source, |source| source.operator_asserts_peer_fenced(true)) == source);
    }
}

#[test]
fn no_message_starts_or_stops_the_vm_at_the_destination() {
    let destinations = destinations();
    assert!(destinations.len() >= 25, "{destinations:?}");
    for destination in destinations {
        for message in source_messages() {
            let mut next = destination;
            let answer = next.on_peer(message);
            if answer.is_err() {
                assert_eq!(next, destination, "a violation changes nothing");
            }
            assert_eq!(
                next.may_run(),
                destination.may_run(),
                "{destination:?} {message:?}"
            );
            if next.is_owner() && !destination.is_owner() {
                let epoch = message.epoch();
                assert_eq!(message, SourceMessage::CompleteAck { epoch });
                assert_eq!(destination.state(), DestinationState::Complete { epoch });
            }
        }
        assert!(
            after(destination, |it| it.operator_asserts_peer_fenced(true)) == destination,
            "not while the source answers"
        );
    }
}

#[test]
fn a_refused_epoch_is_never_taken_again() {
    let mut destination = Destination::new();
    let epoch = 7;
    let handover = SourceMessage::Handover {
        epoch,
        whole: false,
    };
    destination
        .on_peer(SourceMessage::Prepare { epoch })
        .unwrap();
    let asked = destination.on_peer(SourceMessage::RecoverAsk { epoch });
    let state = PeerState::Refused;
    let promise = DestinationMessage::PeerState { epoch, state };
    assert_eq!(asked, Ok(DestinationAction::DiscardAndSend(promise)));
    for message in [SourceMessage::Prepare { epoch }, handover] {
        let refusal = DestinationMessage::Refused { epoch };
        assert_eq!(
            destination.on_peer(message),
            Ok(DestinationAction::Send(refusal))
        );
    }
    let later = SourceMessage::Prepare { epoch: 8 };
    assert_eq!(
        destination.on_peer(later),
        Ok(DestinationAction::Prepare { epoch: 8 })
    );
}

#[test]
fn epochs_do_not_wrap() {
    let mut source = Source::new(Epoch::MAX);
    assert!(source.prepare().is_err());
    assert!(source.may_run());
    let zero = SourceMessage::Prepare { epoch: 0 };
    assert!(Destination::new().on_peer(zero).is_err());
}
