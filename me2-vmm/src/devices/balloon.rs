//! A balloon that is never inflated, through which the guest reports free pages: virtio-balloon with
//! `VIRTIO_BALLOON_F_REPORTING`. Source: VIRTIO 1.2, section 5.5.
//!
//! A reported page is given back to the host: it becomes a hole, which no migration sends. While
//! pages are missing ([`GuestMemory::keep_free_pages`]) reports are acknowledged and change nothing:
//! a page that was dropped here would be missing again, and nobody would send it.

use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::{Error, Queue, QueueT};
use vm_memory::Address;

use super::{
    transport::Shape,
    worker::{Backend, Served},
};
use crate::memory::{GuestMemory, GuestMemoryView};

/// The device reports free pages.
const FEATURE_REPORTING: u64 = 1 << 5;
/// Queues by what was agreed on: inflate, deflate, and reporting behind them.
const QUEUES: usize = 3;
const REPORTING: usize = 2;

/// What tells a driver of it: it is to have no pages, and has none.
pub(crate) fn shape() -> Shape {
    Shape {
        id: VIRTIO_ID_BALLOON,
        features: FEATURE_REPORTING,
        queues: QUEUES,
        config: vec![0; 8],
    }
}

/// The device.
pub(crate) struct Balloon {
    memory: GuestMemory,
}

impl Balloon {
    pub(crate) fn new(memory: GuestMemory) -> Self {
        Self { memory }
    }
}

impl Backend for Balloon {
    fn serve(
        &mut self,
        queues: &mut [Queue],
        memory: &GuestMemoryView,
        stop: &AtomicBool,
    ) -> Result<Served, Error> {
        let mut served = Served::default();
        let size = queues.iter().map(Queue::size).max().unwrap_or(0);
        for _ in 0..size {
            let mut found = false;
            for (number, queue) in queues.iter_mut().enumerate() {
                if stop.load(Ordering::SeqCst) {
                    return Ok(served);
                }
                let Some(chain) = super::backends::next(queue, memory)? else {
                    continue;
                };
                let head = chain.head_index();
                if number == REPORTING {
                    for part in chain.writable() {
                        let start = part.addr().raw_value();
                        self.memory.drop_free(start, part.len().into());
                    }
                }
                queue.add_used(memory, head, 0)?;
                (found, served.completed) = (true, true);
            }
            if !found {
                return Ok(served);
            }
        }
        served.more = true;
        Ok(served)
    }
}
