//! What me2 wants of this host's network and clock.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use rustix::net::sockopt;

use super::Finding;
use crate::transport::endpoint::UDP_PAYLOAD_BYTES_MAX;
use crate::transport::limits::{SOCKET_BUFFER_BYTES, SocketGrant};

/// Headers of IPv6 and UDP, in bytes.
const HEADER_BYTES: u32 = 40 + 8;
/// An address of the documentation, behind the default route: nothing is sent there.
const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The rows of both socket buffers.
pub(super) fn buffers() -> [Finding; 2] {
    let granted = SocketGrant::of_this_host();
    let row = |need, setting, bytes: fn(&SocketGrant) -> usize| {
        let row = Finding::wanted(need);
        let mend = format!("sysctl -w net.core.{setting}={SOCKET_BUFFER_BYTES}");
        match granted.as_ref().map(bytes) {
            Ok(bytes) if bytes >= SOCKET_BUFFER_BYTES => row.found(format!("{} KiB", bytes >> 10)),
            Ok(bytes) => row.missing(
                format!(
                    "{} KiB of {} KiB: bursts are lost",
                    bytes >> 10,
                    SOCKET_BUFFER_BYTES >> 10
                ),
                mend,
            ),
            Err(error) => row.missing(format!("no UDP socket: {error}"), mend),
        }
    };
    [
        row("UDP receive buffer", "rmem_max", |granted| {
            granted.receive_buffer_bytes
        }),
        row("UDP send buffer", "wmem_max", |granted| {
            granted.send_buffer_bytes
        }),
    ]
}

/// The row of the route to `to`, or of the default one.
pub(super) fn mtu(to: Option<SocketAddr>) -> Finding {
    let row = Finding::wanted("MTU");
    let route = match to {
        Some(to) => format!("to {}", to.ip()),
        None => "by default".to_owned(),
    };
    let wanted = u32::from(UDP_PAYLOAD_BYTES_MAX) + HEADER_BYTES;
    match route_mtu(to.unwrap_or(ANYWHERE)) {
        Ok(bytes) if bytes >= wanted => row.found(format!("{bytes} bytes, the route {route}")),
        Ok(bytes) => row.missing(
            format!("{bytes} bytes, the route {route}: smaller packets, more of them"),
            format!("give the interface an MTU of {wanted}, if the path takes it: ip link set DEV mtu {wanted}"),
        ),
        Err(error) => row.missing(
            format!("no route {route}: {error}"),
            "ip route shows where packets can go",
        ),
    }
}

fn route_mtu(to: SocketAddr) -> io::Result<u32> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    // Chooses the route; sends nothing.
    socket.connect(to)?;
    Ok(match to {
        SocketAddr::V4(_) => sockopt::ip_mtu(&socket)?,
        SocketAddr::V6(_) => sockopt::ipv6_mtu(&socket)?,
    })
}

/// The guest's wall clock goes on as the destination's goes.
pub(super) fn time() -> Finding {
    let row = Finding::wanted("time");
    let mend = "run a time service at both hosts, such as chrony or systemd-timesyncd";
    match me2_vmm::clock::is_synchronised() {
        Ok(true) => row.found("the clock follows a reference"),
        Ok(false) => row.missing("the clock follows no reference", mend),
        Err(error) => row.missing(format!("the kernel does not tell: {error}"), mend),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_room_for_a_packet() {
        for to in ["127.0.0.1:9", "[::1]:9"] {
            let to: SocketAddr = to.parse().unwrap();
            let Ok(_) = UdpSocket::bind((to.ip(), 0)) else {
                continue; // a host without IPv6
            };
            let row = mtu(Some(to));
            assert!(row.is_found && row.found.contains("bytes"), "{row:?}");
        }
    }

    #[test]
    fn buffers_are_found_or_have_their_setting() {
        for (row, setting) in buffers().iter().zip(["rmem_max", "wmem_max"]) {
            let told = row.mend.as_ref().map(|mend| mend.contains(setting));
            assert!(told.unwrap_or(true), "{row:?}");
            assert_eq!(row.is_found, row.mend.is_none(), "{row:?}");
        }
    }
}
