//! How a command fails: an error for people, a code for scripts.

use std::process::ExitCode;

use crate::control::client::ClientError;
use crate::control::socket::SocketError;

/// The exit codes beside those of [`Outcome`](crate::control::types::Outcome).
pub(super) mod code {
    /// It did not work.
    pub(in crate::cli) const FAILED: u8 = 1;
    /// The command line makes no sense; clap uses the same.
    pub(in crate::cli) const USAGE: u8 = 2;
    /// Refused before anything began.
    pub(in crate::cli) const REFUSED: u8 = 3;
    /// It is not known that the VM runs at the source.
    pub(in crate::cli) const AFTER_HANDOVER: u8 = 5;
    /// Ended by SIGINT, as a shell has it: 128 + 2.
    pub(in crate::cli) const INTERRUPTED: u8 = 130;
}

/// How every command ends; `me2 hybrid-migrate` says more of its own.
pub(super) const EXIT_STATUS: &str = "\
0 done; 1 failed: a VM that was to be moved still runs at the source; 2 usage;
3 refused before anything began, or something that me2 needs is missing;
4 timed out: the VM runs at the source; 5 failed after the handover (paused,
recoverable, or lost: the message says which); 130 interrupted.";

/// A command that did not succeed.
#[derive(Debug)]
pub struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl Failure {
    pub(super) fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
        }
    }

    /// What to end the process with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> u8 {
        self.code
    }
}

/// The whole chain of causes, in one line.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(code::FAILED, error)
    }
}

impl From<SocketError> for Failure {
    fn from(error: SocketError) -> Self {
        let code = match error {
            SocketError::Name(_) | SocketError::NoSuchVm { .. } | SocketError::NoFolder => {
                code::USAGE
            }
            _ => code::FAILED,
        };
        Self::new(code, error)
    }
}

/// Nothing has begun when a request fails: a VM that there is stays as it is.
impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let code = match error {
            ClientError::Refused { status: 400, .. } => code::USAGE,
            ClientError::Refused { status: 409, .. } => code::REFUSED,
            _ => code::FAILED,
        };
        Self::new(code, error)
    }
}
