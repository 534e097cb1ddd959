//! A network card: virtio-net on a tap. Source: VIRTIO 1.2, section 5.1.
//!
//! No offloads: each frame is whole, with its checksums. When the VM has arrived on another host, the
//! card says so to the switches on its way ([`Announcement`]), since its guest does not know.

use std::{
    io::{ErrorKind, Read, Write},
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use virtio_bindings::{virtio_ids::VIRTIO_ID_NET, virtio_net::VIRTIO_NET_F_MAC};
use virtio_queue::{Error, Queue, QueueT, Reader, Writer};
use vm_memory::bitmap::{AtomicBitmap, BS};

use super::{
    tap::{HEADER_BYTES, Tap},
    transport::Shape,
    worker::{Backend, Served},
};
use crate::memory::GuestMemoryView;

/// Largest frame with its header: what fits into an IP packet, with Ethernet's own.
const FRAME_BYTES_MAX: usize = 65536 + HEADER_BYTES;
const RECEIVE: usize = 0;
const SEND: usize = 1;
/// When an announcement is repeated, after the one before: a switch may not listen yet.
const ANNOUNCE_AFTER_MS: [u64; 4] = [0, 50, 150, 450];
const RARP: [u8; 2] = [0x80, 0x35];

/// What tells a driver of the card.
pub(crate) fn shape(mac: [u8; 6]) -> Shape {
    Shape {
        id: VIRTIO_ID_NET,
        features: 1 << VIRTIO_NET_F_MAC,
        queues: 2,
        config: mac.to_vec(),
    }
}

/// The device.
pub(crate) struct Net {
    mac: [u8; 6],
    tap: Arc<Tap>,
    buffer: Vec<u8>,
    /// Bytes in the buffer: a frame for which the guest had no room yet.
    waiting: usize,
    /// The guest has given buffers to receive into.
    has_room: bool,
    announcement: Announcement,
}

/// Frames that tell where an address is now: a few, ever more seldom.
#[derive(Default)]
struct Announcement {
    sent: usize,
    next: Option<Instant>,
}

impl Announcement {
    fn begin(&mut self, now: Instant) {
        (self.sent, self.next) = (0, Some(now));
    }

    /// Whether one is due; then the next is later.
    fn is_due(&mut self, now: Instant) -> bool {
        if self.next.is_none_or(|next| next > now) {
            return false;
        }
        self.sent += 1;
        let after = ANNOUNCE_AFTER_MS.get(self.sent);
        self.next = after.map(|ms| now + Duration::from_millis(*ms));
        true
    }
}

impl Net {
    pub(crate) fn new(mac: [u8; 6], tap: Arc<Tap>) -> Self {
        Self {
            mac,
            tap,
            buffer: vec![0; FRAME_BYTES_MAX],
            waiting: 0,
            has_room: false,
            announcement: Announcement::default(),
        }
    }

    /// What the guest sends goes to the tap; what the tap does not take is lost, as on a cable.
    fn send(&mut self, queue: &mut Queue, memory: &GuestMemoryView) -> Result<bool, Error> {
        let Some(chain) = super::backends::next(queue, memory)? else {
            return Ok(false);
        };
        let head = chain.head_index();
        let mut from: Reader<'_, BS<'_, AtomicBitmap>> = chain.reader(memory)?;
        let bytes = from.available_bytes().min(FRAME_BYTES_MAX);
        let mut frame = vec![0; bytes];
        from.read_exact(&mut frame)
            .map_err(|_| Error::InvalidChain)?;
        if let Err(error) = self.tap.file().write(&frame) {
            tracing::trace!(%error, "a frame of the guest was lost");
        }
        queue.add_used(memory, head, 0)?;
        Ok(true)
    }

    /// A frame from the tap goes to the guest, if it has room.
    fn receive(&mut self, queue: &mut Queue, memory: &GuestMemoryView) -> Result<bool, Error> {
        if self.waiting == 0 {
            self.waiting = match self.tap.file().read(&mut self.buffer) {
                Ok(bytes) => bytes,
                Err(error) => {
                    if error.kind() != ErrorKind::WouldBlock {
                        tracing::trace!(%error, "no frames from the tap");
                    }
                    0
                }
            };
        }
        if self.waiting < HEADER_BYTES {
            self.waiting = 0;
            self.has_room = true;
            return Ok(false);
        }
        let Some(chain) = super::backends::next(queue, memory)? else {
            self.has_room = false;
            return Ok(false);
        };
        let head = chain.head_index();
        let mut to: Writer<'_, BS<'_, AtomicBitmap>> = chain.writer(memory)?;
        let frame = &mut self.buffer[..std::mem::take(&mut self.waiting)];
        // One buffer a frame.
        frame[HEADER_BYTES - 2..HEADER_BYTES].copy_from_slice(&1u16.to_le_bytes());
        let written = if frame.len() <= to.available_bytes() {
            to.write(frame).map_err(|_| Error::InvalidChain)?
        } else {
            0
        };
        queue.add_used(memory, head, written as u32)?;
        Ok(true)
    }

    fn announce(&self) {
        let mut frame = vec![0; HEADER_BYTES];
        frame.extend(announcement(self.mac));
        if let Err(error) = self.tap.file().write(&frame) {
            tracing::debug!(%error, "an announcement was lost");
        }
    }
}

/// A RARP request of the card for itself, to all: it says where the address is, and asks nothing of
/// hosts that know no RARP. Sources: RFC 903; QEMU announces the same way.
fn announcement(mac: [u8; 6]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend(RARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 3]); // Ethernet, IPv4, request reverse
    frame.extend(mac);
    frame.extend([0; 4]);
    frame.extend(mac);
    frame.extend([0; 4]);
    frame.resize(60, 0); // the shortest frame
    frame
}

impl Backend for Net {
    fn serve(
        &mut self,
        queues: &mut [Queue],
        memory: &GuestMemoryView,
        stop: &AtomicBool,
    ) -> Result<Served, Error> {
        if self.announcement.is_due(Instant::now()) {
            self.announce();
        }
        let mut served = Served::default();
        for _ in 0..queues[SEND].size() {
            if stop.load(Ordering::SeqCst) {
                return Ok(served);
            }
            let sent = self.send(&mut queues[SEND], memory)?;
            let received = self.receive(&mut queues[RECEIVE], memory)?;
            if !sent && !received {
                return Ok(served);
            }
            served.completed = true;
        }
        served.more = true;
        Ok(served)
    }

    fn configure(&mut self, _features: Option<u64>) {
        self.waiting = 0;
    }

    fn begin(&mut self, arrived: bool) {
        if arrived {
            self.announcement.begin(Instant::now());
        }
    }

    fn input(&self) -> Option<RawFd> {
        self.has_room.then(|| self.tap.file().as_raw_fd())
    }

    fn timer(&self) -> Option<Instant> {
        self.announcement.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_announces_itself_a_few_times_and_then_no_more() {
        let (mut announcement, start) = (Announcement::default(), Instant::now());
        assert!(!announcement.is_due(start));
        announcement.begin(start);
        let due = (0..10_000).filter(|ms| announcement.is_due(start + Duration::from_millis(*ms)));
        assert_eq!(due.collect::<Vec<_>>(), [0, 50, 200, 650]);
        assert!(announcement.next.is_none());
    }

    #[test]
    fn an_announcement_is_a_whole_frame_to_all() {
        let mac = [2, 0, 0, 0, 0, 7];
        let frame = super::announcement(mac);
        assert_eq!(frame.len(), 60);
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &mac[..]));
        assert_eq!((&frame[22..28], &frame[32..38]), (&mac[..], &mac[..]));
    }
}
