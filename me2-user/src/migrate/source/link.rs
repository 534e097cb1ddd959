//! The source's connection: made anew by a recovery, while the attempt lives on.

use std::time::Duration;

use me2_vmm::clock;
use me2_wire::{
    PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    frame::{Preface, StreamKind},
    message::{self, Hello, Purpose, ToDestination, ToSource},
};

use super::{
    super::{PRIORITY_CONTROL, observer::AbortOnDrop},
    Attempt, Failure,
    bulk::Bulk,
};
use crate::{
    identity::TrustStore,
    transport::{
        endpoint::{self, ConnectFailure},
        frames::{FrameReceiver, FrameSender, LinkError},
    },
};

/// A connection on which both sides have said hello.
pub struct Link {
    /// Carries the connection: waited for at the end, so that the last packets leave.
    pub endpoint: quinn::Endpoint,
    pub connection: quinn::Connection,
    pub control: FrameSender,
    pub replies: FrameReceiver,
    /// What every stream of this connection begins with, but for its kind.
    pub preface: Preface,
    /// Whether both sides share a monotonic clock.
    pub same_host: bool,
    /// The round trip before there was any load: the link's own.
    pub round_trip: Duration,
    pub bulk: Option<Bulk>,
}

impl Attempt {
    /// Connects, and says hello.
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Link, Failure> {
        let identity = &self.credentials.identity;
        let only = self.request.peer.map(TrustStore::only);
        let trust = only.as_ref().unwrap_or(&self.credentials.trust);
        let failed = |failure: ConnectFailure| Failure::Local(failure.into());
        let target = endpoint::resolve(&self.request.to).await.map_err(failed)?;
        let (endpoint, peer) = endpoint::connect(target, identity, trust)
            .await
            .map_err(failed)?;
        let connection = peer.connection;
        // The peer judges this side's identity only now: a refusal shows in the first answer.
        let explain = |error: LinkError| match error {
            LinkError::Connection(error)
            | LinkError::Read(quinn::ReadExactError::ReadError(
                quinn::ReadError::ConnectionLost(error),
            ))
            | LinkError::Write(quinn::WriteError::ConnectionLost(error)) => failed(
                ConnectFailure::explain(error, target, identity.fingerprint()),
            ),
            other => Failure::Link(other),
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
        let mut control = FrameSender::begin(send, &preface).await.map_err(explain)?;
        control.set_priority(PRIORITY_CONTROL);
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
        let mut replies = FrameReceiver::answering(receive);
        let same_host = match replies.message().await.map_err(explain)? {
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
        let round_trip = connection.rtt();
        Ok(Link {
            endpoint,
            connection,
            control,
            replies,
            preface,
            same_host,
            round_trip,
            bulk: None,
        })
    }
}

/// How often the send window follows the congestion window.
const WINDOW_INTERVAL: Duration = Duration::from_millis(20);
/// Congestion windows that may be sent or wait to be sent. One is on its way; the other is what the
/// next acknowledgements let go. More would only age in the queue.
const WINDOWS: u64 = 2;
/// The least: while the congestion window is still small.
const WINDOW_BYTES_MIN: u64 = 1 << 20;
/// The most, in every phase: what one stream may have under way.
const WINDOW_BYTES_MAX: u64 = 32 << 20;

/// Lets as much wait in the connection as its congestion window explains, until dropped: encoders
/// feel the link's pace soon, and pages are not old when they leave.
pub fn keep_window(connection: quinn::Connection) -> AbortOnDrop {
    AbortOnDrop(tokio::spawn(async move {
        let mut interval = tokio::time::interval(WINDOW_INTERVAL);
        let mut window = 0;
        loop {
            interval.tick().await;
            let wanted =
                (WINDOWS * connection.stats().path.cwnd).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
            if wanted != window {
                window = wanted;
                connection.set_send_window(window);
            }
        }
    }))
}

/// The least that may be under way in post-copy, in bytes: below it, waking up for every
/// acknowledgement costs more than the queue does.
const POSTCOPY_WINDOW_BYTES_MIN: u64 = 1 << 20;
/// Rate of a link on which nothing was sent yet, in bytes a second: 10 Gbit/s.
const RATE_UNKNOWN: f64 = 1.25e9;

impl Link {
    /// Keeps the link's queue short: what is pushed and not yet acknowledged is what a fault's
    /// answer waits behind. `rate`: bytes a second that the last pass got through, 0 if none did.
    pub fn shorten_queue(&self, rate: f64) {
        let rate = if rate > 0.0 { rate } else { RATE_UNKNOWN };
        let window = 2.0 * rate * self.round_trip.as_secs_f64();
        self.connection
            .set_send_window((window as u64).clamp(POSTCOPY_WINDOW_BYTES_MIN, WINDOW_BYTES_MAX));
    }
}
