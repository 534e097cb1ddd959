//! What a VM process gives up before it has a VM: capabilities, the gaining of any, and most system
//! calls.
//!
//! A guest and a peer feed this process bytes all the time. Who takes it over by these shall not
//! have the host: no program can be started, nothing mounted, traced or loaded, no other process
//! signalled. What needs privileges is opened before ([`Node::open`](super::Node::open)): KVM,
//! userfaultfd, the probes, files, the socket of the receiver. That is enough for every migration to
//! come.
//!
//! Capabilities belong to threads, so they go before there is a second one.

mod calls;

use std::{io, path::Path};

use anyhow::Context;
use rustix::{
    fs::Access,
    thread::{CapabilitySet, CapabilitySets},
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

/// Gives up what is not needed any more, for good. To be called before any thread is started.
///
/// `config` is looked into again when a new peer comes, and `runtime` gets sockets: these folders
/// must still be of use to this user without privileges.
pub fn enter(is_wanted: bool, config: &Path, runtime: Option<&Path>) -> anyhow::Result<()> {
    if !is_wanted {
        tracing::warn!("no sandbox (--no-sandbox): this process keeps its privileges");
        return Ok(());
    }
    drop_capabilities().context("cannot give up capabilities; --no-sandbox goes without")?;
    check_access(config, "--config-dir", Access::READ_OK | Access::EXEC_OK)?;
    if let Some(runtime) = runtime {
        check_access(runtime, "--runtime-dir", Access::WRITE_OK | Access::EXEC_OK)?;
    }
    let filters = Filters::compile().context("the filter of system calls is a bad one")?;
    match filters.apply(seccompiler::apply_filter_all_threads) {
        Ok(()) => tracing::info!("sandboxed: no capabilities, system calls filtered"),
        Err(error) => tracing::warn!(
            "sandboxed in part: no capabilities, but system calls are not filtered, for want of \
             seccomp in this kernel (CONFIG_SECCOMP_FILTER): {error}"
        ),
    }
    Ok(())
}

/// Of the calling thread, and of those that it will start.
fn drop_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::capability_is_in_bounding_set(capability) {
            Ok(true) => remove_from_bounding_set(capability)?,
            Ok(false) => {}
            Err(_) => break, // beyond the last that this kernel has
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Who may not change the set has nothing that needs it: without new privileges it gives nothing.
fn remove_from_bounding_set(capability: CapabilitySet) -> io::Result<()> {
    match rustix::thread::remove_capability_from_bounding_set(capability) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Root without capabilities has the rights of its user alone: so the folders of others are refused
/// now, not when the VM is on its way.
fn check_access(folder: &Path, option: &str, access: Access) -> anyhow::Result<()> {
    rustix::fs::access(folder, access).with_context(|| {
        format!(
            "{} is of no use without privileges; choose a folder of this user ({option}), or \
             --no-sandbox",
            folder.display()
        )
    })
}

/// Programs for the kernel, to be installed in this order: the last one permits no further.
struct Filters([BpfProgram; 2]);

impl Filters {
    fn compile() -> Result<Self, seccompiler::BackendError> {
        let absent = SeccompFilter::new(
            calls::absent()?,
            SeccompAction::Allow,
            SeccompAction::Errno(calls::ABSENT as u32),
            TargetArch::x86_64,
        )?;
        let permitted = SeccompFilter::new(
            calls::permitted(std::process::id())?,
            SeccompAction::Errno(calls::REFUSED as u32),
            SeccompAction::Allow,
            TargetArch::x86_64,
        )?;
        Ok(Self([absent.try_into()?, permitted.try_into()?]))
    }

    fn apply(
        &self,
        install: impl Fn(&[seccompiler::sock_filter]) -> seccompiler::Result<()>,
    ) -> seccompiler::Result<()> {
        self.0.iter().try_for_each(|program| install(program))
    }
}

#[cfg(test)]
mod tests;
