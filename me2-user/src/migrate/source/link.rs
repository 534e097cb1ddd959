//! The source's connection: made anew by a recovery, while the attempt lives on.

use me2_vmm::clock;
use me2_wire::{
    PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    frame::{Preface, StreamKind},
    message::{self, Hello, Purpose, ToDestination, ToSource},
};

use tokio::time::timeout;

use super::{
    super::PRIORITY_CONTROL, Attempt, Failure, answers::Answerer, bulk::Bulk, handover::Ahead,
};
use crate::{
    identity::{Fingerprint, Moment, TrustStore},
    transport::{
        endpoint::{self, ConnectFailure},
        frames::{FrameReceiver, FrameSender, LinkError, SILENCE_MAX},
        limits::SocketGrant,
        window::SendWindow,
    },
};

/// A connection on which both sides have said hello.
pub struct Link {
    /// Carries the connection: waited for at the end, so that the last packets leave.
    pub endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
    /// Who is at its other end.
    pub fingerprint: Fingerprint,
    pub socket: SocketGrant,
    pub control: FrameSender,
    pub window: SendWindow,
    pub replies: FrameReceiver,
    /// What every stream of this connection begins with, but for its kind.
    pub preface: Preface,
    /// Whether both sides share a monotonic clock.
    pub same_host: bool,
    pub bulk: Option<Bulk>,
    /// Who answers page requests, before any come.
    pub(super) answerer: Option<Answerer>,
    /// The streams of the handover, shortly before it.
    pub(super) ahead: Option<Ahead>,
}

impl Link {
    /// What the destination says next. It tells of its progress all the time, once it is ready.
    pub(super) async fn reply(&mut self) -> Result<ToSource, LinkError> {
        within(self.replies.message()).await
    }
}

/// Not longer than an honest peer is silent.
pub(super) async fn within<T>(
    reply: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    timeout(SILENCE_MAX, reply)
        .await
        .unwrap_or(Err(LinkError::Mute))
}

impl Attempt {
    /// Connects, says hello, and what comes next without waiting for the answer: on a long link that
    /// is a round trip.
    pub(super) async fn connect(
        &self,
        purpose: Purpose,
        next: Option<ToDestination>,
    ) -> Result<Link, Failure> {
        let identity = &self.identity;
        // Who has the VM, or may have it, alone can say what became of it.
        let only = self.peer.or(self.request.peer).map(TrustStore::only);
        let trust = only.as_ref().unwrap_or(&self.trust);
        let failed = |failure: ConnectFailure| Failure::Local(failure.into());
        let target = match (endpoint::resolve(&self.request.to).await, self.target) {
            (Ok(target), _) => target,
            // Names may not be known while a network is down.
            (Err(_), Some(before)) => before,
            (Err(failure), None) => return Err(failed(failure)),
        };
        let (pacer, qlog) = (&self.pacer, &self.qlog);
        let (endpoint, peer) = endpoint::connect_paced(target, identity, trust, pacer, qlog)
            .await
            .map_err(failed)?;
        // Who has the VM already was asked then: a date that passed since is no reason.
        if self.peer.is_none() {
            let name = &self.machine.vm.document().name;
            let allowed = self.trust.allow(&peer.certificates, name, Moment::now());
            allowed.map_err(anyhow::Error::from)?;
        }
        let (connection, socket, fingerprint) = (peer.connection, peer.socket, peer.fingerprint);
        // The peer judges this side's identity only now: a refusal shows in the first answer.
        let explain = |error: LinkError| match error.into_connection_error() {
            Ok(error) => failed(ConnectFailure::explain(error, target, identity)),
            Err(other) => Failure::Link(other),
        };
        let preface = Preface {
            kind: StreamKind::Control,
            migration: self.migration,
            epoch: self.epoch,
        };
        let (send, receive) = connection
            .open_bi()
            .await
            .map_err(|error| explain(error.into()))?;
        let window = SendWindow::new(connection.clone(), self.pacer.clone());
        let control = FrameSender::begin(send, &preface).await.map_err(explain)?;
        let mut control = control.urgent(window.clone(), PRIORITY_CONTROL);
        let hello = Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            migration: self.migration,
            epoch: preface.epoch,
            purpose,
            boot_id: clock::boot_id(),
        };
        control
            .message(&ToDestination::Hello(hello))
            .await
            .map_err(explain)?;
        let said = match &next {
            Some(next) => control.message(next).await,
            None => Ok(()),
        };
        let mut replies = FrameReceiver::answering(receive);
        // Whoever refuses need not read on: the reason counts, not that.
        let answer = within(replies.message()).await.map_err(explain)?;
        let same_host = match answer {
            ToSource::Hello { version, boot_id }
                if (PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION_MAX).contains(&version) =>
            {
                boot_id != [0; 16] && boot_id == clock::boot_id()
            }
            ToSource::Refused { reason, .. } => {
                return Err(Failure::Refused(message::clean_text(&reason)));
            }
            _ => return Err(LinkError::Unexpected("another message than hello").into()),
        };
        said.map_err(explain)?;
        Ok(Link {
            endpoint,
            connection,
            fingerprint,
            socket,
            control,
            window,
            replies,
            preface,
            same_host,
            bulk: None,
            answerer: None,
            ahead: None,
        })
    }
}
