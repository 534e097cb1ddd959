//! `me2`: parses the command line, carries the command out, says how it ended.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use me2_user::cli::Cli;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log_to_stderr();
    cli.execute().unwrap_or_else(|failure| {
        eprintln!("me2: {failure}");
        failure.exit_code()
    })
}

fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
