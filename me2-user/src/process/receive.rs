//! `me2 receive`: waits for a VM, then is its process.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use me2_engine::ownership;
use me2_vmm::vcpu::EndReason;
use tokio::sync::{Semaphore, mpsc, mpsc::error::TrySendError};

use super::{
    Inputs, Node, NodeOptions, collapse::Collapsing, commands, devices::Mapped, exit_code, note,
    open_qlog, runtime, sandbox,
};
use crate::{
    cli::ReceiveArgs,
    control::{
        channel::{Command, Refusal, Reply},
        socket::VmName,
        types::{Accepted, Phase, RecoverRequest, Role, VmState},
    },
    migrate::destination::{Knock, Parting, Received, Reception, knock},
    transport::endpoint::{self, Listener},
};

/// Takes an operator's word that the source is dead to who waits for it.
type Word = mpsc::Sender<Reply<Accepted>>;

/// Peers that have said hello and wait to be looked at.
const KNOCKS_QUEUED: usize = 4;

/// Connections at once, whether they have said hello or wait to be looked at; more are turned away.
/// Honest peers need one, and one more when they come back.
const PEERS_MAX: usize = 16;

/// How long the last connection may take to drain.
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
    let of_vm = name.as_deref().unwrap_or("any VM");
    let qlog = open_qlog(args.qlog.as_deref(), format!("me2 receive {of_vm}"))?;
    let (node, mut inputs) = Node::open(NodeOptions {
        name: name.unwrap_or_else(receiver),
        role: Role::Receiver,
        config_dir: config_dir.clone(),
        serial: args.serial.clone(),
        probes: !args.no_probes,
        memory_max: args.max_memory,
        mapped: Mapped::open(&args)?,
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
        metrics: args.metrics,
        qlog: qlog.clone(),
    })?;
    let socket = endpoint::bind(args.listen)?;
    sandbox::enter(!args.no_sandbox, &config_dir, runtime_dir.as_deref())?;
    let ended = runtime()?.block_on(async move {
        if let Some(folder) = &node.runtime_dir {
            note::warn_of_left_behind(folder);
        }
        let mut listener = Listener::on(socket, args.listen, node.credentials.clone())?;
        listener.record(node.qlog.clone());
        tracing::info!(
            address = %listener.local_addr()?,
            identity = %node.credentials.identity().fingerprint(),
            "waiting for a VM"
        );
        if let Some(name) = api_name {
            node.open_api(&name, true)?;
        }
        node.serve_metrics()?;
        tell_service_manager(&listener);
        let (sender, knocks) = mpsc::channel(KNOCKS_QUEUED);
        let endpoint = listener.endpoint().clone();
        let listening = tokio::spawn(listen(listener, sender, node.clone()));
        let (word, fenced) = mpsc::channel(1);
        let reception = Reception::new(node.clone(), knocks, fenced, args.once);
        let end = wait(&node, reception, &word, &mut inputs).await;
        listening.abort();
        match end {
            End::Process(code) => {
                node.close().await;
                Ok(code)
            }
            End::Received(Received::Failed(error)) => Err(error),
            End::Gone(source, reason) => {
                part(source, endpoint).await;
                node.close().await;
                Ok(exit_code(&reason))
            }
            End::Received(Received::Complete {
                machine,
                epoch,
                source,
            }) => {
                node.status.send_modify(|status| status.role = Role::Source);
                node.set_state(VmState::Running);
                node.publish_migration(|status| {
                    status.phase = Phase::Complete;
                    status.is_under_way = false;
                    status.pages_remaining = 0;
                    status.risk = None;
                });
                node.credentials.release();
                // The VM may be moved on meanwhile.
                let parting = tokio::spawn(part(source, endpoint));
                tracing::info!("the VM is here, all of it");
                // Only for people to read.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Status("The VM is here")]);
                let _collapsing = args.large_pages.then(|| {
                    Collapsing::start(machine.vm.memory().clone()).inspect_err(|error| {
                        tracing::warn!("the VM keeps its small pages: {error}")
                    })
                });
                let ownership = Arc::new(Mutex::new(ownership::Source::new(epoch)));
                let code = commands::live(node, machine, ownership, inputs).await;
                // It panics nowhere.
                let _ = parting.await;
                Ok(code)
            }
        }
    });
    qlog.finish();
    ended
}

/// Whoever started this as a service that notifies hears that peers can come.
fn tell_service_manager(listener: &Listener) {
    use sd_notify::NotifyState::{Ready, Status};
    let status = match listener.local_addr() {
        Ok(address) => format!("Waiting for a VM at {address}"),
        Err(_) => "Waiting for a VM".to_owned(),
    };
    if let Err(error) = sd_notify::notify(&[Ready, Status(&status)]) {
        tracing::warn!("the service manager does not hear that this waits for a VM: {error}");
    }
}

enum End {
    Received(Received),
    Process(ExitCode),
    /// The VM came as a whole, but had ended by itself before that.
    Gone(Parting, EndReason),
}

/// The migration is over, and the state says so: when the source (or the operator who stood in for
/// it) knows that, its connection goes away, and then the buffers of it. Nobody else is let in
/// meanwhile.
async fn part(source: Parting, endpoint: quinn::Endpoint) {
    endpoint.set_server_config(None);
    match source {
        Parting::Source(source) => source.part().await,
        Parting::Operator(reply) => _ = reply.send(Ok(Accepted::plainly(0))),
    }
    endpoint.close(0u8.into(), b"complete");
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, endpoint.wait_idle()).await;
    drop(endpoint);
    me2_vmm::memory::release_free_heap();
}

/// Listens for peers until nobody wants them any more.
async fn listen(mut listener: Listener, knocks: mpsc::Sender<Knock>, node: Arc<Node>) {
    let places = Arc::new(Semaphore::new(PEERS_MAX));
    while let Some(peer) = listener.next_peer().await {
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(peer = %peer.fingerprint, "refused a peer: {PEERS_MAX} are connected");
            peer.connection.close(1u8.into(), b"too many connections");
            continue;
        };
        let (knocks, node) = (knocks.clone(), node.clone());
        tokio::spawn(async move {
            let taken = match knock(peer, place).await {
                Ok(knock) if knock.asks() => knock.answer(&node).await,
                Ok(knock) => {
                    let _ = knocks.send(knock).await;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                tracing::warn!("refused a peer: {error:#}");
            }
        });
    }
}

/// Waits for the VM, and answers the API meanwhile.
async fn wait(node: &Node, reception: Reception, word: &Word, inputs: &mut Inputs) -> End {
    let mut received = Box::pin(reception.receive());
    let mut ending = commands::Ending::listen();
    let mut gone = None;
    loop {
        tokio::select! {
            received = &mut received => return match (received, gone) {
                (Received::Complete { source, .. }, Some(reason)) => End::Gone(source, reason),
                (received, _) => End::Received(received),
            },
            Some(reason) = inputs.ended.recv() => {
                let is_needed = node.is_needed();
                node.set_state(VmState::Stopped);
                if !is_needed {
                    return End::Process(exit_code(&reason));
                }
                // The source can let go of its copy in the one way that it knows.
                tracing::warn!("the VM has ended by itself; this stays until its source knows that all is here");
                gone = Some(reason);
            }
            Some(command) = inputs.commands.recv() => {
                if answer(node, word, command) {
                    return End::Process(ExitCode::SUCCESS);
                }
            }
            () = ending.wait() => {
                if !node.is_needed() {
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

/// An operator's word that the source is dead goes to who waits for it.
fn recover(node: &Node, word: &Word, request: RecoverRequest, reply: Reply<Accepted>) {
    let state = node.status.borrow().vm_state;
    let refusal = match request.check() {
        Err(error) => Refusal::invalid(error, "see me2 recover --help"),
        Ok(()) if !request.source_is_fenced => Refusal::conflict(
            "this is the destination",
            "run `me2 recover` at the source: it is the side that connects",
        ),
        Ok(()) if state == VmState::PostcopyPaused => match word.try_send(reply) {
            Ok(()) => return,
            Err(error) => {
                let (TrySendError::Full(reply) | TrySendError::Closed(reply)) = error;
                let error = "this was just said, or the migration has just ended";
                _ = reply.send(Err(Refusal::conflict(error, "see me2 status")));
                return;
            }
        },
        Ok(()) => Refusal::conflict(
            "no migration is here whose source does not answer",
            "me2 status tells how far it is",
        ),
    };
    _ = reply.send(Err(refusal));
}

/// A command to a process whose VM is not (all) here yet. True: it shall end.
fn answer(node: &Node, word: &Word, command: Command) -> bool {
    let not_yet = || {
        Refusal::conflict(
            "the VM is not all here yet",
            "wait until its migration is complete",
        )
    };
    match command {
        Command::Migrate { reply, .. } => _ = reply.send(Err(not_yet())),
        Command::Describe { reply } => _ = reply.send(Err(not_yet())),
        Command::Recover { request, reply } => recover(node, word, request, reply),
        Command::Cancel { reply } | Command::SwitchNow { reply } => {
            let mend = "run it at the source";
            _ = reply.send(Err(Refusal::conflict("this is the destination", mend)));
        }
        Command::Pause { reply } | Command::Resume { reply } => _ = reply.send(Err(not_yet())),
        Command::Type { reply, .. } => _ = reply.send(Err(not_yet())),
        Command::Stop { reply } => {
            if node.is_needed() {
                _ = reply.send(Err(not_yet()));
            } else {
                _ = reply.send(Ok(()));
                return true;
            }
        }
    }
    false
}
