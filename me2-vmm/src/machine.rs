//! The machine document: all that the destination must know to build the same VM, before any
//! memory travels. JSON, versioned; a peer's document is bounded and checked before it is used.

use kvm_bindings::kvm_cpuid_entry2;
use serde::{Deserialize, Serialize};

use crate::layout::{LayoutError, RamLayout};

pub mod devices;

pub use devices::{BlockDocument, DeviceDocument, DeviceKind, MmioDevice};

/// The version written here; others are refused.
pub const MACHINE_VERSION: u32 = 2;
/// Largest document in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Most vCPUs of a VM.
pub const CPUS_MAX: u32 = 64;
const CPUID_ENTRIES_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 64;

/// Why a document was refused.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Larger than [`DOCUMENT_BYTES_MAX`].
    #[error("the machine document has {0} bytes, more than the limit")]
    TooLarge(usize),
    /// Not the JSON that was expected.
    #[error("the machine document cannot be read")]
    Malformed(#[source] serde_json::Error),
    /// Written by a version of me2 that this one does not know.
    #[error("the machine document has version {0}; this me2 knows version {MACHINE_VERSION}")]
    Version(u32),
    /// A name that cannot be used.
    #[error("VM name {0:?}: 1 to 64 of A-Z a-z 0-9 . _ -")]
    Name(String),
    /// Too few or too many vCPUs.
    #[error("{0} vCPUs: must be 1 to {CPUS_MAX}")]
    Cpus(u32),
    /// More CPUID entries than any processor has.
    #[error("{0} CPUID entries, more than the limit")]
    Cpuid(usize),
    /// More devices than there is room for.
    #[error("{0} devices: at most {max}", max = devices::DEVICES_MAX)]
    Devices(usize),
    /// A device's name that cannot be used, or that another has.
    #[error("device name {0:?}: 1 to 64 of A-Z a-z 0-9 . _ -, and each name once")]
    DeviceName(String),
    /// A disk's path or size that cannot be.
    #[error("disk {0}: its path must be absolute, its size one sector or more")]
    Disk(String),
    /// A RAM size that cannot be laid out.
    #[error(transparent)]
    Memory(#[from] LayoutError),
}

/// One CPUID leaf that the guest sees; the APIC id is filled in for each vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the fields are those of struct kvm_cpuid_entry2"
)]
pub struct CpuidLeaf {
    pub function: u32,
    pub index: u32,
    pub flags: u32,
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

impl From<&kvm_cpuid_entry2> for CpuidLeaf {
    fn from(entry: &kvm_cpuid_entry2) -> Self {
        Self {
            function: entry.function,
            index: entry.index,
            flags: entry.flags,
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        }
    }
}

/// A VM without its state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineDocument {
    /// [`MACHINE_VERSION`].
    pub version: u32,
    /// Name of the VM.
    pub name: String,
    /// RAM in bytes; [`RamLayout::new`] says where it lies.
    pub memory_bytes: u64,
    /// Number of vCPUs; their APIC ids are 0 and up.
    pub cpus: u32,
    /// What the guest sees of the processor.
    pub cpuid: Vec<CpuidLeaf>,
    /// Frequency of the guest's time stamp counter in kHz.
    pub tsc_khz: u32,
    /// Whether the built-in workload guest runs in it, whose reports me2 can read.
    pub builtin_guest: bool,
    /// Its virtio devices, in the order in which the guest finds them.
    pub devices: Vec<DeviceDocument>,
}

impl MachineDocument {
    /// Reads and checks a document.
    pub fn from_json(json: &[u8]) -> Result<Self, MachineError> {
        if json.len() > DOCUMENT_BYTES_MAX {
            return Err(MachineError::TooLarge(json.len()));
        }
        let document: Self = serde_json::from_slice(json).map_err(MachineError::Malformed)?;
        document.check()?;
        Ok(document)
    }

    /// The document as JSON.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain numbers and strings")
    }

    /// The RAM layout that the document describes.
    pub fn layout(&self) -> Result<RamLayout, LayoutError> {
        RamLayout::new(self.memory_bytes)
    }

    /// Checks every bound.
    pub fn check(&self) -> Result<(), MachineError> {
        if self.version != MACHINE_VERSION {
            return Err(MachineError::Version(self.version));
        }
        if !is_good_name(&self.name) {
            return Err(MachineError::Name(
                self.name.chars().take(NAME_BYTES_MAX).collect(),
            ));
        }
        if !(1..=CPUS_MAX).contains(&self.cpus) {
            return Err(MachineError::Cpus(self.cpus));
        }
        if self.cpuid.len() > CPUID_ENTRIES_MAX {
            return Err(MachineError::Cpuid(self.cpuid.len()));
        }
        devices::check(&self.devices)?;
        self.layout()?;
        Ok(())
    }
}

fn is_good_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn document() -> MachineDocument {
        MachineDocument {
            version: MACHINE_VERSION,
            name: "vm-1".into(),
            memory_bytes: 64 << 20,
            cpus: 2,
            cpuid: vec![],
            tsc_khz: 2_000_000,
            builtin_guest: true,
            devices: vec![],
        }
    }

    #[test]
    fn round_trip() {
        assert_eq!(
            MachineDocument::from_json(&document().to_json()).unwrap(),
            document()
        );
    }

    #[test]
    fn bad_documents_are_refused() {
        let refused = |change: fn(&mut MachineDocument)| {
            let mut document = document();
            change(&mut document);
            MachineDocument::from_json(&document.to_json()).unwrap_err()
        };
        assert!(matches!(
            refused(|d| d.version = 1),
            MachineError::Version(1)
        ));
        assert!(matches!(
            refused(|d| d.name = "../x".into()),
            MachineError::Name(_)
        ));
        assert!(matches!(refused(|d| d.cpus = 0), MachineError::Cpus(0)));
        assert!(matches!(
            refused(|d| d.memory_bytes = 1 << 50),
            MachineError::Memory(_)
        ));
        assert!(matches!(
            MachineDocument::from_json(b"{}"),
            Err(MachineError::Malformed(_))
        ));
        let huge = vec![b' '; DOCUMENT_BYTES_MAX + 1];
        assert!(matches!(
            MachineDocument::from_json(&huge),
            Err(MachineError::TooLarge(_))
        ));
    }
}
