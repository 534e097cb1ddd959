//! A tap device of the host: frames of a network card are read from and written to it.
//! Source: Linux, Documentation/networking/tuntap.rst.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
};

/// Longest name of a network interface.
const NAME_BYTES_MAX: usize = 15;
const IFF_TAP: i16 = 0x0002;
const IFF_NO_PI: i16 = 0x1000;
const IFF_VNET_HDR: i16 = 0x4000;
/// Bytes of the header that virtio-net and the tap have before each frame.
pub(crate) const HEADER_BYTES: usize = 12;

/// `struct ifreq`, as far as tap devices use it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: i16,
    padding: [u8; 22],
}

const _: () = assert!(size_of::<InterfaceRequest>() == 40);

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// Why a tap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// A name that no interface can have.
    #[error("tap {0:?}: a name has 1 to 15 bytes")]
    Name(String),
    /// It cannot be opened.
    #[error(
        "tap {name} cannot be opened: make it with `ip tuntap add {name} mode tap`, for this user"
    )]
    Open {
        /// Which.
        name: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// An open tap.
#[derive(Debug)]
pub struct Tap {
    file: File,
}

impl Tap {
    /// Opens a tap, which needs a privilege unless it is there and this user's.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn open(name: &str) -> Result<Self, TapError> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains('\0') {
            return Err(TapError::Name(name.to_owned()));
        }
        open(name).map_err(|source| TapError::Open {
            name: name.to_owned(),
            source,
        })
    }

    /// Reading gives a header and a frame, or says that there is none; writing sends one.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

fn open(name: &str) -> io::Result<Tap> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        padding: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: the descriptor is a new one of /dev/net/tun; the kernel reads and writes one
    // `struct ifreq`, whose size is asserted.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) })?;
    let header_bytes = HEADER_BYTES as libc::c_int;
    // SAFETY: the kernel reads one integer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), TUNSETVNETHDRSZ, &raw const header_bytes) })?;
    Ok(Tap { file })
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
