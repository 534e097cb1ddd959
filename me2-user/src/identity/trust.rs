//! The peers that this host trusts: whole files, read once at start, and again for a peer that is not
//! in them.

mod list;
mod verify;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls::pki_types::CertificateDer;

pub use list::{Scope, Trusted, TrustedPeer, trust};

use super::{Distrust, Fingerprint, IDENTITY, Identity, IdentityError, Moment, NEXT, read_chain};

/// The identities that are accepted as peers. Copies of it share what they know.
#[derive(Debug, Clone)]
pub struct TrustStore {
    listed: Arc<Listed>,
    /// Where to look again for a peer that is not among them: who was trusted a moment ago need
    /// not wait for a restart.
    folder: Option<Arc<PathBuf>>,
    /// The one that is meant, and no other.
    only: Option<Fingerprint>,
    /// Who has a VM under way here, and is let in again whatever has become of its certificate.
    held: Arc<Mutex<Option<Fingerprint>>>,
}

/// Who is trusted, and with what.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listed {
    hosts: HashMap<Fingerprint, Scope>,
    authorities: HashMap<Fingerprint, Scope>,
}

/// A peer is trusted, but not with this VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// But with others.
    #[error(
        "{peer} is trusted with {scope} alone, not with the VM {vm}; to change that, edit the file `trusted`"
    )]
    OtherVms {
        /// The peer.
        peer: Fingerprint,
        /// The VM.
        vm: String,
        /// With what it is trusted.
        scope: Scope,
    },
    /// Not any more.
    #[error("{}", .0.told_of(&"the peer"))]
    Distrusted(Distrust),
}

impl TrustStore {
    /// This host's own identity and all of the `trusted` file in `dir`.
    ///
    /// The same key at both ends is the same operator, so moves within one
    /// host need no further set-up.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        Identity::load(dir)?;
        Ok(Self {
            listed: Arc::new(Listed::read(dir)?),
            folder: Some(Arc::new(dir.to_owned())),
            only: None,
            held: Arc::default(),
        })
    }

    /// Exactly one peer: what an operator asked for by its fingerprint.
    pub fn only(peer: Fingerprint) -> Self {
        Self {
            listed: Arc::default(),
            folder: None,
            only: Some(peer),
            held: Arc::default(),
        }
    }

    /// Whether a peer that shows these certificates, its own first, is accepted.
    ///
    /// # Errors
    /// With why it is not.
    pub fn judge(&self, chain: &[CertificateDer<'_>], now: Moment) -> Result<(), Distrust> {
        let peer = leaf(chain);
        if self.held() == Some(peer) {
            return Ok(());
        }
        match self.only {
            Some(wanted) if wanted == peer => Ok(()),
            Some(wanted) => Err(Distrust::AnotherHost { peer, wanted }),
            None => self.scope(chain, now).map(|_| ()),
        }
    }

    /// Whether a peer that is accepted may have to do with the VM of this name. One that is in no
    /// list, but was asked for by its fingerprint, may.
    pub fn allow(
        &self,
        chain: &[CertificateDer<'_>],
        vm: &str,
        now: Moment,
    ) -> Result<(), NotAllowed> {
        match self.scope(chain, now) {
            Ok(Scope::Only(vms)) if !vms.iter().any(|name| name.as_str() == vm) => {
                Err(NotAllowed::OtherVms {
                    peer: leaf(chain),
                    vm: vm.to_owned(),
                    scope: Scope::Only(vms),
                })
            }
            Ok(_) => Ok(()),
            Err(Distrust::Stranger { .. } | Distrust::UnknownAuthority { .. }) => Ok(()),
            Err(why) => Err(NotAllowed::Distrusted(why)),
        }
    }

    /// From now on this peer is let in, whatever its certificate is worth: the VM that is under way
    /// must not depend on a date, or on an edit of a file. With `None`, nobody any more.
    pub(super) fn hold(&self, peer: Option<Fingerprint>) {
        *self.held.lock().expect("no panics under this lock") = peer;
    }

    fn held(&self) -> Option<Fingerprint> {
        *self.held.lock().expect("no panics under this lock")
    }

    fn scope(&self, chain: &[CertificateDer<'_>], now: Moment) -> Result<Scope, Distrust> {
        let as_loaded = self.listed.scope(chain, now);
        match (&as_loaded, &self.folder) {
            (Err(_), Some(folder)) => match Listed::read(folder) {
                Ok(listed) => listed.scope(chain, now),
                Err(_) => as_loaded,
            },
            _ => as_loaded,
        }
    }
}

impl Listed {
    fn read(dir: &Path) -> Result<Self, IdentityError> {
        let mut listed = Self::default();
        for line in TrustedPeer::load_all(dir)? {
            let (map, fingerprint) = match line.who {
                Trusted::Host(host) => (&mut listed.hosts, host),
                Trusted::Authority(authority) => (&mut listed.authorities, authority),
            };
            let scope = match map.remove(&fingerprint) {
                Some(before) => before.and(line.scope),
                None => line.scope,
            };
            map.insert(fingerprint, scope);
        }
        // Also the one that is to come: it may be in force at the other end already.
        for (certificate, _) in [IDENTITY, NEXT] {
            if let Ok(chain) = read_chain(&dir.join(certificate)) {
                listed.hosts.insert(leaf(&chain), Scope::AnyVm);
            }
        }
        Ok(listed)
    }

    /// With what these certificates are trusted. A host's own line counts before its CA's.
    fn scope(&self, chain: &[CertificateDer<'_>], now: Moment) -> Result<Scope, Distrust> {
        let peer = leaf(chain);
        if let Some(scope) = self.hosts.get(&peer) {
            return Ok(scope.clone());
        }
        let behind = chain.get(1..).unwrap_or_default();
        let Some(last) = behind.last() else {
            return Err(Distrust::Stranger { peer });
        };
        let mut found = Err(Distrust::UnknownAuthority {
            authority: Fingerprint::of(last),
        });
        for authority in behind {
            let Some(scope) = self.authorities.get(&Fingerprint::of(authority)) else {
                continue;
            };
            // More than one may have issued it: they count together.
            found = match (found, verify::issued(chain, authority, now)) {
                (Ok(before), Ok(())) => Ok(Scope::and(before, scope.clone())),
                (Err(_), Ok(())) => Ok(scope.clone()),
                (Ok(before), Err(_)) => Ok(before),
                (Err(_), Err(why)) => Err(why),
            };
        }
        found
    }
}

/// The fingerprint of the one whose certificates these are.
fn leaf(chain: &[CertificateDer<'_>]) -> Fingerprint {
    Fingerprint::of(chain.first().map_or(&[][..], |own| own))
}

/// Whether this CA, which a host shows behind its certificate, issued it: as [`TrustStore::judge`]
/// does for a CA that is trusted.
pub(super) fn is_issued(
    chain: &[CertificateDer<'_>],
    authority: &CertificateDer<'_>,
    now: Moment,
) -> Result<(), Distrust> {
    verify::issued(chain, authority, now)
}
