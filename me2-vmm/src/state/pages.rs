//! Pages of guest memory that the CPU state refers to. They travel with the handover: without
//! them, restoring the state or the first instruction would wait for a round trip.

use std::collections::BTreeSet;

use vm_memory::{Bytes, GuestAddress};

use super::{StateError, failed};
use crate::{
    layout::{PAGE_SIZE, PageIndex},
    vm::Vm,
};

/// MSRs of KVM that hold the guest physical address of a page that KVM reads or writes: kvmclock
/// (old, new), asynchronous page faults, steal time, paravirtual end of interrupt.
const ADDRESS_MSRS: [u32; 5] = [0x12, 0x4b56_4d01, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d04];
const CR0_PAGING: u64 = 1 << 31;
const CR4_LEVEL_5: u64 = 1 << 12;
const EFER_LONG_MODE: u64 = 1 << 10;
const ENTRY_PRESENT: u64 = 1;
const ENTRY_LARGE: u64 = 1 << 7;
const ADDRESS_MASK: u64 = 0x000f_ffff_ffff_f000;

impl Vm {
    /// The pages that the state of the stopped VM refers to: clock pages, and for each vCPU the
    /// page tables on the way to its instruction and its stack, and these pages themselves; and the
    /// first page of each part of the virtio devices' queues.
    pub fn state_pages(&self) -> Result<Vec<PageIndex>, StateError> {
        let mut addresses = BTreeSet::new();
        for device in self.devices.virtio() {
            addresses.extend(device.ring_addresses());
        }
        for index in 0..self.vcpus().count() {
            let fd = self.vcpus().fd(index);
            for msr in super::get_msrs(&fd, &ADDRESS_MSRS)? {
                addresses.insert(msr.data);
            }
            let regs = fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
            let sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
            let base = |segment: u64, address: u64| segment.wrapping_add(address);
            for linear in [base(sregs.cs.base, regs.rip), base(sregs.ss.base, regs.rsp)] {
                if sregs.cr0 & CR0_PAGING == 0 {
                    addresses.insert(linear);
                } else if sregs.efer & EFER_LONG_MODE != 0 {
                    let levels = if sregs.cr4 & CR4_LEVEL_5 == 0 { 4 } else { 5 };
                    self.walk(sregs.cr3, linear, levels, &mut addresses);
                } else {
                    addresses.insert(sregs.cr3 & ADDRESS_MASK);
                }
            }
        }
        let layout = self.memory().layout();
        let pages: BTreeSet<PageIndex> = addresses
            .iter()
            .filter_map(|address| layout.page_of_frame(address / PAGE_SIZE as u64))
            .collect();
        Ok(pages.into_iter().collect())
    }

    /// Pages that hold the page tables of the stopped VM's vCPUs, the topmost first, at most so many:
    /// each of them stands in the way of all the pages below it.
    pub fn table_pages(&self, pages_max: usize) -> Result<Vec<PageIndex>, StateError> {
        let (mut tables, mut seen) = (Vec::new(), BTreeSet::new());
        let mut levels_max = 0;
        for index in 0..self.vcpus().count() {
            let fd = self.vcpus().fd(index);
            let sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
            if sregs.cr0 & CR0_PAGING == 0 || sregs.efer & EFER_LONG_MODE == 0 {
                continue;
            }
            levels_max = if sregs.cr4 & CR4_LEVEL_5 == 0 { 4 } else { 5 };
            if seen.insert(sregs.cr3 & ADDRESS_MASK) {
                tables.push(sregs.cr3 & ADDRESS_MASK);
            }
        }
        let mut level = tables.clone();
        // The lowest level has pages below it, not tables.
        for _ in 1..levels_max {
            let above = std::mem::take(&mut level);
            for table in above {
                self.for_each_table_below(table, |below| {
                    if seen.len() < pages_max && seen.insert(below) {
                        level.push(below);
                    }
                });
            }
            tables.extend(&level);
        }
        let layout = self.memory().layout();
        let page_of = |address| layout.page_of_frame(address / PAGE_SIZE as u64);
        Ok(tables.into_iter().filter_map(page_of).collect())
    }

    fn for_each_table_below(&self, table: u64, mut visit: impl FnMut(u64)) {
        let mut entries = [0; PAGE_SIZE];
        let read = self
            .memory()
            .guest()
            .read_slice(&mut entries, GuestAddress(table));
        if read.is_err() {
            return;
        }
        for entry in entries.as_chunks().0 {
            let entry = u64::from_le_bytes(*entry);
            if entry & ENTRY_PRESENT != 0 && entry & ENTRY_LARGE == 0 {
                visit(entry & ADDRESS_MASK);
            }
        }
    }

    /// Adds the tables on the way from `root` to `linear`, and the page itself.
    fn walk(&self, root: u64, linear: u64, levels: u32, addresses: &mut BTreeSet<u64>) {
        let mut table = root & ADDRESS_MASK;
        for level in (0..levels).rev() {
            addresses.insert(table);
            let index = linear >> (12 + 9 * level) & 0x1ff;
            let Ok(entry) = self
                .memory()
                .guest()
                .read_obj::<u64>(GuestAddress(table + index * 8))
            else {
                return;
            };
            if entry & ENTRY_PRESENT == 0 {
                return;
            }
            let within = (1u64 << (12 + 9 * level)) - 1;
            if level == 0 || entry & ENTRY_LARGE != 0 {
                addresses.insert((entry & ADDRESS_MASK & !within) | linear & within);
                return;
            }
            table = entry & ADDRESS_MASK;
        }
    }
}
