//! What each step does to the world.

use me2_engine::ownership::{
    Destination, DestinationAction, DestinationMessage, DestinationState, SourceAction,
    SourceMessage, SourceState,
};

use super::{Broken, Failure, Host, Model, Pages, Step, World, mutant};

impl World {
    /// Takes a step; `None` if it is not possible.
    pub(super) fn take(&mut self, step: Step, model: &Model) -> Option<()> {
        match step {
            Step::Start => None,
            Step::SourceDies | Step::HostDies(_) | Step::HostStartsAfresh(_) => {
                self.live_or_die(step)
            }
            Step::ToHost(host, message) => self.deliver_to_host(host, message, model),
            Step::ToSource(_, message) => self.deliver_to_source(message, model),
            Step::HostIsReady(host)
            | Step::HostRefuses(host)
            | Step::HostResumes(host)
            | Step::HostFetches(host, _)
            | Step::HostCompletes(host)
            | Step::HostLosesLink(host)
            | Step::HostReconnects(host)
            | Step::HostNeedsNoSource(host) => self.host_step(host, step, model),
            _ => self.source_step(step, model),
        }
    }

    fn source_step(&mut self, step: Step, model: &Model) -> Option<()> {
        let peer_is_gone = self.peer_is_gone();
        let source = self.source.as_mut()?;
        match step {
            Step::SourcePrepares(host) => {
                let message = source
                    .prepare()
                    .ok()
                    .filter(|message| message.epoch() <= model.epochs)?;
                if message.epoch() == 1 && host > 0 {
                    // The destinations are alike: the first attempt goes to the first one.
                    return None;
                }
                self.target = host;
                self.send(message);
            }
            Step::SourceAborts => {
                let message = source.abort().ok()?;
                self.send(message);
            }
            Step::SourceHandsOver { whole } => {
                let epoch = source.handover_sending().ok()?;
                self.send(SourceMessage::Handover { epoch, whole });
            }
            Step::SourceLosesLink => mutant::source_loses_link(source, model.broken),
            Step::SourceReconnects => {
                if let SourceAction::Send(message) = source.reconnected() {
                    self.send(message);
                }
            }
            Step::SourceIsTakenBack => {
                let peer_answers =
                    !peer_is_gone && model.broken != Some(Broken::OperatorIsNotChecked);
                source.operator_asserts_peer_fenced(peer_answers).ok()?;
                self.ran = false;
            }
            _ => unreachable!("not a step of the source"),
        }
        Some(())
    }

    fn host_step(&mut self, host: usize, step: Step, model: &Model) -> Option<()> {
        let had_copy = self.has_copy();
        let source = self.source;
        let source_serves =
            source.is_some_and(|source| matches!(source.state(), SourceState::Released { .. }));
        let Host { machine, pages, .. } = &mut self.hosts[host];
        let machine = machine.as_mut()?;
        let said = match step {
            Step::HostIsReady(_) => {
                let DestinationState::Prepared { epoch } = machine.state() else {
                    return None;
                };
                DestinationMessage::Prepared { epoch }
            }
            Step::HostRefuses(_) => mutant::host_refuses(machine, model.broken)?,
            Step::HostResumes(_) => {
                self.ran = true;
                machine.resume().ok()?
            }
            Step::HostFetches(_, fetched) => {
                let fetches = machine.may_run() && *pages == Pages::Missing && source_serves;
                *pages = fetches.then_some(fetched)?;
                return Some(());
            }
            Step::HostCompletes(_) => {
                let may = *pages != Pages::Missing
                    || model.broken == Some(Broken::DestinationCompletesEarly);
                may.then(|| machine.all_pages_in().ok())??
            }
            Step::HostLosesLink(_) => {
                machine.link_lost();
                return Some(());
            }
            Step::HostReconnects(_) => match machine.reconnected() {
                DestinationAction::Send(message) => message,
                _ => return None,
            },
            Step::HostNeedsNoSource(_) => {
                return machine
                    .operator_asserts_peer_fenced(source.is_some())
                    .ok()
                    .map(drop);
            }
            _ => unreachable!("not a step of a destination"),
        };
        self.say(host, said);
        // A state that cannot be restored is no copy.
        self.copy_died |= had_copy && !self.has_copy();
        Some(())
    }

    fn live_or_die(&mut self, step: Step) -> Option<()> {
        match step {
            Step::SourceDies => {
                let had_copy = self.has_copy();
                self.source.take()?;
                self.hosts.iter_mut().for_each(|host| host.from = 0);
                self.copy_died |= had_copy && !self.has_copy();
            }
            Step::HostDies(host) => {
                let had_copy = self.has_copy();
                self.hosts[host].machine.take()?;
                self.hosts[host] = Host {
                    pages: Pages::Missing,
                    to: 0,
                    ..self.hosts[host]
                };
                self.copy_died |= had_copy && !self.has_copy();
            }
            Step::HostStartsAfresh(host) if self.hosts[host].machine.is_none() => {
                self.hosts[host].machine = Some(Destination::new());
            }
            _ => return None,
        }
        Some(())
    }

    pub(super) fn deliver_to_host(
        &mut self,
        host: usize,
        message: SourceMessage,
        model: &Model,
    ) -> Option<()> {
        let machine = self.hosts[host].machine.as_mut()?;
        match mutant::to_host(machine, message, model.broken) {
            Ok(DestinationAction::Send(answer) | DestinationAction::DiscardAndSend(answer)) => {
                self.say(host, answer)
            }
            Ok(DestinationAction::Restore { whole: true, .. }) => {
                self.hosts[host].pages = Pages::All
            }
            Ok(_) => {}
            Err(_) => self.failure = Some(Failure::HonestAccused),
        }
        Some(())
    }

    pub(super) fn deliver_to_source(
        &mut self,
        message: DestinationMessage,
        model: &Model,
    ) -> Option<()> {
        let source = self.source.as_mut()?;
        match mutant::to_source(source, message, model.broken) {
            Ok(SourceAction::Send(answer)) => self.send(answer),
            Ok(SourceAction::LetGoMemory(answer)) => {
                self.let_go = true;
                // Nobody can help it if the destination said that it has everything, and died.
                self.copy_died |= !self.has_copy() && self.peer_is_gone();
                self.send(answer);
            }
            Ok(_) => {}
            Err(_) => self.failure = Some(Failure::HonestAccused),
        }
        Some(())
    }
}
