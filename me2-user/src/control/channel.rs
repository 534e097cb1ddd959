//! How the control server and the VM process speak to each other.
//!
//! The VM process owns a [`ControlPort`] and answers its commands in a loop;
//! the server has a [`ControlHandle`]. Nothing here waits for a vCPU: a reply
//! says that a command was taken, and the status shows what became of it.

use me2_vmm::machine::MachineDocument;
use tokio::sync::{mpsc, oneshot, watch};

use super::console::ConsoleLog;
use super::events::EventHub;
use super::metrics::Metrics;
use super::types::{Accepted, MigrateRequest, RecoverRequest, Typed, VmStatus};

/// Commands that wait to be taken; further clients wait for room.
const COMMANDS_MAX: usize = 16;

/// The answer to a command. Dropped, it tells the client that the process is ending.
pub type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a client asks of the VM process.
#[derive(Debug)]
pub enum Command {
    /// Move the VM. The reply comes when the migration has begun, not when it has ended.
    Migrate {
        /// How and where to.
        request: MigrateRequest,
        /// Its id.
        reply: Reply<Accepted>,
    },
    /// Describe the machine, as a destination is told of it.
    Describe {
        /// The machine document.
        reply: Reply<MachineDocument>,
    },
    /// Give up the migration, which is possible until the handover.
    Cancel {
        /// Taken; the end event says what came of it.
        reply: Reply<()>,
    },
    /// Hand over as soon as possible, which can be said until the handover.
    SwitchNow {
        /// Taken.
        reply: Reply<()>,
    },
    /// Resume a post-copy whose link broke, or take its VM back.
    Recover {
        /// Which of them.
        request: RecoverRequest,
        /// The id of the migration that goes on.
        reply: Reply<Accepted>,
    },
    /// Stop the vCPUs.
    Pause {
        /// Taken.
        reply: Reply<()>,
    },
    /// Let the vCPUs run on.
    Resume {
        /// Taken.
        reply: Reply<()>,
    },
    /// End the VM and its process.
    Stop {
        /// Taken.
        reply: Reply<()>,
    },
    /// Type at the VM's console.
    Type {
        /// What is typed.
        bytes: Vec<u8>,
        /// How much of it the serial port had room for.
        reply: Reply<Typed>,
    },
}

/// Why a command is not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// Whose fault it is.
    pub kind: RefusalKind,
    /// What is wrong, one sentence.
    pub error: String,
    /// What to do about it, one sentence.
    pub mend: String,
}

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request makes no sense: 400.
    Invalid,
    /// It makes none now: a migration is under way, or none is: 409.
    Conflict,
    /// The process could not, for reasons of its own: 500.
    Internal,
}

impl Refusal {
    /// The request makes no sense.
    pub fn invalid(error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Invalid,
            error: error.into(),
            mend: mend.into(),
        }
    }

    /// The request makes no sense in the state that the VM is in.
    pub fn conflict(error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Conflict,
            error: error.into(),
            mend: mend.into(),
        }
    }

    /// The process could not, for reasons of its own.
    pub fn internal(error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            kind: RefusalKind::Internal,
            error: error.into(),
            mend: mend.into(),
        }
    }
}

/// The server's end.
#[derive(Debug, Clone)]
pub struct ControlHandle {
    /// To the VM process.
    pub commands: mpsc::Sender<Command>,
    /// The latest status.
    pub status: watch::Receiver<VmStatus>,
    /// The migrations' events.
    pub events: EventHub,
    /// What the guest writes.
    pub console: ConsoleLog,
    /// What is counted and measured.
    pub metrics: Metrics,
}

/// The VM process's end.
#[derive(Debug)]
pub struct ControlPort {
    /// From clients; each has a reply to be sent.
    pub commands: mpsc::Receiver<Command>,
    /// Publishes the status; `send_modify` to change a part of it.
    pub status: watch::Sender<VmStatus>,
    /// [`EventHub::begin`] starts the account of a migration.
    pub events: EventHub,
    /// [`ConsoleLog::push`] shows what the guest writes.
    pub console: ConsoleLog,
    /// Counts.
    pub metrics: Metrics,
}

/// Both ends, with the status that the process starts with.
pub fn channel(status: VmStatus) -> (ControlHandle, ControlPort) {
    let (command_sender, command_receiver) = mpsc::channel(COMMANDS_MAX);
    let (status_sender, status_receiver) = watch::channel(status);
    let console = ConsoleLog::default();
    let metrics = Metrics::new(status_receiver.clone());
    let events = EventHub::new(metrics.clone());
    let handle = ControlHandle {
        commands: command_sender,
        status: status_receiver,
        events: events.clone(),
        console: console.clone(),
        metrics: metrics.clone(),
    };
    let port = ControlPort {
        commands: command_receiver,
        status: status_sender,
        events,
        console,
        metrics,
    };
    (handle, port)
}
