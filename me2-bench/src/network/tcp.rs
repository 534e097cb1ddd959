//! TCP as a good operator would have it, for rivals that use it.

use std::path::Path;

use me2_link::End;

use super::Network;
use crate::process::ask;

/// What Linux allows itself, bytes: plenty for short links.
const WRITE_BYTES_MAX: u64 = 4 << 20;
const READ_BYTES_MAX: u64 = 6 << 20;
/// Longer ones need so many bandwidth-delay products. No more: what waits in the sender's buffer when
/// the guest stops is downtime.
const PRODUCTS: u64 = 4;

const CONTROLS: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// Sets what each namespace has of its own.
pub(super) fn tune(network: &Network, bandwidth_delay_bytes: u64) -> anyhow::Result<()> {
    for end in [End::A, End::B] {
        for (name, value) in settings(bandwidth_delay_bytes) {
            let path = format!("/proc/sys/net/ipv4/{name}");
            let script = format!("echo '{value}' >{path}");
            // Some kernels have these for the whole host alone.
            if Path::new(&path).exists() {
                ask(network.command(end, "sh").args(["-c", &script]))?;
            }
        }
    }
    Ok(())
}

/// The controller that is used: bbr where the kernel has it.
pub(crate) fn congestion_control() -> &'static str {
    let available = std::fs::read_to_string(CONTROLS).unwrap_or_default();
    match available.split_ascii_whitespace().any(|name| name == "bbr") {
        true => "bbr",
        false => "cubic",
    }
}

fn settings(bandwidth_delay_bytes: u64) -> [(&'static str, String); 3] {
    let needed = PRODUCTS * bandwidth_delay_bytes;
    let (write, read) = (WRITE_BYTES_MAX.max(needed), READ_BYTES_MAX.max(needed));
    [
        ("tcp_congestion_control", congestion_control().to_owned()),
        ("tcp_wmem", format!("4096 16384 {write}")),
        ("tcp_rmem", format!("4096 131072 {read}")),
    ]
}
