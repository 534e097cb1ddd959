//! `cargo xtask run`: from a fresh checkout to a VM that has moved, in one command.

use std::{fs::OpenOptions, process::ExitCode};

use crate::{
    Result, cargo,
    demo::{self, Options, Parsed},
    setup,
};

/// The exit status of `me2 hybrid-migrate` for "refused before it began".
const EXIT_REFUSED: u8 = 3;

/// Installs what is missing, builds, and hands over to the demonstration. What can be said at once
/// is said before that.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = match Options::parse(arguments) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Help) => {
            print!("{}", demo::USAGE);
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            eprint!("error: {error}\n\n{}", demo::USAGE);
            return Ok(ExitCode::from(2));
        }
    };
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        eprintln!("error: a VM needs KVM, and /dev/kvm cannot be opened: {error}");
        return Ok(ExitCode::from(EXIT_REFUSED));
    }
    setup::setup()?;
    cargo::build_me2()?;
    demo::run(&cargo::me2()?, &options)
}
