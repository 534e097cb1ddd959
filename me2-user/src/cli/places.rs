//! Options that say where things are, shared by commands.

use std::path::PathBuf;

use clap::Args;

use crate::control::client::Client;
use crate::control::socket::{self, SocketError};
use crate::identity::{IdentityError, config_dir};

/// `--config-dir`.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigDir {
    /// Folder of the identity and the trusted peers [default: ~/.config/me2]
    #[arg(
        long,
        value_name = "PATH",
        env = "ME2_CONFIG_DIR",
        hide_env_values = true
    )]
    pub config_dir: Option<PathBuf>,
}

/// `--runtime-dir`.
#[derive(Debug, Clone, Default, Args)]
pub struct RuntimeDir {
    /// Folder of the VMs' API sockets [default: /run/me2 for root, else
    /// $XDG_RUNTIME_DIR/me2]
    #[arg(
        long,
        value_name = "PATH",
        env = "ME2_RUNTIME_DIR",
        hide_env_values = true
    )]
    pub runtime_dir: Option<PathBuf>,
}

/// `--vm`, and where it is looked for.
#[derive(Debug, Clone, Args)]
pub struct VmSelector {
    /// The VM: its name, or the path of its API socket (with a '/')
    #[arg(long, value_name = "NAME-OR-SOCKET")]
    pub vm: String,
    /// Where names are looked for.
    #[command(flatten)]
    pub runtime: RuntimeDir,
}

impl ConfigDir {
    /// The folder chosen, or the default one.
    pub fn resolve(&self) -> Result<PathBuf, IdentityError> {
        config_dir(self.config_dir.clone())
    }
}

impl RuntimeDir {
    /// The folder chosen, or the default one.
    pub fn resolve(&self) -> Result<PathBuf, SocketError> {
        socket::runtime_dir(self.runtime_dir.clone())
    }
}

impl VmSelector {
    /// A client of the VM's process.
    pub fn client(&self) -> Result<Client, SocketError> {
        // A path needs no folder to be known.
        let dir = match self.vm.contains('/') {
            true => PathBuf::new(),
            false => self.runtime.resolve()?,
        };
        socket::resolve(&dir, &self.vm).map(Client::new)
    }
}
