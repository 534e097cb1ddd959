//! What of the host the devices of a VM are connected to.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    disk::{Disk, DiskError},
    tap::Tap,
};
use crate::machine::{DeviceDocument, DeviceKind};

/// Why a device cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A disk is not to be had.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// There is no tap for a network card.
    #[error("the VM has a network card {0}: say which tap it is connected to with --net {0}=TAP")]
    NoTap(String),
    /// Something was named for a device that the VM does not have.
    #[error("the VM has no device {0}, which an option here names")]
    Unknown(String),
    /// Nothing is there for a device.
    #[error("nothing is connected to device {0}")]
    Unconnected(String),
}

/// Disks and taps by the names of their devices.
#[derive(Default)]
pub struct Connections {
    /// Disks.
    pub disks: BTreeMap<String, Arc<Disk>>,
    /// Taps.
    pub taps: BTreeMap<String, Arc<Tap>>,
}

impl Connections {
    /// Those of a VM that comes with these devices: disks are where the source has them but for
    /// `paths`; taps are those that this process has opened.
    ///
    /// # Errors
    /// [`ConnectError`]: one is missing, in use, or another than at the source.
    pub fn expect(
        devices: &[DeviceDocument],
        paths: &BTreeMap<String, PathBuf>,
        taps: &BTreeMap<String, Arc<Tap>>,
    ) -> Result<Self, ConnectError> {
        let is_disk = |name: &str| {
            devices
                .iter()
                .any(|device| device.name == name && matches!(device.kind, DeviceKind::Block(_)))
        };
        if let Some(name) = paths.keys().find(|name| !is_disk(name)) {
            return Err(ConnectError::Unknown(name.clone()));
        }
        let mut expected = Self::default();
        for DeviceDocument { name, kind } in devices {
            match kind {
                DeviceKind::Block(document) => {
                    let path = paths.get(name).map(Path::new);
                    let disk = Disk::expect(name, document, path)?;
                    expected.disks.insert(name.clone(), Arc::new(disk));
                }
                DeviceKind::Net { .. } => {
                    let tap = taps.get(name).cloned();
                    let tap = tap.ok_or_else(|| ConnectError::NoTap(name.clone()))?;
                    expected.taps.insert(name.clone(), tap);
                }
                DeviceKind::Entropy | DeviceKind::Balloon => {}
            }
        }
        Ok(expected)
    }
}
