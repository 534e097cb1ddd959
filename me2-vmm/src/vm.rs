//! A VM: KVM's objects, memory, devices and vCPUs together.

use std::{io, sync::Arc, time::Instant};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_pit_config,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::{errno, eventfd::EventFd};

use crate::{
    boot::{self, BootError, BootSource},
    cpuid,
    devices::{
        self, ConsoleSink, Devices, SERIAL_IRQ,
        connections::{ConnectError, Connections},
        disk::DiskError,
    },
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
    /// A device has nothing to be connected to.
    #[error(transparent)]
    Connect(#[from] ConnectError),
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
            devices: Vec::new(),
        };
        document.check()?;
        Ok(document)
    }

    /// Whether this host can run the machine of a document.
    pub fn check(&self, document: &MachineDocument) -> Result<(), VmError> {
        match self.objections(document)?.into_iter().next() {
            Some(objection) => Err(objection),
            None => Ok(()),
        }
    }

    /// Everything for which this host cannot run the machine of a document.
    pub fn objections(&self, document: &MachineDocument) -> Result<Vec<VmError>, VmError> {
        let mut objections = Vec::new();
        let allowed = self.kvm.get_max_vcpus();
        if document.cpus as usize > allowed {
            objections.push(VmError::TooManyCpus {
                asked: document.cpus,
                allowed,
            });
        }
        let offered: Vec<CpuidLeaf> =
            cpuid::supported(&self.kvm).map_err(failed("KVM_GET_SUPPORTED_CPUID"))?;
        let missing = cpuid::missing_features(&document.cpuid, &offered);
        if !missing.is_empty() {
            objections.push(VmError::MissingFeatures(missing));
        }
        let offered = self.tsc_khz()?;
        if document.tsc_khz.abs_diff(offered) > offered / TSC_TOLERANCE_DIVISOR {
            objections.push(VmError::TscFrequency {
                wanted: document.tsc_khz,
                offered,
            });
        }
        Ok(objections)
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
    connections: Connections,
}

impl Vm {
    /// Builds the machine of a document without virtio devices.
    ///
    /// # Errors
    /// As of [`Vm::build_with`].
    pub fn build(
        host: &Host,
        document: MachineDocument,
        console: ConsoleSink,
        ended: EndHandler,
    ) -> Result<Self, VmError> {
        Self::build_with(host, document, Connections::default(), console, ended)
    }

    /// Builds the machine of a document, with each of its devices connected; nothing of its memory is
    /// populated, nothing runs.
    ///
    /// # Errors
    /// [`VmError`]: the document asks for what this host cannot offer, or a device has no connection.
    pub fn build_with(
        host: &Host,
        document: MachineDocument,
        connections: Connections,
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
        let fd = Arc::new(fd);
        let vcpu_fds = create_vcpus(&fd, &document)?;
        // The userfaultfd, the memory and the VM outlive every thread of a vCPU or a device.
        let keep: Arc<dyn std::any::Any + Send + Sync> =
            Arc::new((host.userfault.clone(), memory.clone(), fd.clone()));
        let virtio = devices::build(&fd, &document, &connections, &memory, &keep)?;
        let devices = Arc::new(Devices::new(interrupt, console, virtio));
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
            connections,
        })
    }

    /// Loads a kernel and points vCPU 0 at it. The VM is still stopped.
    pub fn boot(&self, source: &BootSource) -> Result<(), VmError> {
        let cpus = self.document.cpus as u8; // at most CPUS_MAX
        let entry = boot::load(&self.memory, source, cpus, &self.document.mmio_devices())?;
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

    /// Lets vCPUs and devices run (again), once the disks are this VM's. With `arrived`, it did not
    /// run in this process before: network cards tell the network where it is now.
    ///
    /// # Errors
    /// [`DiskError`]: somebody else has a disk. Nothing runs then.
    pub fn resume(&self, arrived: bool) -> Result<(), DiskError> {
        self.acquire_disks()?;
        for device in self.devices.virtio() {
            device.worker().resume(arrived);
        }
        self.vcpus.resume();
        Ok(())
    }

    /// Asks vCPUs and devices to stop, and returns at once.
    pub fn request_stop(&self) {
        self.vcpus.request_stop();
        for device in self.devices.virtio() {
            device.worker().request_stop();
        }
    }

    /// Waits until all are stopped, the devices between two requests; or until `deadline`. Gives the
    /// time at which the last vCPU left the guest, or `None` at the deadline.
    pub fn wait_stopped(&self, deadline: Option<Instant>) -> Option<u64> {
        let stopped_ns = self.vcpus.wait_stopped(deadline)?;
        let mut devices = self.devices.virtio();
        let stopped = devices.all(|device| device.worker().wait_stopped(deadline));
        stopped.then_some(stopped_ns)
    }

    /// Opens and locks the disks that are not in use here yet.
    ///
    /// # Errors
    /// [`DiskError`]: somebody else has one.
    pub fn acquire_disks(&self) -> Result<(), DiskError> {
        let mut disks = self.connections.disks.values();
        disks.try_for_each(|disk| disk.acquire())
    }

    /// Waits until what was written so far is on the disks. The VM may run meanwhile.
    ///
    /// # Errors
    /// [`DiskError::Flush`].
    pub fn flush_disks(&self) -> Result<(), DiskError> {
        let mut disks = self.connections.disks.values();
        disks.try_for_each(|disk| disk.flush())
    }

    /// Flushes the disks of the stopped VM and lets go of their locks: another process may use them.
    ///
    /// # Errors
    /// [`DiskError::Flush`]: [`Vm::resume`] takes back what was let go.
    pub fn let_go_of_disks(&self) -> Result<(), DiskError> {
        let mut disks = self.connections.disks.values();
        disks.try_for_each(|disk| disk.let_go())
    }

    /// Lets go of the disks for good: the VM will never run here.
    pub fn give_up_disks(&self) {
        for disk in self.connections.disks.values() {
            disk.give_up();
        }
    }

    /// Types into the serial port what it has room for; gives how many bytes that were.
    pub fn type_into_console(&self, bytes: &[u8]) -> usize {
        self.devices.console.input(bytes)
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
            let table = cpuid::for_vcpu(&document.cpuid, index, document.cpus)
                .ok_or(VmError::CpuidTable)?;
            vcpu.set_cpuid2(&table).map_err(failed("KVM_SET_CPUID2"))?;
            Ok(vcpu)
        })
        .collect()
}
