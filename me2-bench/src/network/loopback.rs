//! A network namespace with nothing but loopback.

use std::{
    io::{BufRead, BufReader},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};

use super::LinkBytes;
use crate::process::ask;

pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Exists as long as a process that holds it.
pub(crate) struct Loopback {
    holder: Child,
}

const HOLD: &str = "ip link set lo up && echo ready && read -r end";

impl Loopback {
    pub(super) fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "setpriv",
            "--pdeathsig",
            "KILL",
            "--",
            "sh",
            "-c",
            HOLD,
        ]);
        let holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run unshare")?;
        // From here on dropping it ends the holder.
        let mut loopback = Self { holder };
        let output = loopback.holder.stdout.take().expect("asked for");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "no network namespace: root is needed");
        Ok(loopback)
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        command.arg(program);
        command
    }

    /// Both directions go over the same device: all of it counts as forth.
    pub(super) fn bytes(&self) -> anyhow::Result<LinkBytes> {
        let table = ask(self.command("cat").arg("/proc/net/dev"))?;
        let forth = received(&table).context("no loopback device in /proc/net/dev")?;
        Ok(LinkBytes {
            forth,
            ..LinkBytes::default()
        })
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn received(table: &str) -> Option<u64> {
    let mut lines = table.lines();
    let counts = lines.find_map(|line| line.trim_start().strip_prefix("lo:"))?;
    counts.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_in_the_table() {
        let table = "Inter-|   Receive\n face |bytes    packets\n    lo:  1234      5    0\n";
        assert_eq!(received(table), Some(1234));
        assert_eq!(received("  eth0: 1 2\n"), None);
    }
}
