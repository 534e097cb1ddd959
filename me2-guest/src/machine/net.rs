//! Sends datagrams back that come to the first network card.

use core::{ptr, slice};

use me2_guest::PAGE_SIZE;
use me2_guest::echo::turn_round;
use me2_guest::ranges::Ranges;

use super::memory::{map_device, take_zeroed};
use super::serial::refuse;
use super::virtio::{DEVICES_START, Device, Part, Queue};

const NET_DEVICE: u32 = 1;
const RECEIVE: u32 = 0;
const SEND: u32 = 1;
/// Before each frame.
const HEADER_BYTES: usize = 12;
const BUFFERS: u16 = 8;

/// The card. A buffer is always in one of its two queues, by its number as the descriptor's.
pub(crate) struct Net {
    device: Device,
    receive: Queue,
    send: Queue,
    buffers: u64,
}

impl Net {
    /// Finds the first card and gives it buffers.
    pub(crate) fn open(free: &mut Ranges) -> Self {
        map_device(DEVICES_START, free);
        let Some(device) = Device::find(NET_DEVICE) else {
            refuse!(
                "net=echo needs a network card: virtio on the memory bus at {DEVICES_START:#x}"
            );
        };
        let Some(pages) = take_zeroed(free, 2 + u64::from(BUFFERS)) else {
            refuse!("no memory for frames");
        };
        let queues = [pages, pages + PAGE_SIZE];
        if !device.begin(0, &queues) {
            refuse!("the network card does not do what a virtio card does");
        }
        let mut net = Self {
            device,
            receive: Queue::new(queues[0]),
            send: Queue::new(queues[1]),
            buffers: pages + 2 * PAGE_SIZE,
        };
        (0..BUFFERS).for_each(|buffer| net.offer(buffer));
        net.device.notify(RECEIVE);
        net
    }

    /// Sends back what came.
    pub(crate) fn work(&mut self) {
        let (mut sends, mut receives) = (false, false);
        while let Some((buffer, bytes)) = self.receive.answered() {
            if self.turn(buffer, bytes) {
                let part = self.part(buffer, bytes, false);
                self.send.offer(buffer, &[part]);
                sends = true;
            } else {
                self.offer(buffer);
                receives = true;
            }
        }
        while let Some((buffer, _)) = self.send.answered() {
            self.offer(buffer);
            receives = true;
        }
        for (queue, is_due) in [(SEND, sends), (RECEIVE, receives)] {
            if is_due {
                self.device.notify(queue);
            }
        }
    }

    fn turn(&mut self, buffer: u16, bytes: u32) -> bool {
        let start =
            ptr::with_exposed_provenance_mut::<u8>(self.part(buffer, 0, false).address as usize);
        let bytes = bytes.min(PAGE_SIZE as u32) as usize;
        // SAFETY: the buffer is a page of this card, which the device has answered: it is the guest's.
        let frame = unsafe { slice::from_raw_parts_mut(start, bytes) };
        frame.get_mut(HEADER_BYTES..).is_some_and(turn_round)
    }

    fn offer(&mut self, buffer: u16) {
        let part = self.part(buffer, PAGE_SIZE as u32, true);
        self.receive.offer(buffer, &[part]);
    }

    fn part(&self, buffer: u16, bytes: u32, is_written: bool) -> Part {
        assert!(buffer < BUFFERS, "the device answers what was asked");
        Part {
            address: self.buffers + u64::from(buffer) * PAGE_SIZE,
            bytes,
            is_written,
        }
    }
}
