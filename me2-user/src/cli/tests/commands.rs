//! The client commands against the real server, with a scripted VM process behind it.

use std::path::{Path, PathBuf};

use clap::Parser;
use tempfile::TempDir;

use super::super::*;
use crate::control::server::serve;
use crate::control::socket::ControlSocket;
use crate::control::types::{
    Accepted, Outcome, Phase, Report, Role, STATUS_SCHEMA_VERSION, Status, VmState, VmStatus,
};
use crate::control::{self, ControlPort, Refusal};

/// What the VM process does with a migration that it is asked for.
#[derive(Debug, Clone, Copy)]
enum Script {
    /// Refuses to begin one.
    Busy,
    /// Goes through the phases to the end.
    Ends(Outcome, Status),
    /// Vanishes in this phase.
    Vanishes(Phase),
}

fn idle() -> VmStatus {
    VmStatus {
        schema_version: STATUS_SCHEMA_VERSION,
        name: "demo".to_owned(),
        pid: 7,
        role: Role::Source,
        vm_state: VmState::Running,
        memory_bytes: Some(1 << 30),
        vcpus: Some(1),
        migration: None,
        guest: None,
    }
}

/// A runtime folder with the VM `demo` in it.
fn start(script: Script) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (handle, port) = control::channel(idle());
    let socket = ControlSocket::bind(&dir.path().join("demo.sock")).unwrap();
    tokio::spawn(serve(socket, handle, std::future::pending()));
    tokio::spawn(play(port, script));
    dir
}

async fn play(mut port: ControlPort, script: Script) {
    while let Some(command) = port.commands.recv().await {
        match command {
            control::Command::Migrate { reply, .. } | control::Command::Recover { reply, .. } => {
                if matches!(script, Script::Busy) {
                    let refusal = Refusal::conflict("a migration is under way", "wait for it");
                    reply.send(Err(refusal)).unwrap();
                    continue;
                }
                // All of it before the reply: the quickest migration there can be.
                migrate(&port, script);
                reply.send(Ok(Accepted::plainly(5))).unwrap();
            }
            control::Command::Cancel { reply } => {
                migrate(&port, script);
                reply.send(Ok(())).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}

fn migrate(port: &ControlPort, script: Script) {
    let events = port.events.begin(5);
    events.phase(Phase::Setup, 0, 0);
    match script {
        Script::Busy => {}
        Script::Vanishes(phase) => events.phase(phase, 0, 1),
        Script::Ends(outcome, status) => {
            let error = (status != Status::Completed).then(|| "the reason".to_owned());
            events.end(
                outcome,
                Report {
                    status,
                    error,
                    ..Report::default()
                },
            );
        }
    }
}

/// Runs a command; gives its exit code, stdout and message.
async fn me2(dir: &Path, arguments: &str) -> (u8, String, String) {
    let dir = dir.display();
    let all = format!("me2 {arguments} --runtime-dir {dir}");
    let command = Cli::try_parse_from(all.split_whitespace()).unwrap().command;
    let mut stdout = Vec::new();
    let result = match command {
        Command::HybridMigrate(args) => hybrid_migrate::execute(args, &mut stdout).await,
        Command::Recover(args) => recover::execute(args, &mut stdout).await,
        Command::Cancel(args) => cancel::execute(args).await,
        Command::Status(args) => status::execute(args, &mut stdout).await,
        other => panic!("{other:?}"),
    };
    let stdout = String::from_utf8(stdout).unwrap();
    match result {
        Ok(_) => (0, stdout, String::new()),
        Err(failure) => (failure.code(), stdout, failure.to_string()),
    }
}

const MIGRATE: &str = "hybrid-migrate --vm demo --to h:1 --output json";

#[tokio::test]
async fn the_exit_code_tells_what_came_of_it() {
    for (outcome, status, code) in [
        (Outcome::Moved, Status::Completed, 0),
        (Outcome::FailedAtSource, Status::Failed, 1),
        (Outcome::Refused, Status::Failed, 3),
        (Outcome::TimedOut, Status::Failed, 4),
        (Outcome::FailedAfterHandover, Status::PostcopyPaused, 5),
    ] {
        let dir = start(Script::Ends(outcome, status));
        for command in [MIGRATE, "recover --vm demo --output json"] {
            let (found, stdout, message) = me2(dir.path(), command).await;
            assert_eq!(found, code, "{command}: {message}");
            let report: Report = serde_json::from_str(&stdout).expect("one document");
            assert_eq!(report.status, status);
            assert_eq!(message.contains("the reason"), code != 0, "{message}");
        }
    }
}

#[tokio::test]
async fn a_report_for_people_is_a_table() {
    let dir = start(Script::Ends(Outcome::Moved, Status::Completed));
    let (code, stdout, _) = me2(dir.path(), "hybrid-migrate --vm demo --to h:1").await;
    assert_eq!(code, 0);
    assert!(
        stdout.starts_with("migration   hybrid, completed\n"),
        "{stdout}"
    );
}

#[tokio::test]
async fn what_never_began_leaves_a_document_too() {
    let dir = start(Script::Busy);
    let (code, stdout, message) = me2(dir.path(), &format!("{MIGRATE} --mode precopy")).await;
    assert_eq!(code, 3, "{message}");
    let report: Report = serde_json::from_str(&stdout).expect("one document");
    assert_eq!(report.status, Status::Failed);
    assert_eq!(report.mode, crate::report::Mode::Precopy);
    assert_eq!(report.error, Some(message));

    let (code, stdout, message) = me2(dir.path(), "hybrid-migrate --vm other --to h:1").await;
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert_eq!(message, "no VM named other; running: demo");
    let (code, _, message) = me2(dir.path(), "hybrid-migrate --vm demo --to h").await;
    assert_eq!(code, 2, "{message}");
}

#[tokio::test]
async fn a_process_that_vanishes_is_never_taken_for_a_success() {
    for (phase, words) in [
        (Phase::Precopy, "before the handover"),
        (Phase::Postcopy, "after the handover"),
    ] {
        let dir = start(Script::Vanishes(phase));
        let (code, stdout, message) = me2(dir.path(), MIGRATE).await;
        assert_eq!(code, 5);
        assert!(message.contains(words), "{message}");
        let report: Report = serde_json::from_str(&stdout).expect("one document");
        assert_eq!(report.status, Status::Failed);
    }
}

#[tokio::test]
async fn cancel_waits_for_what_comes_of_it() {
    for (outcome, status, code) in [
        (Outcome::FailedAtSource, Status::Cancelled, 0),
        (Outcome::FailedAtSource, Status::Failed, 1),
        (Outcome::Moved, Status::Completed, 1),
        (Outcome::FailedAfterHandover, Status::PostcopyPaused, 5),
    ] {
        let dir = start(Script::Ends(outcome, status));
        let (found, _, message) = me2(dir.path(), "cancel --vm demo").await;
        assert_eq!(found, code, "{message}");
    }
}

#[tokio::test]
async fn status_is_one_document() {
    let dir = start(Script::Busy);
    let (code, stdout, _) = me2(dir.path(), "status --vm demo --output json").await;
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<VmStatus>(&stdout).unwrap(), idle());
    let (code, stdout, _) = me2(dir.path(), "status --vm demo").await;
    assert_eq!(
        (code, stdout.as_str()),
        (
            0,
            "vm          demo, running\nmachine     1024 MiB, 1 vCPUs\nprocess     7, source\n"
        )
    );
}

#[tokio::test]
async fn a_dead_process_is_told_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let socket: PathBuf = dir.path().join("demo.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let (code, _, message) = me2(dir.path(), "status --vm demo").await;
    assert_eq!(code, 1);
    assert!(message.contains("does not answer at"), "{message}");
}

#[test]
fn identities_are_made_shown_and_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let cert = |arguments: &str| {
        let all = format!("me2 cert {arguments} --config-dir {}", dir.path().display());
        let mut stdout = Vec::new();
        let result = match Cli::try_parse_from(all.split_whitespace()).unwrap().command {
            Command::Cert(args) => cert::execute(args, &mut stdout),
            other => panic!("{other:?}"),
        };
        result
            .map(|_| String::from_utf8(stdout).unwrap())
            .map_err(|failure| failure.to_string())
    };
    assert!(cert("show").unwrap_err().contains("me2 cert create"));
    let made = cert("create").unwrap();
    assert_eq!(cert("show").unwrap(), made);
    assert!(cert("create").unwrap_err().contains("--force"));
    let peer = crate::identity::Fingerprint::of(b"peer");
    cert(&format!("trust {peer} host-b")).unwrap();
    cert(&format!("trust {peer} host-b")).unwrap();
    assert_eq!(cert("show --trusted").unwrap(), format!("{peer}  host-b\n"));
    assert_ne!(cert("create --force").unwrap(), made);
}
