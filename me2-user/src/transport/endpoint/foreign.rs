//! Notices datagrams that are not QUIC, so that somebody who looks for the
//! reason of a silent port finds it in the log.
//!
//! QUIC drops such datagrams without a word. This only looks at what passes
//! by: nothing is kept from the endpoint, and nothing is decided here.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tracing::warn;

/// At most one line in so long: a flood must not fill the log.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

const QUIC_VERSION_1: [u8; 4] = [0, 0, 0, 1];

/// What was noticed, shared between socket and listener.
#[derive(Debug, Default)]
pub(super) struct ForeignWatch {
    connected: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Debug, Default)]
struct Tally {
    unreported: u64,
    last_line: Option<Instant>,
}

impl ForeignWatch {
    /// Whether packets of established connections are to be expected: their
    /// short headers cannot be told from noise.
    pub(super) fn expect_packets(&self, expected: bool) {
        self.connected.store(expected, Ordering::Relaxed);
    }

    /// Whether a line was written.
    #[cfg(test)]
    pub(super) fn was_reported(&self) -> bool {
        self.tally
            .lock()
            .expect("no panic while held")
            .last_line
            .is_some()
    }

    fn look(&self, datagram: &[u8], from: SocketAddr, now: Instant) {
        if !is_foreign(datagram, self.connected.load(Ordering::Relaxed)) {
            return;
        }
        if let Some(datagrams) = self.count(now) {
            warn!(%from, datagrams, "ignored datagrams that are not QUIC");
        }
    }

    /// Counts one; says how many a line that is due now stands for.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut tally = self.tally.lock().expect("no panic while held");
        tally.unreported += 1;
        let due = tally
            .last_line
            .is_none_or(|last| now.duration_since(last) >= LINE_INTERVAL);
        due.then(|| {
            tally.last_line = Some(now);
            std::mem::take(&mut tally.unreported)
        })
    }
}

/// A UDP socket that is watched.
#[derive(Debug)]
pub(super) struct ForeignDatagrams {
    socket: Arc<dyn AsyncUdpSocket>,
    watch: Arc<ForeignWatch>,
}

impl ForeignDatagrams {
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, watch: Arc<ForeignWatch>) -> Self {
        Self { socket, watch }
    }
}

impl AsyncUdpSocket for ForeignDatagrams {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(messages)) = received {
            let now = Instant::now();
            for (buffer, meta) in bufs.iter().zip(meta.iter()).take(messages) {
                // Datagrams that the kernel has joined have one sender: the first tells.
                let datagram = &buffer[..meta.stride.min(meta.len)];
                self.watch.look(datagram, meta.addr, now);
            }
        }
        received
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

/// RFC 8999: a long header has the top bit set, then four bytes of version.
fn is_foreign(datagram: &[u8], connected: bool) -> bool {
    match datagram {
        [first, version @ ..] if first & 0x80 != 0 => !version.starts_with(&QUIC_VERSION_1),
        _ => !connected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_noise_from_quic() {
        assert!(is_foreign(b"", false));
        assert!(is_foreign(b"GET / HTTP/1.1\r\n", false));
        assert!(is_foreign(&[0x80], true));
        assert!(is_foreign(&[0xc3, 1, 2, 3, 4, 5], true));
        assert!(!is_foreign(&[0xc3, 0, 0, 0, 1, 8], false));
        assert!(!is_foreign(&[0x40, 1, 2, 3], true));
    }

    #[test]
    fn a_flood_makes_few_lines() {
        let watch = ForeignWatch::default();
        let start = Instant::now();
        assert_eq!(watch.count(start), Some(1));
        for millis in 0..1000 {
            assert_eq!(watch.count(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(watch.count(start + LINE_INTERVAL), Some(1001));
    }
}
