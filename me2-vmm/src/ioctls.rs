//! The few ioctls that the crates of the field do not wrap yet.

use std::os::fd::AsRawFd;

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr, kvm_sregs2,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::{
    errno,
    ioctl::{ioctl_with_mut_ref, ioctl_with_ref},
    ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr,
};

ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_ior_nr!(KVM_GET_SREGS2, KVMIO, 0xcc, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_SREGS2, KVMIO, 0xcd, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);

const _: () = assert!(size_of::<kvm_clear_dirty_log>() == 24 && size_of::<kvm_sregs2>() == 320);

/// Bytes of the special registers, as `struct kvm_sregs2` lays them out.
pub(crate) const SREGS2_BYTES: usize = size_of::<kvm_sregs2>();

fn check(result: libc::c_int) -> Result<(), errno::Error> {
    if result < 0 {
        Err(errno::Error::last())
    } else {
        Ok(())
    }
}

/// Clears and write-protects again those of the slot's first `pages` pages whose bit is set.
pub(crate) fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    pages: u32,
    bitmap: &mut [u64],
) -> Result<(), errno::Error> {
    assert!(bitmap.len() * 64 >= pages as usize, "a bit for every page");
    let mut argument = kvm_clear_dirty_log {
        slot,
        num_pages: pages,
        first_page: 0,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: bitmap.as_mut_ptr().cast(),
        },
    };
    // SAFETY: the bitmap has a bit for every page (asserted) and lives across the call.
    check(unsafe { ioctl_with_mut_ref(vm, KVM_CLEAR_DIRTY_LOG(), &mut argument) })
}

/// The special registers with the page directory pointers of PAE guests.
pub(crate) fn get_sregs2(vcpu: &VcpuFd) -> Result<[u8; SREGS2_BYTES], errno::Error> {
    let mut sregs = Bytes([0; SREGS2_BYTES]);
    // SAFETY: the kernel writes exactly the number of bytes that the ioctl's number encodes.
    check(unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS2(), &mut sregs) })?;
    Ok(sregs.0)
}

/// Sets what [`get_sregs2`] gave.
pub(crate) fn set_sregs2(vcpu: &VcpuFd, sregs: [u8; SREGS2_BYTES]) -> Result<(), errno::Error> {
    // SAFETY: the kernel reads exactly the number of bytes that the ioctl's number encodes.
    check(unsafe { ioctl_with_ref(vcpu, KVM_SET_SREGS2(), &Bytes(sregs)) })
}

/// Storage with the alignment of `struct kvm_sregs2`.
#[repr(C, align(8))]
struct Bytes([u8; SREGS2_BYTES]);

/// Guest TSC minus host TSC of a vCPU.
pub(crate) fn get_tsc_offset(vcpu: &VcpuFd) -> Result<u64, errno::Error> {
    let mut offset = 0u64;
    let attribute = tsc_offset_attribute(&raw mut offset as u64);
    // SAFETY: the kernel writes 8 bytes to the address, which is that of a live u64.
    check(unsafe { ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) })?;
    Ok(offset)
}

/// Sets guest TSC minus host TSC of a vCPU.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), errno::Error> {
    let attribute = tsc_offset_attribute(&raw const offset as u64);
    // SAFETY: the kernel reads 8 bytes from the address, which is that of a live u64.
    check(unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) })
}

fn tsc_offset_attribute(address: u64) -> kvm_device_attr {
    kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: address,
    }
}

/// The host's time stamp counter, now.
pub(crate) fn host_tsc() -> u64 {
    // SAFETY: every processor with KVM has RDTSC, and Linux leaves it enabled in user mode.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// `_IOWR(0xAA, 3, struct uffdio_copy)`.
const UFFDIO_COPY: libc::c_ulong = 3 << 30 | 40 << 16 | 0xaa << 8 | 3;
/// `_IOWR(0xAA, 4, struct uffdio_zeropage)`.
const UFFDIO_ZEROPAGE: libc::c_ulong = 3 << 30 | 32 << 16 | 0xaa << 8 | 4;
/// `_IOWR(0xAA, 5, struct uffdio_move)`.
const UFFDIO_MOVE: libc::c_ulong = 3 << 30 | 40 << 16 | 0xaa << 8 | 5;

/// `struct uffdio_copy` and `struct uffdio_move`, which have the same layout.
#[repr(C)]
struct CopyArgument {
    dst: u64,
    src: u64,
    len: u64,
    mode: u64,
    done: i64,
}

/// `struct uffdio_zeropage`.
#[repr(C)]
struct ZeroArgument {
    dst: u64,
    len: u64,
    mode: u64,
    done: i64,
}

const _: () = assert!(size_of::<CopyArgument>() == 40 && size_of::<ZeroArgument>() == 32);

/// How a placement ended: `done` bytes are in place, then `error` if not all.
pub(crate) struct Placed {
    pub(crate) done: usize,
    pub(crate) error: Option<i32>,
}

/// Where placed pages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceFrom {
    /// A copy of the bytes at this address.
    Copy(*const u8),
    /// The pages themselves at this address, which are gone from there afterwards.
    Move(*const u8),
    /// The kernel's shared zero page.
    Zero,
}

/// Places missing pages of a range registered with userfaultfd, and wakes who waits for them.
///
/// # Safety
/// `dst` for `len` bytes must be registered with this userfaultfd, and a source address must be
/// readable for `len` bytes. With [`PlaceFrom::Move`] the source must be private anonymous memory
/// that nothing refers to.
pub(crate) unsafe fn place(
    uffd: &impl AsRawFd,
    dst: *mut u8,
    from: PlaceFrom,
    len: usize,
) -> Placed {
    let (failed, done) = match from {
        PlaceFrom::Copy(src) | PlaceFrom::Move(src) => {
            let request = if matches!(from, PlaceFrom::Copy(_)) {
                UFFDIO_COPY
            } else {
                UFFDIO_MOVE
            };
            let mut argument = CopyArgument {
                dst: dst as u64,
                src: src as u64,
                len: len as u64,
                mode: 0,
                done: 0,
            };
            // SAFETY: layout asserted; the addresses are the caller's contract.
            let rc = unsafe { libc::ioctl(uffd.as_raw_fd(), request, &raw mut argument) };
            (rc < 0, argument.done)
        }
        PlaceFrom::Zero => {
            let mut argument = ZeroArgument {
                dst: dst as u64,
                len: len as u64,
                mode: 0,
                done: 0,
            };
            // SAFETY: layout asserted; the address is the caller's contract.
            let rc = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_ZEROPAGE, &raw mut argument) };
            (rc < 0, argument.done)
        }
    };
    let error = failed.then(|| errno::Error::last().errno());
    Placed {
        done: done.max(0) as usize,
        error,
    }
}
