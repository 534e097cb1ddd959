//! Automation: everything beyond a plain `cargo build`, as `cargo xtask COMMAND`.
//!
//! Uses the standard library alone, so that it compiles before anything is installed.

#![forbid(unsafe_code)]

mod bench;
mod cargo;
mod demo;
mod faults;
mod fuzz;
mod lab;
mod link;
mod lint;
mod package;
mod run;
mod setup;
mod test;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: cargo xtask COMMAND [ARGUMENTS]

Commands:
  run [ARGUMENTS]   build everything, then move a VM between two me2 processes (run --help)
  test [ARGUMENTS]  build everything, then run all tests; the arguments go to cargo test
  link ARGUMENTS    build and run me2-link: an emulated link between two network namespaces
  bench ARGUMENTS   build everything, then run me2-bench: qemu, me2, codec … (bench --help)
  faults ARGUMENTS  build everything, then move VMs with failures injected (faults --help)
  lab ARGUMENTS     build everything, then move a VM on ordinary KVM, in an emulated machine
                    (lab --help)
  fuzz [OPTIONS]    every decoder of what a peer can send, with any bytes (fuzz --help)
  package [--test]  the Debian package, in target/debian; tried in a clean system (package --help)
  lint              formatting, and clippy with warnings as errors
  setup             install what a build needs and this machine lacks (the others do this first)
  help              show this text

Environment:
  ME2_WITHOUT_PROBES=1  build without eBPF probes, and without their toolchain
  ME2_TOOLCHAIN=FOLDER  where setup installs (default: ~/.local/share/me2/toolchain)
";

/// A failure is one sentence for the person at the terminal; commands run meanwhile have said more.
type Result<T = ()> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_else(|| "help".into());
    let arguments: Vec<String> = arguments.collect();
    let result = match command.as_str() {
        "run" => run::run(&arguments),
        "test" => test::test(&arguments).map(|()| ExitCode::SUCCESS),
        "link" => link::link(&arguments),
        "bench" => bench::bench(&arguments),
        "faults" => faults::faults(&arguments),
        "lab" => lab::run(&arguments),
        "fuzz" => fuzz::fuzz(&arguments),
        "package" => package::run_command(&arguments),
        "lint" => without_arguments(&arguments, lint::lint),
        "setup" => without_arguments(&arguments, setup::setup),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        unknown => {
            eprint!("error: no such command: {unknown}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn without_arguments(arguments: &[String], command: fn() -> Result) -> Result<ExitCode> {
    match arguments {
        [] => command().map(|()| ExitCode::SUCCESS),
        [first, ..] => {
            eprint!("error: unexpected argument: {first}\n\n{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}
