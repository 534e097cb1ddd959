//! Disks of the host: raw files and block devices, and who may use them.
//!
//! A disk is used under a lock, so that two VMs, or two copies of one, never write it. A VM that
//! moves flushes it and lets go of the lock before the handover; the destination opens and locks it
//! when the handover is in, and before any vCPU runs. A VM that comes back takes the lock again
//! ([`Disk::acquire`]), or does not run.
//!
//! The lock is of the open file (`F_OFD_SETLK`), in two parts far beyond any disk's end: one byte
//! that all who use the disk lock, to write or to read; and one that tells which VM does
//! ([`BlockDocument::lock`]). A destination that finds the VM's own byte locked knows that it sees
//! the disk that the source has: the same storage, and the right to use it.

use std::{
    fs::{File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, Seek, SeekFrom},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::machine::{BlockDocument, devices::SECTOR_BYTES};

/// The byte that everybody locks who uses the disk.
const USE_BYTE: i64 = 1 << 60;
/// Of the byte that tells which VM does: that of number 0.
const VM_BYTES: i64 = USE_BYTE + 1;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file cannot be opened, or is none.
    #[error("disk {path} cannot be opened")]
    Open {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not a file with sectors.
    #[error("disk {0} is neither a file nor a block device with whole sectors of 512 bytes")]
    Kind(PathBuf),
    /// It holds an image, not a disk's own bytes.
    #[error(
        "disk {0} is a qcow2 image: convert it with `qemu-img convert -O raw`, or say raw to use its bytes as they are"
    )]
    Image(PathBuf),
    /// Somebody else uses it.
    #[error("disk {0} is in use: another VM has it locked")]
    InUse(PathBuf),
    /// Locks do not work there.
    #[error("disk {path} cannot be locked")]
    Lock {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another disk than that of the source.
    #[error("disk {path} has {found} bytes, at the source it has {wanted}")]
    Size {
        /// Which.
        path: PathBuf,
        /// Here.
        found: u64,
        /// There.
        wanted: u64,
    },
    /// Nothing shows that it is the source's disk.
    #[error(
        "disk {path} is not seen to be the one that the source uses: if it is, name it with --disk {name}={path}"
    )]
    Unproved {
        /// Its name.
        name: String,
        /// Where the source has it.
        path: PathBuf,
    },
    /// What was written does not reach it.
    #[error("disk {path} cannot be flushed")]
    Flush {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The VM is not, and will not be, this process's.
    #[error("disk {0} is not to be used here any more")]
    GivenUp(PathBuf),
}

enum Use {
    /// Locked, and this process's to use.
    Held(Arc<File>),
    /// Not in use here.
    LetGo,
    /// Nor ever again.
    GivenUp,
}

/// A disk of a VM.
pub struct Disk {
    path: PathBuf,
    bytes: u64,
    read_only: bool,
    lock: u32,
    state: Mutex<Use>,
}

impl Disk {
    /// Opens a disk for a new VM, and locks it.
    ///
    /// # Errors
    /// [`DiskError`]: it is no disk, or in use.
    pub fn open(path: &Path, read_only: bool) -> Result<Self, DiskError> {
        let failed = |source| DiskError::Open {
            path: path.to_owned(),
            source,
        };
        let path = path.canonicalize().map_err(failed)?;
        let file = open(&path, read_only)?;
        let disk = Self {
            bytes: size(&file, &path)?,
            path,
            read_only,
            lock: RandomState::new().hash_one(std::process::id()) as u32,
            state: Mutex::new(Use::LetGo),
        };
        if starts_like_qcow2(&file) {
            return Err(DiskError::Image(disk.path));
        }
        disk.acquire()?;
        Ok(disk)
    }

    /// The disk of a VM that comes, at `path` if that was given here: checked, but not yet opened for
    /// use. Without a path of this side's own, the source's is taken only if the source is seen to
    /// use it.
    ///
    /// # Errors
    /// [`DiskError`]: it is not the source's disk, or somebody else uses it.
    pub fn expect(
        name: &str,
        document: &BlockDocument,
        path: Option<&Path>,
    ) -> Result<Self, DiskError> {
        let disk = Self {
            path: path.map_or_else(|| document.path.clone().into(), Path::to_owned),
            bytes: document.sectors * SECTOR_BYTES,
            read_only: document.read_only,
            lock: document.lock,
            state: Mutex::new(Use::LetGo),
        };
        let file = open(&disk.path, disk.read_only)?;
        disk.check_size(&file)?;
        let is_sources = is_locked(&file, VM_BYTES + i64::from(disk.lock), true)
            .map_err(|source| disk.cannot_lock(source))?;
        if !is_sources {
            let is_used = is_locked(&file, USE_BYTE, !disk.read_only)
                .map_err(|source| disk.cannot_lock(source))?;
            if is_used {
                return Err(DiskError::InUse(disk.path));
            }
            if path.is_none() {
                let (name, path) = (name.to_owned(), disk.path);
                return Err(DiskError::Unproved { name, path });
            }
        }
        Ok(disk)
    }

    /// What the machine document says of it.
    pub fn document(&self) -> BlockDocument {
        BlockDocument {
            path: self.path.to_string_lossy().into_owned(),
            sectors: self.bytes / SECTOR_BYTES,
            read_only: self.read_only,
            lock: self.lock,
        }
    }

    /// Opens and locks it, unless it is this process's already.
    ///
    /// # Errors
    /// [`DiskError`]: somebody else uses it, it has changed, or it was given up.
    pub fn acquire(&self) -> Result<(), DiskError> {
        let mut state = self.state();
        match &*state {
            Use::Held(_) => return Ok(()),
            Use::GivenUp => return Err(DiskError::GivenUp(self.path.clone())),
            Use::LetGo => {}
        }
        // Opened anew: what another host has written is to be seen.
        let file = open(&self.path, self.read_only)?;
        for byte in [USE_BYTE, VM_BYTES + i64::from(self.lock)] {
            let locked = lock(&file, byte, !self.read_only);
            if !locked.map_err(|source| self.cannot_lock(source))? {
                return Err(DiskError::InUse(self.path.clone()));
            }
        }
        self.check_size(&file)?;
        *state = Use::Held(Arc::new(file));
        Ok(())
    }

    /// The open file, while the disk is this process's.
    pub(crate) fn file(&self) -> Option<Arc<File>> {
        match &*self.state() {
            Use::Held(file) => Some(file.clone()),
            Use::LetGo | Use::GivenUp => None,
        }
    }

    /// Waits until all that was written is on the disk.
    ///
    /// # Errors
    /// [`DiskError::Flush`].
    pub fn flush(&self) -> Result<(), DiskError> {
        let file = self.file().filter(|_| !self.read_only);
        let flushed = file.map_or(Ok(()), |file| file.sync_data());
        flushed.map_err(|source| DiskError::Flush {
            path: self.path.clone(),
            source,
        })
    }

    /// Flushes it and lets go of the lock; nobody may be using it.
    ///
    /// # Errors
    /// [`DiskError::Flush`]: then it is kept.
    pub fn let_go(&self) -> Result<(), DiskError> {
        self.flush()?;
        let mut state = self.state();
        if let Use::Held(_) = &*state {
            *state = Use::LetGo;
        }
        Ok(())
    }

    /// Lets go of it for good; nobody may be using it.
    pub fn give_up(&self) {
        *self.state() = Use::GivenUp;
    }

    fn check_size(&self, file: &File) -> Result<(), DiskError> {
        let found = size(file, &self.path)?;
        if found == self.bytes {
            return Ok(());
        }
        Err(DiskError::Size {
            path: self.path.clone(),
            found,
            wanted: self.bytes,
        })
    }

    fn cannot_lock(&self, source: io::Error) -> DiskError {
        DiskError::Lock {
            path: self.path.clone(),
            source,
        }
    }

    fn state(&self) -> MutexGuard<'_, Use> {
        self.state.lock().expect("no panics under this lock")
    }
}

fn open(path: &Path, read_only: bool) -> Result<File, DiskError> {
    let file = OpenOptions::new()
        .read(true)
        .write(!read_only)
        // A pipe in its place must not hold the process up.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    file.map_err(|source| DiskError::Open {
        path: path.to_owned(),
        source,
    })
}

/// Bytes of a file or a block device.
fn size(mut file: &File, path: &Path) -> Result<u64, DiskError> {
    let found = file.seek(SeekFrom::End(0)).ok();
    found
        .filter(|bytes| *bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES))
        .filter(|_| {
            file.metadata().is_ok_and(|metadata| {
                use std::os::unix::fs::FileTypeExt;
                let kind = metadata.file_type();
                kind.is_file() || kind.is_block_device()
            })
        })
        .ok_or_else(|| DiskError::Kind(path.to_owned()))
}

fn starts_like_qcow2(file: &File) -> bool {
    use std::os::unix::fs::FileExt;
    let mut magic = [0; 4];
    file.read_exact_at(&mut magic, 0).is_ok() && magic == *b"QFI\xfb"
}

fn byte_lock(byte: i64, to_write: bool) -> libc::flock {
    let kind = if to_write {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    }
}

/// Locks a byte for as long as the file is open; false if somebody else has it.
fn lock(file: &File, byte: i64, to_write: bool) -> io::Result<bool> {
    let lock = byte_lock(byte, to_write);
    // SAFETY: the descriptor is open, and the kernel only reads the structure.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => Ok(false),
        _ => Err(error),
    }
}

/// Whether somebody else has a lock on a byte that is in the way of this one.
fn is_locked(file: &File, byte: i64, to_write: bool) -> io::Result<bool> {
    let mut lock = byte_lock(byte, to_write);
    // SAFETY: the descriptor is open, and the structure lives across the call.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    match result {
        0 => Ok(i32::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; bytes]).unwrap();
        file
    }

    #[test]
    fn one_vm_at_a_time_writes_a_disk() {
        let file = file(4096);
        let disk = Disk::open(file.path(), false).unwrap();
        for read_only in [false, true] {
            let again = Disk::open(file.path(), read_only);
            assert!(matches!(again, Err(DiskError::InUse(_))));
        }
        disk.let_go().unwrap();
        let other = Disk::open(file.path(), true).unwrap();
        let third = Disk::open(file.path(), true).unwrap();
        assert!(matches!(disk.acquire(), Err(DiskError::InUse(_))));
        drop((other, third));
        disk.acquire().unwrap();
        disk.give_up();
        assert!(matches!(disk.acquire(), Err(DiskError::GivenUp(_))));
        Disk::open(file.path(), false).unwrap();
    }

    #[test]
    fn a_vm_that_moves_has_its_disk_in_one_place() {
        let file = file(4096);
        let source = Disk::open(file.path(), false).unwrap();
        let document = source.document();
        let destination = Disk::expect("disk0", &document, None).unwrap();
        assert!(matches!(destination.acquire(), Err(DiskError::InUse(_))));
        source.let_go().unwrap();
        destination.acquire().unwrap();
        assert!(matches!(source.acquire(), Err(DiskError::InUse(_))));
        destination.give_up();
        source.acquire().unwrap();
        assert_eq!(source.document(), document);
    }

    #[test]
    fn another_disk_is_refused_before_anything_is_written() {
        let (mine, other, small) = (file(4096), file(4096), file(512));
        let source = Disk::open(mine.path(), false).unwrap();
        let mut document = source.document();
        let expect = |document: &BlockDocument, path: &Path| {
            Disk::expect("disk0", document, Some(path)).map(drop)
        };
        // Named here, a copy that nobody uses will do; what another VM uses will not.
        expect(&document, other.path()).unwrap();
        assert!(matches!(
            expect(&document, small.path()),
            Err(DiskError::Size { .. })
        ));
        let user = Disk::open(other.path(), false).unwrap();
        assert!(matches!(
            expect(&document, other.path()),
            Err(DiskError::InUse(_))
        ));
        drop(user);
        assert!(matches!(
            expect(&document, Path::new("/nonexistent")),
            Err(DiskError::Open { .. })
        ));
        assert!(matches!(
            expect(&document, Path::new("/dev/null")),
            Err(DiskError::Kind(_))
        ));
        // A path that only the peer has named must be one that it uses.
        document.path = other.path().to_string_lossy().into_owned();
        assert!(matches!(
            Disk::expect("disk0", &document, None),
            Err(DiskError::Unproved { .. })
        ));
    }

    #[test]
    fn an_image_is_not_taken_for_a_disk() {
        let mut image = tempfile::NamedTempFile::new().unwrap();
        image.write_all(b"QFI\xfb").unwrap();
        image.write_all(&[0; 508]).unwrap();
        assert!(matches!(
            Disk::open(image.path(), true),
            Err(DiskError::Image(_))
        ));
    }
}
