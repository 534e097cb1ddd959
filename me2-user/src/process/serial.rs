//! The host's end of the guest's console.

use std::{
    fs::OpenOptions,
    io::{self, Write},
};

use anyhow::Context;

use crate::cli::SerialTarget;

/// Opens where console output goes.
pub fn open(target: &SerialTarget) -> anyhow::Result<Box<dyn Write + Send>> {
    Ok(match target {
        SerialTarget::Stdio => Box::new(io::stdout()),
        SerialTarget::None => Box::new(io::sink()),
        SerialTarget::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            Box::new(
                file.with_context(|| format!("cannot write the console to {}", path.display()))?,
            )
        }
    })
}
