//! What a certificate says of itself. Only certificates of this host, of its operator, or with a
//! fingerprint that is trusted are read this way; what a stranger shows is not.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

/// Longest name that is shown.
const NAME_CHARACTERS_MAX: usize = 64;
const SECONDS_PER_DAY: i64 = 24 * 3600;

/// What a certificate says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Whose it is: the common name, of printable ASCII.
    pub subject: String,
    /// Who issued it; `None`: it is self-signed.
    pub issuer: Option<String>,
    /// Whether it may issue others.
    pub is_authority: bool,
    /// When.
    pub validity: Validity,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// From this second on.
    pub from: Moment,
    /// To this one.
    pub until: Moment,
}

/// Seconds since 1970, UTC. Shown as RFC 3339 has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub i64);

impl Facts {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn of(certificate_der: &[u8]) -> Result<Self, String> {
        let (rest, certificate) =
            X509Certificate::from_der(certificate_der).map_err(|error| error.to_string())?;
        if !rest.is_empty() {
            return Err("there is more behind the certificate".to_owned());
        }
        let (subject, issuer) = (certificate.subject(), certificate.issuer());
        let signs = certificate
            .key_usage()
            .map_err(|error| error.to_string())?
            .is_none_or(|usage| usage.value.key_cert_sign());
        let validity = certificate.validity();
        Ok(Self {
            subject: common_name(subject),
            issuer: (subject.as_raw() != issuer.as_raw()).then(|| common_name(issuer)),
            is_authority: certificate.is_ca() && signs,
            validity: Validity {
                from: Moment(validity.not_before.timestamp()),
                until: Moment(validity.not_after.timestamp()),
            },
        })
    }
}

impl Validity {
    /// For so many days from now on. It begins an hour ago: clocks differ.
    pub fn days(days: u32) -> Self {
        let now = Moment::now();
        Self {
            from: Moment(now.0 - 3600),
            until: Moment(now.0 + i64::from(days) * SECONDS_PER_DAY),
        }
    }

    /// Whole days left; below 0, it has expired.
    pub fn days_left(&self, now: Moment) -> i64 {
        (self.until.0 - now.0).div_euclid(SECONDS_PER_DAY)
    }
}

impl Moment {
    /// By this host's clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(since.map_or(0, |time| time.as_secs() as i64))
    }

    /// The same, for libraries.
    pub(super) fn date(self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.date().format(&Rfc3339) {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{} s after 1970", self.0),
        }
    }
}

/// A certificate may hold anything: what is shown cannot move a terminal's cursor.
fn common_name(name: &X509Name<'_>) -> String {
    let text = name.iter_common_name().next();
    let text = text.and_then(|name| name.as_str().ok()).unwrap_or_default();
    text.chars()
        .filter(|c| c.is_ascii_graphic() || *c == ' ')
        .take(NAME_CHARACTERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_down() {
        let validity = Validity {
            from: Moment(0),
            until: Moment(10 * SECONDS_PER_DAY),
        };
        for (now, left) in [(0, 10), (1, 9), (10 * SECONDS_PER_DAY, 0)] {
            assert_eq!(validity.days_left(Moment(now)), left, "{now}");
        }
        assert_eq!(validity.days_left(Moment(10 * SECONDS_PER_DAY + 1)), -1);
        let days = Validity::days(3);
        assert_eq!(days.days_left(Moment(days.from.0 + 3600)), 3);
    }

    #[test]
    fn moments_read_well() {
        assert_eq!(Moment(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(Moment(951_782_400).to_string(), "2000-02-29T00:00:00Z");
        assert!(!Moment(i64::MAX).to_string().is_empty());
    }

    #[test]
    fn what_is_no_certificate_is_an_error() {
        for bytes in [&b""[..], b"peer", &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]] {
            assert!(Facts::of(bytes).is_err(), "{bytes:?}");
        }
    }
}
