//! Mutual TLS by pinned identities: who may speak to whom.
//!
//! Both ends show a certificate, and each accepts exactly those whose SHA-256
//! it was told to trust. Names, dates, issuers and extensions decide nothing,
//! so there is no authority to compromise and nothing to expire. That the peer
//! holds the private key is proved by the signature over the handshake, which
//! is checked as always.
//!
//! Sessions are never resumed: a resumed session would skip the certificate,
//! and with it the question whether the peer is still trusted.

use std::fmt;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    SignatureScheme,
};

use super::{
    endpoint::{RECEIVE_WINDOW, RECEIVE_WINDOW_BEFORE, transport_config},
    pace::Pacer,
};
use crate::identity::{Fingerprint, Identity, TrustStore};

/// What both ends must name in the handshake (ALPN): the protocol and its major version.
pub const ALPN: &[u8] = b"me2/1";

/// The name that clients send. Peers are pinned, not named, so it carries no meaning.
pub const SERVER_NAME: &str = "me2";

/// Connections that may wait for their handshake at once, before any is trusted.
const INCOMING_MAX: usize = 64;

/// Bytes of early packets kept for all waiting connections together.
const INCOMING_BYTES_MAX: u64 = 1 << 20;

/// The configuration of an end that waits for peers.
///
/// # Errors
/// If the identity's key cannot sign (a kind of key that TLS 1.3 does not know).
pub fn server_config(
    identity: &Identity,
    trust: &TrustStore,
) -> Result<quinn::ServerConfig, rustls::Error> {
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(PinnedPeers::new(trust)))
        .with_single_cert(vec![identity.certificate().clone()], identity.private_key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;

    let quic = QuicServerConfig::try_from(tls).map_err(no_initial_suite)?;
    let unlimited = Arc::new(Pacer::unlimited());
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(quic));
    config.transport_config(transport_config(&unlimited, RECEIVE_WINDOW_BEFORE));
    config.max_incoming(INCOMING_MAX);
    config.incoming_buffer_size_total(INCOMING_BYTES_MAX);
    Ok(config)
}

/// The configuration of an end that connects to a peer.
///
/// # Errors
/// As of [`server_config`].
pub fn client_config(
    identity: &Identity,
    trust: &TrustStore,
    pacer: &Arc<Pacer>,
) -> Result<quinn::ClientConfig, rustls::Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedPeers::new(trust)))
        .with_client_auth_cert(vec![identity.certificate().clone()], identity.private_key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();

    let quic = QuicClientConfig::try_from(tls).map_err(no_initial_suite)?;
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    config.transport_config(transport_config(pacer, RECEIVE_WINDOW));
    Ok(config)
}

/// Who the other end of an established connection is.
///
/// # Panics
/// If the connection was not made with a configuration of this module: those
/// always have a certificate of the peer.
pub fn peer_fingerprint(connection: &quinn::Connection) -> Fingerprint {
    let identity = connection
        .peer_identity()
        .expect("client and server authenticate");
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .expect("rustls gives a chain of certificates");
    Fingerprint::of(
        chain
            .first()
            .expect("the verifier saw an end-entity certificate"),
    )
}

/// Accepts the peers of a [`TrustStore`], at either end.
#[derive(Debug)]
struct PinnedPeers {
    trust: TrustStore,
    provider: Arc<CryptoProvider>,
}

impl PinnedPeers {
    fn new(trust: &TrustStore) -> Self {
        Self {
            trust: trust.clone(),
            provider: provider(),
        }
    }

    fn check(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let peer = Fingerprint::of(end_entity);
        if self.trust.trusts(&peer) {
            return Ok(());
        }
        Err(CertificateError::Other(OtherError(Arc::new(NotPinned(peer)))).into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for PinnedPeers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for PinnedPeers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.check_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

/// The peer is not pinned. `Debug` is the text too: it is what rustls puts into its messages.
struct NotPinned(Fingerprint);

impl fmt::Display for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity {} is not trusted", self.0)
    }
}

impl fmt::Debug for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for NotPinned {}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn no_initial_suite(error: quinn::crypto::rustls::NoInitialCipherSuite) -> rustls::Error {
    rustls::Error::General(error.to_string())
}
