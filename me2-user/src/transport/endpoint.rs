//! QUIC endpoints between authenticated peers: one that waits, one that connects.

mod failure;
mod foreign;
mod parameters;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::udp::{UdpSockRef, UdpSocketState};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use rustls::pki_types::CertificateDer;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

pub use failure::ConnectFailure;
use foreign::{ForeignDatagrams, ForeignWatch};
pub use parameters::{
    RECEIVE_WINDOW, RECEIVE_WINDOW_BEFORE, STREAM_RECEIVE_WINDOW_BYTES, UDP_PAYLOAD_BYTES_MAX,
    transport_config,
};

use super::limits::SocketGrant;
use super::pace::Pacer;
use super::qlog::Qlog;
use super::tls::{SERVER_NAME, Verdict, client_config, peer_certificates, server_config};
use crate::identity::{Credentials, Fingerprint, Identity, TrustStore};

/// How long a handshake may take. Ten round trips of the slowest link that is reasonable.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes under way at once; more are refused. Peers need one.
const HANDSHAKES_MAX: usize = 64;

/// An authenticated peer.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The connection; both sides may open streams.
    pub connection: quinn::Connection,
    /// Who it is.
    pub fingerprint: Fingerprint,
    /// What it showed: its certificate, and those behind it.
    pub certificates: Vec<CertificateDer<'static>>,
    /// Who this side was to it.
    pub own: Arc<Identity>,
    /// What this side's socket was granted.
    pub socket: SocketGrant,
}

impl Peer {
    fn new(connection: quinn::Connection, own: Arc<Identity>, socket: SocketGrant) -> Self {
        let certificates = peer_certificates(&connection);
        Self {
            connection,
            fingerprint: Fingerprint::of(&certificates[0]),
            certificates,
            own,
            socket,
        }
    }

    /// Lets it have as much under way as a migration needs. Until then, a peer that was waited for can
    /// make this process hold no more than its first messages.
    pub fn admit(&self) {
        self.connection.set_receive_window(RECEIVE_WINDOW);
    }
}

/// An endpoint that waits for trusted peers.
#[derive(Debug)]
pub struct Listener {
    endpoint: quinn::Endpoint,
    credentials: Arc<Credentials>,
    handshakes: JoinSet<Result<(quinn::Connection, Arc<Identity>), ConnectFailure>>,
    foreign: Arc<ForeignWatch>,
    socket: SocketGrant,
    qlog: Qlog,
}

impl Listener {
    /// Binds `address`. Needs a tokio runtime; port 0 takes any free one.
    pub fn bind(
        address: SocketAddr,
        credentials: Arc<Credentials>,
    ) -> Result<Self, ConnectFailure> {
        Self::on(bind(address)?, address, credentials)
    }

    /// Waits at a socket that is bound to `address`. Needs a tokio runtime.
    pub fn on(
        socket: UdpSocket,
        address: SocketAddr,
        credentials: Arc<Credentials>,
    ) -> Result<Self, ConnectFailure> {
        let identity = credentials.identity();
        // For each peer there will be another.
        let (verdict, off) = (Verdict::default(), Qlog::default());
        let config = server_config(&identity, credentials.trust(), &verdict, &off)
            .map_err(ConnectFailure::Identity)?;
        let foreign = Arc::new(ForeignWatch::default());
        let (endpoint, socket) = wrap_socket(socket)
            .and_then(|(socket, granted)| {
                let socket = ForeignDatagrams::new(socket, Arc::clone(&foreign));
                Ok((endpoint(Arc::new(socket), Some(config))?, granted))
            })
            .map_err(|source| ConnectFailure::Bind { address, source })?;
        for limit in socket.limits() {
            info!("this host slows transfers down: {limit}");
        }
        Ok(Self {
            endpoint,
            credentials,
            handshakes: JoinSet::new(),
            foreign,
            socket,
            qlog: off,
        })
    }

    /// Records what becomes of connections from now on.
    pub fn record(&mut self, qlog: Qlog) {
        self.qlog = qlog;
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next peer that has proved a trusted identity, or `None` once the endpoint is closed.
    ///
    /// Strangers are refused with a line in the log, and the waiting goes on;
    /// a peer that dallies holds up nobody. Cancel-safe.
    pub async fn next_peer(&mut self) -> Option<Peer> {
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => self.admit(incoming?),
                Some(handshake) = self.handshakes.join_next() => match handshake {
                    Ok(Ok((connection, own))) => {
                        let peer = Peer::new(connection, own, self.socket);
                        let from = peer.connection.remote_address();
                        info!(%from, peer = %peer.fingerprint, "peer accepted");
                        return Some(peer);
                    }
                    Ok(Err(failure)) => {
                        self.foreign.expect_packets(self.endpoint.open_connections() > 0);
                        warn!("refused a peer: {:#}", anyhow::Error::from(failure));
                    }
                    Err(error) => debug!("handshake task ended: {error}"),
                },
            }
        }
    }

    /// The QUIC endpoint, for its statistics and to close it.
    pub fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    fn admit(&mut self, incoming: quinn::Incoming) {
        let address = incoming.remote_address();
        if self.handshakes.len() >= HANDSHAKES_MAX {
            warn!(from = %address, "refused a peer: {HANDSHAKES_MAX} handshakes are under way");
            return incoming.refuse();
        }
        self.foreign.expect_packets(true);
        // Its identity may have been renewed since the last peer came.
        let (own, verdict) = (self.credentials.identity(), Verdict::default());
        let config = server_config(&own, self.credentials.trust(), &verdict, &self.qlog);
        let accepted = config.map_err(ConnectFailure::Identity).and_then(|config| {
            let accepted = incoming.accept_with(Arc::new(config));
            accepted.map_err(|error| ConnectFailure::explain(error, address, &own))
        });
        match accepted {
            Ok(connecting) => {
                self.handshakes.spawn(async move {
                    let limit = HANDSHAKE_TIMEOUT;
                    let shaken = finish_handshake(limit, connecting, address, &own, &verdict).await;
                    shaken.map(|connection| (connection, own))
                });
            }
            Err(failure) => warn!("refused a peer: {:#}", anyhow::Error::from(failure)),
        }
    }
}

/// Binds a socket for [`Listener::on`], which needs no privilege any more; low ports do.
pub fn bind(address: SocketAddr) -> Result<UdpSocket, ConnectFailure> {
    UdpSocket::bind(address).map_err(|source| ConnectFailure::Bind { address, source })
}

/// Connects to a peer and checks that it is trusted.
///
/// In TLS 1.3 the client is through before the server has judged the client's
/// identity: a refusal by the peer shows in the first thing that is read from
/// it. Pass such a [`quinn::ConnectionError`] to [`ConnectFailure::explain`].
/// The returned endpoint carries the connection; to send the last packets, wait for
/// [`quinn::Endpoint::wait_idle`] before it is dropped.
pub async fn connect(
    target: SocketAddr,
    identity: &Arc<Identity>,
    trust: &TrustStore,
) -> Result<(quinn::Endpoint, Peer), ConnectFailure> {
    let pacer = Arc::new(Pacer::unlimited());
    connect_paced(target, identity, trust, &pacer, &Qlog::default()).await
}

/// The same, and what is sent counts against a cap. Packets wait for it while
/// [`Pacer::hold`] holds the connection. What becomes of it is recorded.
pub async fn connect_paced(
    target: SocketAddr,
    identity: &Arc<Identity>,
    trust: &TrustStore,
    pacer: &Arc<Pacer>,
    qlog: &Qlog,
) -> Result<(quinn::Endpoint, Peer), ConnectFailure> {
    connect_within(HANDSHAKE_TIMEOUT, target, identity, trust, pacer, qlog).await
}

/// Resolves `HOST:PORT` or `ADDRESS:PORT` to the first address that the system offers.
pub async fn resolve(target: &str) -> Result<SocketAddr, ConnectFailure> {
    let unresolved = |source| ConnectFailure::Unresolved {
        target: target.to_owned(),
        source,
    };
    let mut addresses = tokio::net::lookup_host(target).await.map_err(unresolved)?;
    addresses
        .next()
        .ok_or_else(|| unresolved(io::Error::new(io::ErrorKind::NotFound, "no address")))
}

/// Gives an endpoint that has connected to `target` another local address. Its connections go on:
/// the peer learns of it by the next packet.
pub fn rebind(
    endpoint: &quinn::Endpoint,
    target: SocketAddr,
    pacer: &Arc<Pacer>,
) -> io::Result<()> {
    let (socket, _) = UdpSocket::bind(any_address(target)).and_then(wrap_socket)?;
    endpoint.rebind_abstract(pacer.count(socket))
}

/// Any local address from which `target` may be reached.
fn any_address(target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

async fn connect_within(
    limit: Duration,
    target: SocketAddr,
    identity: &Arc<Identity>,
    trust: &TrustStore,
    pacer: &Arc<Pacer>,
    qlog: &Qlog,
) -> Result<(quinn::Endpoint, Peer), ConnectFailure> {
    let verdict = Verdict::default();
    let config =
        client_config(identity, trust, &verdict, pacer, qlog).map_err(ConnectFailure::Identity)?;
    let any = any_address(target);
    let (endpoint, socket) = UdpSocket::bind(any)
        .and_then(wrap_socket)
        .and_then(|(socket, granted)| Ok((endpoint(pacer.count(socket), None)?, granted)))
        .map_err(|source| ConnectFailure::Bind {
            address: any,
            source,
        })?;
    let connecting = endpoint
        .connect_with(config, target, SERVER_NAME)
        .map_err(|source| ConnectFailure::Start {
            address: target,
            source,
        })?;
    let connection = finish_handshake(limit, connecting, target, identity, &verdict).await?;
    Ok((endpoint, Peer::new(connection, identity.clone(), socket)))
}

async fn finish_handshake(
    limit: Duration,
    connecting: quinn::Connecting,
    address: SocketAddr,
    own: &Identity,
    verdict: &Verdict,
) -> Result<quinn::Connection, ConnectFailure> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(match verdict.distrust() {
            Some(why) => ConnectFailure::PeerNotTrusted {
                address,
                why: why.clone(),
            },
            None => ConnectFailure::explain(error, address, own),
        }),
        Err(_elapsed) => Err(ConnectFailure::NoAnswer { address }),
    }
}

fn endpoint(
    socket: Arc<dyn AsyncUdpSocket>,
    server: Option<quinn::ServerConfig>,
) -> io::Result<quinn::Endpoint> {
    let mut config = quinn::EndpointConfig::default();
    config
        .max_udp_payload_size(UDP_PAYLOAD_BYTES_MAX)
        .expect("the constant is within QUIC's bounds");
    quinn::Endpoint::new_with_abstract_socket(config, server, socket, Arc::new(TokioRuntime))
}

fn wrap_socket(socket: UdpSocket) -> io::Result<(Arc<dyn AsyncUdpSocket>, SocketGrant)> {
    let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
    let granted = SocketGrant::ask(&socket, &state)?;
    Ok((TokioRuntime.wrap_udp_socket(socket)?, granted))
}

#[cfg(test)]
mod tests;
