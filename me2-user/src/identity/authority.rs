//! A certificate authority in two files, and what it issues: a folder to be copied to a host.

use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::str::FromStr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;

use super::files::{
    PRIVATE, PUBLIC, create_private_dir, file_error, read_bounded, read_private, write_new,
};
use super::trust::is_issued;
use super::{
    Facts, Fingerprint, IDENTITY, Identity, IdentityError, Moment, Names, Scope, Trusted, Validity,
    is_there, read_chain, trust,
};

const AUTHORITY: Names = ("ca.pem", "ca.key");
/// As X.509 bounds common names.
const HOST_CHARACTERS_MAX: usize = 64;

/// A CA with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    facts: Facts,
    issuer: Issuer<'static, KeyPair>,
}

/// The name or the address of a host, as a certificate and a folder may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// The text is not a host's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a host: expected a name such as host-b or host-b.example.org, or an IP address")]
pub struct InvalidHost;

impl Authority {
    /// Makes a CA in `dir`, for all who can read its key to issue certificates with.
    ///
    /// With `force` one that is there is replaced; hosts must trust the new one then.
    pub fn create(
        dir: &Path,
        name: &str,
        validity: Validity,
        force: bool,
    ) -> Result<Self, IdentityError> {
        if !force && is_there(dir, AUTHORITY) {
            return Err(IdentityError::Exists {
                path: dir.join(AUTHORITY.0),
            });
        }
        create_private_dir(dir)?;
        let key = KeyPair::generate()?;
        let mut parameters = parameters(name, validity);
        // It issues to hosts alone, not to other CAs.
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = parameters.self_signed(&key)?;
        let (certificate_path, key_path) = (dir.join(AUTHORITY.0), dir.join(AUTHORITY.1));
        write_new(&key_path, key.serialize_pem().as_bytes(), PRIVATE, force)?;
        let pem = certificate.pem();
        write_new(&certificate_path, pem.as_bytes(), PUBLIC, force)?;
        Self::load(dir)
    }

    /// Reads the CA in `dir`.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        if !is_there(dir, AUTHORITY) {
            return Err(IdentityError::NoAuthority {
                dir: dir.to_owned(),
            });
        }
        let (certificate_path, key_path) = (dir.join(AUTHORITY.0), dir.join(AUTHORITY.1));
        let damaged = |path: &Path, reason: String| IdentityError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let (certificate, pem) = read_one(&certificate_path)?;
        let facts = Facts::of(&certificate).map_err(|why| damaged(&certificate_path, why))?;
        let key = String::from_utf8_lossy(&read_private(&key_path)?).into_owned();
        let key = KeyPair::from_pem(&key).map_err(|why| damaged(&key_path, why.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self {
            certificate,
            pem,
            facts,
            issuer,
        })
    }

    /// By which hosts know it.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// What its certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Issues a certificate to a host, not beyond the CA's own end, and writes it to a new folder with
    /// its key, to be copied there and [installed](install).
    pub fn issue(
        &self,
        host: &HostName,
        validity: Validity,
        folder: &Path,
    ) -> Result<Identity, IdentityError> {
        let until = validity.until.min(self.facts.validity.until);
        let mut parameters = parameters(&host.0, Validity { until, ..validity });
        parameters.subject_alt_names = CertificateParams::new([host.0.clone()])?.subject_alt_names;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // A host is the server of one migration and the client of the next.
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let chain = certificate.pem() + &self.pem;

        let made = DirBuilder::new().mode(0o700).create(folder);
        made.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => IdentityError::FolderExists {
                path: folder.to_owned(),
            },
            _ => file_error("create", folder)(error),
        })?;
        let (certificate_path, key_path) = (folder.join(IDENTITY.0), folder.join(IDENTITY.1));
        write_new(&key_path, key.serialize_pem().as_bytes(), PRIVATE, false)?;
        write_new(&certificate_path, chain.as_bytes(), PUBLIC, false)?;
        Identity::load(folder)
    }
}

/// Puts what a CA issued, in `folder`, in the place of the identity in `dir`, and trusts that CA with
/// `scope`. Gives the identity.
///
/// # Errors
/// Also if it is not valid now, and without `force` if it would replace an identity that no CA issued:
/// peers may have pinned that one.
pub fn install(
    folder: &Path,
    dir: &Path,
    scope: &Scope,
    force: bool,
) -> Result<Identity, IdentityError> {
    let issued = Identity::load(folder)?;
    let chain = &issued.certified().cert;
    let authority = match &chain[..] {
        [_, .., authority] => authority,
        _ => {
            return Err(IdentityError::NotIssued {
                path: folder.to_owned(),
            });
        }
    };
    is_issued(chain, authority, Moment::now()).map_err(|why| IdentityError::NotInstallable {
        path: folder.to_owned(),
        why,
    })?;
    let (certificate_path, key_path) = (dir.join(IDENTITY.0), dir.join(IDENTITY.1));
    let replaces_pinned = || Identity::load(dir).is_ok_and(|own| own.authority().is_none());
    if !force && is_there(dir, IDENTITY) && replaces_pinned() {
        return Err(IdentityError::Exists {
            path: certificate_path,
        });
    }
    let (key, certificate) = (
        read_private(&folder.join(IDENTITY.1))?,
        read_bounded(&folder.join(IDENTITY.0))?,
    );
    create_private_dir(dir)?;
    trust(
        dir,
        Trusted::Authority(Fingerprint::of(authority)),
        "the CA of this host",
        scope,
    )?;
    write_new(&key_path, &key, PRIVATE, true)?;
    write_new(&certificate_path, &certificate, PUBLIC, true)?;
    Identity::load(dir)
}

/// The only certificate in a file, and the file's text.
fn read_one(path: &Path) -> Result<(CertificateDer<'static>, String), IdentityError> {
    let mut chain = read_chain(path)?;
    let text = String::from_utf8_lossy(&read_bounded(path)?).into_owned();
    match (chain.pop(), chain.len()) {
        (Some(certificate), 0) => Ok((certificate, text)),
        (_, others) => Err(IdentityError::Damaged {
            path: path.to_owned(),
            reason: format!("{} certificates instead of one", others + 1),
        }),
    }
}

fn parameters(name: &str, validity: Validity) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = validity.from.date();
    parameters.not_after = validity.until.date();
    parameters
}

impl FromStr for HostName {
    type Err = InvalidHost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_address = text.parse::<IpAddr>().is_ok();
        let is_label = |label: &str| {
            let plain = label
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || c == b'-');
            (1..=63).contains(&label.len()) && plain && !label.starts_with('-')
        };
        let is_name = text.len() <= HOST_CHARACTERS_MAX && text.split('.').all(is_label);
        match is_address || is_name {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidHost),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
