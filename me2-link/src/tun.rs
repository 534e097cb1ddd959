//! The TUN devices that the emulator sits between.
//!
//! The kernel hands over what TCP and UDP bundle for a network card (GSO) in one piece, and takes
//! packets that belong together in one piece (GRO): that saves most of the system calls, and most of
//! the kernel's work of receiving. In between each packet is by itself, as on a wire.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tun_rs::{DeviceBuilder, GROTable, SyncDevice, VIRTIO_NET_HDR_LEN};

use crate::LinkError;
use crate::namespace::Namespace;
use crate::spec::{End, MTU};

/// The name of the network device at each end of a link.
pub(crate) const DEVICE: &str = "me2";

/// Packets that the device itself can hold. Far more than arrive while a thread of the emulator
/// waits for its turn, so that only the emulated queue drops.
const DEVICE_QUEUE_PACKETS: u32 = 20_000;

/// Most packets that the kernel may hand over, and is given, in one piece. UDP bundles up to 128.
const BUNDLE_PACKETS: usize = 128;
/// Most bytes of a bundle.
const BUNDLE_BYTES: usize = VIRTIO_NET_HDR_LEN + (1 << 16);

/// Makes the device of an end in its namespace, up and with its address. Reads and writes do not
/// block.
pub(crate) fn make(namespace: &Namespace, end: End) -> Result<SyncDevice, LinkError> {
    let device = namespace
        .within(|| {
            let device = DeviceBuilder::new()
                .name(DEVICE)
                .mtu(MTU)
                .offload(true)
                .enable(false)
                .build_sync()?;
            device.set_nonblocking(true)?;
            Ok(device)
        })?
        .map_err(LinkError::Tun)?;
    let address = end.address();
    namespace.ip(&[
        &format!("link set dev {DEVICE} txqueuelen {DEVICE_QUEUE_PACKETS}"),
        &format!("link set dev {DEVICE} gso_max_segs {BUNDLE_PACKETS}"),
        // No address of its own, so that the kernel has nothing to say over IPv6.
        &format!("link set dev {DEVICE} addrgenmode none"),
        &format!("address add {address}/30 dev {DEVICE}"),
        &format!("link set dev {DEVICE} up"),
    ])?;
    Ok(device)
}

/// Takes packets out of a device.
pub(crate) struct Inlet {
    device: Arc<SyncDevice>,
    bundle: Vec<u8>,
    packets: Vec<Vec<u8>>,
    sizes: Vec<usize>,
}

impl Inlet {
    pub(crate) fn new(device: Arc<SyncDevice>) -> Self {
        Self {
            device,
            bundle: vec![0; BUNDLE_BYTES],
            packets: vec![vec![0; MTU.into()]; BUNDLE_PACKETS],
            sizes: vec![0; BUNDLE_PACKETS],
        }
    }

    /// Some packets, or `WouldBlock` if there is none.
    pub(crate) fn read(&mut self) -> io::Result<impl Iterator<Item = &[u8]>> {
        let count =
            self.device
                .recv_multiple(&mut self.bundle, &mut self.packets, &mut self.sizes, 0)?;
        let packets = self.packets.iter().zip(&self.sizes).take(count);
        Ok(packets.map(|(packet, size)| &packet[..*size]))
    }
}

impl AsFd for Inlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Puts packets into a device.
pub(crate) struct Outlet {
    device: Arc<SyncDevice>,
    table: GROTable,
    packets: Vec<Vec<u8>>,
    used: usize,
}

impl Outlet {
    /// `bundles`: whether packets may be bundled, which puts neighbours in order.
    pub(crate) fn new(device: Arc<SyncDevice>, bundles: bool) -> Self {
        let capacity = if bundles { BUNDLE_PACKETS } else { 1 };
        let packets = std::iter::repeat_with(|| Vec::with_capacity(BUNDLE_BYTES)).take(capacity);
        Self {
            device,
            table: GROTable::new(),
            packets: packets.collect(),
            used: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used == self.packets.len()
    }

    /// Adds a packet to those that are written next. Must not be called while [`Self::is_full`].
    pub(crate) fn push(&mut self, packet: &[u8]) {
        let buffer = &mut self.packets[self.used];
        buffer.clear();
        buffer.resize(VIRTIO_NET_HDR_LEN, 0);
        buffer.extend_from_slice(packet);
        self.used += 1;
    }

    /// Writes all packets.
    pub(crate) fn flush(&mut self) {
        let packets = &mut self.packets[..self.used];
        // The kernel refuses what is no IP packet, or when it is out of memory: that is loss which
        // TCP and QUIC live with.
        let _ = self
            .device
            .send_multiple(&mut self.table, packets, VIRTIO_NET_HDR_LEN);
        self.used = 0;
    }
}
