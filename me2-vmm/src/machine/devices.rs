//! The virtio devices of a machine: which they are, and where the guest finds them.
//!
//! Each has a page of registers in the hole below 4 GiB and an interrupt of its own, by its place
//! in the document: so the destination has them where the source had them.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{MachineDocument, MachineError, is_good_name};

/// Bytes of a sector, the unit of a disk's size whatever the disk's own is.
pub const SECTOR_BYTES: u64 = 512;
/// Most devices of a VM: one for each interrupt.
pub const DEVICES_MAX: usize = INTERRUPTS.len();
/// Interrupts of the IOAPIC that no other device has: 4 is the serial port's; a guest looks for a
/// clock at 8 and a mouse at 12, whether or not they are there.
const INTERRUPTS: [u32; 9] = [5, 6, 7, 9, 10, 11, 13, 14, 15];
/// Registers of the first device: far from RAM, the IOAPIC and KVM's own pages.
const REGISTERS_START: u32 = 0xd000_0000;
/// From one device's registers to the next.
const REGISTERS_BYTES: u32 = 0x1000;
/// The largest disk: a bound on what a peer can say.
const SECTORS_MAX: u64 = 1 << 45;
/// Longest path of a disk.
const PATH_BYTES_MAX: usize = 4096;

/// A virtio device as the guest sees it, and what the destination must know to connect it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceDocument {
    /// What host resources are given to it by.
    pub name: String,
    /// What it is.
    pub kind: DeviceKind,
}

/// Kinds of device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A disk.
    Block(BlockDocument),
    /// A network card.
    Net {
        /// Its address.
        mac: [u8; 6],
    },
    /// A source of random numbers.
    Entropy,
    /// A balloon through which the guest reports free pages.
    Balloon,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockDocument {
    /// Where it is at the source: an absolute path.
    pub path: String,
    /// Its size.
    pub sectors: u64,
    /// Whether the guest may not write it.
    pub read_only: bool,
    /// The number that locks of this VM on the disk can be told by.
    pub lock: u32,
}

/// Where a device is on the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MmioDevice {
    /// Guest physical address of its registers.
    pub address: u32,
    /// Bytes of its registers.
    pub size: u32,
    /// Its interrupt: a pin of the IOAPIC, edge-triggered.
    pub irq: u32,
}

impl MachineDocument {
    /// Where the devices are, in the order of the document.
    pub fn mmio_devices(&self) -> Vec<MmioDevice> {
        let places = INTERRUPTS.iter().take(self.devices.len()).enumerate();
        places
            .map(|(number, irq)| MmioDevice {
                address: REGISTERS_START + number as u32 * REGISTERS_BYTES,
                size: REGISTERS_BYTES,
                irq: *irq,
            })
            .collect()
    }
}

/// Checks every bound.
pub(super) fn check(devices: &[DeviceDocument]) -> Result<(), MachineError> {
    if devices.len() > DEVICES_MAX {
        return Err(MachineError::Devices(devices.len()));
    }
    for (number, device) in devices.iter().enumerate() {
        let is_again = devices[..number]
            .iter()
            .any(|before| before.name == device.name);
        if !is_good_name(&device.name) || is_again {
            return Err(MachineError::DeviceName(
                device.name.chars().take(64).collect(),
            ));
        }
        if let DeviceKind::Block(block) = &device.kind {
            let is_good_path =
                Path::new(&block.path).is_absolute() && block.path.len() <= PATH_BYTES_MAX;
            if !is_good_path || !(1..=SECTORS_MAX).contains(&block.sectors) {
                return Err(MachineError::Disk(device.name.clone()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> DeviceDocument {
        DeviceDocument {
            name: name.into(),
            kind: DeviceKind::Entropy,
        }
    }

    fn disk(path: &str, sectors: u64) -> DeviceDocument {
        let (path, read_only, lock) = (path.to_owned(), false, 1);
        DeviceDocument {
            name: "disk0".into(),
            kind: DeviceKind::Block(BlockDocument {
                path,
                sectors,
                read_only,
                lock,
            }),
        }
    }

    #[test]
    fn each_has_registers_and_an_interrupt_of_its_own() {
        let mut document = super::super::tests::document();
        document.devices = (0..DEVICES_MAX)
            .map(|number| named(&format!("d{number}")))
            .collect();
        document.check().unwrap();
        let places = document.mmio_devices();
        assert_eq!(places.len(), DEVICES_MAX);
        for pair in places.windows(2) {
            assert_eq!(pair[0].address + pair[0].size, pair[1].address);
            assert!(pair[0].irq < pair[1].irq);
        }
        document.devices.push(named("more"));
        assert!(document.check().is_err());
    }

    #[test]
    fn what_a_peer_says_is_bounded() {
        assert!(check(&[disk("/a", 8)]).is_ok());
        assert!(check(&[disk("a", 8)]).is_err());
        assert!(check(&[disk("/a", 0)]).is_err());
        assert!(check(&[disk("/a", u64::MAX)]).is_err());
        assert!(check(&[disk(&format!("/{}", "a".repeat(5000)), 8)]).is_err());
        assert!(check(&[named("a"), named("a")]).is_err());
        assert!(check(&[named("../a")]).is_err());
    }
}
