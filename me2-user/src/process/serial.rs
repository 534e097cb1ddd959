//! The host's end of the guest's console.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
};

use anyhow::Context;

use crate::cli::SerialTarget;

/// Where console output goes: opened once, for each VM that the process may have.
pub enum Serial {
    Stdio,
    None,
    File(File),
}

impl Serial {
    /// Opens where console output goes.
    pub fn open(target: &SerialTarget) -> anyhow::Result<Self> {
        Ok(match target {
            SerialTarget::Stdio => Self::Stdio,
            SerialTarget::None => Self::None,
            SerialTarget::File(path) => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                let failed = || format!("cannot write the console to {}", path.display());
                Self::File(file.with_context(failed)?)
            }
        })
    }

    /// For the output of one VM.
    pub fn writer(&self) -> anyhow::Result<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Stdio => Box::new(io::stdout()),
            Self::None => Box::new(io::sink()),
            Self::File(file) => Box::new(file.try_clone().context("cannot write the console")?),
        })
    }
}
