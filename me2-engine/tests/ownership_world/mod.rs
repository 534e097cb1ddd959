//! The world of the ownership model: a source, some destinations, what was ever sent between them,
//! and a record of what has happened that no process sees.

mod heal;
mod mutant;
mod steps;

pub(crate) use mutant::Broken;

use me2_engine::ownership::{
    Destination, DestinationMessage, DestinationState, Epoch, PeerState, Source, SourceMessage,
    SourceState,
};

/// Bounds of an exploration, and the rule that is broken in it.
#[derive(Clone, Copy)]
pub(crate) struct Model {
    pub(crate) hosts: usize,
    pub(crate) epochs: Epoch,
    /// Forget a message once its receiver has gone on to a later epoch and does nothing about it:
    /// far fewer states, on the assumption that it never will do anything about it.
    pub(crate) forgets_stale: bool,
    pub(crate) broken: Option<Broken>,
}

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// Two processes may run the VM.
    TwoRun,
    /// The source may run the VM after a destination ran it, and no operator wanted that.
    RanTwice,
    /// The VM needs pages, or comes back to pages, that the source let go.
    MemoryGone,
    /// An honest process is accused.
    HonestAccused,
    /// With the links mended, the VM does not end up in one place although a copy of it is there.
    Stuck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Start,
    SourcePrepares(usize),
    SourceAborts,
    SourceHandsOver { whole: bool },
    SourceLosesLink,
    SourceReconnects,
    SourceIsTakenBack,
    SourceDies,
    HostIsReady(usize),
    HostRefuses(usize),
    HostResumes(usize),
    HostFetches(usize, Pages),
    HostCompletes(usize),
    HostLosesLink(usize),
    HostReconnects(usize),
    HostNeedsNoSource(usize),
    HostDies(usize),
    HostStartsAfresh(usize),
    ToHost(usize, SourceMessage),
    ToSource(usize, DestinationMessage),
}

/// The VM's memory at a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Pages {
    Missing,
    All,
    /// All there, but the hashes differ.
    Wrong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Host {
    /// `None`: dead.
    machine: Option<Destination>,
    pages: Pages,
    /// What was ever sent to this process, and by this place: bits by [`to_host`], [`to_source`].
    to: u64,
    from: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// `None`: dead.
    source: Option<Source>,
    /// The destination of the latest attempt.
    target: usize,
    hosts: [Host; 2],
    /// The source let the memory go.
    let_go: bool,
    /// A destination ran the VM, and no operator gave it back to the source since.
    ran: bool,
    /// A process died that held the only copy of the VM.
    copy_died: bool,
    failure: Option<Failure>,
}

const EPOCHS_MAX: Epoch = 3;

/// The messages to a destination, by bit.
fn to_host() -> impl Iterator<Item = SourceMessage> {
    (1..=EPOCHS_MAX).flat_map(|epoch| {
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

/// The messages to the source, by bit.
fn to_source() -> impl Iterator<Item = DestinationMessage> {
    use PeerState::*;
    (1..=EPOCHS_MAX).flat_map(|epoch| {
        let states = [Unknown, Refused, Accepted, Running, Complete];
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

impl World {
    pub(crate) fn new() -> Self {
        let host = Host {
            machine: Some(Destination::new()),
            pages: Pages::Missing,
            to: 0,
            from: 0,
        };
        Self {
            source: Some(Source::new(0)),
            target: 0,
            hosts: [host; 2],
            let_go: false,
            ran: false,
            copy_died: false,
            failure: None,
        }
    }

    /// What does not hold in this state, apart from [`World::heal`].
    pub(crate) fn failure(&self) -> Option<Failure> {
        let source_runs = self.source.is_some_and(|source| source.may_run());
        let running = || {
            self.hosts
                .iter()
                .filter(|host| host.machine.is_some_and(|machine| machine.may_run()))
        };
        let needs_pages = running().any(|host| host.pages == Pages::Missing);
        if usize::from(source_runs) + running().count() > 1 {
            Some(Failure::TwoRun)
        } else if source_runs && self.ran {
            Some(Failure::RanTwice)
        } else if self.let_go
            && (source_runs || needs_pages || running().any(|host| host.pages == Pages::Wrong))
        {
            Some(Failure::MemoryGone)
        } else {
            self.failure
        }
    }

    /// Everything that may happen next.
    pub(crate) fn successors(&self, model: &Model) -> Vec<(Step, World)> {
        let mut steps = vec![
            Step::SourceAborts,
            Step::SourceHandsOver { whole: false },
            Step::SourceHandsOver { whole: true },
            Step::SourceLosesLink,
            Step::SourceReconnects,
            Step::SourceIsTakenBack,
            Step::SourceDies,
        ];
        for host in 0..model.hosts {
            let bits = |set: u64| move |bit: &usize| set >> bit & 1 == 1;
            steps.extend([
                Step::SourcePrepares(host),
                Step::HostIsReady(host),
                Step::HostRefuses(host),
                Step::HostResumes(host),
                Step::HostFetches(host, Pages::All),
                Step::HostFetches(host, Pages::Wrong),
                Step::HostCompletes(host),
                Step::HostLosesLink(host),
                Step::HostReconnects(host),
                Step::HostNeedsNoSource(host),
                Step::HostDies(host),
                Step::HostStartsAfresh(host),
            ]);
            let Host { to, from, .. } = self.hosts[host];
            let sent = to_host().enumerate().filter(|(bit, _)| bits(to)(bit));
            steps.extend(sent.map(|(_, message)| Step::ToHost(host, message)));
            let sent = to_source().enumerate().filter(|(bit, _)| bits(from)(bit));
            steps.extend(sent.map(|(_, message)| Step::ToSource(host, message)));
        }
        let next = |step: &Step| {
            let mut world = *self;
            world.take(*step, model)?;
            if model.forgets_stale {
                world.forget_stale(model);
            }
            (world != *self).then_some(world)
        };
        steps
            .iter()
            .filter_map(|step| Some((*step, next(step)?)))
            .collect()
    }

    /// The source sends to the destination of its latest attempt, if that process lives.
    fn send(&mut self, message: SourceMessage) {
        let bit = to_host()
            .position(|other| other == message)
            .expect("all are listed");
        let host = &mut self.hosts[self.target];
        if host.machine.is_some() {
            host.to |= 1 << bit;
        }
    }

    /// A destination speaks. (What its source's driver will find when it compares the hashes is
    /// put into the message here, since the pages may be gone when it arrives.)
    fn say(&mut self, host: usize, mut message: DestinationMessage) {
        if let DestinationMessage::Complete { verified, .. } = &mut message {
            *verified = self.hosts[host].pages != Pages::Wrong;
        }
        let bit = to_source()
            .position(|other| other == message)
            .expect("all are listed");
        self.hosts[host].from |= 1 << bit;
    }

    fn forget_stale(&mut self, model: &Model) {
        for host in 0..model.hosts {
            let later = self.hosts[host]
                .machine
                .map_or(0, |machine| mutant::host_epoch(machine.state()));
            for (bit, message) in to_host()
                .enumerate()
                .take_while(|(_, message)| message.epoch() < later)
            {
                let mut after = *self;
                if after.deliver_to_host(host, message, model).is_some() && after == *self {
                    self.hosts[host].to &= !(1 << bit);
                }
            }
            let later = self
                .source
                .map_or(0, |source| mutant::source_epoch(source.state()));
            for (bit, message) in to_source()
                .enumerate()
                .take_while(|(_, message)| message.epoch() < later)
            {
                let mut after = *self;
                if after.deliver_to_source(message, model).is_some() && after == *self {
                    self.hosts[host].from &= !(1 << bit);
                }
            }
        }
    }

    /// The process that was prepared for the latest attempt is dead, whoever came after it.
    fn peer_is_gone(&self) -> bool {
        self.hosts[self.target]
            .machine
            .is_none_or(|machine| machine.state() == DestinationState::Idle)
    }

    /// Somebody has all pages of the VM and a state to go with them.
    fn has_copy(&self) -> bool {
        let state_is_in = |machine: Destination| {
            machine.may_run() || matches!(machine.state(), DestinationState::Accepted { .. })
        };
        let host_has =
            |host: &Host| host.machine.is_some_and(state_is_in) && host.pages != Pages::Missing;
        self.source.is_some() && !self.let_go || self.hosts.iter().any(host_has)
    }
}
