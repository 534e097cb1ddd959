//! A disk for the guest: virtio-blk. Source: VIRTIO 1.2, section 5.2.
//!
//! Requests are done one after the other, whole, through a buffer: a file operation never waits for a
//! missing page of guest memory with the file's locks held. What a driver that knows nothing of
//! flushing has written is flushed with each write.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use virtio_bindings::{
    virtio_blk::{
        VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
        VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH,
        VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    },
    virtio_ids::VIRTIO_ID_BLOCK,
};
use virtio_queue::{DescriptorChain, Error, Queue, QueueT, Reader, Writer};
use vm_memory::bitmap::{AtomicBitmap, BS};

use super::{
    disk::Disk,
    transport::{QUEUE_SIZE_MAX, Shape},
    worker::{Backend, Served},
};
use crate::{
    machine::{BlockDocument, devices::SECTOR_BYTES},
    memory::GuestMemoryView,
};

/// Bytes between the disk and the guest at a time.
const BUFFER_BYTES: usize = 256 << 10;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
/// Buffers of a request: all of a queue but for its header and its status.
const SEGMENTS_MAX: u32 = QUEUE_SIZE_MAX as u32 - 2;

/// What tells a driver of the disk.
pub(crate) fn shape(document: &BlockDocument) -> Shape {
    let read_only = u64::from(document.read_only) << VIRTIO_BLK_F_RO;
    let mut config = Vec::new();
    config.extend(document.sectors.to_le_bytes());
    config.extend(0u32.to_le_bytes()); // bytes of a buffer: any number
    config.extend(SEGMENTS_MAX.to_le_bytes());
    Shape {
        id: VIRTIO_ID_BLOCK,
        features: FLUSH | 1 << VIRTIO_BLK_F_SEG_MAX | read_only,
        queues: 1,
        config,
    }
}

/// The device.
pub(crate) struct Block {
    name: String,
    disk: Arc<Disk>,
    document: BlockDocument,
    buffer: Vec<u8>,
    flushes: bool,
}

type In<'a> = Reader<'a, BS<'a, AtomicBitmap>>;
type Out<'a> = Writer<'a, BS<'a, AtomicBitmap>>;

/// How a request failed, as the guest is told.
enum Failure {
    Unsupported,
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Block {
    pub(crate) fn new(name: &str, disk: Arc<Disk>) -> Self {
        Self {
            name: name.to_owned(),
            document: disk.document(),
            disk,
            buffer: vec![0; BUFFER_BYTES],
            flushes: true,
        }
    }

    /// Does one request; gives how many bytes were written to guest memory.
    fn request(
        &mut self,
        file: &File,
        chain: DescriptorChain<&GuestMemoryView>,
        memory: &GuestMemoryView,
    ) -> Result<u32, Error> {
        let mut from: In<'_> = chain.clone().reader(memory)?;
        let mut to: Out<'_> = chain.writer(memory)?;
        let Some(data_bytes) = to.available_bytes().checked_sub(1) else {
            // Nowhere to say how it went.
            return Ok(0);
        };
        let mut status = to.split_at(data_bytes)?;
        let code = match self.transfer(file, &mut from, &mut to) {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(Failure::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(Failure::Io(error)) => {
                tracing::warn!(disk = self.name, %error, "a request of the guest failed");
                VIRTIO_BLK_S_IOERR
            }
        };
        let written = status.write_all(&[code as u8]);
        written.map_err(|_| Error::InvalidChain)?;
        Ok(u32::try_from(to.bytes_written() + 1).unwrap_or(u32::MAX))
    }

    fn transfer(
        &mut self,
        file: &File,
        from: &mut In<'_>,
        to: &mut Out<'_>,
    ) -> Result<(), Failure> {
        let kind: u32 = from.read_obj()?;
        let _priority: u32 = from.read_obj()?;
        let sector: u64 = from.read_obj()?;
        match kind {
            VIRTIO_BLK_T_IN => self.read(file, sector, to)?,
            VIRTIO_BLK_T_OUT => {
                self.write(file, sector, from)?;
                if !self.flushes {
                    file.sync_data()?;
                }
            }
            VIRTIO_BLK_T_FLUSH if self.document.read_only => {}
            VIRTIO_BLK_T_FLUSH => file.sync_data()?,
            VIRTIO_BLK_T_GET_ID => {
                let mut id = self.name.clone().into_bytes();
                id.resize(VIRTIO_BLK_ID_BYTES as usize, 0);
                id.truncate(to.available_bytes());
                to.write_all(&id)?;
            }
            _ => return Err(Failure::Unsupported),
        }
        Ok(())
    }

    fn read(&mut self, file: &File, sector: u64, to: &mut Out<'_>) -> io::Result<()> {
        let mut at = self.place(sector, to.available_bytes())?;
        while to.available_bytes() > 0 {
            let part = to.available_bytes().min(BUFFER_BYTES);
            let buffer = &mut self.buffer[..part];
            file.read_exact_at(buffer, at)?;
            to.write_all(buffer)?;
            at += part as u64;
        }
        Ok(())
    }

    fn write(&mut self, file: &File, sector: u64, from: &mut In<'_>) -> io::Result<()> {
        if self.document.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let mut at = self.place(sector, from.available_bytes())?;
        while from.available_bytes() > 0 {
            let part = from.available_bytes().min(BUFFER_BYTES);
            let buffer = &mut self.buffer[..part];
            from.read_exact(buffer)?;
            file.write_all_at(buffer, at)?;
            at += part as u64;
        }
        Ok(())
    }

    /// Where on the disk so many bytes lie; they must be whole sectors, all on the disk.
    fn place(&self, sector: u64, bytes: usize) -> io::Result<u64> {
        let bytes = bytes as u64;
        let end = sector.checked_add(bytes.div_ceil(SECTOR_BYTES));
        let is_inside = end.is_some_and(|end| end <= self.document.sectors);
        if !is_inside || !bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not whole sectors of the disk",
            ));
        }
        Ok(sector * SECTOR_BYTES)
    }
}

impl Backend for Block {
    fn serve(
        &mut self,
        queues: &mut [Queue],
        memory: &GuestMemoryView,
        stop: &AtomicBool,
    ) -> Result<Served, Error> {
        let mut served = Served::default();
        // Not this process's disk (any more): not its requests either.
        let Some(file) = self.disk.file() else {
            return Ok(served);
        };
        let queue = &mut queues[0];
        for _ in 0..queue.size() {
            if stop.load(Ordering::SeqCst) {
                return Ok(served);
            }
            let Some(chain) = super::backends::next(queue, memory)? else {
                return Ok(served);
            };
            let head = chain.head_index();
            let written = self.request(&file, chain, memory)?;
            queue.add_used(memory, head, written)?;
            served.completed = true;
        }
        served.more = true;
        Ok(served)
    }

    fn configure(&mut self, features: Option<u64>) {
        self.flushes = features.is_none_or(|features| features & FLUSH != 0);
    }
}

#[cfg(test)]
mod tests;
