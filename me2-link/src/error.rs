//! Why there is no link.

use std::io;

/// Why a link cannot be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Network namespaces and TUN devices need privileges.
    #[error("a link needs root, for its network namespaces: run this with sudo")]
    NotRoot,
    /// The asked-for properties make no sense.
    #[error("{0}")]
    Spec(&'static str),
    /// netem was asked for.
    #[error("this kernel has no netem: load sch_netem, or use the emulator")]
    NoNetem,
    /// The kernel's TUN driver is missing or out of reach.
    #[error("cannot make a TUN device: `modprobe tun`, and see that /dev/net/tun is there")]
    Tun(#[source] io::Error),
    /// A program is not installed.
    #[error("cannot run `{program}`: install iproute2")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program has failed.
    #[error("`{command}` failed: {message}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote to its standard error.
        message: String,
    },
    /// The system refused something else.
    #[error("{what}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl LinkError {
    /// For `map_err`: what was to be done when the system refused.
    pub(crate) fn system<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System {
            what,
            source: source.into(),
        }
    }
}
