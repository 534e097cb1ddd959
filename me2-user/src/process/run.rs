//! `me2 run`: a VM from its kernel.

use std::process::ExitCode;

use me2_engine::ownership;
use me2_vmm::{
    boot::{BootError, BootFile, BootSource, Kernel},
    layout::RAM_SIZE_MAX,
    vm::Vm,
};
use std::sync::{Arc, Mutex};

use super::{
    Node, NodeOptions, commands,
    devices::{self, Mapped},
    open_qlog, runtime, sandbox,
};
use crate::{
    cli::RunArgs,
    control::types::{Role, VmState},
    migrate::Machine,
};

/// The built-in workload guest, built from source by this crate's build script.
static BUILTIN_GUEST: &[u8] = include_bytes!(env!("ME2_GUEST_PATH"));

/// Boots a VM and stays its process until it ends or has moved away.
pub fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let api_path = args.api_path()?;
    let name = args.name.to_string();
    let (config_dir, runtime_dir) = (args.config.resolve()?, args.runtime.resolve().ok());
    let boot_source = boot_source(&args)?;
    let (devices, connections) = devices::open(&args)?;
    let qlog = open_qlog(args.qlog.as_deref(), format!("me2 run {name}"))?;
    let (node, inputs) = Node::open(NodeOptions {
        name: name.clone(),
        role: Role::Source,
        config_dir: config_dir.clone(),
        serial: args.serial.clone(),
        probes: !args.no_probes,
        memory_max: RAM_SIZE_MAX,
        mapped: Mapped::default(),
        api_path: Box::new(move |name| Ok((name.to_owned(), api_path.clone()))),
        api_name: Some(name.clone()),
        runtime_dir: runtime_dir.clone(),
        metrics: args.metrics,
        qlog: qlog.clone(),
    })?;
    sandbox::enter(!args.no_sandbox, &config_dir, runtime_dir.as_deref())?;
    let ended = runtime()?.block_on(async move {
        let builtin = args.kernel.is_none();
        let monitor = node.open_console(builtin)?;
        let mut document = node
            .host
            .describe(&name, args.memory, args.cpus.into(), builtin)?;
        document.devices = devices;
        document.check()?;
        let ended = node.end_handler();
        let console = monitor.console();
        let vm = Vm::build_with(&node.host, document, connections, console, ended)?;
        if args.large_pages {
            vm.memory().prefer_large_pages();
        }
        vm.boot(&boot_source)?;
        let machine = Arc::new(Machine {
            vm,
            monitor,
            probing: node.probing.clone(),
        });
        node.set_machine(Some(machine.vm.document()));
        node.open_api(&name, true)?;
        node.serve_metrics()?;
        machine.vm.resume(false)?;
        node.set_state(VmState::Running);
        tracing::info!(
            name,
            memory_mib = args.memory >> 20,
            cpus = args.cpus,
            "the VM runs"
        );
        let ownership = Arc::new(Mutex::new(ownership::Source::new(0)));
        Ok(commands::live(node, machine, ownership, inputs).await)
    });
    qlog.finish();
    ended
}

fn boot_source(args: &RunArgs) -> Result<BootSource, BootError> {
    let given = args.cmdline.clone().unwrap_or_default();
    let initrd = args.initrd.as_deref().map(BootFile::open).transpose()?;
    Ok(match &args.kernel {
        Some(path) => BootSource {
            kernel: Kernel::File(BootFile::open(path)?),
            initrd,
            command_line: given,
        },
        None => BootSource {
            kernel: Kernel::Builtin(BUILTIN_GUEST),
            initrd,
            command_line: builtin_command_line(&given, args.cpus),
        },
    })
}

/// The built-in guest is told how many vCPUs it has, unless the user said it.
fn builtin_command_line(given: &str, cpus: u8) -> String {
    let names_cpus = given
        .split_ascii_whitespace()
        .any(|word| word.starts_with("cpus="));
    if names_cpus {
        given.to_owned()
    } else {
        format!("{given} cpus={cpus}").trim_start().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_knows_its_cpus() {
        assert_eq!(builtin_command_line("", 2), "cpus=2");
        assert_eq!(
            builtin_command_line("workload=idle", 1),
            "workload=idle cpus=1"
        );
        assert_eq!(builtin_command_line("cpus=1 seed=2", 2), "cpus=1 seed=2");
    }
}
