//! A virtio device on the memory bus, polled from ring 3. Source: VIRTIO 1.2, sections 2.7 and 4.2.

use core::ptr;
use core::sync::atomic::{Ordering, fence};

/// Where devices can be: a page each.
pub(crate) const DEVICES_START: u64 = 0xd000_0000;
const DEVICES_MAX: u64 = 16;
const PAGE: u64 = 4096;
const MAGIC: u32 = 0x7472_6976;
/// Entries of a queue.
pub(crate) const ENTRIES: u16 = 16;

// Registers.
const MAGIC_VALUE: u64 = 0x0;
const DEVICE_ID: u64 = 0x8;
const DRIVER_FEATURES: u64 = 0x20;
const DRIVER_FEATURES_SELECT: u64 = 0x24;
const QUEUE_SELECT: u64 = 0x30;
const QUEUE_ENTRIES: u64 = 0x38;
const QUEUE_READY: u64 = 0x44;
const QUEUE_NOTIFY: u64 = 0x50;
const STATUS: u64 = 0x70;
const QUEUE_DESCRIPTORS: u64 = 0x80;
const QUEUE_AVAILABLE: u64 = 0x90;
const QUEUE_USED: u64 = 0xa0;
const CONFIG: u64 = 0x100;

const STATUS_DRIVER: u32 = 1 | 2;
const STATUS_FEATURES_OK: u32 = 8;
const STATUS_DRIVER_OK: u32 = 4;

// Parts of a queue, in its page.
const AVAILABLE: u64 = 0x200;
const USED: u64 = 0x400;

/// A device that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Device {
    registers: u64,
}

impl Device {
    /// The first device of a kind. Their registers must be mapped.
    pub(crate) fn find(id: u32) -> Option<Self> {
        let all = (0..DEVICES_MAX).map(|number| Self {
            registers: DEVICES_START + number * PAGE,
        });
        all.into_iter()
            .find(|device| device.read(MAGIC_VALUE) == MAGIC && device.read(DEVICE_ID) == id)
    }

    /// Begins to use it, with a queue in each of these pages (zeroed, the guest's own) and these
    /// features of its kind; false if it does not agree.
    pub(crate) fn begin(self, features: u32, queues: &[u64]) -> bool {
        const VERSION_1: u32 = 1;
        self.write(STATUS, 0);
        self.write(STATUS, STATUS_DRIVER);
        for (select, features) in [(0, features), (1, VERSION_1)] {
            self.write(DRIVER_FEATURES_SELECT, select);
            self.write(DRIVER_FEATURES, features);
        }
        self.write(STATUS, STATUS_DRIVER | STATUS_FEATURES_OK);
        if self.read(STATUS) & STATUS_FEATURES_OK == 0 {
            return false;
        }
        for (number, page) in queues.iter().enumerate() {
            self.write(QUEUE_SELECT, number as u32);
            self.write(QUEUE_ENTRIES, ENTRIES.into());
            for (register, part) in [
                (QUEUE_DESCRIPTORS, 0),
                (QUEUE_AVAILABLE, AVAILABLE),
                (QUEUE_USED, USED),
            ] {
                self.write(register, (page + part) as u32);
                self.write(register + 4, ((page + part) >> 32) as u32);
            }
            self.write(QUEUE_READY, 1);
        }
        let status = STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK;
        self.write(STATUS, status);
        self.read(STATUS) == status
    }

    /// Tells it to look at a queue.
    pub(crate) fn notify(self, queue: u32) {
        self.write(QUEUE_NOTIFY, queue);
    }

    /// A word of its configuration.
    pub(crate) fn config(self, offset: u64) -> u32 {
        self.read(CONFIG + offset)
    }

    fn read(self, register: u64) -> u32 {
        let address = ptr::with_exposed_provenance::<u32>((self.registers + register) as usize);
        // SAFETY: the page is mapped, and no memory: what is no device reads as ones.
        unsafe { address.read_volatile() }
    }

    fn write(self, register: u64, value: u32) {
        let address = ptr::with_exposed_provenance_mut::<u32>((self.registers + register) as usize);
        // SAFETY: the page is mapped, and no memory. What the device then writes to is the guest's own.
        unsafe { address.write_volatile(value) };
    }
}

/// A part of a request: so many bytes at an address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    /// Whether the device writes it.
    pub(crate) is_written: bool,
}

/// A queue in a page.
#[derive(Debug)]
pub(crate) struct Queue {
    page: u64,
    available: u16,
    used: u16,
}

impl Queue {
    /// The queue in a zeroed page that nobody else uses.
    pub(crate) fn new(page: u64) -> Self {
        Self {
            page,
            available: 0,
            used: 0,
        }
    }

    /// Offers a request, whose descriptors begin with entry `first`; these must be free.
    pub(crate) fn offer(&mut self, first: u16, parts: &[Part]) {
        const NEXT: u16 = 1;
        const WRITTEN: u16 = 2;
        for (number, part) in parts.iter().enumerate() {
            let entry = first + number as u16;
            let is_last = number + 1 == parts.len();
            let flags = if is_last { 0 } else { NEXT } | if part.is_written { WRITTEN } else { 0 };
            let at = u64::from(entry) * 16;
            self.put(at, part.address);
            self.put(at + 8, part.bytes);
            self.put(at + 12, flags);
            self.put(at + 14, entry + 1);
        }
        let place = u64::from(self.available % ENTRIES);
        self.put(AVAILABLE + 4 + place * 2, first);
        fence(Ordering::SeqCst);
        self.available = self.available.wrapping_add(1);
        self.put(AVAILABLE + 2, self.available);
        fence(Ordering::SeqCst);
    }

    /// The first entry of a request that was answered, if there is one, and how many bytes were written.
    pub(crate) fn answered(&mut self) -> Option<(u16, u32)> {
        if self.get::<u16>(USED + 2) == self.used {
            return None;
        }
        fence(Ordering::SeqCst);
        let at = USED + 4 + u64::from(self.used % ENTRIES) * 8;
        self.used = self.used.wrapping_add(1);
        Some((self.get::<u32>(at) as u16, self.get::<u32>(at + 4)))
    }

    fn put<T>(&mut self, offset: u64, value: T) {
        let address = ptr::with_exposed_provenance_mut::<T>((self.page + offset) as usize);
        // SAFETY: inside the queue's page, aligned by the layout of queues; the device reads it only.
        unsafe { address.write_volatile(value) };
    }

    fn get<T>(&self, offset: u64) -> T {
        let address = ptr::with_exposed_provenance::<T>((self.page + offset) as usize);
        // SAFETY: inside the queue's page, aligned, and any bytes are a number.
        unsafe { address.read_volatile() }
    }
}
