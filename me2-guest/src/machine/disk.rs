//! Works on the first disk: writes numbered blocks, reads them back, and checks what it reads.

use core::ptr;

use me2_guest::PAGE_SIZE;
use me2_guest::disk::{
    BLOCK_BYTES, BLOCK_WORDS, BUFFERS, DEPTH, Done, Request, Schedule, check, word,
};
use me2_guest::ranges::Ranges;

use super::memory::{map_device, take_zeroed};
use super::serial::{print_line, refuse};
use super::virtio::{DEVICES_START, Device, Part, Queue};

const BLOCK_DEVICE: u32 = 2;
/// The device can be asked to flush, and keeps what was written until then.
const FEATURE_FLUSH: u32 = 1 << 9;
const SECTOR_BYTES: u64 = 512;
/// Descriptors of a request: header, data, status.
const PARTS: u16 = 3;
// In the queue's page, behind the queue.
const HEADERS: u64 = 0x800;
const HEADER_BYTES: u64 = 16;
const STATUSES: u64 = 0x900;

/// What a buffer must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Nothing,
    Block(u64),
}

/// A request whose answer is not as it must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) what: &'static str,
    pub(crate) expected: u64,
    pub(crate) found: u64,
}

/// The disk and what is under way.
pub(crate) struct Disk {
    device: Device,
    queue: Queue,
    schedule: Schedule,
    page: u64,
    buffers: u64,
    holds: [Holds; BUFFERS],
    /// Which buffer each request under way has.
    used: [usize; DEPTH],
    next_buffer: usize,
    told: Done,
}

impl Disk {
    /// Finds the first disk and takes memory for requests; works on its first so many bytes.
    pub(crate) fn open(bytes: u64, free: &mut Ranges) -> Self {
        map_device(DEVICES_START, free);
        let Some(device) = Device::find(BLOCK_DEVICE) else {
            refuse!("disk= needs a disk: virtio on the memory bus at {DEVICES_START:#x}");
        };
        let Some(page) = take_zeroed(free, 1 + BUFFERS as u64) else {
            refuse!("no memory for disk requests");
        };
        if !device.begin(FEATURE_FLUSH, &[page]) {
            refuse!("the disk does not do what a virtio disk does");
        }
        let sectors = u64::from(device.config(0)) | u64::from(device.config(4)) << 32;
        if bytes > sectors * SECTOR_BYTES {
            refuse!("disk= is more than the disk has, {sectors} sectors");
        }
        Self {
            device,
            queue: Queue::new(page),
            schedule: Schedule::new(bytes / BLOCK_BYTES as u64),
            page,
            buffers: page + PAGE_SIZE,
            holds: [Holds::Nothing; BUFFERS],
            used: [0; DEPTH],
            next_buffer: 0,
            told: Done::default(),
        }
    }

    /// Looks at what was answered, and asks for more.
    pub(crate) fn work(&mut self) -> Result<(), Failure> {
        while let Some((first, _)) = self.queue.answered() {
            self.take_answer(usize::from(first / PARTS))?;
        }
        let mut asked = false;
        while let Some((place, request)) = self.schedule.begin_next() {
            self.ask(place, request)?;
            asked = true;
        }
        if asked {
            self.device.notify(0);
        }
        Ok(())
    }

    /// Prints what was acknowledged, if it is more than before.
    pub(crate) fn tell(&mut self) {
        let done = self.schedule.done();
        if done != self.told {
            let Done {
                written,
                read,
                flushed,
            } = done;
            print_line(format_args!(
                "me2-guest disk written={written} read={read} flushed={flushed}"
            ));
            self.told = done;
        }
    }

    fn ask(&mut self, place: usize, request: Request) -> Result<(), Failure> {
        const READ: u32 = 0;
        const WRITE: u32 = 1;
        const FLUSH: u32 = 4;
        let buffer = self.next_buffer;
        self.next_buffer = (buffer + 1) % BUFFERS;
        self.used[place] = buffer;
        // What came by an earlier request must still be there.
        if let Holds::Block(write) = self.holds[buffer] {
            self.check_buffer(buffer, write, "kept")?;
        }
        let (kind, write) = match request {
            Request::Write(write) => (WRITE, write),
            Request::Read(write) => (READ, write),
            Request::Flush => (FLUSH, 0),
        };
        self.holds[buffer] = Holds::Nothing;
        if kind == WRITE {
            self.fill_buffer(buffer, write);
            self.holds[buffer] = Holds::Block(write);
        }
        let header = self.page + HEADERS + place as u64 * HEADER_BYTES;
        let sector = self.schedule.block(write) * (BLOCK_BYTES as u64 / SECTOR_BYTES);
        put(header, u64::from(kind));
        put(header + 8, if kind == FLUSH { 0 } else { sector });
        let status = self.page + STATUSES + place as u64;
        put(status, 0xffu8);
        let part = |address, bytes, is_written| Part {
            address,
            bytes,
            is_written,
        };
        let data = part(self.buffer(buffer), BLOCK_BYTES as u32, kind == READ);
        let (header, status) = (part(header, 16, false), part(status, 1, true));
        let first = place as u16 * PARTS;
        match kind {
            FLUSH => self.queue.offer(first, &[header, status]),
            _ => self.queue.offer(first, &[header, data, status]),
        }
        Ok(())
    }

    fn take_answer(&mut self, place: usize) -> Result<(), Failure> {
        let Some(request) = self.schedule.answered(place) else {
            return Err(Failure {
                what: "answer",
                expected: 0,
                found: place as u64,
            });
        };
        let status = get::<u8>(self.page + STATUSES + place as u64);
        if status != 0 {
            return Err(Failure {
                what: "status",
                expected: 0,
                found: status.into(),
            });
        }
        if let Request::Read(write) = request {
            let buffer = self.used[place];
            self.check_buffer(buffer, write, "read")?;
            self.holds[buffer] = Holds::Block(write);
        }
        Ok(())
    }

    fn buffer(&self, number: usize) -> u64 {
        self.buffers + number as u64 * PAGE_SIZE
    }

    fn fill_buffer(&mut self, number: usize, write: u64) {
        let start = self.buffer(number);
        for place in 0..BLOCK_WORDS {
            put(start + 8 * place as u64, word(write, place));
        }
    }

    fn check_buffer(&self, number: usize, write: u64, what: &'static str) -> Result<(), Failure> {
        let block = get::<[u64; BLOCK_WORDS]>(self.buffer(number));
        check(&block, write).map_err(|(expected, found)| Failure {
            what,
            expected,
            found,
        })
    }
}

fn put<T>(address: u64, value: T) {
    // SAFETY: all callers name addresses in the pages that `open` took for this disk, aligned, and none
    // that the device is using.
    unsafe { ptr::with_exposed_provenance_mut::<T>(address as usize).write_volatile(value) };
}

fn get<T>(address: u64) -> T {
    // SAFETY: as above; any bytes are numbers.
    unsafe { ptr::with_exposed_provenance::<T>(address as usize).read_volatile() }
}
