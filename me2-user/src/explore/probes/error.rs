//! Why there are no probes, in words for the operator.

use std::{error::Error, io};

use aya::{EbpfError, programs::ProgramError};
use thiserror::Error;

use super::FRAMES_MAX;
use crate::explore::btf::BtfError;

/// Why this process runs without probes: each message is one sentence that says what is missing,
/// and the mend.
#[derive(Debug, Error)]
pub enum ProbesError {
    /// The build left the probes out.
    #[error("this me2 was built without probes: rebuild it without ME2_WITHOUT_PROBES")]
    NotBuilt,
    /// The process lacks a capability, or the system forbids BPF altogether.
    #[error(
        "not permitted to load BPF programs: run as root, or with CAP_BPF and CAP_PERFMON \
         (setcap cap_bpf,cap_perfmon+ep on the me2 binary)"
    )]
    NotPermitted(#[source] io::Error),
    /// The kernel has no BPF.
    #[error("this kernel has no BPF: it takes one with CONFIG_BPF_SYSCALL")]
    NoBpf(#[source] io::Error),
    /// The kernel does not describe the structure that the probe reads.
    #[error(
        "the layout of struct kvm_page_fault is unknown: it takes Linux 5.16 or later with \
         CONFIG_DEBUG_INFO_BTF, /sys mounted, and the module kvm loaded"
    )]
    NoLayout(#[source] BtfError),
    /// The kernel lacks everything that the probes attach to.
    #[error(
        "this kernel has none of the tracepoints of KVM's memory management: it takes Linux 5.16 or \
         later with CONFIG_FTRACE, and the module kvm loaded"
    )]
    NoTracepoint(#[source] io::Error),
    /// The own process id namespace could not be told.
    #[error("cannot read /proc/self/ns/pid: mount /proc")]
    NoProc(#[source] io::Error),
    /// The number of CPUs could not be told.
    #[error("cannot read /sys/devices/system/cpu/possible: mount /sys")]
    NoSysfs(#[source] io::Error),
    /// More frames than a map has room for.
    #[error("{frames} guest frames are too many to follow: at most {FRAMES_MAX}")]
    TooManyFrames {
        /// The frames asked for.
        frames: u64,
    },
    /// There is no memory for the maps.
    #[error("not enough memory for the maps of {frames} guest frames, five bytes each")]
    NoMemory {
        /// The frames asked for.
        frames: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused the probes otherwise.
    #[error("the kernel refused the probes: please report it with the causes that follow")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
}

/// What can fail on the way into the kernel.
#[derive(Debug, Error)]
pub(super) enum LoadError {
    #[error("reading the process id namespace")]
    Namespace(#[source] io::Error),
    #[error("loading the object")]
    Object(#[from] EbpfError),
}

impl ProbesError {
    pub(super) fn from_load(frames: u64, error: LoadError) -> Self {
        match error {
            LoadError::Namespace(error) => Self::NoProc(error),
            LoadError::Object(error) => match io_error(&error) {
                Some(source) if source.kind() == io::ErrorKind::OutOfMemory => {
                    Self::NoMemory { frames, source }
                }
                cause => Self::from_cause(cause, error),
            },
        }
    }

    pub(super) fn from_program(error: ProgramError) -> Self {
        Self::from_cause(io_error(&error), error)
    }

    fn from_cause(cause: Option<io::Error>, error: impl Error + Send + Sync + 'static) -> Self {
        match cause {
            Some(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                Self::NotPermitted(cause)
            }
            Some(cause) if cause.kind() == io::ErrorKind::Unsupported => Self::NoBpf(cause),
            _ => Self::Refused(error.into()),
        }
    }
}

/// The system call error at the root of `error`, if there is one.
pub(super) fn io_error(error: &(dyn Error + 'static)) -> Option<io::Error> {
    let mut chain = std::iter::successors(Some(error), |error| (*error).source());
    let os_error = chain.find_map(|error| error.downcast_ref::<io::Error>()?.raw_os_error());
    os_error.map(io::Error::from_raw_os_error)
}
