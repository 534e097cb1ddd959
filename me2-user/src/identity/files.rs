//! Files of the configuration folder: bounded when read, whole when written, keys for their owner
//! alone.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::IdentityError;

/// The largest file that is read, in bytes; a real one has less than 4 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// For the owner alone, and for all to read.
pub(super) const PRIVATE: u32 = 0o600;
pub(super) const PUBLIC: u32 = 0o644;

/// Reads a file that nobody but its owner can open.
pub(super) fn read_private(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = fs::File::open(path).map_err(file_error("read", path))?;
    let metadata = file.metadata().map_err(file_error("inspect", path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::KeyExposed {
            path: path.to_owned(),
            mode,
        });
    }
    read_opened(file, path)
}

pub(super) fn read_bounded(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = fs::File::open(path).map_err(file_error("read", path))?;
    read_opened(file, path)
}

fn read_opened(file: fs::File, path: &Path) -> Result<Vec<u8>, IdentityError> {
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut content)
        .map_err(file_error("read", path))?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(IdentityError::Damaged {
            path: path.to_owned(),
            reason: format!("larger than {FILE_BYTES_MAX} bytes"),
        });
    }
    Ok(content)
}

pub(super) fn create_private_dir(dir: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(file_error("create", dir))
}

/// Writes a file that did not exist, or with `replace` puts a new one in its place in one step.
pub(super) fn write_new(
    path: &Path,
    content: &[u8],
    mode: u32,
    replace: bool,
) -> Result<(), IdentityError> {
    let target = if replace {
        path.with_extension("new")
    } else {
        path.to_owned()
    };
    if replace {
        match fs::remove_file(&target) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(file_error("remove", &target)(error));
            }
            _ => {}
        }
    }
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&target)?;
        file.write_all(content)?;
        file.sync_all()?;
        if replace {
            fs::rename(&target, path)
        } else {
            Ok(())
        }
    };
    write().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => IdentityError::Exists {
            path: path.to_owned(),
        },
        _ => file_error("write", path)(error),
    })
}

pub(super) fn file_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> IdentityError + use<> {
    let path = path.to_owned();
    move |source| IdentityError::File {
        action,
        path,
        source,
    }
}
