//! From any state there must be a way on: the links are cut once more, with everything that was on
//! its way lost, then mended; nobody dies any more, drivers do their work, and an operator says so
//! where a process is dead.

use std::collections::VecDeque;

use super::{Failure, Host, Model, Pages, SourceState, Step, World};

/// More rounds than a handshake can need.
const ROUNDS: usize = 8;

impl World {
    /// The world after both sides have lost their link, with everything that was on its way.
    pub(crate) fn cut_off(mut self, model: &Model) -> World {
        for host in 0..model.hosts {
            self.take(Step::HostLosesLink(host), model);
        }
        self.take(Step::SourceLosesLink, model);
        self.forget_messages();
        self
    }

    /// That the VM ends up in exactly one place, unless a process died that held the only copy.
    pub(crate) fn heal(mut self, model: &Model) -> Option<Failure> {
        for _ in 0..ROUNDS {
            if self.copy_died || self.is_settled() {
                return None;
            }
            self.round(model);
        }
        Some(Failure::Stuck)
    }

    /// Both sides reconnect, the drivers do what is due, and what is sent arrives once.
    fn round(&mut self, model: &Model) {
        let host = self.target;
        let due = [
            Step::SourceReconnects,
            Step::HostReconnects(host),
            Step::HostResumes(host),
            Step::HostFetches(host, Pages::All),
            Step::HostCompletes(host),
        ];
        for step in due {
            self.take_if_possible(step, model);
            self.deliver_all(model);
        }
        if self.peer_is_gone() {
            self.take_if_possible(Step::SourceIsTakenBack, model);
        }
        if self.source.is_none() {
            self.take_if_possible(Step::HostNeedsNoSource(host), model);
        }
    }

    fn take_if_possible(&mut self, step: Step, model: &Model) {
        let mut next = *self;
        if next.take(step, model).is_some() {
            *self = next;
        }
    }

    fn deliver_all(&mut self, model: &Model) {
        let mut rest = VecDeque::from(self.sent());
        self.forget_messages();
        while let Some(step) = rest.pop_front() {
            self.take(step, model);
            rest.extend(self.sent());
            self.forget_messages();
        }
    }

    fn sent(&self) -> Vec<Step> {
        let bit_is_set = |set: u64, bit: usize| set >> bit & 1 == 1;
        let of_host = |(at, host): (usize, &Host)| {
            let (to, from) = (host.to, host.from);
            let to = super::to_host()
                .enumerate()
                .filter(move |(bit, _)| bit_is_set(to, *bit));
            let from = super::to_source()
                .enumerate()
                .filter(move |(bit, _)| bit_is_set(from, *bit));
            to.map(move |(_, message)| Step::ToHost(at, message))
                .chain(from.map(move |(_, message)| Step::ToSource(at, message)))
        };
        self.hosts.iter().enumerate().flat_map(of_host).collect()
    }

    fn forget_messages(&mut self) {
        for host in &mut self.hosts {
            (host.to, host.from) = (0, 0);
        }
    }

    /// One side owns the VM and the other knows it, or is dead. Where the hashes differ, the VM
    /// runs at the destination and the source keeps what it has, for people to decide.
    fn is_settled(&self) -> bool {
        let source_owns = self.source.is_some_and(|source| source.may_run());
        let source_is_done = self.source.is_none_or(|source| !source.needs_memory());
        let source_serves = self
            .source
            .is_some_and(|source| matches!(source.state(), SourceState::Released { .. }));
        let owns = |host: &&Host| host.machine.is_some_and(|machine| machine.is_owner());
        let hosts_own = self.hosts.iter().filter(owns).count();
        let runs_wrong = |host: &Host| {
            host.machine.is_some_and(|machine| machine.may_run()) && host.pages == Pages::Wrong
        };
        match (source_owns, hosts_own) {
            (true, 0) => true,
            (false, 1) => source_is_done,
            (false, 0) => source_serves && self.hosts.iter().any(runs_wrong),
            _ => false,
        }
    }
}
