//! Whether a CA issued a certificate to a host: chain, signatures, dates, purposes and name
//! constraints as webpki checks them (RFC 5280, section 6).

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
    anchor_from_trusted_cert,
};

use super::super::{CHAIN_MAX, Dated, Distrust, Facts, Moment};

/// RFC 5280, section 4.2.1.12: `id-kp-serverAuth` and `id-kp-clientAuth`.
const SERVER: [usize; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT: [usize; 9] = [1, 3, 6, 1, 5, 5, 7, 3, 2];

/// Checks that the first of these certificates was issued by this CA, whose fingerprint is trusted, by
/// way of others of them or at once, and that all are valid now.
pub fn issued(
    chain: &[CertificateDer<'_>],
    authority: &CertificateDer<'_>,
    now: Moment,
) -> Result<(), Distrust> {
    let no_host = |reason: String| Distrust::NoHost { reason };
    let bad = |error: Error| no_host(format!("{error:?}"));
    let (own, behind) = chain
        .split_first()
        .filter(|(_, behind)| behind.len() < CHAIN_MAX)
        .ok_or_else(|| no_host(format!("{} certificates", chain.len())))?;
    check_authority(authority, now)?;
    let anchor = [anchor_from_trusted_cert(authority).map_err(bad)?];
    let time = UnixTime::since_unix_epoch(Duration::from_secs(now.0.max(0) as u64));
    EndEntityCert::try_from(own)
        .map_err(bad)?
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            &anchor,
            behind,
            time,
            BothEnds,
            None,
            None,
        )
        .map(|_| ())
        .map_err(|error| match error {
            Error::CertExpired { not_after, .. } => Distrust::Expired {
                what: Dated::Host,
                since: Moment(not_after.as_secs() as i64),
            },
            Error::CertNotValidYet { not_before, .. } => Distrust::NotYetValid {
                what: Dated::Host,
                from: Moment(not_before.as_secs() as i64),
            },
            other => bad(other),
        })
}

/// What webpki leaves to whoever trusts a CA: whether it is one, and its dates.
fn check_authority(authority: &CertificateDer<'_>, now: Moment) -> Result<(), Distrust> {
    let facts = Facts::of(authority).map_err(|reason| Distrust::NoHost { reason })?;
    if !facts.is_authority {
        let reason = "what is trusted as a CA is none".to_owned();
        return Err(Distrust::NoHost { reason });
    }
    let (from, until) = (facts.validity.from, facts.validity.until);
    let what = Dated::Authority;
    match () {
        () if now > until => Err(Distrust::Expired { what, since: until }),
        () if now < from => Err(Distrust::NotYetValid { what, from }),
        () => Ok(()),
    }
}

/// A host is the server of one migration and the client of the next: a certificate that states its
/// purposes must have both.
struct BothEnds;

impl ExtendedKeyUsageValidator for BothEnds {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        let purposes: Vec<Vec<usize>> = purposes
            .map(|purpose| purpose.map(|purpose| purpose.to_decoded_oid()))
            .collect::<Result<_, _>>()?;
        let lacks = |wanted: &[usize]| !purposes.iter().any(|purpose| purpose == wanted);
        match purposes.is_empty() || !(lacks(&SERVER) || lacks(&CLIENT)) {
            true => Ok(()),
            false => Err(Error::RequiredEkuNotFoundContext(
                webpki::RequiredEkuNotFoundContext {
                    required: KeyUsage::server_auth(),
                    present: purposes,
                },
            )),
        }
    }
}
