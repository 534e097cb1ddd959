//! What of this host, or of me2, limits the transport: told in the report, each with the mend.

use std::{io, net::UdpSocket};

use quinn::{
    Connection,
    udp::{UdpSockRef, UdpSocketState},
};

use super::{
    congestion,
    endpoint::{STREAM_RECEIVE_WINDOW_BYTES, UDP_PAYLOAD_BYTES_MAX},
};

/// What is asked of the kernel for each UDP socket and direction, in bytes; it
/// grants at most `net.core.{r,w}mem_max`. Packets that arrive while the
/// reading thread is not scheduled for some 10 ms wait here: 4 MiB holds 10 ms
/// of 3 Gbit/s.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// The payload that QUIC begins with, before it has found what the path takes (RFC 9000, 14).
const INITIAL_PAYLOAD_BYTES: u16 = 1200;

/// From this part of the window on, the window may be what limits.
const WINDOW_PART: f64 = 0.9;

/// What the kernel granted a UDP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SocketGrant {
    /// For packets that nobody has read yet, in bytes.
    pub receive_buffer_bytes: usize,
    /// For packets that the network card has not taken yet, in bytes.
    pub send_buffer_bytes: usize,
    /// Packets that one system call sends; 1 without GSO.
    pub sent_at_once: usize,
    /// Packets that one system call receives as one; 1 without GRO.
    pub received_at_once: usize,
}

impl SocketGrant {
    /// What any UDP socket of this process is granted.
    pub fn of_this_host() -> io::Result<Self> {
        let socket = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        Self::ask(&socket, &state)
    }

    /// Asks for buffers, and reads what was granted.
    pub(super) fn ask(socket: &UdpSocket, state: &UdpSocketState) -> io::Result<Self> {
        let socket = || UdpSockRef::from(socket);
        state.set_recv_buffer_size(socket(), SOCKET_BUFFER_BYTES)?;
        state.set_send_buffer_size(socket(), SOCKET_BUFFER_BYTES)?;
        // Linux doubles what it is asked for, and tells the double: for its own administration.
        Ok(Self {
            receive_buffer_bytes: state.recv_buffer_size(socket())? / 2,
            send_buffer_bytes: state.send_buffer_size(socket())? / 2,
            sent_at_once: state.max_gso_segments(),
            received_at_once: state.gro_segments(),
        })
    }

    /// What limits, as sentences.
    pub fn limits(&self) -> Vec<String> {
        let buffer = |direction, granted: usize, setting| {
            let wanted = SOCKET_BUFFER_BYTES;
            (granted < wanted).then(|| {
                format!(
                    "UDP {direction} buffer of {} KiB, wanted {} KiB: \
                     sysctl -w net.core.{setting}={wanted}",
                    granted >> 10,
                    wanted >> 10,
                )
            })
        };
        let alone = |at_once, what| {
            (at_once <= 1).then(|| format!("no {what}: a system call for every packet"))
        };
        [
            buffer("receive", self.receive_buffer_bytes, "rmem_max"),
            buffer("send", self.send_buffer_bytes, "wmem_max"),
            alone(self.sent_at_once, "UDP segmentation offload (GSO)"),
            alone(self.received_at_once, "UDP receive offload (GRO)"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// What limits this connection, of the host and of the path.
pub fn of_connection(connection: &Connection, socket: &SocketGrant) -> Vec<String> {
    let mut limits = socket.limits();
    let path = connection.stats().path;
    limits.extend(of_payload(path.current_mtu, path.lost_plpmtud_probes));
    limits.extend(of_window(congestion::estimate(connection).product()));
    limits
}

/// `lost`: larger packets that were tried.
fn of_payload(bytes: u16, lost: u64) -> Option<String> {
    (bytes <= INITIAL_PAYLOAD_BYTES && lost > 0).then(|| {
        format!(
            "UDP payloads of {bytes} bytes, {UDP_PAYLOAD_BYTES_MAX} did not get through: \
             see the MTU of the path"
        )
    })
}

/// `product`: bandwidth times delay, as measured with this window.
fn of_window(product: f64) -> Option<String> {
    let window = STREAM_RECEIVE_WINDOW_BYTES;
    (product >= WINDOW_PART * f64::from(window)).then(|| {
        format!(
            "bandwidth x delay of {} MiB or more: at most {} MiB are under way",
            product as u64 >> 20,
            window >> 20
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: SocketGrant = SocketGrant {
        receive_buffer_bytes: SOCKET_BUFFER_BYTES,
        send_buffer_bytes: SOCKET_BUFFER_BYTES,
        sent_at_once: 64,
        received_at_once: 64,
    };

    #[test]
    fn where_all_is_granted_nothing_limits() {
        assert_eq!(GRANTED.limits(), Vec::<String>::new());
        assert_eq!(of_payload(UDP_PAYLOAD_BYTES_MAX, 1), None);
        assert_eq!(of_payload(1200, 0), None, "nothing larger was tried");
    }

    #[test]
    fn each_limit_comes_with_its_mend() {
        let little = SocketGrant {
            receive_buffer_bytes: 212_992,
            send_buffer_bytes: 106_496,
            sent_at_once: 1,
            received_at_once: 1,
        };
        assert_eq!(
            little.limits(),
            [
                "UDP receive buffer of 208 KiB, wanted 4096 KiB: \
                 sysctl -w net.core.rmem_max=4194304",
                "UDP send buffer of 104 KiB, wanted 4096 KiB: \
                 sysctl -w net.core.wmem_max=4194304",
                "no UDP segmentation offload (GSO): a system call for every packet",
                "no UDP receive offload (GRO): a system call for every packet",
            ]
        );
        assert!(of_payload(1200, 3).unwrap().contains("1200 bytes, 1452"));
    }

    #[test]
    fn the_links_that_are_meant_fit_into_the_window() {
        let gigabit = 1e9 / 8.0;
        assert_eq!(of_window(gigabit * 0.2), None);
        assert!(of_window(gigabit * 0.26).is_some());
    }

    #[test]
    fn what_is_granted_is_what_the_kernel_tells() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
        let granted = SocketGrant::ask(&socket, &state).unwrap();
        for (bytes, setting) in [
            (granted.receive_buffer_bytes, "rmem_max"),
            (granted.send_buffer_bytes, "wmem_max"),
        ] {
            let max = std::fs::read_to_string(format!("/proc/sys/net/core/{setting}"));
            // A container may not show it.
            let Ok(max) = max else { continue };
            let max: usize = max.trim().parse().unwrap();
            assert_eq!(bytes, max.min(SOCKET_BUFFER_BYTES), "{setting}");
        }
    }
}
