//! `cargo xtask bench`: the experiments, from a fresh checkout in one command.

use std::process::ExitCode;

use crate::{
    Result,
    cargo::{become_binary, build, build_guest, build_me2, me2},
    setup,
};

/// Installs what is missing, builds everything, and becomes `me2-bench`.
///
/// That finds `me2` by the environment variable `ME2_BIN`, and the guest's ELF, for QEMU, by
/// `ME2_GUEST`. What only reads results needs neither.
pub(crate) fn bench(arguments: &[String]) -> Result<ExitCode> {
    setup::setup()?;
    if let Some("plot" | "report") = arguments.first().map(String::as_str) {
        build("me2-bench")?;
        return become_binary("me2-bench", |command| {
            command.args(arguments);
        });
    }
    match arguments.first().map(String::as_str) {
        // `me2` has QEMU's pre-copy beside its own, to see that it is an honest baseline.
        Some("qemu" | "me2") => {
            setup::ensure_ip()?;
            setup::ensure_qemu()?;
        }
        // The rival; without it `wan` takes one of its own.
        Some("wan") => {
            setup::ensure_ip()?;
            if let Err(error) = setup::ensure_qemu() {
                eprintln!("without QEMU: {error}");
            }
        }
        Some("codec" | "paging" | "--help" | "-h" | "help") | None => {}
        Some(_) => setup::ensure_ip()?,
    }
    build_me2()?;
    let (me2, guest) = (me2()?, build_guest()?);
    build("me2-bench")?;
    become_binary("me2-bench", |command| {
        command
            .args(arguments)
            .env("ME2_BIN", me2)
            .env("ME2_GUEST", guest);
    })
}
