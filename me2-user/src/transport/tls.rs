//! Mutual TLS: who may speak to whom.
//!
//! Both ends show a certificate, and each accepts those that its [`TrustStore`] does: by the
//! fingerprint, or because a CA that is trusted issued it. That the peer holds the private key is
//! proved by the signature over the handshake, which is checked as always. The names in it decide
//! nothing: hosts are moved, renumbered and reached by addresses.
//!
//! Sessions are never resumed: a resumed session would skip the certificate,
//! and with it the question whether the peer is still trusted.

use std::fmt;
use std::sync::{Arc, OnceLock};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerIncompatible,
    SignatureScheme,
};

use super::{
    endpoint::{RECEIVE_WINDOW, RECEIVE_WINDOW_BEFORE, transport_config},
    pace::Pacer,
    qlog::Qlog,
};
use crate::identity::{Distrust, Identity, Moment, TrustStore};

/// What both ends must name in the handshake (ALPN): the protocol and its major version.
pub const ALPN: &[u8] = b"me2/1";

/// The name that clients send. Peers are pinned, not named, so it carries no meaning.
pub const SERVER_NAME: &str = "me2";

/// Connections that may wait for their handshake at once, before any is trusted.
const INCOMING_MAX: usize = 64;

/// Bytes of early packets kept for all waiting connections together.
const INCOMING_BYTES_MAX: u64 = 1 << 20;

/// Why the peer of one handshake was not trusted here, once it was not.
#[derive(Debug, Clone, Default)]
pub struct Verdict(Arc<OnceLock<Distrust>>);

impl Verdict {
    /// What is known by now.
    pub fn distrust(&self) -> Option<&Distrust> {
        self.0.get()
    }
}

/// The configuration of an end that waits for peers. What it finds wrong with one is told by the
/// verdict: for each handshake another.
///
/// # Errors
/// If the identity's key cannot sign (a kind of key that TLS 1.3 does not know).
pub fn server_config(
    identity: &Identity,
    trust: &TrustStore,
    verdict: &Verdict,
    qlog: &Qlog,
) -> Result<quinn::ServerConfig, rustls::Error> {
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Peers::new(trust, verdict)))
        .with_cert_resolver(shown(identity));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.send_tls13_tickets = 0;

    let quic = QuicServerConfig::try_from(tls).map_err(no_initial_suite)?;
    let unlimited = Arc::new(Pacer::unlimited());
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(quic));
    config.transport_config(transport_config(&unlimited, RECEIVE_WINDOW_BEFORE, qlog));
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
    verdict: &Verdict,
    pacer: &Arc<Pacer>,
    qlog: &Qlog,
) -> Result<quinn::ClientConfig, rustls::Error> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Peers::new(trust, verdict)))
        .with_client_cert_resolver(shown(identity));
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = Resumption::disabled();

    let quic = QuicClientConfig::try_from(tls).map_err(no_initial_suite)?;
    let mut config = quinn::ClientConfig::new(Arc::new(quic));
    config.transport_config(transport_config(pacer, RECEIVE_WINDOW, qlog));
    Ok(config)
}

/// What the other end of an established connection has shown of itself: its certificate, and those
/// behind it.
///
/// # Panics
/// If the connection was not made with a configuration of this module: those
/// always have a certificate of the peer.
pub fn peer_certificates(connection: &quinn::Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection
        .peer_identity()
        .expect("client and server authenticate");
    let chain = identity.downcast::<Vec<CertificateDer<'static>>>();
    *chain.expect("rustls gives a chain of certificates")
}

fn shown(identity: &Identity) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(identity.certified().clone()))
}

/// Accepts the peers of a [`TrustStore`], at either end.
#[derive(Debug)]
struct Peers {
    trust: TrustStore,
    verdict: Verdict,
    provider: Arc<CryptoProvider>,
}

impl Peers {
    fn new(trust: &TrustStore, verdict: &Verdict) -> Self {
        Self {
            trust: trust.clone(),
            verdict: verdict.clone(),
            provider: provider(),
        }
    }

    fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        behind: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let chain: Vec<_> = std::iter::once(end_entity).chain(behind).cloned().collect();
        let now = Moment(now.as_secs() as i64);
        self.trust.judge(&chain, now).map_err(|distrust| {
            let error = alerting(&distrust);
            let _ = self.verdict.0.set(distrust);
            error.into()
        })
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

impl ServerCertVerifier for Peers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)
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

impl ClientCertVerifier for Peers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity, intermediates, now)
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

/// The error whose alert tells the peer what it should know.
fn alerting(distrust: &Distrust) -> CertificateError {
    match distrust {
        Distrust::Stranger { .. } | Distrust::AnotherHost { .. } => {
            CertificateError::Other(OtherError(Arc::new(Unknown)))
        }
        Distrust::UnknownAuthority { .. } => CertificateError::UnknownIssuer,
        Distrust::Expired { .. } => CertificateError::Expired,
        Distrust::NotYetValid { .. } => CertificateError::NotValidYet,
        Distrust::NoHost { .. } => CertificateError::BadEncoding,
    }
}

/// The peer's identity is not one that is trusted; more is in the [`Verdict`].
#[derive(Debug)]
struct Unknown;

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the identity is not trusted")
    }
}

impl std::error::Error for Unknown {}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn no_initial_suite(error: quinn::crypto::rustls::NoInitialCipherSuite) -> rustls::Error {
    rustls::Error::General(error.to_string())
}
