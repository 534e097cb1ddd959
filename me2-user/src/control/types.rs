//! What travels over the control socket.

mod event;
mod request;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use self::{
    event::{Event, Outcome},
    request::{
        Accepted, CodecChoice, MigrateRequest, Part, RecoverRequest, Taken, Typed, ZSTD_LEVELS,
    },
};
pub use crate::report::{Mode, Report, Status};

/// The version of [`VmStatus`]; it grows when a field changes its meaning or goes away.
pub const STATUS_SCHEMA_VERSION: u32 = 1;

/// The answer to `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// Its memory; of a receiver, none until a VM comes.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// Its vCPUs; of a receiver, none until a VM comes.
    #[serde(default)]
    pub vcpus: Option<u32>,
    /// The migration under way, or the last one.
    pub migration: Option<MigrationStatus>,
    /// What the guest tells of itself.
    pub guest: Option<GuestStatus>,
}

/// Which end of a migration a VM process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It has the VM, and may send it.
    Source,
    /// It waits for a VM, or has not yet all of it.
    Receiver,
}

/// What the VM does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationStatus {
    /// The migration, the same at both ends.
    pub id: u64,
    /// Counts the connections of a migration: 1, and one more for each recovery.
    pub epoch: u64,
    /// Where it stands.
    pub phase: Phase,
    /// Whether it is under way, or has come to its end.
    #[serde(default)]
    pub is_under_way: bool,
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
    /// The same, by the second, of late.
    #[serde(default)]
    pub faults_per_second: f64,
    /// For how long the VM would stand still if it were handed over now; none where it is not known:
    /// at the destination, and once it has been.
    #[serde(default)]
    pub expected_downtime_ms: Option<u64>,
    /// Until all pages are there at the pace of late, those aside that the guest goes on to write;
    /// none while nothing comes.
    #[serde(default)]
    pub expected_remaining_ms: Option<u64>,
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
            is_under_way: true,
            pass: 0,
            mode,
            pages_total: 0,
            pages_remaining: 0,
            sent_bytes: 0,
            bandwidth_bytes_per_second: 0,
            faults: 0,
            faults_per_second: 0.0,
            expected_downtime_ms: None,
            expected_remaining_ms: None,
            elapsed_ms: 0,
            risk: None,
            recovery: None,
        }
    }
}

/// The phases of a migration, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestStatus {
    /// Operations since it began.
    pub operations: u64,
    /// Wrong bytes that it found.
    pub errors: u64,
    /// Operations a second, of late.
    pub rate: f64,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: String,
    /// What to do about it.
    pub mend: String,
}
