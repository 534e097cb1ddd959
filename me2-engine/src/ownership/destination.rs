//! The side that takes the VM over.

use super::{DestinationMessage, Epoch, PeerState, SourceMessage, Violation};

/// What the destination knows about who owns the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DestinationState {
    /// Nothing was ever asked of it.
    Idle,
    /// It would take a handover of this epoch.
    Prepared {
        /// The attempt.
        epoch: Epoch,
    },
    /// It never ran this epoch and never will; a later one is welcome.
    Refused {
        /// The attempt.
        epoch: Epoch,
    },
    /// The handover is in, and the state is being restored. No vCPU runs.
    Accepted {
        /// The attempt.
        epoch: Epoch,
    },
    /// The VM runs here; pages may be missing.
    Running {
        /// The attempt.
        epoch: Epoch,
    },
    /// The VM runs here and has all its pages; the source may not know it yet.
    Complete {
        /// The attempt.
        epoch: Epoch,
    },
    /// The source knows. The VM may be moved on.
    Owner {
        /// The attempt.
        epoch: Epoch,
    },
}

/// What the driver of the destination has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationAction {
    /// Nothing: the message is stale or a duplicate.
    Ignore,
    /// Drop what was prepared for an earlier attempt, if any, build the machine for this one, and
    /// send `Prepared`; or call [`Destination::refuse`].
    Prepare {
        /// The attempt.
        epoch: Epoch,
    },
    /// Restore the state, then call [`Destination::resume`] and start the vCPUs; or call
    /// [`Destination::refuse`].
    Restore {
        /// The attempt.
        epoch: Epoch,
        /// No page is missing: it can be done without the source.
        whole: bool,
    },
    /// Let go of what was prepared: this epoch will not run here.
    Discard,
    /// The same, and send this.
    DiscardAndSend(DestinationMessage),
    /// Send this.
    Send(DestinationMessage),
    /// The VM is here for good.
    Own,
}

/// The destination's machine, for one migration, for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    state: DestinationState,
}

impl Destination {
    /// Nothing was asked of it.
    pub fn new() -> Self {
        Self {
            state: DestinationState::Idle,
        }
    }

    /// Where it is.
    pub fn state(&self) -> DestinationState {
        self.state
    }

    /// Whether the VM may run here. To be asked before any vCPU is started.
    pub fn may_run(&self) -> bool {
        use DestinationState::*;
        matches!(self.state, Running { .. } | Complete { .. } | Owner { .. })
    }

    /// Whether the VM may be moved on from here.
    pub fn is_owner(&self) -> bool {
        matches!(self.state, DestinationState::Owner { .. })
    }

    /// A message from the source.
    ///
    /// # Errors
    /// No honest peer says this now.
    pub fn on_peer(&mut self, message: SourceMessage) -> Result<DestinationAction, Violation> {
        use DestinationState::*;
        let contradiction = Violation::Source {
            message,
            state: self.state,
        };
        let epoch = message.epoch();
        let current = self.epoch();
        if epoch < current {
            return Ok(DestinationAction::Ignore);
        }
        match self.state {
            _ if epoch == 0 => Err(contradiction),
            Idle | Prepared { .. } | Refused { .. } if epoch > current => {
                Ok(self.on_later(message))
            }
            _ if epoch > current => Err(contradiction),
            _ => self.on_current(message).ok_or(contradiction),
        }
    }

    /// A message about an epoch that was never prepared here, when the VM is not here either.
    fn on_later(&mut self, message: SourceMessage) -> DestinationAction {
        let unknown = |epoch| {
            DestinationAction::Send(DestinationMessage::PeerState {
                epoch,
                state: PeerState::Unknown,
            })
        };
        match message {
            SourceMessage::Prepare { epoch } => self.to(
                DestinationState::Prepared { epoch },
                DestinationAction::Prepare { epoch },
            ),
            // The epoch was never handed over, so it can be given up without having known it.
            SourceMessage::Abort { epoch } => self.to(
                DestinationState::Refused { epoch },
                DestinationAction::Discard,
            ),
            SourceMessage::Handover { epoch, .. } | SourceMessage::RecoverAsk { epoch } => {
                unknown(epoch)
            }
            // For a process before this one, which is dead.
            SourceMessage::CompleteAck { .. } => DestinationAction::Ignore,
        }
    }

    /// A message about the current epoch; `None` if the source contradicts itself.
    fn on_current(&mut self, message: SourceMessage) -> Option<DestinationAction> {
        use DestinationState::*;
        match (self.state, message) {
            (Prepared { epoch }, SourceMessage::Handover { whole, .. }) => Some(self.to(
                Accepted { epoch },
                DestinationAction::Restore { epoch, whole },
            )),
            (Prepared { epoch }, SourceMessage::Abort { .. }) => {
                Some(self.to(Refused { epoch }, DestinationAction::Discard))
            }
            (Prepared { epoch }, SourceMessage::RecoverAsk { .. }) => {
                let promise = DestinationMessage::PeerState {
                    epoch,
                    state: PeerState::Refused,
                };
                Some(self.to(
                    Refused { epoch },
                    DestinationAction::DiscardAndSend(promise),
                ))
            }
            (Refused { epoch }, SourceMessage::Prepare { .. } | SourceMessage::Handover { .. }) => {
                Some(DestinationAction::Send(DestinationMessage::Refused {
                    epoch,
                }))
            }
            (_, SourceMessage::RecoverAsk { .. }) => self.peer_state(),

            (Complete { epoch }, SourceMessage::CompleteAck { .. }) => {
                Some(self.to(Owner { epoch }, DestinationAction::Own))
            }
            (Owner { .. }, SourceMessage::CompleteAck { .. }) => Some(DestinationAction::Ignore),

            // Duplicates.
            (Refused { .. }, SourceMessage::Abort { .. })
            | (
                Prepared { .. } | Accepted { .. } | Running { .. } | Complete { .. } | Owner { .. },
                SourceMessage::Prepare { .. },
            )
            | (
                Accepted { .. } | Running { .. } | Complete { .. } | Owner { .. },
                SourceMessage::Handover { .. },
            ) => Some(DestinationAction::Ignore),

            // Aborted after the handover, or acknowledged what was never said.
            (
                Accepted { .. } | Running { .. } | Complete { .. } | Owner { .. },
                SourceMessage::Abort { .. },
            )
            | (
                Prepared { .. } | Refused { .. } | Accepted { .. } | Running { .. },
                SourceMessage::CompleteAck { .. },
            )
            | (Idle, _) => None,
        }
    }

    fn peer_state(&self) -> Option<DestinationAction> {
        use DestinationState::*;
        let (epoch, state) = match self.state {
            Refused { epoch } => (epoch, PeerState::Refused),
            Accepted { epoch } => (epoch, PeerState::Accepted),
            Running { epoch } => (epoch, PeerState::Running),
            Complete { epoch } | Owner { epoch } => (epoch, PeerState::Complete),
            Idle | Prepared { .. } => return None,
        };
        Some(DestinationAction::Send(DestinationMessage::PeerState {
            epoch,
            state,
        }))
    }

    /// Gives the attempt up before any vCPU ran (cannot prepare, cannot restore): what to send.
    pub fn refuse(&mut self) -> Result<DestinationMessage, Violation> {
        use DestinationState::*;
        match self.state {
            Prepared { epoch } | Accepted { epoch } | Refused { epoch } => {
                self.state = DestinationState::Refused { epoch };
                Ok(DestinationMessage::Refused { epoch })
            }
            _ => Err(self.step("refuse")),
        }
    }

    /// To be called when the state is restored, before the first vCPU is started: what to send
    /// then. There is no way back from here.
    pub fn resume(&mut self) -> Result<DestinationMessage, Violation> {
        let DestinationState::Accepted { epoch } = self.state else {
            return Err(self.step("resume the VM"));
        };
        self.state = DestinationState::Running { epoch };
        Ok(DestinationMessage::Resumed { epoch })
    }

    /// Every page is in: what to send. May be said again, should the source have found that the
    /// hashes differ.
    pub fn all_pages_in(&mut self) -> Result<DestinationMessage, Violation> {
        match self.state {
            DestinationState::Running { epoch } | DestinationState::Complete { epoch } => {
                self.state = DestinationState::Complete { epoch };
                Ok(DestinationMessage::Complete {
                    epoch,
                    verified: true,
                })
            }
            _ => Err(self.step("complete")),
        }
    }

    /// The link to the source is lost, or given up. Before the handover that ends the attempt;
    /// after it, the VM goes on with the pages it has.
    pub fn link_lost(&mut self) -> DestinationAction {
        match self.state {
            DestinationState::Prepared { epoch } => self.to(
                DestinationState::Refused { epoch },
                DestinationAction::Discard,
            ),
            _ => DestinationAction::Ignore,
        }
    }

    /// There is a link to the source again: what to say unasked, since it may have been lost.
    pub fn reconnected(&self) -> DestinationAction {
        match self.state {
            DestinationState::Running { epoch } => {
                DestinationAction::Send(DestinationMessage::Resumed { epoch })
            }
            DestinationState::Complete { epoch } => {
                DestinationAction::Send(DestinationMessage::Complete {
                    epoch,
                    verified: true,
                })
            }
            _ => DestinationAction::Ignore,
        }
    }

    /// An operator asserts that the source is dead and can never run the VM again: a VM that has
    /// all its pages need not wait for the acknowledgement. To be logged. `peer_answers`: the
    /// source of this migration answers right now.
    ///
    /// # Errors
    /// The source answers, or the VM is not complete.
    pub fn operator_asserts_peer_fenced(
        &mut self,
        peer_answers: bool,
    ) -> Result<DestinationAction, Violation> {
        match self.state {
            DestinationState::Complete { .. } if peer_answers => Err(Violation::PeerAnswers),
            DestinationState::Complete { epoch } => {
                Ok(self.to(DestinationState::Owner { epoch }, DestinationAction::Own))
            }
            _ => Err(self.step("own the VM without the source")),
        }
    }

    fn epoch(&self) -> Epoch {
        use DestinationState::*;
        match self.state {
            Idle => 0,
            Prepared { epoch } | Refused { epoch } | Accepted { epoch } => epoch,
            Running { epoch } | Complete { epoch } | Owner { epoch } => epoch,
        }
    }

    fn to(&mut self, state: DestinationState, action: DestinationAction) -> DestinationAction {
        self.state = state;
        action
    }

    fn step(&self, step: &'static str) -> Violation {
        Violation::DestinationStep {
            step,
            state: self.state,
        }
    }
}

impl Default for Destination {
    fn default() -> Self {
        Self::new()
    }
}
