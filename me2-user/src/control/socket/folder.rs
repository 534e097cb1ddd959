//! The runtime folder: it outlives processes, however they end, and the next one clears up.
//!
//! What lies there: sockets, each with its VM's name, and what else VM processes share. A process
//! that ends takes its socket along; one that is killed cannot.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
};

use super::{SocketError, VmName, file_error};

/// Makes the folder ready for a VM process: creates it (mode 0700) if absent, refuses one in which
/// others can write, and removes the sockets of processes that have died (not where others can look
/// in: a folder of another kind).
pub fn prepare_folder(dir: &Path) -> Result<(), SocketError> {
    let mut builder = DirBuilder::new();
    let created = builder.recursive(true).mode(0o700).create(dir);
    created.map_err(file_error("create", dir))?;
    let metadata = fs::metadata(dir).map_err(file_error("inspect", dir))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(SocketError::Exposed {
            path: dir.to_owned(),
            mode,
        });
    }
    remove_dead(dir).map_err(file_error("clear up", dir))
}

/// The turn to make or remove sockets of a folder, held until the result is dropped. Only where
/// nobody else could keep it for ever: `None` in a folder that others can open.
pub(super) fn turn(dir: &Path) -> Option<File> {
    let folder = File::open(dir).ok()?;
    let mode = folder.metadata().ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        return None;
    }
    folder.lock().ok()?;
    Some(folder)
}

fn remove_dead(dir: &Path) -> io::Result<()> {
    let Some(_turn) = turn(dir) else {
        return Ok(());
    };
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_socket() && is_of_a_vm(&path) && is_dead(&path) {
            fs::remove_file(&path)?;
            tracing::info!(socket = %path.display(), "removed what a dead process left");
        }
    }
    Ok(())
}

fn is_of_a_vm(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.strip_suffix(".sock"))
        .is_some_and(|name| name.parse::<VmName>().is_ok())
}

/// Only a refusal shows that nobody is there.
fn is_dead(path: &Path) -> bool {
    UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
