//! Random numbers for the guest: virtio-entropy, out of the host's pool. Source: VIRTIO 1.2,
//! section 5.4.

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{Error, Queue, QueueT, Writer};
use vm_memory::bitmap::{AtomicBitmap, BS};

use super::{
    transport::Shape,
    worker::{Backend, Served},
};
use crate::memory::GuestMemoryView;

/// The most that one request is given: as much as the host's pool gives without an interruption.
const REQUEST_BYTES_MAX: usize = 256;

/// What tells a driver of it.
pub(crate) fn shape() -> Shape {
    Shape {
        id: VIRTIO_ID_RNG,
        features: 0,
        queues: 1,
        config: Vec::new(),
    }
}

/// The device.
pub(crate) struct Entropy;

impl Backend for Entropy {
    fn serve(
        &mut self,
        queues: &mut [Queue],
        memory: &GuestMemoryView,
        stop: &AtomicBool,
    ) -> Result<Served, Error> {
        let mut served = Served::default();
        let queue = &mut queues[0];
        for _ in 0..queue.size() {
            if stop.load(Ordering::SeqCst) {
                return Ok(served);
            }
            let Some(chain) = super::backends::next(queue, memory)? else {
                return Ok(served);
            };
            let head = chain.head_index();
            let mut to: Writer<'_, BS<'_, AtomicBitmap>> = chain.writer(memory)?;
            let mut numbers = [0; REQUEST_BYTES_MAX];
            let wanted = to.available_bytes().min(REQUEST_BYTES_MAX);
            let numbers = fill(&mut numbers[..wanted]);
            let written = to.write(numbers).map_err(|_| Error::InvalidChain)?;
            queue.add_used(memory, head, written as u32)?;
            served.completed = true;
        }
        served.more = true;
        Ok(served)
    }
}

/// As many random bytes as the host gives: all that were asked for, once its pool is filled.
fn fill(bytes: &mut [u8]) -> &[u8] {
    // SAFETY: the kernel writes at most as many bytes as the slice has.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    &bytes[..usize::try_from(got).unwrap_or(0)]
}
