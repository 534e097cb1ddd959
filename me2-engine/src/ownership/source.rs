//! The side that owns the VM at first.

use super::{DestinationMessage, Epoch, PeerState, SourceMessage, Violation};

/// What the source knows about who owns the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceState {
    /// The VM is here, and no attempt is under way.
    Owner {
        /// The latest attempt, or the one by which the VM came here; 0: none.
        last_epoch: Epoch,
    },
    /// The VM is here; the destination prepares itself.
    Preparing {
        /// The attempt.
        epoch: Epoch,
    },
    /// The VM is here; the destination is ready for it.
    Ready {
        /// The attempt.
        epoch: Epoch,
    },
    /// The handover may have left. Nobody knows who owns the VM: it does not run here.
    HandedOver {
        /// The attempt.
        epoch: Epoch,
    },
    /// The VM runs at the destination, which may still need pages.
    Released {
        /// The attempt.
        epoch: Epoch,
    },
    /// The destination has everything. The memory may be let go.
    Done {
        /// The attempt.
        epoch: Epoch,
    },
}

/// What the driver of the source has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceAction {
    /// Nothing: the message is stale or a duplicate.
    Ignore,
    /// The destination is ready: pages may be sent, and the handover later.
    Proceed,
    /// The attempt is over and the VM is here: see that it runs, with dirty tracking as it was
    /// before. Let go of the attempt, not of the VM.
    ResumeVm,
    /// Nobody knows who owns the VM: keep it stopped, keep its memory. With a link, ask.
    KeepStopped,
    /// The VM runs at the destination: keep it stopped here, and serve pages.
    ServePages,
    /// Send this.
    Send(SourceMessage),
    /// Let go of the memory, and send this.
    LetGoMemory(SourceMessage),
}

/// The source's machine, for one VM, for as long as it is in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Source {
    state: SourceState,
}

impl Source {
    /// The owner of a VM that came here by `last_epoch`, 0 if it was started here.
    pub fn new(last_epoch: Epoch) -> Self {
        Self {
            state: SourceState::Owner { last_epoch },
        }
    }

    /// Where it is.
    pub fn state(&self) -> SourceState {
        self.state
    }

    /// Whether the VM may run here. To be asked before any vCPU is started.
    pub fn may_run(&self) -> bool {
        use SourceState::*;
        matches!(self.state, Owner { .. } | Preparing { .. } | Ready { .. })
    }

    /// Whether the memory must be kept.
    pub fn needs_memory(&self) -> bool {
        !matches!(self.state, SourceState::Done { .. })
    }

    /// Begins an attempt with a new epoch: what to send.
    pub fn prepare(&mut self) -> Result<SourceMessage, Violation> {
        let SourceState::Owner { last_epoch } = self.state else {
            return Err(self.step("begin an attempt"));
        };
        // Only a peer that made numbers up can have used all of them.
        let epoch = last_epoch
            .checked_add(1)
            .ok_or_else(|| self.step("begin an attempt"))?;
        self.state = SourceState::Preparing { epoch };
        Ok(SourceMessage::Prepare { epoch })
    }

    /// Ends the attempt before the handover: what to send. The VM stays here; see that it runs.
    pub fn abort(&mut self) -> Result<SourceMessage, Violation> {
        match self.state {
            SourceState::Preparing { epoch } | SourceState::Ready { epoch } => {
                self.state = SourceState::Owner { last_epoch: epoch };
                Ok(SourceMessage::Abort { epoch })
            }
            _ => Err(self.step("abort an attempt")),
        }
    }

    /// To be called with the VM stopped, before the first byte of the handover is given to the
    /// transport: the epoch to write into it. There is no way back from here but the peer's word.
    pub fn handover_sending(&mut self) -> Result<Epoch, Violation> {
        let SourceState::Ready { epoch } = self.state else {
            return Err(self.step("hand over"));
        };
        self.state = SourceState::HandedOver { epoch };
        Ok(epoch)
    }

    /// A message from the destination.
    ///
    /// # Errors
    /// No honest peer says this now.
    pub fn on_peer(&mut self, message: DestinationMessage) -> Result<SourceAction, Violation> {
        use SourceState::*;
        let contradiction = Violation::Destination {
            message,
            state: self.state,
        };
        match self.state {
            Owner { last_epoch } if message.epoch() <= last_epoch => {
                return Ok(SourceAction::Ignore);
            }
            Owner { .. } => return Err(contradiction),
            Preparing { epoch }
            | Ready { epoch }
            | HandedOver { epoch }
            | Released { epoch }
            | Done { epoch } => {
                if message.epoch() < epoch {
                    return Ok(SourceAction::Ignore);
                }
                if message.epoch() > epoch {
                    return Err(contradiction);
                }
            }
        }
        self.on_current(Said::from(message)).ok_or(contradiction)
    }

    /// What the destination said about the current epoch; `None` if it contradicts itself.
    fn on_current(&mut self, said: Said) -> Option<SourceAction> {
        use SourceState::*;
        match (self.state, said) {
            (Preparing { epoch }, Said::Prepared) => {
                Some(self.to(Ready { epoch }, SourceAction::Proceed))
            }
            (_, Said::Prepared) => Some(SourceAction::Ignore),

            (Preparing { epoch } | Ready { epoch } | HandedOver { epoch }, Said::Refused) => {
                Some(self.to(Owner { last_epoch: epoch }, SourceAction::ResumeVm))
            }

            (HandedOver { .. }, Said::NothingYet)
            | (HandedOver { .. } | Released { .. }, Said::Unknown) => {
                Some(SourceAction::KeepStopped)
            }
            (Released { .. } | Done { .. }, Said::NothingYet) | (Done { .. }, Said::Unknown) => {
                Some(SourceAction::Ignore)
            }

            (HandedOver { epoch } | Released { epoch }, Said::Running) => {
                Some(self.to(Released { epoch }, SourceAction::ServePages))
            }
            (HandedOver { epoch } | Released { epoch } | Done { epoch }, Said::Complete) => {
                let acknowledgement = SourceMessage::CompleteAck { epoch };
                Some(self.to(Done { epoch }, SourceAction::LetGoMemory(acknowledgement)))
            }
            (Done { .. }, Said::Running) => Some(SourceAction::Ignore),

            // Handed over to nobody yet, or refused after it ran, or by who has everything.
            (
                Preparing { .. } | Ready { .. },
                Said::Unknown | Said::NothingYet | Said::Running | Said::Complete,
            )
            | (Released { .. } | Done { .. }, Said::Refused)
            | (Owner { .. }, _) => None,
        }
    }

    /// The link to the destination is lost, or given up.
    pub fn link_lost(&mut self) -> SourceAction {
        use SourceState::*;
        match self.state {
            Preparing { epoch } | Ready { epoch } => {
                self.to(Owner { last_epoch: epoch }, SourceAction::ResumeVm)
            }
            Owner { .. } | Done { .. } => SourceAction::Ignore,
            HandedOver { .. } | Released { .. } => SourceAction::KeepStopped,
        }
    }

    /// There is a link to the destination again.
    pub fn reconnected(&self) -> SourceAction {
        match self.state {
            SourceState::HandedOver { epoch } | SourceState::Released { epoch } => {
                SourceAction::Send(SourceMessage::RecoverAsk { epoch })
            }
            _ => SourceAction::Ignore,
        }
    }

    /// An operator asserts that the destination is dead and can never run the VM again, and takes
    /// the VM back as it was when it was stopped: what it did at the destination is lost. To be
    /// logged. `peer_answers`: a process that knows this migration answers right now.
    ///
    /// # Errors
    /// The peer answers, or there is nothing to take back.
    pub fn operator_asserts_peer_fenced(
        &mut self,
        peer_answers: bool,
    ) -> Result<SourceAction, Violation> {
        match self.state {
            SourceState::HandedOver { .. } | SourceState::Released { .. } if peer_answers => {
                Err(Violation::PeerAnswers)
            }
            SourceState::HandedOver { epoch } | SourceState::Released { epoch } => Ok(self.to(
                SourceState::Owner { last_epoch: epoch },
                SourceAction::ResumeVm,
            )),
            _ => Err(self.step("take the VM back")),
        }
    }

    fn to(&mut self, state: SourceState, action: SourceAction) -> SourceAction {
        self.state = state;
        action
    }

    fn step(&self, step: &'static str) -> Violation {
        Violation::SourceStep {
            step,
            state: self.state,
        }
    }
}

/// What a message means to the source, in whichever form it came.
#[derive(Clone, Copy)]
enum Said {
    Prepared,
    Refused,
    /// Nothing that could be built on.
    Unknown,
    /// Neither refused nor running.
    NothingYet,
    Running,
    /// It runs, and the page hashes agree.
    Complete,
}

impl From<DestinationMessage> for Said {
    fn from(message: DestinationMessage) -> Self {
        match message {
            DestinationMessage::Prepared { .. } => Self::Prepared,
            DestinationMessage::Refused { .. } => Self::Refused,
            DestinationMessage::Resumed { .. }
            | DestinationMessage::Complete {
                verified: false, ..
            } => Self::Running,
            DestinationMessage::Complete { verified: true, .. } => Self::Complete,
            DestinationMessage::PeerState { state, .. } => match state {
                PeerState::Unknown => Self::Unknown,
                PeerState::Accepted => Self::NothingYet,
                PeerState::Refused => Self::Refused,
                PeerState::Running | PeerState::Complete => Self::Running,
            },
        }
    }
}
