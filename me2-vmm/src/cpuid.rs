//! What the guest sees of the processor, and whether another host can offer the same.

use kvm_bindings::{
    CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2,
};
use kvm_ioctls::Kvm;
use vmm_sys_util::errno;

use crate::machine::CpuidLeaf;

/// Bit of CPUID.1:ECX for nested VMX, and of CPUID.80000001:ECX for nested SVM.
const VMX_1_ECX: u32 = 1 << 5;
const SVM_8000_0001_ECX: u32 = 1 << 2;
/// Bit of CPUID.1:ECX: the processor is a virtual one.
const HYPERVISOR_1_ECX: u32 = 1 << 31;

/// Bit of CPUID.1:EDX: the package has several processors.
const HTT_1_EDX: u32 = 1 << 28;
const LAST_CACHE_LEVEL: u32 = 3;

/// Everything that KVM can offer on this host and that can be moved: nested virtualisation has
/// state of its own, which does not travel, so no guest is offered it.
pub fn supported(kvm: &Kvm) -> Result<Vec<CpuidLeaf>, errno::Error> {
    let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    Ok(cpuid
        .as_slice()
        .iter()
        .map(|entry| in_a_vm(without_nesting(entry.into())))
        .collect())
}

/// Says that there is a hypervisor, which KVM leaves to us: without it no guest looks for kvmclock.
fn in_a_vm(mut leaf: CpuidLeaf) -> CpuidLeaf {
    if leaf.function == 1 {
        leaf.ecx |= HYPERVISOR_1_ECX;
    }
    leaf
}

fn without_nesting(mut leaf: CpuidLeaf) -> CpuidLeaf {
    match leaf.function {
        1 => leaf.ecx &= !VMX_1_ECX,
        0x8000_0001 => leaf.ecx &= !SVM_8000_0001_ECX,
        _ => {}
    }
    leaf
}

/// The table for one vCPU: the common leaves with its APIC id and the topology filled in.
pub fn for_vcpu(leaves: &[CpuidLeaf], apic_id: u32, cpus: u32) -> Option<CpuId> {
    let topology = Topology { apic_id, cpus };
    let entries: Vec<kvm_cpuid_entry2> = leaves
        .iter()
        .filter(|leaf| !matches!(leaf.function, 0xb | 0x1f))
        .map(|leaf| entry(topology.fill_in(*leaf)))
        .chain(topology.levels(leaves).into_iter().map(entry))
        .collect();
    CpuId::from_entries(&entries).ok()
}

fn entry(leaf: CpuidLeaf) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function: leaf.function,
        index: leaf.index,
        flags: leaf.flags,
        eax: leaf.eax,
        ebx: leaf.ebx,
        ecx: leaf.ecx,
        edx: leaf.edx,
        padding: [0; 3],
    }
}

/// One package of cores with one thread each, which share the last cache. The host's own topology,
/// which some leaves have from KVM, would contradict the APIC ids.
struct Topology {
    apic_id: u32,
    cpus: u32,
}

impl Topology {
    /// Bits of an APIC id that tell cores apart.
    fn core_bits(&self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }

    fn fill_in(&self, mut leaf: CpuidLeaf) -> CpuidLeaf {
        let others = self.cpus - 1;
        match leaf.function {
            1 => {
                leaf.ebx = leaf.ebx & 0xffff | self.cpus << 16 | self.apic_id << 24;
                leaf.edx &= !HTT_1_EDX;
                if others > 0 {
                    leaf.edx |= HTT_1_EDX;
                }
            }
            // Caches of Intel and of AMD: who shares them, and how many cores there are.
            4 if leaf.eax & 0x1f != 0 => {
                leaf.eax = leaf.eax & 0x3fff | self.sharing(leaf.eax) << 14 | others << 26;
            }
            0x8000_001d if leaf.eax & 0x1f != 0 => {
                leaf.eax = leaf.eax & 0x3fff | self.sharing(leaf.eax) << 14;
            }
            0x8000_0008 => leaf.ecx = leaf.ecx & !0xf0ff | others | self.core_bits() << 12,
            0x8000_001e => {
                leaf.eax = self.apic_id;
                leaf.ebx = self.apic_id;
                leaf.ecx = 0;
            }
            _ => {}
        }
        leaf
    }

    /// How many others share a cache of this level.
    fn sharing(&self, cache: u32) -> u32 {
        let level = cache >> 5 & 7;
        if level < LAST_CACHE_LEVEL {
            0
        } else {
            self.cpus - 1
        }
    }

    /// Leaf 0xb, where the processor has it: threads of a core, cores of the package, nothing more.
    fn levels(&self, leaves: &[CpuidLeaf]) -> Vec<CpuidLeaf> {
        if !leaves.iter().any(|leaf| leaf.function == 0xb) {
            return Vec::new();
        }
        const THREADS: u32 = 1;
        const CORES: u32 = 2;
        let level = |index, shift, count, kind: u32| CpuidLeaf {
            function: 0xb,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: kind << 8 | index,
            edx: self.apic_id,
        };
        vec![
            level(0, 0, 1, THREADS),
            level(1, self.core_bits(), self.cpus, CORES),
            level(2, 0, 0, 0),
        ]
    }
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
    fn each_vcpu_has_its_apic_id_and_its_place() {
        let cache = |level: u32| CpuidLeaf {
            eax: 1 | level << 5 | u32::MAX << 14,
            ..leaf(4, 0)
        };
        let leaves = [
            leaf(1, 0),
            cache(1),
            cache(3),
            leaf(0xb, 0),
            leaf(0x8000_0008, 0),
            leaf(0x8000_001e, 0),
        ];
        let table = for_vcpu(&leaves, 3, 6).unwrap();
        let find = |function, nth| {
            let mut found = table.as_slice().iter().filter(|e| e.function == function);
            *found.nth(nth).unwrap()
        };
        assert_eq!(find(1, 0).ebx >> 16, 3 << 8 | 6);
        assert_eq!(find(1, 0).edx, HTT_1_EDX);
        assert_eq!(
            (find(4, 0).eax >> 14, find(4, 1).eax >> 14),
            (5 << 12, 5 << 12 | 5)
        );
        let [threads, cores, end] = [0, 1, 2].map(|nth| find(0xb, nth));
        assert_eq!((threads.ecx, threads.eax, threads.ebx), (1 << 8, 0, 1));
        assert_eq!((cores.ecx, cores.eax, cores.ebx), (2 << 8 | 1, 3, 6));
        assert_eq!([threads.edx, cores.edx, end.edx], [3; 3]);
        assert_eq!(find(0x8000_0008, 0).ecx, 3 << 12 | 5);
        assert_eq!(find(0x8000_001e, 0).eax, 3);
    }

    #[test]
    fn the_guest_knows_that_it_is_one() {
        assert_eq!(in_a_vm(leaf(1, 0)).ecx, HYPERVISOR_1_ECX);
        assert_eq!(in_a_vm(leaf(7, 0)).ecx, 0);
    }
}
