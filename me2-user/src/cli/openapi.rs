//! `me2 openapi`: the document of the API.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::print;
use crate::control::server::document;

/// `me2 openapi`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Every VM process serves the same document at /openapi.json of its API socket.

Examples:
  me2 openapi > me2.json
  curl --unix-socket /run/me2/demo.sock http://me2/v1/status")]
pub struct OpenapiArgs {}

pub(super) fn execute(_: OpenapiArgs, stdout: &mut impl Write) -> Result<ExitCode, Failure> {
    print(stdout, &(document() + "\n"))?;
    Ok(ExitCode::SUCCESS)
}
