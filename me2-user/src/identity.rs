//! Who this host is to others, and whom it trusts.
//!
//! There is no authority to ask and nothing to renew: an identity is a
//! self-signed certificate, known by the SHA-256 of its DER bytes, as SSH host
//! keys are. Two hosts that are to exchange virtual machines each name the
//! other's fingerprint once.
//!
//! ```text
//! ~/.config/me2/
//!   identity.pem   the certificate: public
//!   identity.key   the private key: mode 0600
//!   trusted        "sha256:HEX  NAME" a line, "#" starts a comment; with "vm=NAME,NAME"
//!                  before the name, trusted with these VMs alone
//! ```

mod fingerprint;
mod folder;
mod trust;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub use fingerprint::{Fingerprint, InvalidFingerprint};
pub use folder::config_dir;
pub use trust::{NotForThisVm, Scope, TrustStore, TrustedPeer, trust};

const CERTIFICATE_FILE: &str = "identity.pem";
const KEY_FILE: &str = "identity.key";

/// The largest identity file that is read, in bytes; a real one has less than 2 KiB.
const IDENTITY_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The identity of this host: a certificate and its private key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    fingerprint: Fingerprint,
}

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
    /// There is one already, and it was not to be replaced.
    #[error(
        "{} is already there; to replace it (peers must trust the new one): me2 cert create --force",
        path.display()
    )]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// The files do not hold a certificate and its key.
    #[error("{} is damaged ({reason}); make a new identity: me2 cert create --force", path.display())]
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
    #[error("{peer} is trusted already, with {known}; to change that, edit the file `trusted`")]
    OtherScope {
        /// The peer.
        peer: Fingerprint,
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
    #[error("cannot make an identity")]
    Generate(#[source] rcgen::Error),
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

impl Identity {
    /// Makes a new identity in `dir`, which is created (mode 0700) if absent.
    ///
    /// With `force` an identity that is there is replaced; without, it is left
    /// alone and [`IdentityError::Exists`] returned.
    pub fn create(dir: &Path, force: bool) -> Result<Self, IdentityError> {
        let key_path = dir.join(KEY_FILE);
        let certificate_path = dir.join(CERTIFICATE_FILE);
        if !force
            && let Some(path) = [&key_path, &certificate_path]
                .into_iter()
                .find(|p| p.exists())
        {
            return Err(IdentityError::Exists { path: path.clone() });
        }
        create_private_dir(dir)?;

        let key = rcgen::KeyPair::generate().map_err(IdentityError::Generate)?;
        let certificate = self_signed(&key).map_err(IdentityError::Generate)?;
        write_new(&key_path, key.serialize_pem().as_bytes(), 0o600, force)?;
        write_new(
            &certificate_path,
            certificate.pem().as_bytes(),
            0o644,
            force,
        )?;
        Self::load(dir)
    }

    /// Reads the identity in `dir` and checks that key and certificate belong together.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let certificate_path = dir.join(CERTIFICATE_FILE);
        let key_path = dir.join(KEY_FILE);
        if !certificate_path.exists() && !key_path.exists() {
            return Err(IdentityError::Missing {
                dir: dir.to_owned(),
            });
        }
        let damaged = |path: &Path, reason: String| IdentityError::Damaged {
            path: path.to_owned(),
            reason,
        };

        let pem = read_bounded(&certificate_path)?;
        let certificate = CertificateDer::from_pem_slice(&pem)
            .map_err(|error| damaged(&certificate_path, error.to_string()))?;
        let pem = read_private(&key_path)?;
        let key = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|error| damaged(&key_path, error.to_string()))?;
        check_pair(&certificate, &key).map_err(|reason| damaged(&key_path, reason))?;

        let fingerprint = Fingerprint::of(&certificate);
        Ok(Self {
            certificate,
            key,
            fingerprint,
        })
    }

    /// The SHA-256 of the certificate's DER bytes, by which peers know this host.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate, as it is shown to peers.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A copy of the private key, for a TLS configuration.
    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
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

/// The name in the certificate carries no meaning: peers are pinned, not named.
fn self_signed(key: &rcgen::KeyPair) -> Result<rcgen::Certificate, rcgen::Error> {
    let mut parameters = rcgen::CertificateParams::new(vec!["me2".to_owned()])?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "me2 host");
    parameters.self_signed(key)
}

fn check_pair(
    certificate: &CertificateDer<'static>,
    key: &PrivateKeyDer<'static>,
) -> Result<(), String> {
    let provider = rustls::crypto::ring::default_provider();
    rustls::sign::CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider)
        .map(|_| ())
        .map_err(|error| error.to_string())
}

/// Reads a file that nobody but its owner can open.
fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = fs::File::open(path).map_err(file_error("read", path))?;
    let metadata = file.metadata().map_err(file_error("inspect", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    read_opened(file, path)
}

fn create_private_dir(dir: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file_error("create", dir))
}

/// Writes a file that did not exist, or with `replace` puts a new one in its place in one step.
fn write_new(path: &Path, content: &[u8], mode: u32, replace: bool) -> Result<(), IdentityError> {
    let target = if replace {
        path.with_extension("new")
    } else {
        path.to_owned()
    };
    if replace {
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", &target)(error));
            }
            _ => {}
        }
    }
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&target)?;
        file.write_all(content)?;
        file.sync_all()?;
        if replace {
            fs::rename(&target, path)
        } else {
            Ok(())
        }
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists {
            path: path.to_owned(),
        },
        _ => file_error("write", path)(error),
    })
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = fs::File::open(path).map_err(file_error("read", path))?;
    read_opened(file, path)
}

fn read_opened(file: fs::File, path: &Path) -> Result<Vec<u8>, IdentityError> {
    use std::io::Read;

    let mut content = Vec::new();
    file.take(IDENTITY_FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(file_error("read", path))?;
    if content.len() as u64 > IDENTITY_FILE_BYTES_MAX {
        return Err(IdentityError::Damaged {
            path: path.to_owned(),
            reason: format!("larger than {IDENTITY_FILE_BYTES_MAX} bytes"),
        });
    }
    Ok(content)
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests;
