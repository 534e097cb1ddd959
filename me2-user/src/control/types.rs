//! What travels over the control socket.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::identity::Fingerprint;
pub use crate::report::{Mode, Report, Status};

/// The version of [`VmStatus`]; it grows when a field changes its meaning or goes away.
pub const STATUS_SCHEMA_VERSION: u32 = 1;

/// The body of `POST /v1/migrate`. Fields that are not known are refused: a
/// limit that is not kept must not be taken for one that is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    pub peer: Option<Fingerprint>,
    /// How pages are compressed.
    #[serde(default)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoverRequest {
    /// Take the VM back as it was when it stopped, instead of connecting again.
    #[serde(default)]
    pub resume_here: bool,
    /// The operator's word that the destination is dead and can never run the VM again.
    #[serde(default)]
    pub destination_is_fenced: bool,
}

impl RecoverRequest {
    /// Whether it makes sense, whatever the state of the VM: if not, what is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        match (self.resume_here, self.destination_is_fenced) {
            (true, false) => Err(
                "the VM may still run at the destination: make sure that it cannot (kill that process, \
                 or cut that host's power), then say so with --destination-is-fenced",
            ),
            (false, true) => Err("--destination-is-fenced means something only with --resume-here"),
            _ => Ok(()),
        }
    }
}

/// The answer to a migration that has begun or goes on: 202.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The migration's id, as its events have it.
    pub id: u64,
}

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VmStatus {
    /// [`STATUS_SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The VM's name; of a receiver without one yet, the receiver's.
    pub name: String,
    /// The VM process.
    pub pid: u32,
    /// Which end of a migration the process is, or would be.
    pub role: Role,
    /// What the VM does.
    pub vm_state: VmState,
    /// The migration under way, or the last one.
    pub migration: Option<MigrationStatus>,
    /// What the guest tells of itself.
    pub guest: Option<GuestStatus>,
}

/// Which end of a migration a VM process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has the VM, and may send it.
    Source,
    /// It waits for a VM, or has not yet all of it.
    Receiver,
}

/// What the VM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Its vCPUs run.
    Running,
    /// It stands still here: an operator has stopped it, or it has been handed over.
    Paused,
    /// There is none yet: the process waits for a source.
    Waiting,
    /// It is on its way here and has not run here.
    Incoming,
    /// It has left, and the destination has all of it; this process ends.
    Migrated,
    /// It has left or come and the link broke before all was there: `me2 recover`.
    PostcopyPaused,
    /// It has ended.
    Stopped,
}

/// How far a migration is. Also the body of a progress event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MigrationStatus {
    /// The migration, the same at both ends.
    pub id: u64,
    /// Counts the connections of a migration: 1, and one more for each recovery.
    pub epoch: u64,
    /// Where it stands.
    pub phase: Phase,
    /// The pre-copy pass, from 1; 0 outside pre-copy.
    pub pass: u32,
    /// How the memory travels.
    pub mode: Mode,
    /// Pages that are to be at the destination.
    pub pages_total: u64,
    /// Those that are not there in their last known version.
    pub pages_remaining: u64,
    /// Bytes on the wire so far, at the source those sent, at the destination those received.
    pub sent_bytes: u64,
    /// The rate of late.
    pub bandwidth_bytes_per_second: u64,
    /// Accesses at the destination that waited for a page.
    pub faults: u64,
    /// Since the request.
    pub elapsed_ms: u64,
    /// What is at stake, from when the VM runs at the destination until it has all its pages.
    #[serde(default)]
    pub risk: Option<Risk>,
    /// While the link is broken and the source connects again by itself.
    #[serde(default)]
    pub recovery: Option<RecoveryStatus>,
}

/// What is lost if the source is, and for how long that is so. The source has it from the destination:
/// while the link is broken, it is what was true before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Risk {
    /// Pages that exist only at the source.
    pub source_only_pages: u64,
    /// All pages that the VM uses.
    pub useful_pages: u64,
    /// Those that a vCPU waits for; known at the destination only.
    pub waiting_pages: Option<u64>,
    /// When all of them are expected to be there; none while nothing comes.
    pub expected_ms: Option<u64>,
    /// It takes longer than it should.
    pub is_late: bool,
}

/// How a source goes about connecting again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryStatus {
    /// The attempt that comes next or is under way, from 1.
    pub attempt: u32,
    /// Until it begins; 0: it is under way.
    pub next_attempt_ms: u64,
    /// Until this side stops trying by itself.
    pub gives_up_ms: u64,
    /// Why there is no link.
    pub error: String,
}

impl MigrationStatus {
    /// A migration that has just begun: nothing is known of it yet.
    pub fn begun(id: u64, epoch: u64, mode: Mode) -> Self {
        Self {
            id,
            epoch,
            phase: Phase::Setup,
            pass: 0,
            mode,
            pages_total: 0,
            pages_remaining: 0,
            sent_bytes: 0,
            bandwidth_bytes_per_second: 0,
            faults: 0,
            elapsed_ms: 0,
            risk: None,
            recovery: None,
        }
    }
}

/// The phases of a migration, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Identities, versions, limits; the machine is built at the destination.
    Setup,
    /// Looking for the useful pages.
    Explore,
    /// Sending pages while the VM runs at the source.
    Precopy,
    /// The vCPUs stop, state is saved.
    Stop,
    /// State and the last versions are on their way.
    Handover,
    /// The VM runs at the destination, pages follow.
    Postcopy,
    /// All pages are there; the copies are compared.
    Complete,
}

/// What the guest tells of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestStatus {
    /// Operations since it began.
    pub operations: u64,
    /// Wrong bytes that it found.
    pub errors: u64,
    /// Operations a second, of late.
    pub rate: f64,
}

/// A line of `GET /v1/migration/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A phase, or a pass of pre-copy, begins.
    Phase {
        /// The migration.
        id: u64,
        /// What begins.
        phase: Phase,
        /// The pre-copy pass, from 1; 0 outside pre-copy.
        pass: u32,
        /// Since the request.
        elapsed_ms: u64,
    },
    /// How far it is; only the latest is kept for who is slow.
    Progress(MigrationStatus),
    /// The end; nothing follows.
    End {
        /// The migration.
        id: u64,
        /// What came of it.
        outcome: Outcome,
        /// The account of it.
        report: Box<Report>,
    },
}

/// What came of a migration, as far as an operator must know what to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The VM runs at the destination, all of it.
    Moved,
    /// It failed, or was cancelled; the VM is as it was at the source.
    FailedAtSource,
    /// One of the checks before it said no; the VM is as it was at the source.
    Refused,
    /// It took too long; the VM is as it was at the source.
    TimedOut,
    /// It failed after the handover: paused and recoverable, or lost. The report says which.
    FailedAfterHandover,
    /// It failed after the handover, and an operator has said that the destination is dead: the VM
    /// runs at the source, as it was when it stopped.
    TakenBack,
}

impl Outcome {
    /// The exit code that tells a script.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Moved => 0,
            Self::FailedAtSource | Self::TakenBack => 1,
            Self::Refused => 3,
            Self::TimedOut => 4,
            Self::FailedAfterHandover => 5,
        }
    }
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: String,
    /// What to do about it.
    pub mend: String,
}

impl Event {
    /// The migration that it belongs to.
    pub fn id(&self) -> u64 {
        match self {
            Self::Phase { id, .. } | Self::End { id, .. } => *id,
            Self::Progress(status) => status.id,
        }
    }
}
