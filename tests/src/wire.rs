//! Two hosts on a network of their own.

use std::{
    net::{IpAddr, Ipv4Addr},
    process::{Command, id},
};

/// The source's host at first, and later; the destination's.
const NEAR: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 83, 0, 1), Ipv4Addr::new(10, 83, 0, 3)];
const FAR: Ipv4Addr = Ipv4Addr::new(10, 83, 0, 2);

/// Two network namespaces with an Ethernet link between them; gone when dropped. No address of it
/// is seen outside.
pub struct Wire {
    near: String,
    far: String,
}

impl Wire {
    /// A link that is up.
    ///
    /// # Errors
    /// Why there is none to be had here.
    pub fn new() -> Result<Self, String> {
        let [near, far] = ["near", "far"].map(|end| format!("me2-tests-{}-{end}", id()));
        let wire = Self { near, far };
        let (near, far) = (&wire.near, &wire.far);
        for end in [near, far] {
            ip(&format!("netns add {end}"))?;
        }
        ip(&format!(
            "-n {near} link add wire type veth peer name wire netns {far}"
        ))?;
        for (end, address) in [(near, NEAR[0]), (far, FAR)] {
            ip(&format!("-n {end} address add {address}/24 dev wire"))?;
            ip(&format!("-n {end} link set wire up"))?;
            ip(&format!("-n {end} link set lo up"))?;
        }
        Ok(wire)
    }

    /// What runs a program on the source's host.
    pub fn near(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.near]
    }

    /// What runs a program on the destination's host.
    pub fn far(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.far]
    }

    /// Where the destination's host is reached.
    pub fn far_address(&self) -> IpAddr {
        FAR.into()
    }

    /// The source's host has another address from now on, and not the one before.
    ///
    /// # Panics
    /// If that is not allowed any more.
    pub fn change_address(&self) {
        let [before, after] = NEAR;
        let near = &self.near;
        for change in [
            format!("-n {near} address delete {before}/24 dev wire"),
            format!("-n {near} address add {after}/24 dev wire"),
        ] {
            ip(&change).unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for end in [&self.near, &self.far] {
            // The second goes with nothing left to complain about, if the first was never made.
            let _ = ip(&format!("netns delete {end}"));
        }
    }
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output();
    let output = output.map_err(|error| format!("cannot run ip: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {words}: {}", stderr.trim())),
    }
}
