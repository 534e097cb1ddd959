//! `me2 run`.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigDir, RuntimeDir, SerialTarget, units};
use crate::control::socket::{SocketError, VmName, socket_path};

/// `me2 run`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: the built-in workload guest with 4 GiB and 2 vCPUs, and one of your own
  me2 run --name demo --memory 4G --cpus 2 --cmdline 'workload=kv fill=256M'
  me2 run --name mine --kernel guest.elf --serial file:mine.log

Ends with status 0 when the guest has ended, was stopped or has moved away.")]
pub struct RunArgs {
    /// Name of the VM, for --vm of the other commands
    #[arg(long, value_name = "NAME", default_value = "vm")]
    pub name: VmName,
    /// Guest to boot, a PVH ELF or vmlinux [default: the built-in workload]
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Module handed to the guest: an initial RAM disk, or data
    #[arg(long, value_name = "PATH")]
    pub initrd: Option<PathBuf>,
    /// Command line of the guest [default: the built-in workload's own]
    #[arg(long, value_name = "TEXT")]
    pub cmdline: Option<String>,
    /// Memory of the VM, in bytes or with K, M, G, T (powers of 1024)
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = units::parse_size)]
    pub memory: u64,
    /// Number of vCPUs, 1 to 8
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub cpus: u8,
    /// Where the guest's serial port goes: stdio, none or file:PATH
    #[arg(long, value_name = "TARGET", default_value = "stdio")]
    pub serial: SerialTarget,
    /// API socket [default: NAME.sock in the runtime folder]
    #[arg(long, value_name = "PATH")]
    pub api: Option<PathBuf>,
    /// Do not attach eBPF probes; migrations then send pages in the order of their addresses
    #[arg(long)]
    pub no_probes: bool,
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

impl RunArgs {
    /// Where the API socket is to be.
    pub fn api_path(&self) -> Result<PathBuf, SocketError> {
        match &self.api {
            Some(path) => Ok(path.clone()),
            None => Ok(socket_path(&self.runtime.resolve()?, &self.name)),
        }
    }
}
