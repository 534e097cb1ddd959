//! me2: moves a running KVM virtual machine to another host over slow, long and lossy links.
//!
//! - [`cli`]: the commands.
//! - [`process`]: the process of one VM.
//! - [`migrate`]: a migration, both sides.
//! - [`transport`]: how frames travel over QUIC.
//! - [`explore`]: what the VM uses.
//! - [`control`]: the API of a VM process.
//! - [`report`]: what a migration did.
//! - [`identity`]: who is who.

#![forbid(unsafe_code)]

pub mod cli;
pub mod control;
pub mod explore;
pub mod identity;
pub mod migrate;
pub mod process;
pub mod report;
pub mod transport;
