//! The real server on a real socket, with a command loop that plays the VM process.

mod follow;
mod hostile;

use std::path::PathBuf;

use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::client::{Client, ClientError};
use super::server::serve;
use super::socket::{ControlSocket, VmAddress};
use super::types::*;
use super::*;

/// A VM process as its clients see it.
struct Process {
    _dir: TempDir,
    socket: PathBuf,
    events: EventHub,
    status: tokio::sync::watch::Sender<VmStatus>,
    /// What the loop was asked for.
    log: mpsc::UnboundedReceiver<String>,
    shutdown: oneshot::Sender<()>,
    server: JoinHandle<std::io::Result<()>>,
}

fn waiting() -> VmStatus {
    VmStatus {
        schema_version: STATUS_SCHEMA_VERSION,
        name: "demo".to_owned(),
        pid: 42,
        role: Role::Source,
        vm_state: VmState::Running,
        memory_bytes: Some(1 << 30),
        vcpus: Some(1),
        migration: None,
        guest: Some(GuestStatus {
            operations: 10,
            errors: 0,
            rate: 2.5,
        }),
    }
}

impl Process {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("demo.sock");
        let (handle, port) = channel(waiting());
        let ControlPort {
            commands,
            status,
            events,
            ..
        } = port;
        let (shutdown, is_shut_down) = oneshot::channel();
        let listening = ControlSocket::bind(&socket).unwrap();
        let server = tokio::spawn(serve(listening, handle, async move {
            let _ = is_shut_down.await;
        }));
        let (logger, log) = mpsc::unbounded_channel();
        tokio::spawn(command_loop(commands, logger));
        Self {
            _dir: dir,
            socket,
            events,
            status,
            log,
            shutdown,
            server,
        }
    }

    fn client(&self) -> Client {
        Client::new(VmAddress {
            vm: "demo".to_owned(),
            socket: self.socket.clone(),
        })
    }
}

/// Takes a migration to port 1 as id 1; is busy from then on.
async fn command_loop(mut commands: mpsc::Receiver<Command>, log: mpsc::UnboundedSender<String>) {
    let mut busy = false;
    while let Some(command) = commands.recv().await {
        let (name, _) = match command {
            Command::Migrate { request, reply } => {
                let answer = if busy {
                    Err(Refusal::conflict("a migration is under way", "wait for it"))
                } else {
                    busy = true;
                    Ok(Accepted::plainly(1))
                };
                (
                    format!("migrate {} {}", request.to, request.mode),
                    reply.send(answer).is_ok(),
                )
            }
            Command::Describe { .. } => ("describe".to_owned(), false),
            Command::Recover { reply, .. } => {
                let refusal = Refusal::conflict("nothing to recover", "see: me2 status");
                ("recover".to_owned(), reply.send(Err(refusal)).is_ok())
            }
            Command::Cancel { reply } => ("cancel".to_owned(), reply.send(Ok(())).is_ok()),
            Command::SwitchNow { reply } => ("switch-now".to_owned(), reply.send(Ok(())).is_ok()),
            Command::Pause { reply } => ("pause".to_owned(), reply.send(Ok(())).is_ok()),
            Command::Resume { reply } => {
                let refusal = Refusal::internal("it broke", "look at the log");
                ("resume".to_owned(), reply.send(Err(refusal)).is_ok())
            }
            Command::Type { bytes, reply } => {
                let taken_bytes = bytes.len().min(4);
                (
                    "type".to_owned(),
                    reply.send(Ok(Typed { taken_bytes })).is_ok(),
                )
            }
            // Dropped without an answer: the process is ending.
            Command::Stop { .. } => ("stop".to_owned(), false),
        };
        let _ = log.send(name);
    }
}

fn refused(error: ClientError) -> (u16, ErrorBody) {
    match error {
        ClientError::Refused { status, body, .. } => (status, body),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn status_is_the_latest() {
    let process = Process::start();
    assert_eq!(process.client().status().await.unwrap(), waiting());
    process
        .status
        .send_modify(|status| status.vm_state = VmState::Paused);
    assert_eq!(
        process.client().status().await.unwrap().vm_state,
        VmState::Paused
    );
}

#[tokio::test]
async fn one_migration_at_a_time() {
    let mut process = Process::start();
    let client = process.client();
    let mut request = MigrateRequest::to("127.0.0.1:1");
    request.mode = Mode::StopAndCopy;
    assert_eq!(
        client.migrate(&request).await.unwrap(),
        Accepted::plainly(1)
    );
    assert_eq!(
        process.log.recv().await.unwrap(),
        "migrate 127.0.0.1:1 stop-and-copy"
    );
    let error = client.migrate(&request).await.unwrap_err();
    let text = "VM demo: a migration is under way; wait for it";
    assert_eq!(error.to_string(), text);
    assert_eq!(refused(error).0, 409);
}

#[tokio::test]
async fn orders_reach_the_process_and_refusals_the_client() {
    let mut process = Process::start();
    let client = process.client();
    client.cancel().await.unwrap();
    client.pause().await.unwrap();
    assert_eq!(
        refused(
            client
                .recover(&RecoverRequest::default())
                .await
                .unwrap_err()
        )
        .0,
        409
    );
    // Without the operator's word that the destination is dead, the process is not even asked.
    let unsure = RecoverRequest {
        resume_here: true,
        ..RecoverRequest::default()
    };
    let (status, body) = refused(client.recover(&unsure).await.unwrap_err());
    assert_eq!(status, 400);
    assert!(body.error.contains("--destination-is-fenced"), "{body:?}");
    assert_eq!(refused(client.resume().await.unwrap_err()).0, 500);
    assert_eq!(refused(client.stop().await.unwrap_err()).0, 503);
    for expected in ["cancel", "pause", "recover", "resume", "stop"] {
        assert_eq!(process.log.recv().await.unwrap(), expected);
    }
}

#[tokio::test]
async fn requests_that_make_no_sense_do_not_reach_the_process() {
    let mut process = Process::start();
    let client = process.client();
    for target in [
        "",
        "host",
        ":7000",
        "host:0",
        "host:70000",
        &format!("{}:1", "h".repeat(400)),
    ] {
        let error = client
            .migrate(&MigrateRequest::to(target))
            .await
            .unwrap_err();
        assert_eq!(refused(error).0, 400, "{target}");
    }
    let mut request = MigrateRequest::to("host:1");
    request.max_bandwidth_bytes_per_second = Some(0);
    assert_eq!(refused(client.migrate(&request).await.unwrap_err()).0, 400);
    assert!(process.log.try_recv().is_err());
}

#[tokio::test]
async fn nobody_there_is_told_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("gone.sock");
    let client = Client::new(VmAddress {
        vm: "gone".to_owned(),
        socket,
    });
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }));
    assert!(
        error
            .to_string()
            .contains("process of VM gone does not answer"),
        "{error}"
    );
}
