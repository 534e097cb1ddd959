//! What followers of a migration are told.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{MigrationStatus, Phase};
use crate::report::Report;

/// A line of `GET /v1/migration/events`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// A phase, or a pass of pre-copy, has ended.
    PhaseEnd {
        /// The migration.
        id: u64,
        /// What has ended.
        phase: Phase,
        /// The pre-copy pass, from 1; 0 outside pre-copy.
        pass: u32,
        /// How long it took.
        duration_ms: u64,
        /// Since the request.
        elapsed_ms: u64,
    },
    /// The VM runs at the destination.
    Switchover {
        /// The migration.
        id: u64,
        /// For how long it stood still.
        downtime_ms: f64,
        /// Pages that it lacked there.
        missing_pages: u64,
        /// Since the request.
        elapsed_ms: u64,
    },
    /// Many vCPUs' accesses wait for pages: told when it begins, not again until it has calmed down.
    FaultBurst {
        /// The migration.
        id: u64,
        /// Accesses that waited, by the second.
        faults_per_second: f64,
        /// All of them so far.
        faults: u64,
        /// Since the request.
        elapsed_ms: u64,
    },
    /// The link broke after the handover: pages that are missing do not come.
    Paused {
        /// The migration.
        id: u64,
        /// Why.
        error: String,
        /// Since the request.
        elapsed_ms: u64,
    },
    /// There is a link again, and pages come.
    Recovered {
        /// The migration.
        id: u64,
        /// Connections of the migration so far.
        epoch: u64,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

impl Event {
    /// The migration that it belongs to.
    pub fn id(&self) -> u64 {
        match self {
            Self::Phase { id, .. }
            | Self::PhaseEnd { id, .. }
            | Self::Switchover { id, .. }
            | Self::FaultBurst { id, .. }
            | Self::Paused { id, .. }
            | Self::Recovered { id, .. }
            | Self::End { id, .. } => *id,
            Self::Progress(status) => status.id,
        }
    }
}
