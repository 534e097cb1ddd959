//! Puts the devices of a machine document together.

use std::{any::Any, io, sync::Arc};

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY;
use virtio_queue::{DescriptorChain, Error, Queue, QueueOwnedT, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::{
    Virtio,
    balloon::{self, Balloon},
    block::{self, Block},
    connections::{ConnectError, Connections},
    entropy::{self, Entropy},
    net::{self, Net},
    transport::{Shape, Transport},
    worker::{Backend, Interrupt, Worker},
};
use crate::{
    machine::{DeviceDocument, DeviceKind, MachineDocument, MmioDevice},
    memory::{GuestMemory, GuestMemoryView},
    vm::{VmError, failed},
};

/// Longest name of a thread that Linux shows.
const THREAD_NAME_BYTES_MAX: usize = 15;

/// Builds the virtio devices of a machine, standing still; `keep` outlives their threads.
pub(crate) fn build(
    fd: &VmFd,
    document: &MachineDocument,
    connections: &Connections,
    memory: &GuestMemory,
    keep: &Arc<dyn Any + Send + Sync>,
) -> Result<Vec<Virtio>, VmError> {
    let devices = document.devices.iter().zip(document.mmio_devices());
    devices
        .map(|(device, place)| {
            let (shape, backend) = connect(device, connections, memory)?;
            let transport = start(fd, device, place, shape, backend, memory, keep.clone())?;
            Ok(Virtio { place, transport })
        })
        .collect()
}

fn connect(
    device: &DeviceDocument,
    connections: &Connections,
    memory: &GuestMemory,
) -> Result<(Shape, Box<dyn Backend>), ConnectError> {
    let name = &device.name;
    let unconnected = || ConnectError::Unconnected(name.clone());
    Ok(match &device.kind {
        DeviceKind::Block(document) => {
            let disk = connections.disks.get(name).ok_or_else(unconnected)?;
            let device = Block::new(name, disk.clone());
            (block::shape(document), Box::new(device))
        }
        DeviceKind::Net { mac } => {
            let tap = connections.taps.get(name).ok_or_else(unconnected)?;
            (net::shape(*mac), Box::new(Net::new(*mac, tap.clone())))
        }
        DeviceKind::Entropy => (entropy::shape(), Box::new(Entropy)),
        DeviceKind::Balloon => (balloon::shape(), Box::new(Balloon::new(memory.clone()))),
    })
}

fn start(
    fd: &VmFd,
    device: &DeviceDocument,
    place: MmioDevice,
    shape: Shape,
    backend: Box<dyn Backend>,
    memory: &GuestMemory,
    keep: Arc<dyn Any + Send + Sync>,
) -> Result<Arc<Transport>, VmError> {
    let event = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK).map_err(VmError::Threads)?;
    fd.register_irqfd(&event, place.irq)
        .map_err(failed("KVM_IRQFD"))?;
    let interrupt = Arc::new(Interrupt::new(event));
    let name = thread_name(&device.name);
    let started = Worker::start(&name, backend, interrupt.clone(), memory.clone(), keep);
    let worker = started.map_err(|error: io::Error| VmError::Threads(error))?;
    let notify = IoEventAddress::Mmio(u64::from(place.address + VIRTIO_MMIO_QUEUE_NOTIFY));
    fd.register_ioevent(worker.kick(), &notify, NoDatamatch)
        .map_err(failed("KVM_IOEVENTFD"))?;
    let transport = Transport::new(shape, interrupt, worker, memory.clone());
    Ok(Arc::new(transport))
}

fn thread_name(device: &str) -> String {
    format!("virtio-{device}")
        .chars()
        .take(THREAD_NAME_BYTES_MAX)
        .collect()
}

/// The next request of a queue, if there is one; a queue that its driver did not make ready has none.
pub(super) fn next<'a>(
    queue: &mut Queue,
    memory: &'a GuestMemoryView,
) -> Result<Option<DescriptorChain<&'a GuestMemoryView>>, Error> {
    match queue.ready() {
        true => Ok(queue.iter(memory)?.next()),
        false => Ok(None),
    }
}
