use super::*;
use crate::{
    devices::{
        entropy::{self, Entropy},
        worker::CAUSE_QUEUES,
    },
    layout::RamLayout,
};
use std::time::Instant;
use virtio_bindings::{virtio_config::VIRTIO_CONFIG_S_DRIVER, virtio_ring::VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const BUFFER: u64 = 0x4000;

fn device(memory: &GuestMemory) -> (Transport, EventFd) {
    let event = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    let interrupt = Arc::new(Interrupt::new(event.try_clone().unwrap()));
    let worker = Worker::start(
        "test",
        Box::new(Entropy),
        interrupt.clone(),
        memory.clone(),
        Arc::new(()),
    );
    let transport = Transport::new(entropy::shape(), interrupt, worker.unwrap(), memory.clone());
    (transport, event)
}

fn memory() -> GuestMemory {
    GuestMemory::new(RamLayout::new(2 << 20).unwrap()).unwrap()
}

fn write(device: &Transport, register: u32, value: u32) {
    device.write(register.into(), &value.to_le_bytes());
}

fn read(device: &Transport, register: u32) -> u32 {
    let mut value = [0; 4];
    device.read(register.into(), &mut value);
    u32::from_le_bytes(value)
}

/// As a driver does it, with a queue of four entries.
fn begin(device: &Transport, descriptors: u64) {
    assert_eq!(read(device, VIRTIO_MMIO_MAGIC_VALUE), MAGIC);
    write(device, VIRTIO_MMIO_STATUS, 0);
    write(device, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_DRIVER);
    write(device, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    write(device, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    let agreed = VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    write(device, VIRTIO_MMIO_STATUS, agreed);
    assert_eq!(read(device, VIRTIO_MMIO_STATUS), agreed);
    assert_eq!(
        read(device, VIRTIO_MMIO_QUEUE_NUM_MAX),
        u32::from(QUEUE_SIZE_MAX)
    );
    for (register, value) in [
        (VIRTIO_MMIO_QUEUE_NUM, 4),
        (VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors as u32),
        (VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE as u32),
        (VIRTIO_MMIO_QUEUE_USED_LOW, USED as u32),
        (VIRTIO_MMIO_QUEUE_READY, 1),
        (VIRTIO_MMIO_STATUS, agreed | VIRTIO_CONFIG_S_DRIVER_OK),
    ] {
        write(device, register, value);
    }
}

/// Asks for random numbers, and notifies the device of it.
fn ask(device: &Transport, memory: &GuestMemory, index: u16) {
    let view = memory.guest();
    let put16 = |address, value: u16| view.write_obj(value, GuestAddress(address)).unwrap();
    view.write_obj(BUFFER, GuestAddress(DESCRIPTORS)).unwrap();
    view.write_obj(64u32, GuestAddress(DESCRIPTORS + 8))
        .unwrap();
    put16(DESCRIPTORS + 12, VRING_DESC_F_WRITE as u16);
    put16(AVAILABLE + 4 + 2 * (u64::from(index) % 4), 0);
    set_available(memory, index + 1);
    write(device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
}

/// How many entries the driver has made available.
fn set_available(memory: &GuestMemory, entries: u16) {
    let address = GuestAddress(AVAILABLE + 2);
    memory.guest().write_obj(entries, address).unwrap();
}

fn used(memory: &GuestMemory) -> u16 {
    memory.guest().read_obj(GuestAddress(USED + 2)).unwrap()
}

fn wait(event: &EventFd) {
    let deadline = Instant::now() + std::time::Duration::from_secs(20);
    while event.read().is_err() {
        assert!(Instant::now() < deadline, "no interrupt");
        std::thread::yield_now();
    }
}

#[test]
fn a_request_is_served_marked_and_told() {
    let memory = memory();
    let (device, event) = device(&memory);
    begin(&device, DESCRIPTORS);
    device.worker().resume(false);
    memory.take_own_dirty();
    ask(&device, &memory, 0);
    wait(&event);
    assert_eq!(used(&memory), 1);
    assert_eq!(read(&device, VIRTIO_MMIO_INTERRUPT_STATUS), CAUSE_QUEUES);
    write(&device, VIRTIO_MMIO_INTERRUPT_ACK, CAUSE_QUEUES);
    assert_eq!(read(&device, VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    let random: [u64; 8] = memory.guest().read_obj(GuestAddress(BUFFER)).unwrap();
    assert_ne!(random, [0; 8]);
    let dirty = memory.take_own_dirty()[0];
    assert!(
        dirty >> (USED >> 12) & 1 == 1 && dirty >> (BUFFER >> 12) & 1 == 1,
        "{dirty:#x}"
    );
}

#[test]
fn what_was_asked_before_a_stop_is_served_once_in_the_other_process() {
    let memory = memory();
    let (source, event) = device(&memory);
    begin(&source, DESCRIPTORS);
    source.worker().resume(false);
    ask(&source, &memory, 0);
    wait(&event);
    source.worker().request_stop();
    assert!(source.worker().wait_stopped(None));
    // Notified when it stands still.
    ask(&source, &memory, 1);
    let state = source.save();
    assert_eq!(used(&memory), 1);

    let (destination, event) = device(&memory);
    assert!(destination.restore(state.clone()));
    assert_eq!(destination.save(), state);
    assert_eq!(destination.ring_addresses(), [DESCRIPTORS, AVAILABLE, USED]);
    destination.worker().resume(true);
    // The first tells of the cause that came along.
    while used(&memory) < 2 {
        wait(&event);
    }
    destination.worker().request_stop();
    assert!(destination.worker().wait_stopped(None));
    assert_eq!(used(&memory), 2);
    assert_eq!(
        read(&destination, VIRTIO_MMIO_INTERRUPT_STATUS),
        CAUSE_QUEUES
    );
}

#[test]
fn queues_that_make_no_sense_stop_the_device_and_not_the_vm() {
    let memory = memory();
    let (device, event) = device(&memory);
    device.worker().resume(false);
    begin(&device, 1 << 30);
    let needs_reset = VIRTIO_CONFIG_S_NEEDS_RESET;
    assert_eq!(read(&device, VIRTIO_MMIO_STATUS) & needs_reset, needs_reset);
    begin(&device, DESCRIPTORS);
    assert_eq!(read(&device, VIRTIO_MMIO_STATUS) & needs_reset, 0);
    // More entries than the queue has.
    set_available(&memory, 100);
    write(&device, VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    wait(&event);
    assert_eq!(read(&device, VIRTIO_MMIO_STATUS) & needs_reset, needs_reset);
    // Before the device is told to begin: it looks at its queues at once.
    set_available(&memory, 0);
    begin(&device, DESCRIPTORS);
    ask(&device, &memory, 0);
    wait(&event);
    assert_eq!(used(&memory), 1);
}

#[test]
fn features_that_were_not_offered_are_not_agreed_on() {
    let memory = memory();
    let (device, _event) = device(&memory);
    write(&device, VIRTIO_MMIO_DRIVER_FEATURES, 1);
    write(&device, VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_FEATURES_OK);
    assert_eq!(read(&device, VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn impossible_state_is_refused() {
    let memory = memory();
    let (source, _event) = device(&memory);
    begin(&source, DESCRIPTORS);
    let good = source.save();
    let refuses = |change: fn(&mut DeviceState)| {
        let (destination, _event) = device(&memory);
        let mut state = good.clone();
        change(&mut state);
        !destination.restore(state)
    };
    assert!(!refuses(|_| ()));
    assert!(refuses(|state| state.id += 1));
    assert!(refuses(|state| state.registers.queues.clear()));
    assert!(refuses(|state| state.registers.driver_features |= 1));
    assert!(refuses(|state| state.registers.queues[0].used = u64::MAX));
    assert!(refuses(|state| state.registers.queues[0].size = 3));
}
