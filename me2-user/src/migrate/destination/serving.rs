//! One connection of a migration: what the source says, and what it is told.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use anyhow::{Context, bail};
use me2_engine::ownership::{DestinationAction, SourceMessage};
use me2_vmm::clock;
use me2_wire::{
    Version,
    message::{
        self, Handover, PeerOwnership, Purpose, RANGES_PER_MESSAGE_MAX, ToDestination, ToSource,
    },
    range::RangeList,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::block_in_place,
};
use tracing::Instrument;

use super::{
    Incoming,
    knock::{Knock, refuse},
    pager::Origin,
    streams::accept_streams,
};
use crate::{
    control::types::VmState,
    migrate::observer::{AbortOnDrop, PROGRESS_INTERVAL},
    process::Node,
    transport::frames::{Frame, FrameReceiver, LinkError, SILENCE_MAX},
};

/// Control frames read ahead.
const FRAMES_AHEAD: usize = 8;
/// Leaves of the hash tree that a source may look into.
const LEAVES_MAX: usize = 64;
/// Pages that a source may have compared again at a time.
const DISPUTED_MAX: usize = 64;

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
    pub(super) async fn serve(
        self: &Arc<Self>,
        knock: &mut Knock,
        node: &Node,
    ) -> anyhow::Result<()> {
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
        let _streams = AbortOnDrop(tokio::spawn(streams.in_current_span()));
        let mut urgent = Vec::new();
        if knock.hello.purpose == Purpose::Recover {
            urgent = self.answer_recovery(knock).await?;
            node.set_state(VmState::Running);
        }
        // A task of its own: restoring the state may wait for a page.
        let (incoming, asking, preface) = (self.clone(), connection.clone(), knock.preface);
        let _requests = AbortOnDrop(tokio::spawn(
            async move {
                incoming.request_pages(asking, preface, urgent).await;
            }
            .in_current_span(),
        ));
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
    pub(super) fn publish(&self, node: &Node, connection: Option<&quinn::Connection>) {
        let waits = self.pager.waits();
        node.publish_incoming(|status| self.describe(status, connection), waits);
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
                // The last word: the source may end.
                knock.control.end();
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
        let _taking_over = node.take_over();
        let half_round_trip = knock.peer.connection.rtt() / 2;
        let incoming = self.clone();
        let (done, mut restoring) = oneshot::channel();
        let restore = move || {
            let restored = incoming.resume(&handover, received_ns, missing, half_round_trip);
            // It is waited for until it comes.
            let _ = done.send(restored);
        };
        // Of its own: the runtime's may all be taken, and no others to be had.
        let thread = std::thread::Builder::new().name("restore".into());
        if let Err(error) = thread.spawn(restore) {
            return self
                .give_back(knock, &format!("cannot start a thread: {error}"))
                .await;
        }
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
        // The source takes them back when it hears of it.
        self.machine.vm.give_up_disks();
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
            knock.tell_waits(&self.pager.waits()).await?;
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
