//! Where the guest's serial port goes.

use std::path::PathBuf;
use std::str::FromStr;

/// The host's end of the serial port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialTarget {
    /// Output to stdout; there is no input.
    Stdio,
    /// Output is dropped.
    None,
    /// Output is appended to a file.
    File(PathBuf),
}

impl FromStr for SerialTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stdio" => Ok(Self::Stdio),
            "none" => Ok(Self::None),
            _ => match text.strip_prefix("file:") {
                Some(path) if !path.is_empty() => Ok(Self::File(path.into())),
                _ => Err("expected stdio, none or file:PATH".to_owned()),
            },
        }
    }
}
