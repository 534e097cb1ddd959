//! Opens what of this host the devices of a VM are connected to, before privileges are given up.

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    path::PathBuf,
    sync::Arc,
};

use me2_vmm::{
    devices::{
        connections::{ConnectError, Connections},
        disk::Disk,
        tap::{Tap, TapError},
    },
    machine::{DeviceDocument, DeviceKind, MachineDocument},
};

use crate::cli::{Mapping, ReceiveArgs, RunArgs};

/// The devices that a new VM is given, and what they are connected to: disks open and locked.
pub fn open(args: &RunArgs) -> anyhow::Result<(Vec<DeviceDocument>, Connections)> {
    let (mut devices, mut connections) = (Vec::new(), Connections::default());
    for (number, option) in args.disk.iter().enumerate() {
        let name = option.name.clone();
        let name = name.unwrap_or_else(|| format!("disk{number}"));
        let disk = Arc::new(Disk::open(&option.path, option.read_only)?);
        let kind = DeviceKind::Block(disk.document());
        connections.disks.insert(name.clone(), disk);
        devices.push(DeviceDocument { name, kind });
    }
    for (number, option) in args.net.iter().enumerate() {
        let name = option
            .name
            .clone()
            .unwrap_or_else(|| format!("net{number}"));
        let mac = option.mac.unwrap_or_else(random_mac);
        connections
            .taps
            .insert(name.clone(), Arc::new(Tap::open(&option.tap)?));
        let kind = DeviceKind::Net { mac };
        devices.push(DeviceDocument { name, kind });
    }
    let others = [
        (args.rng, "rng", DeviceKind::Entropy),
        (args.balloon, "balloon", DeviceKind::Balloon),
    ];
    for (_, name, kind) in others.into_iter().filter(|(is_wanted, ..)| *is_wanted) {
        let name = name.to_owned();
        devices.push(DeviceDocument { name, kind });
    }
    Ok((devices, connections))
}

/// What a receiver connects to the devices of whichever VM comes.
#[derive(Default)]
pub struct Mapped {
    paths: BTreeMap<String, PathBuf>,
    taps: BTreeMap<String, Arc<Tap>>,
}

impl Mapped {
    /// Opens the taps; disks are opened when a VM is handed over.
    pub fn open(args: &ReceiveArgs) -> Result<Self, TapError> {
        let mut mapped = Self::default();
        for Mapping { name, to } in &args.disk {
            mapped.paths.insert(name.clone(), to.into());
        }
        for Mapping { name, to } in &args.net {
            mapped.taps.insert(name.clone(), Arc::new(Tap::open(to)?));
        }
        Ok(mapped)
    }

    /// Checks what is there for the devices of a VM that comes.
    pub fn expect(&self, document: &MachineDocument) -> Result<Connections, ConnectError> {
        Connections::expect(&document.devices, &self.paths, &self.taps)
    }
}

/// An address that no maker gives to a card, and hardly another VM has.
fn random_mac() -> [u8; 6] {
    const LOCAL: u8 = 2;
    let [_, _, _, a, b, c, d, e] = RandomState::new().hash_one(0).to_le_bytes();
    [LOCAL, a, b, c, d, e]
}
