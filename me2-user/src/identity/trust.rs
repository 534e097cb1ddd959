//! The peers that this host trusts: whole files, read once at start.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Fingerprint, Identity, IdentityError, create_private_dir, file_error, read_bounded};

const TRUSTED_FILE: &str = "trusted";
const PEER_NAME_CHARACTERS_MAX: usize = 64;

/// The identities that are accepted as peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustStore {
    fingerprints: HashSet<Fingerprint>,
    /// Where to look again for a peer that is not among them: who was trusted a moment ago need
    /// not wait for a restart.
    folder: Option<PathBuf>,
}

/// A line of the `trusted` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedPeer {
    /// Who is trusted.
    pub fingerprint: Fingerprint,
    /// What the operator calls it; may be empty, carries no meaning.
    pub name: String,
}

impl TrustStore {
    /// This host's own identity and all of the `trusted` file in `dir`.
    ///
    /// The same key at both ends is the same operator, so moves within one
    /// host need no further set-up.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let own = Identity::load(dir)?.fingerprint();
        let peers = TrustedPeer::load_all(dir)?;
        let fingerprints = peers
            .iter()
            .map(|peer| peer.fingerprint)
            .chain([own])
            .collect();
        Ok(Self {
            fingerprints,
            folder: Some(dir.to_owned()),
        })
    }

    /// Exactly one peer: what an operator asked for by its fingerprint.
    pub fn only(peer: Fingerprint) -> Self {
        Self {
            fingerprints: HashSet::from([peer]),
            folder: None,
        }
    }

    /// Whether a peer with this identity is accepted.
    pub fn trusts(&self, peer: &Fingerprint) -> bool {
        let listed_now = |folder: &PathBuf| {
            TrustedPeer::load_all(folder)
                .is_ok_and(|peers| peers.iter().any(|listed| listed.fingerprint == *peer))
        };
        self.fingerprints.contains(peer) || self.folder.as_ref().is_some_and(listed_now)
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

/// Adds a peer to the `trusted` file in `dir`; says whether it was new.
///
/// A peer that is already there stays as it is, its name included.
pub fn trust(dir: &Path, peer: Fingerprint, name: &str) -> Result<bool, IdentityError> {
    check_name(name)?;
    if TrustedPeer::load_all(dir)?
        .iter()
        .any(|known| known.fingerprint == peer)
    {
        return Ok(false);
    }
    create_private_dir(dir)?;
    let path = dir.join(TRUSTED_FILE);
    // A file edited by hand may lack its last newline; empty lines mean nothing.
    let unfinished = path.exists() && !matches!(read_bounded(&path)?.last(), None | Some(b'\n'));
    let line = format!("{}{peer}  {name}\n", if unfinished { "\n" } else { "" });
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .map_err(file_error("write", &path))?;
    Ok(true)
}

fn parse_line(line: &str) -> Result<Option<TrustedPeer>, super::InvalidFingerprint> {
    let line = line
        .split_once('#')
        .map_or(line, |(before, _)| before)
        .trim();
    if line.is_empty() {
        return Ok(None);
    }
    let (fingerprint, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    Ok(Some(TrustedPeer {
        fingerprint: fingerprint.parse()?,
        name: name.trim().to_owned(),
    }))
}

fn check_name(name: &str) -> Result<(), IdentityError> {
    let printable = name
        .chars()
        .all(|c| (c.is_ascii_graphic() || c == ' ') && c != '#');
    if name.is_empty() || name.len() > PEER_NAME_CHARACTERS_MAX || !printable || name.trim() != name
    {
        return Err(IdentityError::PeerName {
            name: name.to_owned(),
        });
    }
    Ok(())
}
