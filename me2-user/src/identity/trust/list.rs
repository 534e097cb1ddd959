//! The `trusted` file: a line a peer or a CA, in any order, to be edited by hand as well.

use std::fmt;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use crate::control::socket::VmName;

use super::super::files::{create_private_dir, file_error, read_bounded};
use super::super::{Fingerprint, IdentityError, InvalidFingerprint};

const TRUSTED_FILE: &str = "trusted";
/// Before the fingerprint of a CA.
const AUTHORITY_PREFIX: &str = "ca:";
/// Before the names of the VMs that a peer is trusted with, in a line of the file.
const VMS_PREFIX: &str = "vm=";
const PEER_NAME_CHARACTERS_MAX: usize = 64;

/// Whom a line of the file trusts. Written as its fingerprint, that of a CA with `ca:` before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trusted {
    /// One host.
    Host(Fingerprint),
    /// Every host that this CA issued a certificate to.
    Authority(Fingerprint),
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
    pub who: Trusted,
    /// What the operator calls it; may be empty, carries no meaning.
    pub name: String,
    /// With which VMs.
    pub scope: Scope,
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

/// Adds a peer or a CA to the `trusted` file in `dir`; says whether it was new.
///
/// A peer that is already there stays as it is, its name included.
///
/// # Errors
/// Also if it is there, and trusted with other VMs than these.
pub fn trust(dir: &Path, who: Trusted, name: &str, scope: &Scope) -> Result<bool, IdentityError> {
    check_name(name)?;
    let lines = TrustedPeer::load_all(dir)?;
    let of_who = lines.into_iter().filter(|line| line.who == who);
    if let Some(known) = of_who.map(|line| line.scope).reduce(Scope::and) {
        return match known == *scope {
            true => Ok(false),
            false => Err(IdentityError::OtherScope { who, known }),
        };
    }
    create_private_dir(dir)?;
    let path = dir.join(TRUSTED_FILE);
    // A file edited by hand may lack its last newline; empty lines mean nothing.
    let unfinished = path.exists() && !matches!(read_bounded(&path)?.last(), None | Some(b'\n'));
    let start = if unfinished { "\n" } else { "" };
    let line = match scope {
        Scope::AnyVm => format!("{start}{who}  {name}\n"),
        Scope::Only(_) => format!("{start}{who}  {scope}  {name}\n"),
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
    /// What two lines trust a peer with together.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Only(mut vms), Self::Only(more)) => {
                vms.extend(more);
                Self::Only(vms)
            }
            _ => Self::AnyVm,
        }
    }

    /// These VMs, or with none named, any.
    pub fn of(vms: Vec<VmName>) -> Self {
        match vms.is_empty() {
            true => Self::AnyVm,
            false => Self::Only(vms),
        }
    }
}

impl fmt::Display for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(fingerprint) => fingerprint.fmt(f),
            Self::Authority(fingerprint) => write!(f, "{AUTHORITY_PREFIX}{fingerprint}"),
        }
    }
}

impl FromStr for Trusted {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix(AUTHORITY_PREFIX) {
            Some(fingerprint) => fingerprint.parse().map(Self::Authority),
            None => text.parse().map(Self::Host),
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
    let (who, mut name) = first_word(line);
    let mut scope = Scope::AnyVm;
    if name.starts_with(VMS_PREFIX) {
        let (word, rest) = first_word(&name);
        let vms = word[VMS_PREFIX.len()..].split(',').map(str::parse);
        scope = Scope::Only(vms.collect::<Result<_, _>>()?);
        name = rest;
    }
    Ok(Some(TrustedPeer {
        who: who.parse()?,
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
