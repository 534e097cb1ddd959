//! Why two ends do not speak to each other, in words that an operator can act on.

use std::io;
use std::net::SocketAddr;

use quinn::{ConnectionError, TransportErrorCode};

use crate::identity::{Complaint, Distrust, Doubt, Identity, Moment};

/// TLS alerts (RFC 8446, section 6) as they appear in QUIC.
mod alert {
    pub(super) const BAD_CERTIFICATE: u8 = 42;
    pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
    pub(super) const CERTIFICATE_UNKNOWN: u8 = 46;
    pub(super) const UNKNOWN_CA: u8 = 48;
    pub(super) const NO_APPLICATION_PROTOCOL: u8 = 120;
}

/// No connection between two peers, or it broke.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectFailure {
    /// This end does not trust the other.
    #[error("{}", why.told_of(address))]
    PeerNotTrusted {
        /// The other end.
        address: SocketAddr,
        /// Why not.
        why: Distrust,
    },
    /// The other end does not trust this one.
    #[error("{}", why.told_of(address))]
    NotTrustedByPeer {
        /// The other end.
        address: SocketAddr,
        /// Why not, as far as it tells.
        why: Doubt,
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
    /// What `error` on a connection with `address` means, to a host that showed itself as `own`.
    ///
    /// Nothing that the peer wrote is repeated.
    pub fn explain(error: ConnectionError, address: SocketAddr, own: &Identity) -> Self {
        let no_protocol = TransportErrorCode::crypto(alert::NO_APPLICATION_PROTOCOL);
        match &error {
            ConnectionError::ConnectionClosed(close) => match close.error_code {
                code if code == no_protocol => Self::OtherProtocol { address },
                TransportErrorCode::CONNECTION_REFUSED => Self::Refused { address },
                code => match complaint(code) {
                    Some(complaint) => Self::NotTrustedByPeer {
                        address,
                        why: Doubt::of(complaint, own, Moment::now()),
                    },
                    None => Self::Connection {
                        address,
                        source: error,
                    },
                },
            },
            ConnectionError::TransportError(local) if local.code == no_protocol => {
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

/// What another end says of this one's certificate.
fn complaint(code: TransportErrorCode) -> Option<Complaint> {
    let complaints = [
        (alert::CERTIFICATE_UNKNOWN, Complaint::Unknown),
        (alert::UNKNOWN_CA, Complaint::UnknownAuthority),
        (alert::CERTIFICATE_EXPIRED, Complaint::Dates),
        (alert::BAD_CERTIFICATE, Complaint::Bad),
    ];
    let of_code = |(alert, _): &&(u8, Complaint)| code == TransportErrorCode::crypto(*alert);
    complaints
        .iter()
        .find(of_code)
        .map(|(_, complaint)| *complaint)
}
