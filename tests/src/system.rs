//! The few system calls that the standard library lacks.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsRawFd, RawFd},
        unix::process::CommandExt,
    },
    process::Command,
};

/// Has the process killed when the thread that starts it ends: with the test, however it ends.
pub(crate) fn die_with_this_thread(command: &mut Command) {
    let parent = std::process::id();
    let before_exec = move || {
        // SAFETY: takes no pointers, and is async-signal-safe.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // Had the parent died before, there would be no signal.
        match std::os::unix::process::parent_id() == parent {
            true => Ok(()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(before_exec) };
}

/// Waits for an exclusive lock of the file; it is held until the file is closed.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    let descriptor: RawFd = file.as_raw_fd();
    // SAFETY: takes no pointers; the descriptor is open.
    check(unsafe { libc::flock(descriptor, libc::LOCK_EX) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
