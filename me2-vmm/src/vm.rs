//! A VM: KVM's objects, memory, devices and vCPUs together.

use std::{io, sync::Arc};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_pit_config,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::{errno, eventfd::EventFd};

use crate::{
    boot::{self, BootError, BootSource},
    cpuid,
    devices::{ConsoleSink, Devices, SERIAL_IRQ},
    dirty::{self, Collect},
    machine::{CpuidLeaf, MACHINE_VERSION, MachineDocument},
    memory::{GuestMemory, MemoryError},
    paging::Userfault,
    vcpu::{EndHandler, Vcpus},
};

/// Why a VM could not be built or used.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// `/dev/kvm` cannot be used.
    #[error(
        "KVM is not to be had: load kvm_intel or kvm_amd, and allow this user to open /dev/kvm"
    )]
    Kvm(#[source] errno::Error),
    /// A KVM call failed.
    #[error("{call} failed")]
    Call {
        /// The call.
        call: &'static str,
        /// What KVM said.
        #[source]
        source: errno::Error,
    },
    /// More vCPUs than KVM allows.
    #[error("{asked} vCPUs: this host's KVM allows {allowed}")]
    TooManyCpus {
        /// Number asked for.
        asked: u32,
        /// Number possible.
        allowed: usize,
    },
    /// The document asks for what this host lacks.
    #[error("this host cannot offer what the guest was given: {}", .0.join(", "))]
    MissingFeatures(Vec<String>),
    /// The TSC frequencies differ: scaling is not supported.
    #[error("the guest's TSC runs at {wanted} kHz, this host's at {offered} kHz: not supported")]
    TscFrequency {
        /// The guest's.
        wanted: u32,
        /// The host's.
        offered: u32,
    },
    /// The CPUID table does not fit.
    #[error("the CPUID table is too long")]
    CpuidTable,
    /// Guest memory could not be set up.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The machine document is not usable.
    #[error(transparent)]
    Machine(#[from] crate::machine::MachineError),
    /// A thread or an event could not be made.
    #[error("cannot start the VM's threads")]
    Threads(#[source] io::Error),
    /// The VM could not be booted.
    #[error(transparent)]
    Boot(#[from] BootError),
}

pub(crate) fn failed(call: &'static str) -> impl FnOnce(errno::Error) -> VmError {
    move |source| VmError::Call { call, source }
}

/// What the process opens when it starts, so that privileges can be dropped later.
pub struct Host {
    pub(crate) kvm: Kvm,
    userfault: Arc<Userfault>,
}

impl Host {
    /// Opens KVM.
    pub fn open(userfault: Arc<Userfault>) -> Result<Self, VmError> {
        let kvm = Kvm::new().map_err(VmError::Kvm)?;
        Ok(Self { kvm, userfault })
    }

    /// The userfaultfd of this process.
    pub fn userfault(&self) -> &Arc<Userfault> {
        &self.userfault
    }

    /// Describes a new machine with everything that this host offers.
    pub fn describe(
        &self,
        name: &str,
        memory_bytes: u64,
        cpus: u32,
        builtin_guest: bool,
    ) -> Result<MachineDocument, VmError> {
        let document = MachineDocument {
            version: MACHINE_VERSION,
            name: name.into(),
            memory_bytes,
            cpus,
            cpuid: cpuid::supported(&self.kvm).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?,
            tsc_khz: self.tsc_khz()?,
            builtin_guest,
        };
        document.check()?;
        Ok(document)
    }

    /// Whether this host can run the machine of a document.
    pub fn check(&self, document: &MachineDocument) -> Result<(), VmError> {
        let allowed = self.kvm.get_max_vcpus();
        if document.cpus as usize > allowed {
            return Err(VmError::TooManyCpus {
                asked: document.cpus,
                allowed,
            });
        }
        let offered: Vec<CpuidLeaf> =
            cpuid::supported(&self.kvm).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        let missing = cpuid::missing_features(&document.cpuid, &offered);
        if !missing.is_empty() {
            return Err(VmError::MissingFeatures(missing));
        }
        let offered = self.tsc_khz()?;
        if document.tsc_khz.abs_diff(offered) > offered / TSC_TOLERANCE_DIVISOR {
            return Err(VmError::TscFrequency {
                wanted: document.tsc_khz,
                offered,
            });
        }
        Ok(())
    }

    /// The frequency that a vCPU's TSC has without scaling.
    fn tsc_khz(&self) -> Result<u32, VmError> {
        let vm = self.kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        vcpu.get_tsc_khz().map_err(failed("KVM_GET_TSC_KHZ"))
    }
}

/// KVM takes a frequency within 250 ppm for equal; so is it here.
const TSC_TOLERANCE_DIVISOR: u32 = 4000;

/// Where KVM keeps its task state segment on Intel: three pages inside the hole below 4 GiB.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// A VM, stopped when built.
pub struct Vm {
    // First field, so dropped first: no vCPU thread outlives anything below.
    vcpus: Vcpus,
    pub(crate) fd: Arc<VmFd>,
    pub(crate) devices: Arc<Devices>,
    pub(crate) msr_indices: Vec<u32>,
    pub(crate) xsave_bytes: usize,
    memory: GuestMemory,
    document: MachineDocument,
}

impl Vm {
    /// Builds the machine of a document; nothing of its memory is populated, nothing runs.
    pub fn build(
        host: &Host,
        document: MachineDocument,
        console: ConsoleSink,
        ended: EndHandler,
    ) -> Result<Self, VmError> {
        document.check()?;
        host.check(&document)?;
        let layout = document
            .layout()
            .map_err(crate::machine::MachineError::from)?;
        let memory = GuestMemory::new(layout)?;
        let fd = host.kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        fd.set_tss_address(TSS_ADDRESS)
            .map_err(failed("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(failed("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        fd.create_pit2(pit).map_err(failed("KVM_CREATE_PIT2"))?;
        let manual_protect = kvm_enable_cap {
            cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
            args: [1, 0, 0, 0],
            ..Default::default()
        };
        fd.enable_cap(&manual_protect)
            .map_err(failed("KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2"))?;
        // SAFETY: the memory is kept by the `Vm`, whose vCPU threads are gone before it is dropped.
        unsafe { dirty::set_memory(&fd, &memory, false) }
            .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        let interrupt = EventFd::new(libc::EFD_CLOEXEC).map_err(VmError::Threads)?;
        fd.register_irqfd(&interrupt, SERIAL_IRQ)
            .map_err(failed("KVM_IRQFD"))?;
        let devices = Arc::new(Devices::new(interrupt, console));
        let fd = Arc::new(fd);
        let vcpu_fds = create_vcpus(&fd, &document)?;
        // The userfaultfd, the memory and the VM outlive every vCPU thread.
        let keep = Arc::new((host.userfault.clone(), memory.clone(), fd.clone()));
        let vcpus =
            Vcpus::start(vcpu_fds, devices.clone(), ended, keep).map_err(VmError::Threads)?;
        let msr_list = host
            .kvm
            .get_msr_index_list()
            .map_err(failed("KVM_GET_MSR_INDEX_LIST"))?;
        Ok(Self {
            vcpus,
            devices,
            msr_indices: msr_list.as_slice().to_vec(),
            xsave_bytes: fd.check_extension_int(Cap::Xsave2).max(0) as usize,
            fd,
            memory,
            document,
        })
    }

    /// Loads a kernel and points vCPU 0 at it. The VM is still stopped.
    pub fn boot(&self, source: &BootSource) -> Result<(), VmError> {
        let entry = boot::load(&self.memory, source)?;
        let vcpu = self.vcpus.fd(0);
        let sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        vcpu.set_sregs(&entry.special_registers(sregs))
            .map_err(failed("KVM_SET_SREGS"))?;
        vcpu.set_regs(&entry.registers())
            .map_err(failed("KVM_SET_REGS"))
    }

    /// The document that it was built from.
    pub fn document(&self) -> &MachineDocument {
        &self.document
    }

    /// Its memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Its vCPUs.
    pub fn vcpus(&self) -> &Vcpus {
        &self.vcpus
    }

    /// Starts logging writes; what was written before is forgotten.
    pub fn start_dirty_log(&self) -> Result<(), VmError> {
        // SAFETY: as in `build`.
        unsafe { dirty::set_memory(&self.fd, &self.memory, true) }
            .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        self.memory.take_own_dirty();
        Ok(())
    }

    /// Pages written since the start of the log or the last call, by KVM or by the VMM: one bit a
    /// page by page index.
    pub fn collect_dirty(&self, how: Collect) -> Result<Vec<u64>, VmError> {
        dirty::collect(&self.fd, &self.memory, how).map_err(failed("KVM_GET_DIRTY_LOG"))
    }

    /// Stops logging writes.
    pub fn stop_dirty_log(&self) -> Result<(), VmError> {
        // SAFETY: as in `build`.
        unsafe { dirty::set_memory(&self.fd, &self.memory, false) }
            .map_err(failed("KVM_SET_USER_MEMORY_REGION"))
    }
}

fn create_vcpus(fd: &VmFd, document: &MachineDocument) -> Result<Vec<kvm_ioctls::VcpuFd>, VmError> {
    (0..document.cpus)
        .map(|index| {
            let vcpu = fd
                .create_vcpu(u64::from(index))
                .map_err(failed("KVM_CREATE_VCPU"))?;
            let table = cpuid::for_vcpu(&document.cpuid, index).ok_or(VmError::CpuidTable)?;
            vcpu.set_cpuid2(&table).map_err(failed("KVM_SET_CPUID2"))?;
            Ok(vcpu)
        })
        .collect()
}
