//! Which pages were written since the last look: KVM's dirty log together with what the VMM wrote
//! itself. This, and nothing else, decides what is sent again.
//!
//! KVM's log is used with manual protection: reading it changes nothing, and clearing protects
//! exactly the pages that were read. A page must be copied *after* it was collected: a write in
//! between is then in the next collection.

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use vmm_sys_util::errno;

use crate::{ioctls, layout::PAGE_SIZE, memory::GuestMemory};

/// Registers all of `memory` with KVM, with or without a dirty log. Changing it later keeps the
/// mappings and only switches the log.
///
/// # Safety
/// The memory must stay mapped as long as the VM exists.
pub(crate) unsafe fn set_memory(
    vm: &VmFd,
    memory: &GuestMemory,
    log: bool,
) -> Result<(), errno::Error> {
    for (number, slot) in memory.layout().slots().iter().enumerate() {
        let region = kvm_userspace_memory_region {
            slot: number as u32,
            flags: if log { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: slot.guest_address,
            memory_size: slot.size_bytes,
            userspace_addr: memory.host_address_of(slot.first_page) as u64,
        };
        // SAFETY: the slots do not overlap and lie inside the mapping; that it stays is the
        // caller's contract.
        unsafe { vm.set_user_memory_region(region) }?;
    }
    Ok(())
}

/// What happens to the log when it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collect {
    /// Pages are protected again, so that their next write is logged again.
    AndProtect,
    /// Nothing: the VM is stopped and this is the last look.
    Last,
}

/// Pages written since the last call, one bit a page by page index.
pub(crate) fn collect(
    vm: &VmFd,
    memory: &GuestMemory,
    how: Collect,
) -> Result<Vec<u64>, errno::Error> {
    let mut all = memory.take_own_dirty();
    for (number, slot) in memory.layout().slots().iter().enumerate() {
        let mut bitmap = vm.get_dirty_log(number as u32, slot.size_bytes as usize)?;
        let pages = (slot.size_bytes / PAGE_SIZE as u64) as u32;
        if how == Collect::AndProtect && bitmap.iter().any(|word| *word != 0) {
            ioctls::clear_dirty_log(vm, number as u32, pages, &mut bitmap)?;
        }
        let first = slot.first_page as usize / 64;
        for (into, word) in all[first..].iter_mut().zip(bitmap) {
            *into |= word;
        }
    }
    Ok(all)
}
