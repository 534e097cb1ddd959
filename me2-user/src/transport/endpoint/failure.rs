//! Why two ends do not speak to each other, in words that an operator can act on.

use std::io;
use std::net::SocketAddr;

use quinn::{ConnectionError, TransportErrorCode};

use crate::identity::Fingerprint;

/// TLS alerts (RFC 8446, section 6) as they appear in QUIC.
mod alert {
    pub(super) const CERTIFICATE_UNKNOWN: u8 = 46;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

/// No connection between two peers, or it broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// This end does not trust the other.
    #[error(
        "{address} shows the identity {}, which this host does not trust; if it is the right one, run here: me2 cert trust {} NAME",
        shown(peer),
        shown(peer)
    )]
    PeerNotTrusted {
        /// The other end.
        address: SocketAddr,
        /// The identity that it showed.
        peer: Option<Fingerprint>,
    },
    /// The other end does not trust this one.
    #[error(
        "{address} does not trust this host's identity {own}; run there: me2 cert trust {own} NAME"
    )]
    NotTrustedByPeer {
        /// The other end.
        address: SocketAddr,
        /// The identity that this end showed.
        own: Fingerprint,
    },
    /// The other end speaks QUIC, but not a version of this protocol that is known here.
    #[error("{address} does not speak the protocol me2/1: another program or version of me2")]
    OtherProtocol {
        /// The other end.
        address: SocketAddr,
    },
    /// Nothing came back in time.
    #[error("no answer from {address}: is `me2 receive` running there, and is UDP let through?")]
    NoAnswer {
        /// The other end.
        address: SocketAddr,
    },
    /// The other end is not willing to take one more connection.
    #[error("{address} takes no connection now")]
    Refused {
        /// The other end.
        address: SocketAddr,
    },
    /// The connection broke in another way.
    #[error("connection with {address} failed")]
    Connection {
        /// The other end.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: ConnectionError,
    },
    /// The address cannot be connected to.
    #[error("cannot connect to {address}")]
    Start {
        /// The other end.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: quinn::ConnectError,
    },
    /// The host is not known.
    #[error("cannot resolve {target:?} (expected ADDRESS:PORT or HOST:PORT)")]
    Unresolved {
        /// What was to be resolved.
        target: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The socket could not be made.
    #[error("cannot use UDP address {address}")]
    Bind {
        /// The local address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The identity of this host is of no use to TLS.
    #[error("cannot use this host's identity for TLS")]
    Identity(#[source] rustls::Error),
}

impl ConnectFailure {
    /// What `error` on a connection with `address` means, to a host whose identity is `own`.
    ///
    /// Nothing that the peer wrote is repeated.
    pub fn explain(error: ConnectionError, address: SocketAddr, own: Fingerprint) -> Self {
        let crypto = TransportErrorCode::crypto;
        match &error {
            ConnectionError::TransportError(local)
                if local.code == crypto(alert::CERTIFICATE_UNKNOWN) =>
            {
                Self::PeerNotTrusted {
                    address,
                    peer: fingerprint_in(&local.reason),
                }
            }
            ConnectionError::ConnectionClosed(close) => match close.error_code {
                code if code == crypto(alert::CERTIFICATE_UNKNOWN) => {
                    Self::NotTrustedByPeer { address, own }
                }
                code if code == crypto(alert::NO_APPLICATION_PROTOCOL) => {
                    Self::OtherProtocol { address }
                }
                TransportErrorCode::CONNECTION_REFUSED => Self::Refused { address },
                _ => Self::Connection {
                    address,
                    source: error,
                },
            },
            ConnectionError::TransportError(local)
                if local.code == crypto(alert::NO_APPLICATION_PROTOCOL) =>
            {
                Self::OtherProtocol { address }
            }
            ConnectionError::VersionMismatch => Self::OtherProtocol { address },
            ConnectionError::TimedOut => Self::NoAnswer { address },
            _ => Self::Connection {
                address,
                source: error,
            },
        }
    }
}

/// The verifier's own message is all that quinn hands on of its error.
fn fingerprint_in(reason: &str) -> Option<Fingerprint> {
    let start = reason.find("sha256:")?;
    reason
        .get(start..start + "sha256:".len() + 64)?
        .parse()
        .ok()
}

fn shown(peer: &Option<Fingerprint>) -> String {
    peer.map_or_else(|| "FINGERPRINT".to_owned(), |peer| peer.to_string())
}
