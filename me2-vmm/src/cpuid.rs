//! What the guest sees of the processor, and whether another host can offer the same.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use vmm_sys_util::errno;

use crate::machine::CpuidLeaf;

/// Bit of CPUID.1:ECX for nested VMX, and of CPUID.80000001:ECX for nested SVM.
const VMX_1_ECX: u32 = 1 << 5;
const SVM_8000_0001_ECX: u32 = 1 << 2;

/// Everything that KVM can offer on this host and that can be moved: nested virtualisation has
/// state of its own, which does not travel, so no guest is offered it.
pub fn supported(kvm: &Kvm) -> Result<Vec<CpuidLeaf>, errno::Error> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    Ok(cpuid
        .as_slice()
        .iter()
        .map(|entry| without_nesting(entry.into()))
        .collect())
}

fn without_nesting(mut leaf: CpuidLeaf) -> CpuidLeaf {
    match leaf.function {
        1 => leaf.ecx &= !VMX_1_ECX,
        0x8000_0001 => leaf.ecx &= !SVM_8000_0001_ECX,
        _ => {}
    }
    leaf
}

/// The table for one vCPU: the common leaves with its APIC id filled in.
pub fn for_vcpu(leaves: &[CpuidLeaf], apic_id: u32) -> Option<CpuId> {
    let entries: Vec<kvm_cpuid_entry2> = leaves
        .iter()
        .map(|leaf| {
            let mut entry = kvm_cpuid_entry2 {
                function: leaf.function,
                index: leaf.index,
                flags: leaf.flags,
                eax: leaf.eax,
                ebx: leaf.ebx,
                ecx: leaf.ecx,
                edx: leaf.edx,
                padding: [0; 3],
            };
            match leaf.function {
                1 => entry.ebx = (entry.ebx & 0x00ff_ffff) | apic_id << 24,
                0xb | 0x1f => entry.edx = apic_id,
                _ => {}
            }
            entry
        })
        .collect();
    CpuId::from_entries(&entries).ok()
}

/// A register of a leaf in which each bit is a feature.
type FeatureRegister = (&'static str, u32, u32, fn(&CpuidLeaf) -> u32);

/// The registers whose bits are features that a guest may use once it has seen them.
const FEATURE_REGISTERS: [FeatureRegister; 11] = [
    ("CPUID.1:ECX", 1, 0, |leaf| leaf.ecx),
    ("CPUID.1:EDX", 1, 0, |leaf| leaf.edx),
    ("CPUID.7:EBX", 7, 0, |leaf| leaf.ebx),
    ("CPUID.7:ECX", 7, 0, |leaf| leaf.ecx),
    ("CPUID.7:EDX", 7, 0, |leaf| leaf.edx),
    ("CPUID.7.1:EAX", 7, 1, |leaf| leaf.eax),
    ("CPUID.D.0:EAX", 0xd, 0, |leaf| leaf.eax),
    ("CPUID.D.1:EAX", 0xd, 1, |leaf| leaf.eax),
    ("CPUID.80000001:ECX", 0x8000_0001, 0, |leaf| leaf.ecx),
    ("CPUID.80000001:EDX", 0x8000_0001, 0, |leaf| leaf.edx),
    (
        "KVM features (CPUID.40000001:EAX)",
        0x4000_0001,
        0,
        |leaf| leaf.eax,
    ),
];

/// Bits of CPUID.1 that describe the state of a vCPU rather than a feature: OSXSAVE.
const STATE_BITS_1_ECX: u32 = 1 << 27;

/// Features that `wanted` has and `offered` lacks, by register and bit, for people.
pub fn missing_features(wanted: &[CpuidLeaf], offered: &[CpuidLeaf]) -> Vec<String> {
    let bits = |leaves: &[CpuidLeaf], (_, function, index, register): &FeatureRegister| {
        leaves
            .iter()
            .find(|leaf| leaf.function == *function && leaf.index == *index)
            .map_or(0, register)
    };
    let mut missing = Vec::new();
    for register in &FEATURE_REGISTERS {
        let mut lacking = bits(wanted, register) & !bits(offered, register);
        if register.0 == "CPUID.1:ECX" {
            lacking &= !STATE_BITS_1_ECX;
        }
        missing.extend(
            (0..32)
                .filter(|bit| lacking >> bit & 1 == 1)
                .map(|bit| format!("{} bit {bit}", register.0)),
        );
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, ecx: u32) -> CpuidLeaf {
        CpuidLeaf {
            function,
            index: 0,
            flags: 0,
            eax: 0,
            ebx: 0,
            ecx,
            edx: 0,
        }
    }

    #[test]
    fn missing_features_are_named() {
        let wanted = [leaf(1, 1 << 28 | STATE_BITS_1_ECX), leaf(7, 1 << 3)];
        assert_eq!(missing_features(&wanted, &wanted), Vec::<String>::new());
        assert_eq!(
            missing_features(&wanted, &[leaf(1, 0)]),
            ["CPUID.1:ECX bit 28", "CPUID.7:ECX bit 3"]
        );
    }

    #[test]
    fn nesting_is_not_offered() {
        assert_eq!(without_nesting(leaf(1, u32::MAX)).ecx, !VMX_1_ECX);
        assert_eq!(
            without_nesting(leaf(0x8000_0001, u32::MAX)).ecx,
            !SVM_8000_0001_ECX
        );
        assert_eq!(without_nesting(leaf(7, u32::MAX)).ecx, u32::MAX);
    }

    #[test]
    fn each_vcpu_has_its_apic_id() {
        let table = for_vcpu(&[leaf(1, 0), leaf(0xb, 0)], 3).unwrap();
        assert_eq!(table.as_slice()[0].ebx >> 24, 3);
        assert_eq!(table.as_slice()[1].edx, 3);
    }
}
