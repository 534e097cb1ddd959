//! Where the control sockets are: `NAME.sock` in the runtime folder.

mod folder;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

pub use folder::prepare_folder;

/// Clients that may wait to be let in.
const CLIENTS_WAITING_MAX: i32 = 128;

/// Names of VMs shown when one is not found.
const NAMES_SHOWN_MAX: usize = 20;

/// `sun_path` of `struct sockaddr_un`, less its terminating zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The name of a VM: 1 to 64 of `A-Z a-z 0-9 . _ -`, and neither `.` nor `-` first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct VmName(String);

/// The text cannot be a VM's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid VM name: 1 to 64 of A-Z a-z 0-9 . _ - and neither . nor - first")]
pub struct InvalidName;

/// A control socket, listening. Its file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// A VM whose process is to be spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmAddress {
    /// As the user said it: a name or a path.
    pub vm: String,
    /// The socket.
    pub socket: PathBuf,
}

/// Why a control socket cannot be found or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// No process of that name.
    #[error("no VM named {name}; running: {running}")]
    NoSuchVm {
        /// The name asked for.
        name: String,
        /// Those that run, for people.
        running: String,
    },
    /// A process listens there already.
    #[error("a VM process already listens at {}; choose another --name or --api", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file that is no socket is in the way.
    #[error("{} is in the way and no socket; choose another --api", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system has a limit for the paths of sockets.
    #[error("socket path longer than {SOCKET_PATH_BYTES_MAX} bytes: {}; choose a shorter --api", path.display())]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Others could put files of theirs into the folder, or take some away.
    #[error("others can write to {0} (mode {mode:03o}); mend: chmod 700 {0}, or choose another --runtime-dir", path.display())]
    Exposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Neither an option nor the environment says where the folder is.
    #[error("no runtime folder: set --runtime-dir, ME2_RUNTIME_DIR or XDG_RUNTIME_DIR")]
    NoFolder,
    /// A system call failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried: "bind", "create", …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// The runtime folder: `chosen` (an option or `ME2_RUNTIME_DIR`), else
/// `/run/me2` for root and `$XDG_RUNTIME_DIR/me2` for others.
pub fn runtime_dir(chosen: Option<PathBuf>) -> Result<PathBuf, SocketError> {
    let is_root = rustix::process::geteuid().is_root();
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    default_dir(chosen, is_root, xdg)
}

/// The socket of the VM `name` in the runtime folder `dir`.
pub fn socket_path(dir: &Path, name: &VmName) -> PathBuf {
    dir.join(format!("{}.sock", name.0))
}

/// Finds a VM by `--vm`: a path if it has a `/`, else a name in the runtime folder `dir`.
pub fn resolve(dir: &Path, vm: &str) -> Result<VmAddress, SocketError> {
    if vm.contains('/') {
        return Ok(VmAddress {
            vm: vm.to_owned(),
            socket: PathBuf::from(vm),
        });
    }
    let socket = socket_path(dir, &vm.parse()?);
    if socket.exists() {
        return Ok(VmAddress {
            vm: vm.to_owned(),
            socket,
        });
    }
    let names = running(dir);
    let running = match names.len() {
        0 => "none".to_owned(),
        1..=NAMES_SHOWN_MAX => names.join(", "),
        all => format!(
            "{} and {} more",
            names[..NAMES_SHOWN_MAX].join(", "),
            all - NAMES_SHOWN_MAX
        ),
    };
    Err(SocketError::NoSuchVm {
        name: vm.to_owned(),
        running,
    })
}

/// The names of the VMs whose process listens in the runtime folder `dir`, sorted.
pub fn running(dir: &Path) -> Vec<String> {
    let listening = sockets(dir)
        .into_iter()
        .filter(|vm| is_listening(&vm.socket));
    listening.map(|vm| vm.vm).collect()
}

/// The sockets of the runtime folder `dir` by the names of their VMs, sorted, whether anybody listens or
/// not. None if there is no such folder.
pub fn sockets(dir: &Path) -> Vec<VmAddress> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .filter_map(|entry| {
            let name = entry.file_name();
            let vm = name.to_str()?.strip_suffix(".sock")?.to_owned();
            let socket = entry.path();
            Some(VmAddress { vm, socket })
        })
        .collect();
    found.sort_by(|one, other| one.vm.cmp(&other.vm));
    found
}

impl ControlSocket {
    /// Listens at `path`, for this user alone, from the first moment on.
    ///
    /// The folder is created (mode 0700) if absent; a socket that a dead
    /// process left is replaced, one that is listened at is not.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(SocketError::TooLong {
                path: path.to_owned(),
            });
        }
        if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let mut builder = fs::DirBuilder::new();
            let created = builder.recursive(true).mode(0o700).create(dir);
            created.map_err(file_error("create", dir))?;
        }
        // Until it listens it looks like one that a dead process left.
        let _turn = path.parent().and_then(folder::turn);
        let listener = match listen(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_stale(path)?;
                listen(path)
            }
            bound => bound,
        };
        let listener = listener.map_err(file_error("bind", path))?;
        let file = SocketFile::new(path).map_err(file_error("inspect", path))?;
        Ok(Self { listener, file })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// Needs a tokio runtime.
    pub(super) fn into_parts(self) -> io::Result<(tokio::net::UnixListener, SocketFile)> {
        self.listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(self.listener)?;
        Ok((listener, self.file))
    }
}

impl VmName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for VmName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_valid = (1..=64).contains(&name.len())
            && name.chars().all(is_allowed)
            && !name.starts_with(['.', '-']);
        if is_valid {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidName)
        }
    }
}

impl std::fmt::Display for VmName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The file of a bound socket; removed when dropped, unless another has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            inode: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.inode);
        if is_ours {
            // A file that stays behind is replaced by the next process.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn default_dir(
    chosen: Option<PathBuf>,
    is_root: bool,
    xdg: Option<PathBuf>,
) -> Result<PathBuf, SocketError> {
    let of_user = || Some(xdg.filter(|dir| dir.is_absolute())?.join("me2"));
    chosen
        .or_else(|| is_root.then(|| PathBuf::from("/run/me2")))
        .or_else(of_user)
        .ok_or(SocketError::NoFolder)
}

/// A socket has its permissions before it has a name.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, CLIENTS_WAITING_MAX)?;
    Ok(socket.into())
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let metadata = fs::symlink_metadata(path).map_err(file_error("inspect", path))?;
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket {
            path: path.to_owned(),
        });
    }
    if is_listening(path) {
        return Err(SocketError::InUse {
            path: path.to_owned(),
        });
    }
    fs::remove_file(path).map_err(file_error("remove", path))
}

/// Whether a process serves at this path.
///
/// Only a refusal shows that nobody is there: a full queue, say, has an owner.
pub fn is_listening(path: &Path) -> bool {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
        ),
    }
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::File {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests;
