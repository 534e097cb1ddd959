//! The peers that this host trusts: whole files, read once at start.

use std::collections::HashMap;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::control::socket::VmName;

use super::{Fingerprint, Identity, IdentityError, create_private_dir, file_error, read_bounded};

const TRUSTED_FILE: &str = "trusted";
/// Before the names of the VMs that a peer is trusted with, in a line of the file.
const VMS_PREFIX: &str = "vm=";
const PEER_NAME_CHARACTERS_MAX: usize = 64;

/// The identities that are accepted as peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustStore {
    peers: HashMap<Fingerprint, Scope>,
    /// Where to look again for a peer that is not among them: who was trusted a moment ago need
    /// not wait for a restart.
    folder: Option<PathBuf>,
}

/// The VMs that a peer is trusted with: it may send these here, and get them from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All.
    AnyVm,
    /// These alone; never none.
    Only(Vec<VmName>),
}

/// A line of the `trusted` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedPeer {
    /// Who is trusted.
    pub fingerprint: Fingerprint,
    /// What the operator calls it; may be empty, carries no meaning.
    pub name: String,
    /// With which VMs.
    pub scope: Scope,
}

impl TrustStore {
    /// This host's own identity and all of the `trusted` file in `dir`.
    ///
    /// The same key at both ends is the same operator, so moves within one
    /// host need no further set-up.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let own = Identity::load(dir)?.fingerprint();
        let peers = TrustedPeer::load_all(dir)?;
        let mut by_fingerprint = scopes(peers);
        by_fingerprint.insert(own, Scope::AnyVm);
        Ok(Self {
            peers: by_fingerprint,
            folder: Some(dir.to_owned()),
        })
    }

    /// Exactly one peer: what an operator asked for by its fingerprint.
    pub fn only(peer: Fingerprint) -> Self {
        Self {
            peers: HashMap::from([(peer, Scope::AnyVm)]),
            folder: None,
        }
    }

    /// Whether a peer with this identity is accepted.
    pub fn trusts(&self, peer: &Fingerprint) -> bool {
        self.peers.contains_key(peer) || self.listed_now(peer).is_some()
    }

    /// Whether a peer that is accepted may have to do with the VM of this name. One that is in no
    /// list, but was asked for by its fingerprint, may.
    pub fn allow(&self, peer: &Fingerprint, vm: &str) -> Result<(), NotForThisVm> {
        let as_loaded = || self.peers.get(peer).cloned();
        match as_loaded().or_else(|| self.listed_now(peer)) {
            Some(Scope::Only(vms)) if !vms.iter().any(|name| name.as_str() == vm) => {
                Err(NotForThisVm {
                    peer: *peer,
                    vm: vm.to_owned(),
                    scope: Scope::Only(vms),
                })
            }
            _ => Ok(()),
        }
    }

    fn listed_now(&self, peer: &Fingerprint) -> Option<Scope> {
        let peers = TrustedPeer::load_all(self.folder.as_ref()?).ok()?;
        scopes(peers).remove(peer)
    }
}

impl TrustedPeer {
    /// Reads the `trusted` file in `dir`, in its order; none is the same as an empty one.
    pub fn load_all(dir: &Path) -> Result<Vec<Self>, IdentityError> {
        let path = dir.join(TRUSTED_FILE);
        if !path.exists() {
            return Ok(Vec::new());
        }
        let content = read_bounded(&path)?;
        let line_error = |index: usize, reason: String| IdentityError::TrustedLine {
            path: path.clone(),
            line: index + 1,
            reason,
        };
        let mut peers = Vec::new();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            let line =
                std::str::from_utf8(line).map_err(|error| line_error(index, error.to_string()))?;
            let peer = parse_line(line).map_err(|error| line_error(index, error.to_string()))?;
            peers.extend(peer);
        }
        Ok(peers)
    }
}

/// A peer is trusted, but not with this VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{peer} is trusted with {scope} alone, not with the VM {vm}; to change that, edit the file `trusted`"
)]
pub struct NotForThisVm {
    /// The peer.
    pub peer: Fingerprint,
    /// The VM.
    pub vm: String,
    /// With what it is trusted.
    pub scope: Scope,
}

/// Adds a peer to the `trusted` file in `dir`; says whether it was new.
///
/// A peer that is already there stays as it is, its name included.
///
/// # Errors
/// Also if it is there, and trusted with other VMs than these.
pub fn trust(
    dir: &Path,
    peer: Fingerprint,
    name: &str,
    scope: &Scope,
) -> Result<bool, IdentityError> {
    check_name(name)?;
    if let Some(known) = scopes(TrustedPeer::load_all(dir)?).remove(&peer) {
        return match known == *scope {
            true => Ok(false),
            false => Err(IdentityError::OtherScope { peer, known }),
        };
    }
    create_private_dir(dir)?;
    let path = dir.join(TRUSTED_FILE);
    // A file edited by hand may lack its last newline; empty lines mean nothing.
    let unfinished = path.exists() && !matches!(read_bounded(&path)?.last(), None | Some(b'\n'));
    let start = if unfinished { "\n" } else { "" };
    let line = match scope {
        Scope::AnyVm => format!("{start}{peer}  {name}\n"),
        Scope::Only(_) => format!("{start}{peer}  {scope}  {name}\n"),
    };
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(file_error("write", &path))?;
    Ok(true)
}

/// With what each peer is trusted, by all of its lines together.
fn scopes(peers: Vec<TrustedPeer>) -> HashMap<Fingerprint, Scope> {
    let mut scopes: HashMap<Fingerprint, Scope> = HashMap::new();
    for peer in peers {
        let together = match (scopes.remove(&peer.fingerprint), peer.scope) {
            (Some(Scope::Only(mut vms)), Scope::Only(more)) => {
                vms.extend(more);
                Scope::Only(vms)
            }
            (None, scope) => scope,
            (Some(_), _) => Scope::AnyVm,
        };
        scopes.insert(peer.fingerprint, together);
    }
    scopes
}

/// As it stands in the file.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyVm => f.write_str("any VM"),
            Self::Only(vms) => {
                let names: Vec<_> = vms.iter().map(VmName::as_str).collect();
                write!(f, "{VMS_PREFIX}{}", names.join(","))
            }
        }
    }
}

impl Scope {
    /// These VMs, or with none named, any.
    pub fn of(vms: Vec<VmName>) -> Self {
        match vms.is_empty() {
            true => Self::AnyVm,
            false => Self::Only(vms),
        }
    }
}

fn parse_line(line: &str) -> anyhow::Result<Option<TrustedPeer>> {
    let line = line
        .split_once('#')
        .map_or(line, |(before, _)| before)
        .trim();
    if line.is_empty() {
        return Ok(None);
    }
    let first_word = |text: &'_ str| -> (String, String) {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        (word.to_owned(), rest.trim().to_owned())
    };
    let (fingerprint, mut name) = first_word(line);
    let mut scope = Scope::AnyVm;
    if name.starts_with(VMS_PREFIX) {
        let (word, rest) = first_word(&name);
        let vms = word[VMS_PREFIX.len()..].split(',').map(str::parse);
        scope = Scope::Only(vms.collect::<Result<_, _>>()?);
        name = rest;
    }
    Ok(Some(TrustedPeer {
        fingerprint: fingerprint.parse()?,
        name,
        scope,
    }))
}

fn check_name(name: &str) -> Result<(), IdentityError> {
    let printable = name
        .chars()
        .all(|c| (c.is_ascii_graphic() || c == ' ') && c != '#');
    let is_bounded = (1..=PEER_NAME_CHARACTERS_MAX).contains(&name.len());
    if !is_bounded || !printable || name.trim() != name || name.starts_with(VMS_PREFIX) {
        return Err(IdentityError::PeerName {
            name: name.to_owned(),
        });
    }
    Ok(())
}
