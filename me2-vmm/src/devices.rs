//! The devices: on I/O ports a 16550 serial console, the debug exit, the keyboard controller's reset
//! line and ACPI's power switch; on the memory bus virtio devices.
//!
//! ```text
//!  vCPU exit ──▶ Devices ──▶ transport: registers ──┐ queues, when the driver is ready
//!  ioeventfd ─────────────────────────────────────▶ worker thread ──▶ backend: file, tap, …
//!  guest     ◀── irqfd ◀──────────────────────────────┘
//! ```
//! Each virtio device has a thread of its own ([`worker`]): it may wait for a missing page of guest
//! memory, and no one else waits with it.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::{machine::MmioDevice, vcpu::EndReason};
use serial::Console;
use transport::Transport;

mod backends;
mod balloon;
mod block;
pub mod connections;
pub mod disk;
mod entropy;
mod net;
pub(crate) mod serial;
pub mod tap;
pub(crate) mod transport;
mod worker;

pub(crate) use backends::build;
pub use serial::ConsoleSink;
pub(crate) use serial::{SERIAL_IRQ, SerialRegisters};

/// First port of the serial console (COM1).
pub(crate) const SERIAL_PORT: u16 = 0x3f8;
pub(crate) const SERIAL_PORTS: u16 = 8;
/// The guest ends its VM by writing a status here, as with QEMU's `isa-debug-exit`.
const DEBUG_EXIT_PORT: u16 = 0xf4;
/// Command port of the keyboard controller, and its command "pulse the reset line".
pub(crate) const KEYBOARD_PORT: u16 = 0x64;
pub(crate) const KEYBOARD_RESET: u8 = 0xfe;
/// Sleep registers of ACPI 6.5, section 4.8.3.7; the only sleep that there is, is being switched off.
pub(crate) const SLEEP_CONTROL_PORT: u16 = 0x600;
pub(crate) const SLEEP_STATUS_PORT: u16 = 0x601;
pub(crate) const SLEEP_TYPE_OFF: u8 = 5;
/// The sleep type is in bits 2 to 4 of the control register, and bit 5 starts it.
const SLEEP_OFF: u8 = SLEEP_TYPE_OFF << 2 | 1 << 5;

/// The devices of a VM.
pub(crate) struct Devices {
    pub(crate) console: Console,
    virtio: Vec<Virtio>,
}

/// A virtio device and where it is.
pub(crate) struct Virtio {
    pub(crate) place: MmioDevice,
    pub(crate) transport: Arc<Transport>,
}

impl Devices {
    /// Devices whose serial port raises its interrupt through `interrupt`.
    pub(crate) fn new(interrupt: EventFd, output: ConsoleSink, virtio: Vec<Virtio>) -> Self {
        Self {
            console: Console::new(interrupt, output),
            virtio,
        }
    }

    /// The virtio devices, in the order of the machine document.
    pub(crate) fn virtio(&self) -> impl Iterator<Item = &Transport> {
        self.virtio.iter().map(|device| &*device.transport)
    }

    /// The guest wrote to a port. Gives the reason if that ends the VM.
    pub(crate) fn port_write(&self, port: u16, data: &[u8]) -> Option<EndReason> {
        match port {
            SERIAL_PORT..0x400 => {
                self.console.write((port - SERIAL_PORT) as u8, data);
                None
            }
            DEBUG_EXIT_PORT => {
                let mut status = [0; 4];
                let len = data.len().min(4);
                status[..len].copy_from_slice(&data[..len]);
                Some(EndReason::Exit(u32::from_le_bytes(status)))
            }
            KEYBOARD_PORT if data == [KEYBOARD_RESET] => Some(EndReason::Reset),
            SLEEP_CONTROL_PORT if data == [SLEEP_OFF] => Some(EndReason::PoweredOff),
            _ => None,
        }
    }

    /// The guest reads from a port; unknown ports read as all ones.
    pub(crate) fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if (SERIAL_PORT..SERIAL_PORT + SERIAL_PORTS).contains(&port) {
            data[0] = self.console.read((port - SERIAL_PORT) as u8);
        }
    }

    /// The guest wrote where there is no memory.
    pub(crate) fn memory_write(&self, address: u64, data: &[u8]) {
        if let Some((transport, offset)) = self.at(address) {
            transport.write(offset, data);
        }
    }

    /// The guest reads where there is no memory; what is no device reads as all ones.
    pub(crate) fn memory_read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((transport, offset)) = self.at(address) {
            transport.read(offset, data);
        }
    }

    fn at(&self, address: u64) -> Option<(&Transport, u64)> {
        self.virtio.iter().find_map(|device| {
            let offset = address.checked_sub(device.place.address.into())?;
            (offset < device.place.size.into()).then(|| (&*device.transport, offset))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_guest_can_end_its_vm() {
        let event = EventFd::new(0).unwrap();
        let devices = Devices::new(event, Box::new(io::sink()), Vec::new());
        assert_eq!(
            devices.port_write(DEBUG_EXIT_PORT, &1u32.to_le_bytes()),
            Some(EndReason::Exit(1))
        );
        assert_eq!(
            devices.port_write(KEYBOARD_PORT, &[KEYBOARD_RESET]),
            Some(EndReason::Reset)
        );
        assert_eq!(
            devices.port_write(SLEEP_CONTROL_PORT, &[SLEEP_OFF]),
            Some(EndReason::PoweredOff)
        );
        assert_eq!(devices.port_write(SLEEP_CONTROL_PORT, &[0]), None);
        assert_eq!(devices.port_write(0x80, &[1]), None);
        let mut nothing = [0; 4];
        devices.memory_read(0xd000_0000, &mut nothing);
        assert_eq!(nothing, [0xff; 4]);
    }
}
