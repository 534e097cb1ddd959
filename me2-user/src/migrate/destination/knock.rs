//! A peer that has said hello: until it is known what it wants, and when it is told the last word.

use std::time::Duration;

use anyhow::{Context, bail};
use me2_engine::quantile::Histogram;
use me2_vmm::{
    clock,
    machine::{DOCUMENT_BYTES_MAX, MachineDocument},
};
use me2_wire::{
    FAULT_WAITS_SINCE, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    frame::{Preface, StreamKind},
    message::{self, Hello, Purpose, REASONS_MAX, ToDestination, ToSource},
};
use tokio::{sync::OwnedSemaphorePermit, task::block_in_place, time::timeout};

use super::Incoming;
use crate::{
    migrate::PRIORITY_CONTROL,
    process::Node,
    transport::{
        endpoint::Peer,
        frames::{FrameReceiver, FrameSender, LinkError},
    },
};

/// How long a peer may take to say hello, and then to describe its machine.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a source that has the last word of a migration yet to hear is kept: as long as a silent
/// connection.
const PARTING_MAX: Duration = Duration::from_secs(15);
/// How long a peer may take to read a short answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest hello, and largest message with a machine document: all that a peer can say before it is
/// this process's only one.
const HELLO_BYTES_MAX: u32 = 256;
const MACHINE_BYTES_MAX: u32 = DOCUMENT_BYTES_MAX as u32 + 256;

/// A peer that has said hello.
pub struct Knock {
    pub(super) peer: Peer,
    pub(super) hello: Hello,
    /// The version of the protocol that both speak.
    version: u16,
    pub(super) preface: Preface,
    pub(super) control: FrameSender,
    /// Until the connection is served.
    pub(super) receiver: Option<FrameReceiver>,
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
        version,
        preface,
        control,
        receiver: Some(receiver),
        _place: place,
    })
}

/// Tells the source that this epoch was not and will not be run here.
pub(super) async fn refuse(control: &mut FrameSender, epoch: u64, reason: &str) {
    let reason = message::clean_text(reason);
    // It has to reach the source before the connection goes away, if it can.
    say_last(control, &ToSource::Refused { epoch, reason }).await;
}

impl Knock {
    /// Whether it brings no VM, and only asks about one.
    pub fn asks(&self) -> bool {
        self.hello.purpose == Purpose::Check
    }

    /// Says what would be refused of the VM that it asks about. Nothing is built, and nothing changes.
    pub async fn answer(mut self, node: &Node) -> anyhow::Result<()> {
        let ToDestination::Machine { document, .. } = timeout(HELLO_TIMEOUT, self.machine())
            .await
            .context("the peer did not describe its machine in time")??
        else {
            bail!("the peer did not describe its machine");
        };
        let reasons = match MachineDocument::from_json(&document) {
            Ok(document) => block_in_place(|| node.objections(&document, &self.peer))?,
            Err(error) => vec![format!("{:#}", anyhow::Error::from(error))],
        };
        tracing::info!(peer = %self.peer.fingerprint, ?reasons, "was asked about a VM");
        let told = reasons.iter().take(REASONS_MAX);
        let reasons = told.map(|reason| message::clean_text(reason)).collect();
        say_last(&mut self.control, &ToSource::Checked { reasons }).await;
        Ok(())
    }

    /// Says how long faults waited, to a source that knows the message.
    pub(super) async fn tell_waits(&mut self, waits: &Histogram) -> Result<(), LinkError> {
        if self.version < FAULT_WAITS_SINCE {
            return Ok(());
        }
        let buckets = waits.buckets().map(|(micros, count)| [micros, count]);
        let buckets = buckets.collect();
        self.control
            .message(&ToSource::FaultWaits { buckets })
            .await
    }

    pub(super) async fn machine(&mut self) -> anyhow::Result<ToDestination> {
        let receiver = self.receiver.as_mut().context("it is served already")?;
        Ok(receiver.message_within(MACHINE_BYTES_MAX).await?)
    }

    /// The migration is complete, and its source shall know that this is known here. Ends when it
    /// does, or is gone, or has not been heard of for [`PARTING_MAX`].
    pub async fn part(self) {
        let _ = timeout(PARTING_MAX, self.control.delivered()).await;
        self.peer.connection.close(0u8.into(), b"complete");
    }

    /// Whether it goes on with this migration. Whoever knows its number could say so: only the
    /// identity that began it may.
    pub(super) fn recovers(&self, incoming: &Incoming) -> bool {
        self.hello.purpose == Purpose::Recover
            && incoming.is(&self.hello.migration, self.hello.epoch)
            && incoming.peer == self.peer.fingerprint
    }
}

/// Says something and waits, a bounded time, until it has arrived.
pub(super) async fn say_last(control: &mut FrameSender, message: &ToSource) {
    let said = async {
        if control.message(message).await.is_ok() {
            control.flush().await;
        }
    };
    let _ = timeout(ANSWER_TIMEOUT, said).await;
}
