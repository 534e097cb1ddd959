//! Asks a waiting receiver whether it would take a VM. It goes on waiting, and builds nothing.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use me2_vmm::{clock, machine::MachineDocument};
use me2_wire::{
    PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    frame::{Preface, StreamKind},
    message::{self, Hello, Purpose, REASONS_MAX, Scheme, TEXT_BYTES_MAX, ToDestination, ToSource},
};
use tokio::time::timeout;

use crate::{
    identity::{Credentials, Fingerprint, Identity, Moment},
    transport::{
        endpoint::{self, ConnectFailure},
        frames::{FrameReceiver, FrameSender, LinkError},
    },
};

/// How long the answers may take, all together. Nothing is built for them.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer: the reasons, each with its length.
const ANSWER_BYTES_MAX: u32 = (REASONS_MAX * (TEXT_BYTES_MAX + 4)) as u32;
/// There is no migration.
const NONE: [u8; 16] = [0; 16];

/// What a receiver says of a VM.
#[derive(Debug)]
pub struct Answer {
    /// Where it waits.
    pub address: SocketAddr,
    /// Who it is.
    pub peer: Fingerprint,
    /// Why the VM could not be moved there; none: it can.
    pub reasons: Vec<String>,
}

/// Asks the receiver at `to` about the VM of a document.
///
/// # Errors
/// If there is nobody who could be asked, or who answers; the reason is one against the migration.
pub async fn ask(
    to: &str,
    document: &MachineDocument,
    credentials: &Credentials,
) -> anyhow::Result<Answer> {
    let (identity, trust) = (&credentials.identity(), credentials.trust());
    let address = endpoint::resolve(to).await?;
    let (endpoint, peer) = endpoint::connect(address, identity, trust).await?;
    let asked = timeout(ANSWER_TIMEOUT, put(&peer.connection, document)).await;
    peer.connection.close(0u8.into(), b"checked");
    endpoint.wait_idle().await;
    let said = asked.with_context(|| {
        format!(
            "{address} is connected, but says nothing for {} s",
            ANSWER_TIMEOUT.as_secs()
        )
    })?;
    let said = said.map_err(|error| explain(error, address, identity))?;
    let ours = trust.allow(&peer.certificates, &document.name, Moment::now());
    let ours = ours.err();
    Ok(Answer {
        address,
        peer: peer.fingerprint,
        reasons: ours
            .map(|not| not.to_string())
            .into_iter()
            .chain(said)
            .collect(),
    })
}

/// The peer judges this side's identity only now: a refusal shows in the first answer.
fn explain(error: anyhow::Error, address: SocketAddr, own: &Identity) -> anyhow::Error {
    match error.downcast::<LinkError>() {
        Ok(error) => match error.into_connection_error() {
            Ok(error) => ConnectFailure::explain(error, address, own).into(),
            Err(error) => error.into(),
        },
        Err(error) => error,
    }
}

/// The reasons that the other side has.
async fn put(
    connection: &quinn::Connection,
    document: &MachineDocument,
) -> anyhow::Result<Vec<String>> {
    let preface = Preface {
        kind: StreamKind::Control,
        migration: NONE,
        epoch: 0,
    };
    let (send, receive) = connection.open_bi().await.map_err(LinkError::from)?;
    let mut control = FrameSender::begin(send, &preface).await?;
    let hello = Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        migration: NONE,
        epoch: 0,
        purpose: Purpose::Check,
        boot_id: clock::boot_id(),
    };
    control.message(&ToDestination::Hello(hello)).await?;
    let mut replies = FrameReceiver::answering(receive);
    match replies.message_within(ANSWER_BYTES_MAX).await? {
        ToSource::Hello { .. } => {}
        ToSource::Refused { reason, .. } => return Ok(vec![message::clean_text(&reason)]),
        _ => bail!(LinkError::Unexpected("another message than hello")),
    }
    let machine = ToDestination::Machine {
        document: document.to_json(),
        scheme: Scheme::Hybrid,
    };
    control.message(&machine).await?;
    match replies.message_within(ANSWER_BYTES_MAX).await? {
        ToSource::Checked { reasons } => {
            let reasons = reasons.iter().take(REASONS_MAX);
            Ok(reasons.map(|reason| message::clean_text(reason)).collect())
        }
        _ => bail!(LinkError::Unexpected("another message than Checked")),
    }
}
