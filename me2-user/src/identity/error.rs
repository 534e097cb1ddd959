//! Why an identity, a CA or the list of trusted peers is of no use.

use std::io;
use std::path::PathBuf;

use super::{Distrust, Scope, Trusted};

/// Why an identity or the list of trusted peers could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// There is no identity in the folder.
    #[error("no identity in {}; make one: me2 cert create", dir.display())]
    Missing {
        /// The folder that was searched.
        dir: PathBuf,
    },
    /// There is no CA in the folder.
    #[error("no CA in {}; make one: me2 cert ca", dir.display())]
    NoAuthority {
        /// The folder that was searched.
        dir: PathBuf,
    },
    /// There is no identity that could take this one's place.
    #[error("no next identity in {}; make one first: me2 cert rotate", dir.display())]
    NoNext {
        /// The folder that was searched.
        dir: PathBuf,
    },
    /// The identity was issued by a CA, and is renewed there.
    #[error(
        "this host's certificate was issued by a CA, to be renewed there: me2 cert issue {host}; then here: me2 cert install {host}"
    )]
    Issued {
        /// Whom it was issued to.
        host: String,
    },
    /// There is one already, and it was not to be replaced.
    #[error(
        "{} is already there; to replace it (peers must trust the new one): --force",
        path.display()
    )]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// A folder with a certificate to copy is there already.
    #[error("{} is already there; choose another folder: --out", path.display())]
    FolderExists {
        /// The folder.
        path: PathBuf,
    },
    /// The files do not hold a certificate and its key.
    #[error("{} is damaged ({reason}); make a new one, with --force", path.display())]
    Damaged {
        /// The file in question.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Others on this host can read the private key.
    #[error("{0} can be read by others (mode {mode:03o}); mend: chmod 600 {0}", path.display())]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What is to be installed is not what a CA issued, or not any more.
    #[error("{} cannot be installed: {}", path.display(), why.told_of(&"it"))]
    NotInstallable {
        /// The folder.
        path: PathBuf,
        /// Why hosts that trust the CA would not take it.
        why: Distrust,
    },
    /// What is to be installed was not issued by a CA.
    #[error("{} is not what me2 cert issue writes: it has no certificate of a CA", path.display())]
    NotIssued {
        /// The folder.
        path: PathBuf,
    },
    /// A line of the list of trusted peers cannot be understood.
    #[error("{} line {line}: {reason}", path.display())]
    TrustedLine {
        /// The list.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The peer is trusted already, with other VMs.
    #[error("{who} is trusted already, with {known}; to change that, edit the file `trusted`")]
    OtherScope {
        /// The peer, or the CA.
        who: Trusted,
        /// With what it is trusted.
        known: Scope,
    },
    /// The name given to a trusted peer cannot be written into the list.
    #[error(
        "invalid peer name {name:?}: 1 to 64 printable ASCII characters, no '#', and not vm= first"
    )]
    PeerName {
        /// The name as given.
        name: String,
    },
    /// Neither an option nor the environment says where the folder is.
    #[error("no configuration folder: set --config-dir, ME2_CONFIG_DIR or HOME")]
    NoFolder,
    /// The key could not be made or the certificate not signed.
    #[error("cannot make a certificate")]
    Generate(#[from] rcgen::Error),
    /// A file could not be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: "read", "write", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}
