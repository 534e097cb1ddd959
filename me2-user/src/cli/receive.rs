//! `me2 receive`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ConfigDir, Mapping, RuntimeDir, SerialTarget, units};
use crate::control::socket::{SocketError, VmName, socket_path};

/// `me2 receive`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: wait on all addresses for a VM of a host that is trusted
  me2 cert trust sha256:… host-a
  me2 receive --listen 0.0.0.0:7000 --serial file:vm.log

The VM's memory, vCPUs and devices are as at the source; the options here only
say what they are connected to. Strangers are refused, and the waiting goes on.")]
pub struct ReceiveArgs {
    /// UDP address to wait at; port 0 takes any free one and logs it
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Name of the VM here [default: the name that it comes with]
    #[arg(long, value_name = "NAME")]
    pub name: Option<VmName>,
    /// Where the guest's serial port goes: stdio, none or file:PATH
    #[arg(long, value_name = "TARGET", default_value = "stdio")]
    pub serial: SerialTarget,
    /// Where a disk of the VM is here [default: its path at the source, if it is seen to be the same disk]; repeatable
    #[arg(long, value_name = "NAME=PATH")]
    pub disk: Vec<Mapping>,
    /// Which tap of this host a network card of the VM is connected to; repeatable
    #[arg(long, value_name = "NAME=TAP")]
    pub net: Vec<Mapping>,
    /// API socket [default: NAME.sock in the runtime folder]
    #[arg(long, value_name = "PATH")]
    pub api: Option<PathBuf>,
    /// Refuse VMs with more memory, in bytes or with K, M, G, T (powers of 1024)
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = units::parse_size)]
    pub max_memory: u64,
    /// End after the first attempt, with status 1 if it failed; else wait on
    #[arg(long)]
    pub once: bool,
    /// TCP address to serve Prometheus metrics at, to whoever reaches it [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// New file for what QUIC does to move the VM, packet by packet, in qlog [default: none]
    #[arg(long, value_name = "PATH")]
    pub qlog: Option<PathBuf>,
    /// Do not attach eBPF probes to the VM, for when it moves on
    #[arg(long)]
    pub no_probes: bool,
    /// Make large pages of the VM's memory once all of it is here, as far as the host has them
    #[arg(long)]
    pub large_pages: bool,
    /// Keep all privileges and system calls: for debugging
    #[arg(long)]
    pub no_sandbox: bool,
    /// Whom the VM process is to peers.
    #[command(flatten)]
    pub config: ConfigDir,
    /// Where the API socket is.
    #[command(flatten)]
    pub runtime: RuntimeDir,
}

impl ReceiveArgs {
    /// What the VM is called here, given the name that it comes with.
    pub fn vm_name(&self, arriving: &VmName) -> VmName {
        self.name.clone().unwrap_or_else(|| arriving.clone())
    }

    /// Where the API socket is to be; `None` as long as it depends on a VM that has not come.
    pub fn api_path(&self, arriving: Option<&VmName>) -> Result<Option<PathBuf>, SocketError> {
        match (&self.api, self.name.as_ref().or(arriving)) {
            (Some(path), _) => Ok(Some(path.clone())),
            (None, Some(name)) => Ok(Some(socket_path(&self.runtime.resolve()?, name))),
            (None, None) => Ok(None),
        }
    }
}
