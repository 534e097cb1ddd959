//! A link over which nothing comes: this side's address may be good no more (another network, a
//! NAT that forgot it), so another one is tried. QUIC's connections do not hang on addresses
//! (RFC 9000, section 9); the peer learns the new one from the first packet.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tracing::Instrument;

use super::link::Link;
use crate::{
    migrate::observer::AbortOnDrop,
    transport::{endpoint, pace::Pacer},
};

/// How often it is looked at whether something came.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Silence after which another address is tried, and again after twice as long, and so on: longer
/// than a keep-alive and a long round trip.
const REBIND_AFTER: Duration = Duration::from_secs(3);
/// Silence after which a new connection is better than waiting for this one.
const SILENCE_MAX: Duration = Duration::from_secs(7);

/// Listens while it lives.
pub(super) struct Silence {
    /// Told after [`SILENCE_MAX`].
    pub(super) is_long: oneshot::Receiver<()>,
    _task: AbortOnDrop,
}

impl Link {
    /// Listens for silence.
    pub(super) fn listen_for_silence(&self, pacer: &Arc<Pacer>) -> Silence {
        let (told, is_long) = oneshot::channel();
        let listening = listen(
            self.connection.clone(),
            self.endpoint.clone(),
            pacer.clone(),
            told,
        );
        Silence {
            is_long,
            _task: AbortOnDrop(tokio::spawn(listening.in_current_span())),
        }
    }
}

async fn listen(
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
    pacer: Arc<Pacer>,
    told: oneshot::Sender<()>,
) {
    let mut told = Some(told);
    let (mut heard, mut heard_at, mut rebind_after) = (0, Instant::now(), REBIND_AFTER);
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    loop {
        interval.tick().await;
        let datagrams = connection.stats().udp_rx.datagrams;
        if datagrams != heard {
            (heard, heard_at, rebind_after) = (datagrams, Instant::now(), REBIND_AFTER);
        }
        if heard_at.elapsed() >= rebind_after {
            rebind_after *= 2;
            tracing::warn!(
                silence_ms = heard_at.elapsed().as_millis() as u64,
                "nothing comes from the destination: trying another local address"
            );
            if let Err(error) = endpoint::rebind(&endpoint, connection.remote_address(), &pacer) {
                tracing::warn!("no other local address: {error}");
            }
        }
        if heard_at.elapsed() >= SILENCE_MAX
            && let Some(told) = told.take()
        {
            // Nobody waits for it before the VM has left.
            let _ = told.send(());
        }
    }
}
