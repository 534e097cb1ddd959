//! What is left of a vCPU that met a triple fault: one line for the log.

use std::fmt;

use kvm_bindings::{kvm_regs, kvm_sregs, kvm_vcpu_events};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// Where a processor starts after a reset.
const RESET_RIP: u64 = 0xfff0;
/// Bit of CR0: protected mode.
const PROTECTED_MODE: u64 = 1;

/// Registers of a vCPU after a triple fault, and the event whose delivery failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastState {
    rip: u64,
    rsp: u64,
    rflags: u64,
    cr0: u64,
    cr2: u64,
    cr3: u64,
    cr4: u64,
    code_selector: u16,
    /// Vector of the exception or interrupt that was being delivered.
    event: Option<u8>,
}

impl LastState {
    /// Of a vCPU that just left the guest.
    pub(crate) fn read(fd: &VcpuFd) -> Result<Self, errno::Error> {
        let (registers, special) = (fd.get_regs()?, fd.get_sregs()?);
        Ok(Self::new(&registers, &special, &fd.get_vcpu_events()?))
    }

    fn new(registers: &kvm_regs, special: &kvm_sregs, events: &kvm_vcpu_events) -> Self {
        let (exception, interrupt) = (events.exception, events.interrupt);
        let event = match (exception.injected, interrupt.injected) {
            (0, 0) => None,
            (0, _) => Some(interrupt.nr),
            _ => Some(exception.nr),
        };
        Self {
            rip: registers.rip,
            rsp: registers.rsp,
            rflags: registers.rflags,
            cr0: special.cr0,
            cr2: special.cr2,
            cr3: special.cr3,
            cr4: special.cr4,
            code_selector: special.cs.selector,
            event,
        }
    }

    /// Whether KVM has reset the vCPU already, as it does on AMD: the processor leaves its state
    /// undefined there.
    fn is_reset(&self) -> bool {
        self.rip == RESET_RIP && self.cr0 & PROTECTED_MODE == 0
    }
}

impl fmt::Display for LastState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_reset() {
            return f.write_str("its registers are lost, as always on AMD");
        }
        write!(
            f,
            "rip={:#06x}:{:#x} rsp={:#x} rflags={:#x} cr0={:#x} cr2={:#x} cr3={:#x} cr4={:#x} event=",
            self.code_selector,
            self.rip,
            self.rsp,
            self.rflags,
            self.cr0,
            self.cr2,
            self.cr3,
            self.cr4
        )?;
        match self.event {
            Some(vector) => write!(f, "{vector}"),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_and_event_are_told_unless_they_are_lost() {
        let mut registers = kvm_regs {
            rip: 0xffff_ffff_8100_0000,
            rsp: 0x1000,
            rflags: 2,
            ..Default::default()
        };
        let mut special = kvm_sregs {
            cr0: 0x8005_0033,
            cr2: 0xdead,
            ..Default::default()
        };
        special.cs.selector = 0x10;
        let mut events = kvm_vcpu_events::default();
        events.exception.injected = 1;
        events.exception.nr = 14;
        let text = LastState::new(&registers, &special, &events).to_string();
        assert_eq!(
            text,
            "rip=0x0010:0xffffffff81000000 rsp=0x1000 rflags=0x2 cr0=0x80050033 cr2=0xdead cr3=0x0 \
             cr4=0x0 event=14"
        );
        events.exception.injected = 0;
        let text = LastState::new(&registers, &special, &events).to_string();
        assert!(text.ends_with("event=none"), "{text}");
        (registers.rip, special.cr0) = (RESET_RIP, 0x6000_0010);
        let text = LastState::new(&registers, &special, &events).to_string();
        assert!(text.contains("lost"), "{text}");
    }
}
