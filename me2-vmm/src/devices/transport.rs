//! The registers of a virtio device on the memory bus: virtio-mmio, version 2.
//! Source: Virtual I/O Device (VIRTIO) Version 1.2, section 4.2.
//!
//! vCPUs come here on exits. They never wait for the device's thread but to give it its queues or to
//! take them away, which drivers do when they start and end.

use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};
use virtio_bindings::{
    virtio_config::{
        VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
        VIRTIO_F_VERSION_1,
    },
    virtio_mmio::*,
};
use virtio_queue::{Queue, QueueState, QueueT};

use super::worker::{Interrupt, Worker};
use crate::memory::GuestMemory;

/// "virt", as the first register reads.
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// Who made it: "me2".
const VENDOR: u32 = 0x32_656d;
/// Driver and device agree by it on everything here.
pub(crate) const FEATURE_VERSION_1: u64 = 1 << VIRTIO_F_VERSION_1;
/// Entries of a queue at most.
pub(crate) const QUEUE_SIZE_MAX: u16 = 256;

/// What a device is, and never changes.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// Its kind, by virtio's list.
    pub(crate) id: u32,
    /// What it offers, without [`FEATURE_VERSION_1`].
    pub(crate) features: u64,
    /// How many queues it has.
    pub(crate) queues: usize,
    /// What the driver reads of its configuration.
    pub(crate) config: Vec<u8>,
}

/// A queue as its driver has set it up, and how far it has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct QueueRegisters {
    size: u16,
    ready: bool,
    descriptors: u64,
    available: u64,
    used: u64,
    /// How far the device has got; 0 until the driver is ready.
    next_available: u16,
    next_used: u16,
}

/// What a driver has written. All of it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    status: u32,
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    queues: Vec<QueueRegisters>,
}

/// A device's state as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DeviceState {
    /// The device's kind: of another kind, the state makes no sense.
    id: u32,
    registers: Registers,
    interrupt_causes: u32,
    is_broken: bool,
}

impl Registers {
    fn new(queues: usize) -> Self {
        let queue = QueueRegisters {
            size: QUEUE_SIZE_MAX,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
            next_available: 0,
            next_used: 0,
        };
        Self {
            status: 0,
            device_features_select: 0,
            driver_features_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: vec![queue; queues],
        }
    }

    fn is_active(&self) -> bool {
        self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.queue_select as usize)
    }
}

impl QueueRegisters {
    /// The queue, if it can be one and all of it lies in memory; one that is not ready need not.
    fn build(&self, memory: &GuestMemory) -> Option<Queue> {
        let state = QueueState {
            max_size: QUEUE_SIZE_MAX,
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: false,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        };
        let queue = Queue::try_from(state).ok()?;
        (!self.ready || queue.is_valid(memory.guest())).then_some(queue)
    }
}

/// The registers of one device, and its thread.
pub(crate) struct Transport {
    shape: Shape,
    registers: Mutex<Registers>,
    interrupt: Arc<Interrupt>,
    worker: Worker,
    memory: GuestMemory,
}

impl Transport {
    pub(crate) fn new(
        shape: Shape,
        interrupt: Arc<Interrupt>,
        worker: Worker,
        memory: GuestMemory,
    ) -> Self {
        Self {
            registers: Mutex::new(Registers::new(shape.queues)),
            shape,
            interrupt,
            worker,
            memory,
        }
    }

    /// Its thread.
    pub(crate) fn worker(&self) -> &Worker {
        &self.worker
    }

    /// The guest reads a register.
    pub(crate) fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            let config = self.shape.config.get(offset as usize..).unwrap_or_default();
            // Beyond its end there is nothing.
            data.fill(0);
            data.iter_mut()
                .zip(config)
                .for_each(|(to, from)| *to = *from);
        } else if data.len() == 4 {
            data.copy_from_slice(&self.register(offset as u32).to_le_bytes());
        }
    }

    fn register(&self, offset: u32) -> u32 {
        let registers = self.lock();
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.shape.id,
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => {
                half(self.features(), registers.device_features_select).unwrap_or(0)
            }
            VIRTIO_MMIO_QUEUE_NUM_MAX => registers.queue().map_or(0, |_| QUEUE_SIZE_MAX.into()),
            VIRTIO_MMIO_QUEUE_READY => registers.queue().map_or(0, |queue| queue.ready.into()),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.causes(),
            VIRTIO_MMIO_STATUS if self.worker.is_broken() => {
                registers.status | VIRTIO_CONFIG_S_NEEDS_RESET
            }
            VIRTIO_MMIO_STATUS => registers.status,
            // There is no shared memory.
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => 0,
        }
    }

    /// The guest writes a register.
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else {
            return;
        };
        match offset as u32 {
            VIRTIO_MMIO_QUEUE_NOTIFY => _ = self.worker.kick().write(1),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            offset => self.set_register(offset, value),
        }
    }

    fn set_register(&self, offset: u32, value: u32) {
        let mut registers = self.lock();
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => registers.driver_features_select = value,
            VIRTIO_MMIO_QUEUE_SEL => registers.queue_select = value,
            // What was agreed on stays until the device is reset.
            _ if registers.is_active() => {}
            VIRTIO_MMIO_DRIVER_FEATURES => {
                let select = registers.driver_features_select;
                set_half(&mut registers.driver_features, select, value);
            }
            _ => {
                let select = registers.queue_select as usize;
                if let Some(queue) = registers.queues.get_mut(select) {
                    set_queue_register(queue, offset, value);
                }
            }
        }
    }

    fn set_status(&self, status: u32) {
        let mut registers = self.lock();
        if status == 0 {
            let mut work = self.worker.work();
            work.queues.clear();
            work.backend.configure(None);
            drop(work);
            *registers = Registers::new(self.shape.queues);
            self.worker.set_broken(false);
            self.interrupt.set_causes(0);
            return;
        }
        let was_active = registers.is_active();
        let mut status = status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        let agreed = registers.driver_features & !self.features() == 0
            && registers.driver_features & FEATURE_VERSION_1 != 0;
        if !agreed {
            // The driver reads it back and sees that this will not do.
            status &= !(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
        }
        registers.status = status;
        if registers.is_active() && !was_active {
            self.activate(&registers);
        }
    }

    /// Gives the queues to the thread.
    fn activate(&self, registers: &Registers) {
        let built = registers.queues.iter();
        let queues: Option<Vec<_>> = built.map(|queue| queue.build(&self.memory)).collect();
        let Some(queues) = queues else {
            tracing::warn!("a virtio driver's queues are not in memory: the device stands still");
            self.worker.set_broken(true);
            return;
        };
        let mut work = self.worker.work();
        work.backend.configure(Some(registers.driver_features));
        work.queues = queues;
        drop(work);
        let _ = self.worker.kick().write(1);
    }

    /// The state of a device that stands still.
    pub(crate) fn save(&self) -> DeviceState {
        let mut registers = self.lock().clone();
        let work = self.worker.work();
        for (saved, queue) in registers.queues.iter_mut().zip(&work.queues) {
            saved.next_available = queue.next_avail();
            saved.next_used = queue.next_used();
        }
        DeviceState {
            id: self.shape.id,
            registers,
            interrupt_causes: self.interrupt.causes(),
            is_broken: self.worker.is_broken(),
        }
    }

    /// Restores state into a device that has not run; false if it is impossible. Reads no memory of
    /// the guest.
    pub(crate) fn restore(&self, state: DeviceState) -> bool {
        let saved = &state.registers;
        let fits = state.id == self.shape.id
            && saved.queues.len() == self.shape.queues
            && (!saved.is_active() || saved.driver_features & !self.features() == 0);
        if !fits {
            return false;
        }
        if saved.is_active() && !state.is_broken {
            let built = saved.queues.iter().map(|queue| queue.build(&self.memory));
            let Some(queues) = built.collect() else {
                return false;
            };
            let mut work = self.worker.work();
            work.backend.configure(Some(saved.driver_features));
            work.queues = queues;
        }
        self.worker.set_broken(state.is_broken);
        self.interrupt.set_causes(state.interrupt_causes);
        *self.lock() = state.registers;
        true
    }

    /// Where in memory the queues are that the device looks at first.
    pub(crate) fn ring_addresses(&self) -> Vec<u64> {
        let work = self.worker.work();
        let ready = work.queues.iter().filter(|queue| queue.ready());
        ready
            .flat_map(|queue| [queue.desc_table(), queue.avail_ring(), queue.used_ring()])
            .collect()
    }

    fn features(&self) -> u64 {
        self.shape.features | FEATURE_VERSION_1
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().expect("no panics under this lock")
    }
}

fn set_queue_register(queue: &mut QueueRegisters, offset: u32, value: u32) {
    match offset {
        // What is too large is no size, and found out when the driver is ready.
        VIRTIO_MMIO_QUEUE_NUM => queue.size = u16::try_from(value).unwrap_or(0),
        VIRTIO_MMIO_QUEUE_READY => queue.ready = value == 1,
        VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut queue.descriptors, 0, value),
        VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut queue.descriptors, 1, value),
        VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut queue.available, 0, value),
        VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut queue.available, 1, value),
        VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut queue.used, 0, value),
        VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut queue.used, 1, value),
        _ => {}
    }
}

/// The low half of a number, or the high one; there are no others.
fn half(number: u64, which: u32) -> Option<u32> {
    (which < 2).then(|| (number >> (32 * which)) as u32)
}

fn set_half(number: &mut u64, which: u32, value: u32) {
    if which < 2 {
        let shift = 32 * which;
        *number = *number & !(0xffff_ffff << shift) | u64::from(value) << shift;
    }
}

#[cfg(test)]
mod tests;
