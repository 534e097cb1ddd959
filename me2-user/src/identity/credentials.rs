//! Who a process is towards its peers, for as long as it lives.
//!
//! A VM may outlive the certificate that its process began with. So files that were replaced are read
//! again: by a source when a migration begins, by a receiver for each peer that comes. From when a VM
//! is under way to here until it is here, nothing of that changes: the source must find who it left,
//! and be let in again, whatever has become of files and dates meanwhile.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Fingerprint, IDENTITY, Identity, IdentityError, TrustStore};

/// An identity and whom it trusts.
#[derive(Debug)]
pub struct Credentials {
    folder: PathBuf,
    present: Mutex<Present>,
    trust: TrustStore,
}

#[derive(Debug)]
struct Present {
    identity: Arc<Identity>,
    /// What its files were when they were looked at last.
    seen: [Option<Stamp>; 2],
    is_held: bool,
}

/// By which a file that was written or replaced is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    written: (i64, i64),
}

impl Credentials {
    /// Reads the identity and the trusted peers in `folder`.
    pub fn load(folder: &Path) -> Result<Self, IdentityError> {
        let seen = stamps(folder);
        Ok(Self {
            folder: folder.to_owned(),
            present: Mutex::new(Present {
                identity: Arc::new(Identity::load(folder)?),
                seen,
                is_held: false,
            }),
            trust: TrustStore::load(folder)?,
        })
    }

    /// The identity as it is in the folder now, unless it is [held](Self::hold). One that cannot be
    /// read is told in the log, and the one before stays.
    pub fn identity(&self) -> Arc<Identity> {
        let mut present = self.present.lock().expect("no panics under this lock");
        let stamps = stamps(&self.folder);
        if present.is_held || stamps == present.seen {
            return present.identity.clone();
        }
        present.seen = stamps;
        match Identity::load(&self.folder) {
            Ok(identity) if identity.fingerprint() == present.identity.fingerprint() => {}
            Ok(identity) => {
                tracing::info!(identity = %identity.fingerprint(), "this host's identity was renewed");
                present.identity = Arc::new(identity);
            }
            Err(error) => {
                let error = anyhow::Error::from(error);
                tracing::warn!("the identity of before stays in use: {error:#}");
            }
        }
        present.identity.clone()
    }

    /// Who is trusted.
    pub fn trust(&self) -> &TrustStore {
        &self.trust
    }

    /// A VM is under way from this peer, to whom this host is `own`: both stay so until
    /// [`release`](Self::release).
    pub fn hold(&self, own: &Arc<Identity>, peer: Fingerprint) {
        let mut present = self.present.lock().expect("no panics under this lock");
        present.is_held = true;
        present.identity = own.clone();
        self.trust.hold(Some(peer));
    }

    /// It is here, or does not come.
    pub fn release(&self) {
        let mut present = self.present.lock().expect("no panics under this lock");
        present.is_held = false;
        // What was held may not be what the files had when they were seen last.
        present.seen = [None; 2];
        self.trust.hold(None);
    }
}

fn stamps(folder: &Path) -> [Option<Stamp>; 2] {
    [IDENTITY.0, IDENTITY.1].map(|name| {
        let file = fs::metadata(folder.join(name)).ok()?;
        Some(Stamp {
            inode: file.ino(),
            size: file.len(),
            written: (file.mtime(), file.mtime_nsec()),
        })
    })
}
