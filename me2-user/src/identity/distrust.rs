//! Why one side does not trust the other, told so that it is clear which, and what to type where.

use std::fmt::{self, Display};

use super::{Fingerprint, Identity, Moment, Validity};

/// Why this host does not trust the certificate that a peer shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// Its fingerprint is not known here.
    Stranger {
        /// Who it is.
        peer: Fingerprint,
    },
    /// It is another host than the one that was asked for, or that has the VM.
    AnotherHost {
        /// Who it is.
        peer: Fingerprint,
        /// Who was asked for.
        wanted: Fingerprint,
    },
    /// A CA issued it that is not trusted here.
    UnknownAuthority {
        /// The CA.
        authority: Fingerprint,
    },
    /// It was valid once.
    Expired {
        /// What has expired.
        what: Dated,
        /// Since when.
        since: Moment,
    },
    /// It is not valid yet.
    NotYetValid {
        /// What is not.
        what: Dated,
        /// From when on.
        from: Moment,
    },
    /// A CA that is trusted here has no such host.
    NoHost {
        /// What is wrong with it.
        reason: String,
    },
}

/// What has dates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dated {
    /// A host's certificate.
    Host,
    /// That of the CA which issued it.
    Authority,
}

impl Distrust {
    /// A sentence about who shows the certificate.
    pub fn told_of(&self, who: &dyn Display) -> String {
        match self {
            Self::Stranger { peer } => format!(
                "{who} shows the identity {peer}, which this host does not trust; if it is the right one, run here: me2 cert trust {peer} NAME"
            ),
            Self::AnotherHost { peer, wanted } => {
                format!("{who} shows the identity {peer}, but the one that is meant is {wanted}")
            }
            Self::UnknownAuthority { authority } => format!(
                "{who} shows a certificate of the CA {authority}, which this host does not trust; if it is the right one, run here: me2 cert trust ca:{authority} NAME"
            ),
            Self::Expired { what, since } => format!(
                "{who} shows a certificate that this host does not take: {what} expired on {since}; {}",
                what.renewal("there")
            ),
            Self::NotYetValid { what, from } => format!(
                "{who} shows a certificate that this host does not take: {what} is valid from {from} on, and here it is {}; one of the clocks is wrong",
                Moment::now()
            ),
            Self::NoHost { reason } => format!(
                "{who} shows a certificate that this host does not take: its CA is trusted here, but it is not one of a host's ({reason})"
            ),
        }
    }
}

impl Dated {
    /// What makes it valid again.
    fn renewal(self, host: &str) -> String {
        match self {
            Self::Host => format!(
                "renew it where its CA is (me2 cert issue HOST), and install it {host} (me2 cert install)"
            ),
            Self::Authority => {
                "make a new CA (me2 cert ca --force), and issue every host a certificate".to_owned()
            }
        }
    }
}

impl Display for Dated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "it",
            Self::Authority => "its CA",
        })
    }
}

/// Why a peer may not trust this host, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// It does not know this host's fingerprint.
    Stranger(Fingerprint),
    /// It does not know the CA of this host's certificate.
    UnknownAuthority(Fingerprint),
    /// This host's certificate has expired, by this host's own clock.
    Expired(Moment),
    /// This host's certificate is not valid yet, by this host's own clock.
    NotYetValid(Moment),
    /// It is not valid by the peer's clock, though by this host's it is.
    Clock(Validity),
    /// Something else.
    Else,
}

/// What a peer says when it refuses a certificate: as much as TLS has alerts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// The certificate is not known.
    Unknown,
    /// Its CA is not.
    UnknownAuthority,
    /// It is not valid now.
    Dates,
    /// It is not one of a host's.
    Bad,
}

impl Doubt {
    /// What a peer's complaint about this host's certificate means.
    pub fn of(complaint: Complaint, own: &Identity, now: Moment) -> Self {
        match (complaint, own.authority(), own.validity()) {
            (Complaint::UnknownAuthority, Some(authority), _) => Self::UnknownAuthority(authority),
            (Complaint::Dates, _, Some(validity)) if now > validity.until => {
                Self::Expired(validity.until)
            }
            (Complaint::Dates, _, Some(validity)) if now < validity.from => {
                Self::NotYetValid(validity.from)
            }
            (Complaint::Dates, _, Some(validity)) => Self::Clock(validity),
            (Complaint::Bad, ..) => Self::Else,
            _ => Self::Stranger(own.fingerprint()),
        }
    }

    /// A sentence about who has it.
    pub fn told_of(&self, who: &dyn Display) -> String {
        match self {
            Self::Stranger(own) => format!(
                "{who} does not trust this host's identity {own}; run there: me2 cert trust {own} NAME"
            ),
            Self::UnknownAuthority(authority) => format!(
                "{who} does not trust the CA {authority} of this host's certificate; run there: me2 cert trust ca:{authority} NAME"
            ),
            Self::Expired(since) => format!(
                "{who} does not take this host's certificate, which expired on {since}; {}",
                Dated::Host.renewal("here")
            ),
            Self::NotYetValid(from) => format!(
                "{who} does not take this host's certificate, which is valid from {from} on, and here it is {}; one of the clocks is wrong",
                Moment::now()
            ),
            Self::Clock(validity) => format!(
                "{who} does not take this host's certificate, which is valid from {} to {}; is the clock there right?",
                validity.from, validity.until
            ),
            Self::Else => {
                format!("{who} does not take this host's certificate; the log there says why")
            }
        }
    }
}
