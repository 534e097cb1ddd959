//! Waits for a source, and goes with it through the whole migration.
//!
//! One connection serves at a time. A source whose connection broke comes back with
//! [`Purpose::Recover`]; its new connection takes the place of the old one.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use me2_engine::ownership::{DestinationAction, SourceMessage};
use me2_vmm::{
    clock,
    machine::{DOCUMENT_BYTES_MAX, MachineDocument},
};
use me2_wire::{
    PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN, Version,
    frame::{Preface, StreamKind},
    message::{
        self, Handover, Hello, PeerOwnership, Purpose, RANGES_PER_MESSAGE_MAX, ToDestination,
        ToSource,
    },
    range::RangeList,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    task::block_in_place,
    time::timeout,
};

use super::{Incoming, pager::Origin, streams::accept_streams};
use crate::{
    control::types::VmState,
    migrate::{
        Machine, PRIORITY_CONTROL,
        observer::{AbortOnDrop, PROGRESS_INTERVAL},
    },
    process::{Node, published},
    transport::{
        endpoint::Peer,
        frames::{Frame, FrameReceiver, FrameSender, LinkError, SILENCE_MAX},
    },
};

/// How long a peer may take to say hello, and then to describe its machine.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Control frames read ahead.
const FRAMES_AHEAD: usize = 8;
/// How long a peer may take to read a short answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest hello, and largest message with a machine document: all that a peer can say before it is
/// this process's only one.
const HELLO_BYTES_MAX: u32 = 256;
const MACHINE_BYTES_MAX: u32 = DOCUMENT_BYTES_MAX as u32 + 256;
/// Leaves of the hash tree that a source may look into.
const LEAVES_MAX: usize = 64;
/// Pages that a source may have compared again at a time.
const DISPUTED_MAX: usize = 64;
/// Attempts that ended before the handover and are remembered as never run.
const ABANDONED_MAX: usize = 64;

/// A peer that has said hello.
pub struct Knock {
    peer: Peer,
    hello: Hello,
    preface: Preface,
    control: FrameSender,
    /// Until the connection is served.
    receiver: Option<FrameReceiver>,
    /// Free for another peer once this one is let go.
    _place: OwnedSemaphorePermit,
}

/// Waits for the hello of a new peer, who takes one of the places, and agrees on the version.
pub async fn knock(peer: Peer, place: OwnedSemaphorePermit) -> anyhow::Result<Knock> {
    timeout(HELLO_TIMEOUT, say_hello(peer, place))
        .await
        .context("the peer did not say hello in time")?
}

async fn say_hello(peer: Peer, place: OwnedSemaphorePermit) -> anyhow::Result<Knock> {
    let (send, receive) = peer.connection.accept_bi().await.map_err(LinkError::from)?;
    let (mut receiver, preface) = FrameReceiver::begin(receive, StreamKind::Control).await?;
    let mut control = FrameSender::answering(send);
    control.set_priority(PRIORITY_CONTROL);
    let ToDestination::Hello(hello) = receiver.message_within(HELLO_BYTES_MAX).await? else {
        bail!("the peer did not begin with hello");
    };
    if hello.migration != preface.migration || hello.epoch != preface.epoch {
        bail!("the peer's hello is of another migration than its stream");
    }
    let version = PROTOCOL_VERSION_MAX.min(hello.version_max);
    if version < PROTOCOL_VERSION_MIN.max(hello.version_min) {
        let reason = format!(
            "the source speaks protocol versions {} to {}, this me2 {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION_MAX}",
            hello.version_min, hello.version_max
        );
        refuse(&mut control, hello.epoch, &reason).await;
        bail!(reason);
    }
    control
        .message(&ToSource::Hello {
            version,
            boot_id: clock::boot_id(),
        })
        .await?;
    Ok(Knock {
        peer,
        hello,
        preface,
        control,
        receiver: Some(receiver),
        _place: place,
    })
}

/// Reads the control stream ahead, until it ends or the task is dropped.
fn read_ahead(
    mut receiver: FrameReceiver,
) -> (mpsc::Receiver<Result<Frame, LinkError>>, AbortOnDrop) {
    let (forward, frames) = mpsc::channel(FRAMES_AHEAD);
    let reader = AbortOnDrop(tokio::spawn(async move {
        loop {
            let frame = receiver
                .next()
                .await
                .and_then(|frame| frame.ok_or(LinkError::Ended));
            let is_last = frame.is_err();
            if forward.send(frame).await.is_err() || is_last {
                return;
            }
        }
    }));
    (frames, reader)
}

/// Tells the source that this epoch was not and will not be run here.
async fn refuse(control: &mut FrameSender, epoch: u64, reason: &str) {
    let reason = message::clean_text(reason);
    // It has to reach the source before the connection goes away, if it can.
    say_last(control, &ToSource::Refused { epoch, reason }).await;
}

impl Knock {
    async fn machine(&mut self) -> anyhow::Result<ToDestination> {
        let receiver = self.receiver.as_mut().context("it is served already")?;
        Ok(receiver.message_within(MACHINE_BYTES_MAX).await?)
    }

    /// Whether it goes on with this migration. Whoever knows its number could say so: only the
    /// identity that began it may.
    fn recovers(&self, incoming: &Incoming) -> bool {
        self.hello.purpose == Purpose::Recover
            && incoming.is(&self.hello.migration, self.hello.epoch)
            && incoming.peer == self.peer.fingerprint
    }
}

/// What waiting ended with.
pub enum Received {
    /// The VM is here, all of it, and acknowledged.
    Complete {
        /// The VM.
        machine: Arc<Machine>,
        /// The attempt by which it came.
        epoch: u64,
    },
    /// With `once`: the attempt failed.
    Failed(anyhow::Error),
}

/// Waits for sources.
pub struct Reception {
    node: Arc<Node>,
    knocks: mpsc::Receiver<Knock>,
    /// End after the first attempt.
    once: bool,
    abandoned: Vec<([u8; 16], u64)>,
}

impl Reception {
    /// Takes peers from `knocks`.
    pub fn new(node: Arc<Node>, knocks: mpsc::Receiver<Knock>, once: bool) -> Self {
        Self {
            node,
            knocks,
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
            let failure = match self.prepare(&mut knock).await {
                Ok(incoming) => match self.accompany(Arc::new(incoming), knock).await {
                    Ok(machine) => {
                        return Received::Complete {
                            machine,
                            epoch: knock_epoch,
                        };
                    }
                    Err(error) => error,
                },
                Err(error) => {
                    refuse(&mut knock.control, knock.hello.epoch, &format!("{error:#}")).await;
                    error
                }
            };
            tracing::warn!("the migration failed before the handover: {failure:#}");
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
        let peer = knock.peer.fingerprint;
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
    ) -> anyhow::Result<Arc<Machine>> {
        loop {
            let end = tokio::select! {
                end = incoming.serve(&mut knock, &self.node) => end,
                next = successor(&mut self.knocks, &incoming, &self.abandoned) => {
                    knock = next;
                    continue;
                }
            };
            let error = match end {
                Ok(()) => {
                    knock.peer.connection.close(0u8.into(), b"complete");
                    return Ok(incoming.machine().clone());
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
            knock = self.wait_for_source(&incoming, &error).await;
        }
    }

    /// The link broke behind the handover. For as long as it takes: only the source's acknowledgement
    /// ends a migration, and what only the source has is replaced by nothing.
    async fn wait_for_source(&mut self, incoming: &Incoming, error: &anyhow::Error) -> Knock {
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
                knock = &mut successor => return knock,
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

/// Says something and waits, a bounded time, until it has arrived.
async fn say_last(control: &mut FrameSender, message: &ToSource) {
    let said = async {
        if control.message(message).await.is_ok() {
            control.flush().await;
        }
    };
    let _ = timeout(ANSWER_TIMEOUT, said).await;
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

/// How long nothing has come on any stream. Keep-alives say nothing.
struct Silence {
    frames: u64,
    since: Instant,
}

impl Silence {
    fn new(connection: &quinn::Connection) -> Self {
        Self {
            frames: connection.stats().frame_rx.stream,
            since: Instant::now(),
        }
    }

    fn is_too_long(&mut self, connection: &quinn::Connection) -> bool {
        let frames = connection.stats().frame_rx.stream;
        if frames != self.frames {
            (self.frames, self.since) = (frames, Instant::now());
        }
        self.since.elapsed() >= SILENCE_MAX
    }
}

/// Waits until the peer is gone, or silent for too long; gives the reason.
async fn broken(connection: &quinn::Connection) -> LinkError {
    let mut silence = Silence::new(connection);
    let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
    loop {
        tokio::select! {
            error = connection.closed() => return error.into(),
            _ = tick.tick() => {
                if silence.is_too_long(connection) {
                    return LinkError::Mute;
                }
            }
        }
    }
}

/// What a connection has got to.
#[derive(Default)]
struct Progress {
    pass_end: Option<Version>,
    /// Held back until the whole memory is verified.
    held: Option<(Box<Handover>, u64, u64)>,
    verify_sent: bool,
    complete_sent: bool,
    /// The handover is in, on the control stream or as a copy.
    has_handover: bool,
    /// It came as a copy first: what the control stream has of it is of no use.
    skips_handover: bool,
}

impl Progress {
    /// Whether a frame of the control stream is of a handover that is in already.
    fn skips(&mut self, frame: &Frame) -> anyhow::Result<bool> {
        if !self.skips_handover {
            return Ok(false);
        }
        if let Frame::Message(payload) = frame {
            let message: ToDestination = message::decode(payload)?;
            self.skips_handover = !matches!(message, ToDestination::Handover(_));
        }
        Ok(true)
    }
}

impl Incoming {
    /// Serves one connection until everything is here and acknowledged.
    async fn serve(self: &Arc<Self>, knock: &mut Knock, node: &Node) -> anyhow::Result<()> {
        // What the last connection brought is no fault of this one.
        while self.intake.failure().is_some() {}
        self.pager.forget_disputes();
        let connection = knock.peer.connection.clone();
        // From here on it may send as much as a migration needs.
        knock.peer.admit();
        let receiver = knock.receiver.take().context("it is served already")?;
        let (mut frames, _reader) = read_ahead(receiver);
        let (copied, mut copies) = mpsc::channel(1);
        let (stray, mut strays) = mpsc::channel(1);
        let streams = accept_streams(
            connection.clone(),
            knock.preface,
            self.intake.queue(Origin::Bulk),
            copied,
            stray,
        );
        let _streams = AbortOnDrop(tokio::spawn(streams));
        let mut urgent = Vec::new();
        if knock.hello.purpose == Purpose::Recover {
            urgent = self.answer_recovery(knock).await?;
            node.set_state(VmState::Running);
        }
        // A task of its own: restoring the state may wait for a page.
        let (incoming, asking, preface) = (self.clone(), connection.clone(), knock.preface);
        let _requests = AbortOnDrop(tokio::spawn(async move {
            incoming.request_pages(asking, preface, urgent).await;
        }));
        let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
        let mut progress = Progress::default();
        let mut silence = Silence::new(&connection);
        loop {
            tokio::select! {
                Some(error) = strays.recv() => return Err(error.into()),
                frame = frames.recv() => {
                    let frame = frame.ok_or(LinkError::Ended)??;
                    if progress.skips(&frame)? {
                        continue;
                    }
                    if self.take(frame, knock, &mut progress, node).await? {
                        return Ok(());
                    }
                }
                Some(frames) = copies.recv(), if !progress.has_handover => {
                    for frame in frames {
                        if self.take(frame, knock, &mut progress, node).await? {
                            return Ok(());
                        }
                    }
                    progress.skips_handover = progress.has_handover;
                }
                () = self.pager.changed() => {}
                _ = tick.tick() => {
                    let faults = self.requests.load(Ordering::Relaxed);
                    let missing_pages = self.pager.outstanding();
                    // With all pages in, nothing need come: comparing them may take long.
                    if silence.is_too_long(&connection) && (missing_pages > 0 || !progress.has_handover) {
                        return Err(LinkError::Mute.into());
                    }
                    self.note_first_second(false);
                    knock.control.message(&ToSource::Progress { missing_pages, faults }).await?;
                    self.publish(node, Some(&connection));
                }
            }
            if let Some(failure) = self.intake.failure() {
                return Err(failure);
            }
            self.tell(knock, &mut progress).await?;
        }
    }

    /// Publishes how it stands.
    fn publish(&self, node: &Node, connection: Option<&quinn::Connection>) {
        node.publish_migration(|status| self.describe(status, connection));
        if self.has_resumed() {
            node.publish_guest(&self.machine.monitor);
        }
    }

    /// Who owns the VM, and what is missing. Gives the pages that the guest waits for.
    async fn answer_recovery(&self, knock: &mut Knock) -> anyhow::Result<Vec<u32>> {
        if !self.has_resumed() {
            // Whatever was held of the handover went with the old connection.
            self.abandon();
        }
        let ownership = self.ownership_for_recovery()?;
        let (missing, urgent) = self.pager.missing();
        let mut parts: Vec<_> = missing.split(RANGES_PER_MESSAGE_MAX).collect();
        let last = parts.pop().unwrap_or(RangeList::EMPTY);
        for pages in parts {
            knock.control.message(&ToSource::Missing { pages }).await?;
        }
        let answer = ToSource::Recovering {
            epoch: self.epoch,
            ownership,
            missing: last,
        };
        knock.control.message(&answer).await?;
        if ownership == PeerOwnership::Refused {
            knock.control.flush().await;
            bail!("the link broke before the handover was in");
        }
        // It may have been lost with the link.
        let resumed = self
            .resumed
            .lock()
            .expect("no panics under this lock")
            .clone();
        if let Some((_, timing)) = resumed {
            knock
                .control
                .message(&ToSource::Resumed {
                    epoch: self.epoch,
                    timing,
                })
                .await?;
        }
        Ok(urgent)
    }

    /// One frame of the control stream. True: acknowledged, the end.
    async fn take(
        self: &Arc<Self>,
        frame: Frame,
        knock: &mut Knock,
        progress: &mut Progress,
        node: &Node,
    ) -> anyhow::Result<bool> {
        let payload = match frame {
            Frame::Message(payload) => payload,
            Frame::Pages(payload) => {
                // Pages of the handover: in before the handover itself is looked at.
                block_in_place(|| self.intake.take(&payload))?;
                return Ok(false);
            }
        };
        let received_ns = clock::monotonic_ns();
        match message::decode(&payload)? {
            ToDestination::Announce { version, pages } => self.pager.announce(version, &pages)?,
            ToDestination::Withdraw { pages } => self.pager.withdraw(&pages)?,
            ToDestination::PassEnd { version } => progress.pass_end = Some(version),
            ToDestination::Handover(handover) => {
                let missing = self.accept(&handover)?;
                progress.has_handover = true;
                if handover.verify_full {
                    self.pager.start_placing();
                    progress.held = Some((handover, received_ns, missing));
                } else {
                    self.run(knock, handover, received_ns, missing, node)
                        .await?;
                }
            }
            ToDestination::Verified { mismatched: 0 } => {
                let (handover, received_ns, missing) = progress
                    .held
                    .take()
                    .context("the peer answers a question that was not asked")?;
                self.run(knock, handover, received_ns, missing, node)
                    .await?;
            }
            ToDestination::Verified { mismatched } => {
                self.give_back(knock, &format!("{mismatched} stretches of memory differ"))
                    .await?;
            }
            ToDestination::ExpandLeaves { leaves } => {
                anyhow::ensure!(
                    leaves.len() <= LEAVES_MAX,
                    "the peer asks for too many leaves"
                );
                for leaf in leaves {
                    let hashes = self.pager.leaf_hashes(leaf as usize);
                    knock
                        .control
                        .message(&ToSource::LeafHashes { leaf, hashes })
                        .await?;
                }
            }
            ToDestination::CompleteAck {
                epoch,
                mismatched: 0,
                ..
            } => {
                // An acknowledgement of what was never said would let go of missing pages.
                anyhow::ensure!(
                    progress.complete_sent,
                    "the peer acknowledged what was not complete"
                );
                self.acknowledged(epoch)?;
                self.settle()?;
                return Ok(true);
            }
            ToDestination::CompleteAck {
                mismatched, frames, ..
            } => {
                // No more than a source names: each is a request.
                let frames = &frames[..frames.len().min(DISPUTED_MAX)];
                tracing::error!(
                    mismatched,
                    frames = format!("{frames:x?}"),
                    "pages differ from the source"
                );
                anyhow::ensure!(
                    progress.complete_sent && self.pager.dispute(frames) > 0,
                    "{mismatched} pages differ from the source, the first at frames {frames:x?}"
                );
                progress.complete_sent = false;
            }
            ToDestination::Hello(_) | ToDestination::Machine { .. } => {
                bail!(LinkError::Unexpected("a greeting"))
            }
        }
        Ok(false)
    }

    /// From here on the VM is this side's: restores and resumes it, and says so.
    async fn run(
        self: &Arc<Self>,
        knock: &mut Knock,
        handover: Box<Handover>,
        received_ns: u64,
        missing: u64,
        node: &Node,
    ) -> anyhow::Result<()> {
        let half_round_trip = knock.peer.connection.rtt() / 2;
        let incoming = self.clone();
        let mut restoring = tokio::task::spawn_blocking(move || {
            incoming.resume(&handover, received_ns, missing, half_round_trip)
        });
        // The state may refer to a page that never comes.
        let restored = tokio::select! {
            restored = &mut restoring => restored,
            error = broken(&knock.peer.connection) => {
                let refused = self.lock_ownership().refuse();
                if refused.is_ok() {
                    self.abandon();
                    // It ends, now that nothing is missing, and finds that it may not run.
                    let _ = restoring.await;
                    return Err(error.into());
                }
                restoring.await
            }
        };
        match restored.context("restoring was interrupted")? {
            Ok(timing) => {
                node.set_state(VmState::Running);
                tracing::info!(missing_pages = missing, "the VM runs here");
                knock
                    .control
                    .message(&ToSource::Resumed {
                        epoch: self.epoch,
                        timing,
                    })
                    .await?;
                Ok(())
            }
            // No vCPU has run: this side may still refuse.
            Err(error) => self.give_back(knock, &format!("{error:#}")).await,
        }
    }

    async fn give_back(&self, knock: &mut Knock, reason: &str) -> anyhow::Result<()> {
        self.lock_ownership().refuse()?;
        refuse(&mut knock.control, self.epoch, reason).await;
        bail!("gave the VM back: {reason}")
    }

    fn acknowledged(&self, epoch: u64) -> anyhow::Result<()> {
        let mut ownership = self.lock_ownership();
        ownership.all_pages_in()?;
        let action = ownership.on_peer(SourceMessage::CompleteAck { epoch })?;
        anyhow::ensure!(
            action == DestinationAction::Own,
            "the acknowledgement is of another attempt"
        );
        Ok(())
    }

    /// Says what has become true.
    async fn tell(&self, knock: &mut Knock, progress: &mut Progress) -> anyhow::Result<()> {
        if let Some(version) = progress.pass_end.take_if(|_| self.pager.outstanding() == 0) {
            knock
                .control
                .message(&ToSource::PassReceived { version })
                .await?;
        }
        if !self.pager.is_complete() || self.pager.disputes() > 0 {
            return Ok(());
        }
        if self.has_resumed() && !progress.complete_sent {
            progress.complete_sent = true;
            let (leaves, statistics) = (self.pager.leaves(), self.statistics());
            knock
                .control
                .message(&ToSource::Complete {
                    epoch: self.epoch,
                    leaves,
                    statistics,
                })
                .await?;
        } else if progress.held.is_some() && !progress.verify_sent {
            progress.verify_sent = true;
            let leaves = block_in_place(|| self.hash_memory());
            knock.control.message(&ToSource::Verify { leaves }).await?;
        }
        Ok(())
    }
}
