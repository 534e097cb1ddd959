//! `me2`: parses the command line, carries the command out, says how it ended.

use std::io::IsTerminal;
use std::process::ExitCode;

use me2_user::cli::{self, LogFormat};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let (cli, defaults) = match cli::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(unparsed) => return unparsed.report(),
    };
    log_to_stderr(cli.log_format);
    cli.execute(&defaults).unwrap_or_else(|failure| {
        eprintln!("me2: {failure}");
        failure.exit_code()
    })
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .from_env_lossy();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Human => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
}
