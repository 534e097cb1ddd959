//! A UDP socket that counts what it sends against the cap.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};

use super::{Pacer, SLICE};

/// What each datagram has besides its payload, in bytes: IP's header without options, and UDP's.
const HEADERS_V4: u64 = 20 + 8;
const HEADERS_V6: u64 = 40 + 8;

/// The smallest datagrams of a bulk transfer, in bytes: how many are sent by one system call is
/// reckoned with.
const DATAGRAM_BYTES: u64 = 1200;

#[derive(Debug)]
pub(super) struct CountedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    pacer: Arc<Pacer>,
}

impl CountedSocket {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, pacer: Arc<Pacer>) -> Self {
        Self { socket, pacer }
    }
}

impl AsyncUdpSocket for CountedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)?;
        self.pacer.sent(bytes_on_link(transmit));
        Ok(())
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// No more than a slice at once.
    fn max_transmit_segments(&self) -> usize {
        let slice = self.pacer.bytes_in(SLICE).unwrap_or(u64::MAX);
        let segments = (slice / DATAGRAM_BYTES).max(1);
        self.socket
            .max_transmit_segments()
            .min(usize::try_from(segments).unwrap_or(usize::MAX))
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

fn bytes_on_link(transmit: &Transmit<'_>) -> u64 {
    let bytes = transmit.contents.len();
    let datagrams = transmit
        .segment_size
        .map_or(1, |segment| bytes.div_ceil(segment));
    let headers = match transmit.destination.ip().to_canonical().is_ipv4() {
        true => HEADERS_V4,
        false => HEADERS_V6,
    };
    bytes as u64 + datagrams as u64 * headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_datagram_has_headers() {
        let transmit = |to: &str, segment_size| Transmit {
            destination: to.parse().unwrap(),
            ecn: None,
            contents: &[0; 2500],
            segment_size,
            src_ip: None,
        };
        assert_eq!(bytes_on_link(&transmit("192.0.2.1:7", None)), 2528);
        assert_eq!(bytes_on_link(&transmit("192.0.2.1:7", Some(1200))), 2584);
        assert_eq!(
            bytes_on_link(&transmit("[2001:db8::1]:7", Some(1250))),
            2596
        );
        assert_eq!(bytes_on_link(&transmit("[::ffff:192.0.2.1]:7", None)), 2528);
    }
}
