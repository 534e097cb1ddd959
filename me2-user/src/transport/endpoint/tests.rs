//! Real QUIC over loopback between real identities.

mod capped;
mod issued;

use std::{
    path::Path,
    pin::pin,
    task::{Context, Poll, Waker},
};

use tempfile::TempDir;

use super::*;
use crate::{
    identity::{Distrust, Scope, Trusted, trust},
    transport::window::{SendWindow, Waiting},
};

/// A host: its folder and what it believes.
struct Host {
    dir: TempDir,
    identity: Arc<Identity>,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::create(dir.path(), false).unwrap();
        Self {
            dir,
            identity: Arc::new(identity),
        }
    }

    fn trusting(self, other: &Self) -> Self {
        trust(
            self.path(),
            Trusted::Host(other.identity.fingerprint()),
            "other",
            &Scope::AnyVm,
        )
        .unwrap();
        self
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn trust(&self) -> TrustStore {
        TrustStore::load(self.path()).unwrap()
    }

    fn listen(&self) -> Listener {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let credentials = Credentials::load(self.path()).unwrap();
        Listener::bind(any, Arc::new(credentials)).unwrap()
    }

    async fn connect(&self, target: SocketAddr) -> Result<(quinn::Endpoint, Peer), ConnectFailure> {
        connect(target, &self.identity, &self.trust()).await
    }
}

/// Serves echoes to whoever is trusted, until aborted; hands on each accepted fingerprint.
fn echo(mut listener: Listener) -> tokio::sync::mpsc::UnboundedReceiver<Fingerprint> {
    let (accepted, receiver) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(peer) = listener.next_peer().await {
            peer.admit();
            let _ = accepted.send(peer.fingerprint);
            tokio::spawn(async move {
                while let Ok((mut send, mut receive)) = peer.connection.accept_bi().await {
                    let data = receive.read_to_end(1 << 20).await.unwrap();
                    send.write_all(&data).await.unwrap();
                    send.finish().unwrap();
                }
            });
        }
    });
    receiver
}

async fn round_trip(peer: &Peer) -> Result<Vec<u8>, ConnectionFailed> {
    let (mut send, mut receive) = peer.connection.open_bi().await?;
    let _ = send.write_all(b"hello").await;
    let _ = send.finish();
    match receive.read_to_end(16).await {
        Ok(data) => Ok(data),
        Err(_) => Err(peer.connection.close_reason().expect("closed")),
    }
}

type ConnectionFailed = quinn::ConnectionError;

#[tokio::test]
async fn trusted_peers_exchange_data() {
    let source = Host::new();
    let destination = Host::new().trusting(&source);
    let source = source.trusting(&destination);
    let listener = destination.listen();
    let target = listener.local_addr().unwrap();
    let mut accepted = echo(listener);

    let (_endpoint, peer) = source.connect(target).await.unwrap();
    assert_eq!(peer.fingerprint, destination.identity.fingerprint());
    assert_eq!(round_trip(&peer).await.unwrap(), b"hello");
    assert_eq!(accepted.recv().await, Some(source.identity.fingerprint()));
}

#[tokio::test]
async fn one_host_trusts_itself() {
    let host = Host::new();
    let listener = host.listen();
    let target = listener.local_addr().unwrap();
    let _accepted = echo(listener);
    let (_endpoint, peer) = host.connect(target).await.unwrap();
    assert_eq!(round_trip(&peer).await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_server_that_is_a_stranger_is_refused() {
    let source = Host::new();
    let destination = Host::new().trusting(&source);
    let listener = destination.listen();
    let target = listener.local_addr().unwrap();
    let mut accepted = echo(listener);

    let failure = source.connect(target).await.unwrap_err();
    let ConnectFailure::PeerNotTrusted { why, .. } = &failure else {
        panic!("{failure:?}");
    };
    let peer = destination.identity.fingerprint();
    assert_eq!(*why, Distrust::Stranger { peer });
    let text = failure.to_string();
    let mend = format!(
        "run here: me2 cert trust {}",
        destination.identity.fingerprint()
    );
    assert!(text.contains(&mend), "{text}");

    let source = source.trusting(&destination);
    let (_endpoint, peer) = source.connect(target).await.unwrap();
    assert_eq!(round_trip(&peer).await.unwrap(), b"hello");
    assert_eq!(accepted.recv().await, Some(source.identity.fingerprint()));
    assert!(
        accepted.try_recv().is_err(),
        "the refused attempt was accepted"
    );
}

#[tokio::test]
async fn a_client_that_is_a_stranger_is_refused_and_others_are_not() {
    let friend = Host::new();
    let destination = Host::new().trusting(&friend);
    let friend = friend.trusting(&destination);
    let stranger = Host::new().trusting(&destination);
    let listener = destination.listen();
    let target = listener.local_addr().unwrap();
    let mut accepted = echo(listener);

    for _ in 0..3 {
        let failure = match stranger.connect(target).await {
            Ok((_endpoint, peer)) => {
                let error = round_trip(&peer).await.unwrap_err();
                ConnectFailure::explain(error, target, &stranger.identity)
            }
            Err(failure) => failure,
        };
        let text = failure.to_string();
        let mend = format!(
            "run there: me2 cert trust {}",
            stranger.identity.fingerprint()
        );
        assert!(text.contains(&mend), "{text}");
    }

    let (_endpoint, peer) = friend.connect(target).await.unwrap();
    assert_eq!(round_trip(&peer).await.unwrap(), b"hello");
    assert_eq!(accepted.recv().await, Some(friend.identity.fingerprint()));
    assert!(accepted.try_recv().is_err(), "a stranger was accepted");
}

#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_of_no_use() {
    let friend = Host::new();
    let destination = Host::new().trusting(&friend);
    let thief = Host::new().trusting(&destination);
    let listener = destination.listen();
    let target = listener.local_addr().unwrap();
    let mut accepted = echo(listener);

    // The thief signs with its own key and shows the friend's certificate.
    let provider = rustls::crypto::ring::default_provider();
    let key = thief.identity.certified().key.clone();
    let certificate = vec![friend.identity.certificate().clone()];
    let stolen = Arc::new(rustls::sign::CertifiedKey::new(certificate, key));
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer))
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)));
    tls.alpn_protocols = vec![super::super::tls::ALPN.to_vec()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(quic));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    if let Ok(connection) = endpoint
        .connect_with(config, target, SERVER_NAME)
        .unwrap()
        .await
    {
        let closed = tokio::time::timeout(Duration::from_secs(5), connection.closed());
        let error = closed.await.expect("the thief is not refused");
        assert!(
            matches!(error, quinn::ConnectionError::ConnectionClosed(_)),
            "{error}"
        );
    }
    assert!(accepted.try_recv().is_err(), "the thief was accepted");
}

#[tokio::test]
async fn another_protocol_is_named() {
    let host = Host::new();
    let listener = host.listen();
    let target = listener.local_addr().unwrap();
    let _accepted = echo(listener);
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_protocol_versions(&[&rustls::version::TLS13])
    .unwrap()
    .dangerous()
    .with_custom_certificate_verifier(Arc::new(AnyServer))
    .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(quic));
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let error = endpoint
        .connect_with(config, target, SERVER_NAME)
        .unwrap()
        .await
        .unwrap_err();
    let failure = ConnectFailure::explain(error, target, &host.identity);
    assert!(
        matches!(failure, ConnectFailure::OtherProtocol { .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn garbage_disturbs_nobody() {
    let host = Host::new();
    let mut listener = host.listen();
    let target = listener.local_addr().unwrap();
    let noise = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let send_noise = || {
        for length in [0_usize, 1, 5, 40, 1200, 9000] {
            for first in [0x00_u8, 0x47, 0x80, 0xc3, 0xff] {
                let mut datagram: Vec<u8> = (0..length).map(|i| (i * 31) as u8).collect();
                if let Some(byte) = datagram.first_mut() {
                    *byte = first;
                }
                noise.send_to(&datagram, target).unwrap();
            }
        }
    };
    send_noise();
    let (connected, accepted) = tokio::join!(host.connect(target), listener.next_peer());
    let ((_endpoint, client), server) = (connected.unwrap(), accepted.unwrap());
    send_noise();
    tokio::spawn(async move {
        let (mut send, mut receive) = server.connection.accept_bi().await.unwrap();
        let data = receive.read_to_end(16).await.unwrap();
        send.write_all(&data).await.unwrap();
        send.finish().unwrap();
        server.connection.closed().await;
    });
    assert_eq!(round_trip(&client).await.unwrap(), b"hello");
    assert!(listener.foreign.was_reported(), "no line about the noise");
}

#[tokio::test]
async fn a_silent_port_is_no_answer() {
    let host = Host::new();
    // Bound and never read: nothing answers, and nobody else can take the port.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = silent.local_addr().unwrap();
    let limit = Duration::from_millis(200);
    let trust = host.trust();
    let failure = connect_within(
        limit,
        target,
        &host.identity,
        &trust,
        &Arc::new(Pacer::unlimited()),
        &Qlog::default(),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(failure, ConnectFailure::NoAnswer { .. }),
        "{failure:?}"
    );
}

#[tokio::test]
async fn targets_are_resolved() {
    let address = resolve("127.0.0.1:7000").await.unwrap();
    assert_eq!(address, SocketAddr::from((Ipv4Addr::LOCALHOST, 7000)));
    for bad in ["", "127.0.0.1", "127.0.0.1:99999", ":"] {
        let failure = resolve(bad).await.unwrap_err();
        assert!(
            matches!(failure, ConnectFailure::Unresolved { .. }),
            "{bad}: {failure:?}"
        );
    }
}

/// Trusts every server: a peer that does not keep our rules.
#[derive(Debug)]
struct AnyServer;

impl rustls::client::danger::ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        unreachable!("QUIC has TLS 1.3 only")
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &rustls::pki_types::CertificateDer<'_>,
        _signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// What a future gives at once, without anything else having its turn.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[tokio::test]
async fn what_is_urgent_has_room_when_bulk_has_filled_the_window() {
    let host = Host::new();
    let listener = host.listen();
    let target = listener.local_addr().unwrap();
    let _accepted = echo(listener);
    let (_endpoint, peer) = host.connect(target).await.unwrap();
    // The echo comes from a side that has admitted this one.
    assert_eq!(round_trip(&peer).await.unwrap(), b"hello");
    let window = SendWindow::new(peer.connection.clone(), Arc::new(Pacer::unlimited()));
    window.set(0, 1 << 20);
    let mut bulk = peer.connection.open_uni().await.unwrap();
    let (mut send, mut receive) = peer.connection.open_bi().await.unwrap();
    // Nothing is sent meanwhile: there is one thread, and it is here.
    while at_once(bulk.write_all(&[1; 1 << 16])).is_some() {}

    let as_all_do = at_once(send.write_all(b"urgent"));
    assert!(as_all_do.is_none(), "there is no room");
    at_once(window.write(&mut send, b"urgent"))
        .expect("there is room")
        .unwrap();
    send.finish().unwrap();
    assert_eq!(receive.read_to_end(16).await.unwrap(), b"urgent");
}

#[tokio::test]
async fn a_peer_that_is_not_admitted_has_little_under_way() {
    const BYTES: usize = 8 << 20;
    let host = Host::new();
    let mut listener = host.listen();
    let target = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(host.connect(target), listener.next_peer());
    let ((_endpoint, client), server) = (connected.unwrap(), accepted.unwrap());
    let mut stream = client.connection.open_uni().await.unwrap();
    // Listening goes on, or the handshake would not be confirmed.
    tokio::spawn(async move { while listener.next_peer().await.is_some() {} });
    let mut sent = 0;
    let limit = u64::from(RECEIVE_WINDOW_BEFORE) as usize;
    while sent < limit {
        sent += stream.write(&vec![7; limit - sent]).await.unwrap();
    }
    {
        let more = pin!(stream.write_all(&[7; 1]));
        let polled = more.poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
    }
    server.admit();
    let writing =
        tokio::spawn(async move { stream.write_all(&vec![7; BYTES]).await.map(|()| stream) });
    writing.await.unwrap().unwrap();
}
