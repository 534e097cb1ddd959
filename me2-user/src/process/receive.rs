//! `me2 receive`: waits for a VM, then is its process.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use me2_engine::ownership;
use tokio::sync::{Semaphore, mpsc};

use super::{Inputs, Node, NodeOptions, commands, exit_code, note, runtime, sandbox};
use crate::{
    cli::ReceiveArgs,
    control::{
        channel::{Command, Refusal},
        socket::VmName,
        types::{Phase, Role, VmState},
    },
    migrate::{
        destination::{Knock, Received, Reception, knock},
        source::Credentials,
    },
    transport::endpoint::{self, Listener},
};

/// Peers that have said hello and wait to be looked at.
const KNOCKS_QUEUED: usize = 4;

/// Connections at once, whether they have said hello or wait to be looked at; more are turned away.
/// Honest peers need one, and one more when they come back.
const PEERS_MAX: usize = 16;

/// How long the last connection may take to drain. The VM runs meanwhile.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits for one VM and stays its process until it ends or has moved on.
pub fn receive(args: ReceiveArgs) -> anyhow::Result<ExitCode> {
    let paths = args.clone();
    let (config_dir, runtime_dir) = (args.config.resolve()?, args.runtime.resolve().ok());
    let name = args.name.as_ref().map(VmName::to_string);
    let receiver = || "receiver".to_owned();
    let api_name = name
        .clone()
        .or_else(|| args.api.as_ref().map(|_| receiver()));
    let (node, mut inputs) = Node::open(NodeOptions {
        name: name.unwrap_or_else(receiver),
        role: Role::Receiver,
        config_dir: config_dir.clone(),
        serial: args.serial.clone(),
        probes: !args.no_probes,
        memory_max: args.max_memory,
        api_path: Box::new(move |arriving| {
            let arriving: VmName = arriving.parse()?;
            let path = paths.api_path(Some(&arriving))?;
            Ok((
                paths.vm_name(&arriving).to_string(),
                path.expect("a VM that comes has a name"),
            ))
        }),
        api_name: api_name.clone(),
        runtime_dir: runtime_dir.clone(),
    })?;
    let socket = endpoint::bind(args.listen)?;
    sandbox::enter(!args.no_sandbox, &config_dir, runtime_dir.as_deref())?;
    runtime()?.block_on(async move {
        if let Some(folder) = &node.runtime_dir {
            note::warn_of_left_behind(folder);
        }
        let Credentials { identity, trust } = &*node.credentials;
        let listener = Listener::on(socket, args.listen, identity, trust)?;
        tracing::info!(
            address = %listener.local_addr()?,
            identity = %node.credentials.identity.fingerprint(),
            "waiting for a VM"
        );
        if let Some(name) = api_name {
            node.open_api(&name, true)?;
        }
        let (sender, knocks) = mpsc::channel(KNOCKS_QUEUED);
        let endpoint = listener.endpoint().clone();
        let listening = tokio::spawn(listen(listener, sender));
        let reception = Reception::new(node.clone(), knocks, args.once);
        let end = wait(&node, reception, &mut inputs).await;
        listening.abort();
        match end {
            End::Process(code) => {
                node.close().await;
                Ok(code)
            }
            End::Received(Received::Failed(error)) => Err(error),
            End::Received(Received::Complete { machine, epoch }) => {
                node.status.send_modify(|status| status.role = Role::Source);
                node.set_state(VmState::Running);
                node.publish_migration(|status| {
                    status.phase = Phase::Complete;
                    status.pages_remaining = 0;
                    status.risk = None;
                });
                free_connection(endpoint).await;
                tracing::info!("the VM is here, all of it");
                let ownership = Arc::new(Mutex::new(ownership::Source::new(epoch)));
                Ok(commands::live(node, machine, ownership, inputs).await)
            }
        }
    })
}

enum End {
    Received(Received),
    Process(ExitCode),
}

/// The migration is over: its connection goes away, and then the buffers of it.
async fn free_connection(endpoint: quinn::Endpoint) {
    endpoint.close(0u8.into(), b"complete");
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, endpoint.wait_idle()).await;
    drop(endpoint);
    me2_vmm::memory::release_free_heap();
}

/// Listens for peers until nobody wants them any more.
async fn listen(mut listener: Listener, knocks: mpsc::Sender<Knock>) {
    let places = Arc::new(Semaphore::new(PEERS_MAX));
    while let Some(peer) = listener.next_peer().await {
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(peer = %peer.fingerprint, "refused a peer: {PEERS_MAX} are connected");
            peer.connection.close(1u8.into(), b"too many connections");
            continue;
        };
        let knocks = knocks.clone();
        tokio::spawn(async move {
            match knock(peer, place).await {
                Ok(knock) => _ = knocks.send(knock).await,
                Err(error) => tracing::warn!("refused a peer: {error:#}"),
            }
        });
    }
}

/// Waits for the VM, and answers the API meanwhile.
async fn wait(node: &Node, reception: Reception, inputs: &mut Inputs) -> End {
    let mut received = Box::pin(reception.receive());
    let mut ending = commands::Ending::listen();
    loop {
        tokio::select! {
            received = &mut received => return End::Received(received),
            Some(reason) = inputs.ended.recv() => {
                node.set_state(VmState::Stopped);
                return End::Process(exit_code(&reason));
            }
            Some(command) = inputs.commands.recv() => {
                if answer(node, command) {
                    return End::Process(ExitCode::SUCCESS);
                }
            }
            () = ending.wait() => {
                let state = node.status.borrow().vm_state;
                if !matches!(state, VmState::Running | VmState::PostcopyPaused) {
                    return End::Process(ExitCode::SUCCESS);
                }
                if ending.insists() {
                    tracing::error!("ended by a signal in the middle of post-copy: the VM is lost");
                    return End::Process(ExitCode::FAILURE);
                }
                tracing::warn!("pages of the VM are still missing; the same signal again ends it and loses the VM");
            }
        }
    }
}

/// A command to a process whose VM is not (all) here yet. True: it shall end.
fn answer(node: &Node, command: Command) -> bool {
    let not_yet = || {
        Refusal::conflict(
            "the VM is not all here yet",
            "wait until its migration is complete",
        )
    };
    let state = node.status.borrow().vm_state;
    match command {
        Command::Migrate { reply, .. } => _ = reply.send(Err(not_yet())),
        Command::Recover { reply, .. } => {
            let mend = "run `me2 recover` at the source: it is the side that connects";
            _ = reply.send(Err(Refusal::conflict("this is the destination", mend)));
        }
        Command::Cancel { reply } | Command::SwitchNow { reply } => {
            let mend = "run it at the source";
            _ = reply.send(Err(Refusal::conflict("this is the destination", mend)));
        }
        Command::Pause { reply } | Command::Resume { reply } => _ = reply.send(Err(not_yet())),
        Command::Stop { reply } => {
            if matches!(state, VmState::Running | VmState::PostcopyPaused) {
                _ = reply.send(Err(not_yet()));
            } else {
                _ = reply.send(Ok(()));
                return true;
            }
        }
    }
    false
}
