//! Waits for a source, and goes with it through the whole migration.
//!
//! One connection serves at a time. A source whose connection broke comes back with
//! [`Purpose::Recover`]; its new connection takes the place of the old one.

use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use me2_vmm::{clock, machine::MachineDocument};
use me2_wire::{
    message::{PeerOwnership, Purpose, ToDestination, ToSource},
    range::RangeList,
};
use tokio::{sync::mpsc, task::block_in_place, time::timeout};
use tracing::Instrument;

use super::{
    Incoming,
    knock::{HELLO_TIMEOUT, Knock, refuse, say_last},
};
use crate::{
    control::{
        channel::{Refusal, Reply},
        types::{Accepted, VmState},
    },
    migrate::{Machine, observer::PROGRESS_INTERVAL},
    process::{Node, published},
};

/// Attempts that ended before the handover and are remembered as never run.
const ABANDONED_MAX: usize = 64;

/// What waiting ended with.
pub enum Received {
    /// The VM is here for good, all of it.
    Complete {
        /// The VM.
        machine: Arc<Machine>,
        /// The attempt by which it came.
        epoch: u64,
        /// Who hears of it.
        source: Parting,
    },
    /// With `once`: the attempt failed.
    Failed(anyhow::Error),
}

/// Who hears that the VM is here, now that it is.
pub enum Parting {
    /// The source, which may not have heard the last word.
    Source(Box<Knock>),
    /// The source is dead: the operator who said so.
    Operator(Reply<Accepted>),
}

/// Waits for sources.
pub struct Reception {
    node: Arc<Node>,
    knocks: mpsc::Receiver<Knock>,
    /// Operators' words that the source is dead.
    fenced: mpsc::Receiver<Reply<Accepted>>,
    /// End after the first attempt.
    once: bool,
    abandoned: Vec<([u8; 16], u64)>,
}

impl Reception {
    /// Takes peers from `knocks`, and from `fenced` an operator's word that the source is dead, which
    /// counts while the source does not answer.
    pub fn new(
        node: Arc<Node>,
        knocks: mpsc::Receiver<Knock>,
        fenced: mpsc::Receiver<Reply<Accepted>>,
        once: bool,
    ) -> Self {
        Self {
            node,
            knocks,
            fenced,
            once,
            abandoned: Vec::new(),
        }
    }

    /// Waits until a VM is here.
    pub async fn receive(mut self) -> Received {
        loop {
            let Some(mut knock) = self.knocks.recv().await else {
                return Received::Failed(anyhow!("the listener is closed"));
            };
            if knock.hello.purpose == Purpose::Recover {
                answer_recovery_of_nothing(&mut knock, &self.abandoned).await;
                continue;
            }
            let knock_epoch = knock.hello.epoch;
            let span = crate::migrate::span(&knock.hello.migration);
            let prepared = self.prepare(&mut knock).instrument(span.clone()).await;
            let failure = match prepared {
                Ok(incoming) => match self
                    .accompany(Arc::new(incoming), knock)
                    .instrument(span.clone())
                    .await
                {
                    Ok((machine, source)) => {
                        return Received::Complete {
                            machine,
                            epoch: knock_epoch,
                            source,
                        };
                    }
                    Err(error) => error,
                },
                Err(error) => {
                    refuse(&mut knock.control, knock.hello.epoch, &format!("{error:#}")).await;
                    error
                }
            };
            span.in_scope(|| {
                tracing::warn!("the migration failed before the handover: {failure:#}");
            });
            self.node.withdraw();
            if self.once {
                return Received::Failed(failure);
            }
            self.node.set_state(VmState::Waiting);
        }
    }

    async fn prepare(&mut self, knock: &mut Knock) -> anyhow::Result<Incoming> {
        let ToDestination::Machine { document, scheme } = timeout(HELLO_TIMEOUT, knock.machine())
            .await
            .context("the peer did not describe its machine in time")??
        else {
            bail!("the peer did not describe its machine");
        };
        let document = MachineDocument::from_json(&document)?;
        let peer = &knock.peer;
        tracing::info!(
            name = document.name,
            memory_mib = document.memory_bytes >> 20,
            cpus = document.cpus,
            "a VM is coming"
        );
        let same_host = knock.hello.boot_id != [0; 16] && knock.hello.boot_id == clock::boot_id();
        let (migration, epoch) = (knock.hello.migration, knock.hello.epoch);
        let incoming =
            block_in_place(|| self.node.admit(document, peer, migration, epoch, same_host))?;
        self.node.set_state(VmState::Incoming);
        self.node.begin_incoming(published::mode(scheme));
        knock.control.message(&ToSource::Ready).await?;
        Ok(incoming)
    }

    /// Goes with a migration to its end, over as many connections as it takes. Fails only if the
    /// VM has not run here.
    async fn accompany(
        &mut self,
        incoming: Arc<Incoming>,
        mut knock: Knock,
    ) -> anyhow::Result<(Arc<Machine>, Parting)> {
        loop {
            let end = tokio::select! {
                end = incoming.serve(&mut knock, &self.node) => end,
                next = successor(&mut self.knocks, &incoming, &self.abandoned) => {
                    knock = next;
                    continue;
                }
                Some(reply) = self.fenced.recv() => {
                    let mend = "me2 status tells how the migration goes on";
                    _ = reply.send(Err(Refusal::conflict("the source answers", mend)));
                    continue;
                }
            };
            let error = match end {
                Ok(()) => {
                    return Ok((incoming.machine().clone(), Parting::Source(Box::new(knock))));
                }
                Err(error) => error,
            };
            if !incoming.has_resumed() {
                // Dropped with everything it has; remembered as never run.
                incoming.abandon();
                refuse(&mut knock.control, incoming.epoch, &format!("{error:#}")).await;
                self.abandoned.truncate(ABANDONED_MAX - 1);
                self.abandoned
                    .insert(0, (incoming.migration, incoming.epoch));
                return Err(error);
            }
            knock.peer.connection.close(1u8.into(), b"failed");
            match self.wait_for_source(&incoming, &error).await {
                Parting::Source(next) => knock = *next,
                operator => return Ok((incoming.machine().clone(), operator)),
            }
        }
    }

    /// The link broke behind the handover. For as long as it takes: only the source's acknowledgement,
    /// or an operator's word that it is dead, ends a migration, and what only the source has is
    /// replaced by nothing.
    async fn wait_for_source(&mut self, incoming: &Incoming, error: &anyhow::Error) -> Parting {
        self.node.set_state(VmState::PostcopyPaused);
        tracing::error!(
            "the link broke in post-copy: {error:#}; {}: vCPUs that need one wait, the others run on; \
             the source connects again, by itself or by `me2 recover` there; if its process has ended, \
             these pages are lost",
            incoming.risk_told()
        );
        let successor = successor(&mut self.knocks, incoming, &self.abandoned);
        tokio::pin!(successor);
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                biased;
                knock = &mut successor => return Parting::Source(Box::new(knock)),
                Some(reply) = self.fenced.recv() => match incoming.own_without_source() {
                    // It is answered once the state says so too.
                    Ok(()) => return Parting::Operator(reply),
                    Err(refusal) => _ = reply.send(Err(refusal)),
                },
                _ = tick.tick() => incoming.publish(&self.node, None),
            }
        }
    }
}

/// A source asks about an attempt that is not under way here. If it was, and never ran, that is a
/// promise for ever; of anything else this process knows nothing.
async fn answer_recovery_of_nothing(knock: &mut Knock, abandoned: &[([u8; 16], u64)]) {
    let asked = (knock.hello.migration, knock.hello.epoch);
    let ownership = if abandoned.contains(&asked) {
        PeerOwnership::Refused
    } else {
        tracing::warn!("a source wants to recover a migration that is unknown here");
        PeerOwnership::Unknown
    };
    let answer = ToSource::Recovering {
        epoch: asked.1,
        ownership,
        missing: RangeList::EMPTY,
    };
    say_last(&mut knock.control, &answer).await;
}

/// The next connection that goes on with this migration; others are turned away.
async fn successor(
    knocks: &mut mpsc::Receiver<Knock>,
    incoming: &Incoming,
    abandoned: &[([u8; 16], u64)],
) -> Knock {
    loop {
        match knocks.recv().await {
            Some(knock) if knock.recovers(incoming) => return knock,
            Some(mut knock) if knock.hello.purpose == Purpose::Recover => {
                answer_recovery_of_nothing(&mut knock, abandoned).await;
            }
            Some(mut knock) => {
                tracing::warn!(peer = %knock.peer.fingerprint, "turned away: another migration is under way");
                refuse(
                    &mut knock.control,
                    knock.hello.epoch,
                    "another migration is under way there",
                )
                .await;
            }
            None => std::future::pending().await,
        }
    }
}
