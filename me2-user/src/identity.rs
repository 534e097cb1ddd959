//! Who this host is to others, and whom it trusts.
//!
//! An identity is a certificate with its key, known by the SHA-256 of its DER bytes, as SSH host
//! keys are. Peers trust it in one of two ways:
//!
//! - **pinned**: they name its fingerprint. Nothing else in the certificate counts, so it is
//!   self-signed and never expires; two hosts each name the other's fingerprint once.
//! - **by a CA**: they name the fingerprint of the CA, and take every host that it issued a
//!   certificate to, as long as both are valid. A host shows the CA's certificate behind its own.
//!
//! ```text
//! ~/.config/me2/
//!   identity.pem   the certificate, and that of the CA if one issued it: public
//!   identity.key   the private key: mode 0600
//!   next.pem       \ the identity that will take its place (me2 cert rotate)
//!   next.key       /
//!   trusted        a line a peer, "sha256:HEX  NAME", or a CA, "ca:sha256:HEX  NAME"; "#" starts
//!                  a comment; with "vm=NAME,NAME" before the name, trusted with these VMs alone
//!   ca.pem         \ only where the CA is (me2 cert ca)
//!   ca.key         /
//! ```

mod authority;
mod credentials;
mod distrust;
mod error;
mod facts;
mod files;
mod fingerprint;
mod folder;
mod trust;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

pub use authority::{Authority, HostName, InvalidHost, install};
pub use credentials::Credentials;
pub use distrust::{Complaint, Dated, Distrust, Doubt};
pub use error::IdentityError;
pub use facts::{Facts, Moment, Validity};
use files::{
    PRIVATE, PUBLIC, create_private_dir, file_error, read_bounded, read_private, write_new,
};
pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use folder::config_dir;
pub use trust::{NotAllowed, Scope, TrustStore, Trusted, TrustedPeer, trust};

/// The names of a certificate's file and its key's.
type Names = (&'static str, &'static str);
const IDENTITY: Names = ("identity.pem", "identity.key");
const NEXT: Names = ("next.pem", "next.key");

/// Certificates that a host shows at most: its own, its CA's, and some between the two.
const CHAIN_MAX: usize = 4;
/// How long before its end a certificate is warned of.
const WARNING_DAYS: i64 = 30;

/// The identity of this host: a certificate and its private key.
pub struct Identity {
    certified: Arc<CertifiedKey>,
    fingerprint: Fingerprint,
    facts: Facts,
    /// That of the certificate and of those behind it together.
    validity: Validity,
}

impl Identity {
    /// Makes a new self-signed identity in `dir`, which is created (mode 0700) if absent.
    ///
    /// With `force` an identity that is there is replaced; without, it is left
    /// alone and [`IdentityError::Exists`] returned.
    pub fn create(dir: &Path, force: bool) -> Result<Self, IdentityError> {
        make(dir, IDENTITY, force)
    }

    /// Reads the identity in `dir` and checks that key and certificate belong together.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        match is_there(dir, IDENTITY) {
            true => read_pair(&dir.join(IDENTITY.0), &dir.join(IDENTITY.1)),
            false => Err(IdentityError::Missing {
                dir: dir.to_owned(),
            }),
        }
    }

    /// The identity that is to take the place of the one in `dir`: made if there is none yet, which is
    /// the second thing told. Peers can be told to trust it beforehand.
    ///
    /// # Errors
    /// Also if a CA issued the present one: then it is renewed there.
    pub fn next(dir: &Path) -> Result<(Self, bool), IdentityError> {
        let present = Self::load(dir)?;
        if present.validity().is_some() {
            return Err(IdentityError::Issued {
                host: present.facts.subject,
            });
        }
        match is_there(dir, NEXT) {
            true => Ok((read_pair(&dir.join(NEXT.0), &dir.join(NEXT.1))?, false)),
            false => Ok((make(dir, NEXT, false)?, true)),
        }
    }

    /// The fingerprint of the next identity in `dir`, if there is one.
    pub fn waiting(dir: &Path) -> Option<Fingerprint> {
        let chain = read_chain(&dir.join(NEXT.0)).ok()?;
        Some(Fingerprint::of(&chain[0]))
    }

    /// Puts the next identity in the place of the one in `dir`. To be repeated if it was interrupted.
    pub fn switch(dir: &Path) -> Result<Self, IdentityError> {
        let [certificate, next_certificate] = [IDENTITY.0, NEXT.0].map(|name| dir.join(name));
        let [key, next_key] = [IDENTITY.1, NEXT.1].map(|name| dir.join(name));
        if !next_certificate.exists() {
            return Err(IdentityError::NoNext {
                dir: dir.to_owned(),
            });
        }
        match next_key.exists() {
            true => {
                read_pair(&next_certificate, &next_key)?;
                fs::rename(&next_key, &key).map_err(file_error("replace", &key))?;
            }
            false => _ = read_pair(&next_certificate, &key)?,
        }
        fs::rename(&next_certificate, &certificate).map_err(file_error("replace", &certificate))?;
        Self::load(dir)
    }

    /// The SHA-256 of the certificate's DER bytes, by which peers know this host.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate, as it is shown to peers; behind it may be that of its CA.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    /// Certificates and key, for a TLS configuration.
    pub fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// What the certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The CA that is shown behind the certificate.
    pub fn authority(&self) -> Option<Fingerprint> {
        let (_, behind) = self.certified.cert.split_first()?;
        behind.last().map(|authority| Fingerprint::of(authority))
    }

    /// When peers that trust its CA take it; `None`: it shows none, and dates mean nothing.
    pub fn validity(&self) -> Option<Validity> {
        (self.certified.cert.len() > 1).then_some(self.validity)
    }

    /// What its operator should know of its dates.
    pub fn warning(&self, now: Moment) -> Option<String> {
        let validity = self.validity()?;
        let host = &self.facts.subject;
        let mend = format!(
            "renew it where its CA is (me2 cert issue {host}), and install it here (me2 cert install {host})"
        );
        let (from, until) = (validity.from, validity.until);
        match validity.days_left(now) {
            _ if now < from => Some(format!(
                "this host's certificate is valid from {from} on, and now it is {now}: peers that trust its CA refuse it; is the clock right?"
            )),
            ..0 => Some(format!(
                "this host's certificate expired on {until}: peers that trust its CA refuse it; {mend}"
            )),
            left if left < WARNING_DAYS => Some(format!(
                "this host's certificate expires on {until}, in {left} days; {mend}"
            )),
            _ => None,
        }
    }
}

/// Never the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

fn is_there(dir: &Path, names: Names) -> bool {
    dir.join(names.0).exists() || dir.join(names.1).exists()
}

fn make(dir: &Path, names: Names, force: bool) -> Result<Identity, IdentityError> {
    let (certificate_path, key_path) = (dir.join(names.0), dir.join(names.1));
    if !force
        && let Some(path) = [&key_path, &certificate_path]
            .into_iter()
            .find(|path| path.exists())
    {
        return Err(IdentityError::Exists { path: path.clone() });
    }
    create_private_dir(dir)?;
    let key = rcgen::KeyPair::generate()?;
    let certificate = self_signed(&key)?;
    write_new(&key_path, key.serialize_pem().as_bytes(), PRIVATE, force)?;
    write_new(
        &certificate_path,
        certificate.pem().as_bytes(),
        PUBLIC,
        force,
    )?;
    read_pair(&certificate_path, &key_path)
}

/// The name in the certificate carries no meaning: peers are pinned, not named.
fn self_signed(key: &rcgen::KeyPair) -> Result<rcgen::Certificate, rcgen::Error> {
    let mut parameters = rcgen::CertificateParams::new(vec!["me2".to_owned()])?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "me2 host");
    parameters.self_signed(key)
}

fn read_pair(certificate: &Path, key: &Path) -> Result<Identity, IdentityError> {
    let damaged = |path: &Path, reason: String| IdentityError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let chain = read_chain(certificate)?;
    let pem = read_private(key)?;
    let private = PrivateKeyDer::from_pem_slice(&pem);
    let private = private.map_err(|error| damaged(key, error.to_string()))?;
    let facts = chain.iter().map(|certificate| Facts::of(certificate));
    let facts: Vec<Facts> = facts
        .collect::<Result<_, _>>()
        .map_err(|reason| damaged(certificate, reason))?;
    let all = facts.iter().map(|facts| facts.validity);
    let validity = all
        .reduce(|a, b| Validity {
            from: a.from.max(b.from),
            until: a.until.min(b.until),
        })
        .expect("a chain is not empty");
    let fingerprint = Fingerprint::of(&chain[0]);
    let provider = rustls::crypto::ring::default_provider();
    let certified = CertifiedKey::from_der(chain, private, &provider);
    let certified = certified.map_err(|error| damaged(key, error.to_string()))?;
    Ok(Identity {
        certified: Arc::new(certified),
        fingerprint,
        facts: facts.into_iter().next().expect("a chain is not empty"),
        validity,
    })
}

/// The certificates in a file: one at least, and not more than a host shows.
fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let damaged = |reason: String| IdentityError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let pem = read_bounded(path)?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| damaged(error.to_string()))?;
    match chain.len() {
        1..=CHAIN_MAX => Ok(chain),
        count => Err(damaged(format!("{count} certificates"))),
    }
}

/// Whom the first certificate in a file is of: a CA, or a host.
pub fn certificate_file(path: &Path) -> Result<Trusted, IdentityError> {
    let chain = read_chain(path)?;
    let facts = Facts::of(&chain[0]).map_err(|reason| IdentityError::Damaged {
        path: path.to_owned(),
        reason,
    })?;
    let fingerprint = Fingerprint::of(&chain[0]);
    Ok(match facts.is_authority {
        true => Trusted::Authority(fingerprint),
        false => Trusted::Host(fingerprint),
    })
}

#[cfg(test)]
mod tests;
