//! `me2 run`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::{ConfigDir, DiskOption, NetOption, RuntimeDir, SerialTarget, units};
use crate::control::socket::{SocketError, VmName, socket_path};

/// `me2 run`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example: the built-in workload guest with 4 GiB and 2 vCPUs, and one of your own
  me2 run --name demo --memory 4G --cpus 2 --cmdline 'workload=kv fill=256M'
  me2 run --name mine --kernel guest.elf --serial file:mine.log
and a Linux with a disk and a network card
  me2 run --name web --kernel vmlinux --cmdline 'root=/dev/vda console=ttyS0' \\
      --disk path=/srv/web.raw --net tap=tap0 --rng --balloon

Ends with status 0 when the guest has ended, was stopped or has moved away, and
with status 133 when it reboots: whoever started it is to start it again.")]
pub struct RunArgs {
    /// Name of the VM, for --vm of the other commands
    #[arg(long, value_name = "NAME", default_value = "vm")]
    pub name: VmName,
    /// Guest to boot: vmlinuz (bzImage), vmlinux or another PVH ELF [default: the built-in workload]
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
    /// Disk of the guest, a raw file or a block device; repeatable
    #[arg(long, value_name = "path=PATH[,readonly][,name=NAME]")]
    pub disk: Vec<DiskOption>,
    /// Network card of the guest, on a tap of this host; repeatable
    #[arg(long, value_name = "tap=TAP[,mac=MAC][,name=NAME]")]
    pub net: Vec<NetOption>,
    /// Give the guest random numbers of the host's
    #[arg(long)]
    pub rng: bool,
    /// Let the guest report free pages, which are given back to the host and do not travel
    #[arg(long)]
    pub balloon: bool,
    /// API socket [default: NAME.sock in the runtime folder]
    #[arg(long, value_name = "PATH")]
    pub api: Option<PathBuf>,
    /// TCP address to serve Prometheus metrics at, to whoever reaches it [default: none]
    #[arg(long, value_name = "ADDR:PORT")]
    pub metrics: Option<SocketAddr>,
    /// New file for what QUIC does to move the VM, packet by packet, in qlog [default: none]
    #[arg(long, value_name = "PATH")]
    pub qlog: Option<PathBuf>,
    /// Do not attach eBPF probes; migrations then send pages in the order of their addresses
    #[arg(long)]
    pub no_probes: bool,
    /// Let the guest's memory be in large pages of the host's, as far as it has them
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

impl RunArgs {
    /// Where the API socket is to be.
    pub fn api_path(&self) -> Result<PathBuf, SocketError> {
        match &self.api {
            Some(path) => Ok(path.clone()),
            None => Ok(socket_path(&self.runtime.resolve()?, &self.name)),
        }
    }
}
