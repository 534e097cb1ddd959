//! What clients ask for.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{identity::Fingerprint, report::Mode};

/// The body of `POST /v1/migrate`. Fields that are not known are refused: a
/// limit that is not kept must not be taken for one that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MigrateRequest {
    /// Where the destination listens: `ADDRESS:PORT` or `HOST:PORT`.
    pub to: String,
    /// How the memory travels.
    #[serde(default)]
    pub mode: Mode,
    /// The most that the migration may send, in every phase and with all headers, together with others
    /// of this host that have a cap; none: as much as the link takes.
    #[serde(default)]
    pub max_bandwidth_bytes_per_second: Option<u64>,
    /// The longest that pre-copy may take before the VM is stopped; a pass at hand is cut short.
    #[serde(default)]
    pub precopy_limit_ms: Option<u64>,
    /// The downtime that pre-copy aims at before it stops the VM; for a hybrid, what bounds the
    /// pages that go with the handover.
    #[serde(default)]
    pub downtime_limit_ms: Option<u64>,
    /// The most that exploration may cost the guest while it goes on, percent of its vCPUs' time; 0: no
    /// looks at what it writes during a pass, none at what it works with; none: 8.
    #[serde(default)]
    pub guest_slowdown_max_percent: Option<u8>,
    /// When a migration that has not handed over yet is given up.
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// For how long the source tries to connect again by itself when the link breaks after the
    /// handover; 0: not at all.
    #[serde(default = "recover_limit_ms")]
    pub recover_limit_ms: u64,
    /// Whether the vCPUs wait at the destination until the whole memory has been compared.
    #[serde(default)]
    pub verify_full: bool,
    /// The only identity that the destination may have; none: any that is trusted.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "sha256:…")]
    pub peer: Option<Fingerprint>,
    /// How pages are compressed.
    #[serde(default)]
    #[schema(value_type = String, example = "zstd:3")]
    pub codec: CodecChoice,
    /// Parts of exploration and encoding that are left out, for comparisons.
    #[serde(default)]
    pub without: Vec<Part>,
    /// Plain pre-copy stops the VM once at most so many pages are left, whatever the downtime.
    #[serde(default)]
    pub stop_below_pages: Option<u64>,
}

/// How pages are compressed. Written as the command line spells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum CodecChoice {
    /// What is soonest across, by the speed of encoders and link.
    #[default]
    Auto,
    /// Run-length encoded, never compressed further.
    Rle,
    /// Every page as it is, zero pages too.
    Raw,
    /// Always zstd, at this level.
    Zstd(i32),
}

/// Levels of zstd that are taken: those below only lose, those above take minutes.
pub const ZSTD_LEVELS: RangeInclusive<i32> = -50..=19;

impl FromStr for CodecChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = |text: &str| {
            text.parse()
                .ok()
                .filter(|level| ZSTD_LEVELS.contains(level))
        };
        match (text, text.strip_prefix("zstd:").and_then(level)) {
            ("auto", _) => Ok(Self::Auto),
            ("rle", _) => Ok(Self::Rle),
            ("raw", _) => Ok(Self::Raw),
            (_, Some(level)) => Ok(Self::Zstd(level)),
            _ => Err(format!(
                "auto, rle, raw or zstd:LEVEL, with a level from {} to {}",
                ZSTD_LEVELS.start(),
                ZSTD_LEVELS.end()
            )),
        }
    }
}

impl TryFrom<String> for CodecChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<CodecChoice> for String {
    fn from(choice: CodecChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for CodecChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Rle => f.write_str("rle"),
            Self::Raw => f.write_str("raw"),
            Self::Zstd(level) => write!(f, "zstd:{level}"),
        }
    }
}

/// A part of exploration or encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Leaving out memory that was never populated
    Holes,
    /// Zero pages as nothing but "zero"
    Zero,
    /// Run-length encoding
    Rle,
    /// Differences to what the destination has
    Delta,
    /// References to pages with the same content
    Duplicates,
    /// Compression of chunks
    Zstd,
    /// Choosing the effort of compression by what the link takes
    Adaptive,
    /// How often pages are written: which go last in pre-copy or not again, and which with the
    /// handover
    Heat,
    /// What the probes know: which pages go first in post-copy
    Probes,
    /// Finding out what the guest works with where pages will be missing when it resumes
    WorkingSet,
}

/// What exploration may cost the guest if nothing is said, percent of its time.
const GUEST_SLOWDOWN_MAX_PERCENT: u8 = 8;

/// For how long a source connects again by itself, unless it is told.
const fn recover_limit_ms() -> u64 {
    5 * 60 * 1000
}

/// The longest `to` that is taken: a DNS name has at most 253 characters.
const TARGET_CHARACTERS_MAX: usize = 300;

impl MigrateRequest {
    /// A request with no limits, in the default mode.
    pub fn to(target: impl Into<String>) -> Self {
        Self {
            to: target.into(),
            mode: Mode::default(),
            max_bandwidth_bytes_per_second: None,
            precopy_limit_ms: None,
            downtime_limit_ms: None,
            guest_slowdown_max_percent: None,
            timeout_s: None,
            recover_limit_ms: recover_limit_ms(),
            verify_full: false,
            peer: None,
            codec: CodecChoice::default(),
            without: Vec::new(),
            stop_below_pages: None,
        }
    }

    /// The share of the guest's time that exploration may cost while it goes on.
    pub fn guest_slowdown_max(&self) -> f64 {
        let percent = self.guest_slowdown_max_percent;
        f64::from(percent.unwrap_or(GUEST_SLOWDOWN_MAX_PERCENT)) / 100.0
    }

    /// Whether it makes sense, whatever the state of the VM: if not, what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let port = self.to.rsplit_once(':').and_then(|(host, port)| {
            let is_plausible = !host.is_empty() && self.to.len() <= TARGET_CHARACTERS_MAX;
            port.parse::<u16>()
                .ok()
                .filter(|port| is_plausible && *port != 0)
        });
        if port.is_none() {
            return Err("the destination must be ADDRESS:PORT or HOST:PORT".to_owned());
        }
        if self.guest_slowdown_max_percent > Some(100) {
            return Err("the guest cannot be slowed down by more than 100%".to_owned());
        }
        let limits = [
            ("bandwidth", self.max_bandwidth_bytes_per_second),
            ("pre-copy", self.precopy_limit_ms),
            ("downtime", self.downtime_limit_ms),
            ("time", self.timeout_s),
        ];
        match limits.iter().find(|(_, limit)| *limit == Some(0)) {
            Some((name, _)) => Err(format!("the {name} limit must not be 0")),
            None => Ok(()),
        }
    }
}

/// The body of `POST /v1/recover`; empty is all false.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// Take the VM back as it was when it stopped, instead of connecting again.
    #[serde(default)]
    pub resume_here: bool,
    /// The operator's word that the destination is dead and can never run the VM again.
    #[serde(default)]
    pub destination_is_fenced: bool,
    /// At the destination: the operator's word that the source is dead and can never run the VM again.
    /// A VM that has all its pages then need not wait for it.
    #[serde(default)]
    pub source_is_fenced: bool,
}

impl RecoverRequest {
    /// Whether it makes sense, whatever the state of the VM: if not, what is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.resume_here, self.destination_is_fenced) {
            (false, false) => Ok(()),
            _ if self.source_is_fenced => {
                Err("--source-is-fenced is said at the destination, and by itself")
            }
            (true, false) => Err(
                "the VM may still run at the destination: make sure that it cannot (kill that process, \
                 or cut that host's power), then say so with --destination-is-fenced",
            ),
            (false, true) => Err("--destination-is-fenced means something only with --resume-here"),
            (true, true) => Ok(()),
        }
    }
}

/// The answer to what was typed at the console: 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Typed {
    /// Bytes that the serial port has taken; it has room for the rest once the guest has read these.
    pub taken_bytes: usize,
}

/// The answer to an order that was taken: 202. The status tells what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Taken {}

/// The answer to a migration that has begun or goes on: 202.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The migration's id, as its events have it.
    pub id: u64,
    /// What the operator should know, though it hinders nothing yet: a certificate that expires soon.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Accepted {
    /// Nothing to be known but the id.
    pub fn plainly(id: u64) -> Self {
        Self {
            id,
            warnings: Vec::new(),
        }
    }
}
