//! The life of a process that has its VM: answers commands, moves the VM, ends with it.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use me2_engine::{ownership, recovery::Recovery};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinHandle,
};
use tracing::Instrument;

use super::{
    Inputs, Node, exit_code,
    recovery::{Paused, due},
};
use crate::{
    control::{
        channel::{Command, Refusal, Reply},
        types::{Accepted, MigrateRequest, Outcome, Typed, VmState},
    },
    identity::Moment,
    migrate::{
        Machine,
        observer::Observer,
        source::{Attempt, Ended, Wish},
    },
    transport::pace::Pacer,
};

/// How often the guest's own account is published.
const GUEST_INTERVAL: Duration = Duration::from_millis(250);
/// A second signal within this time means it.
const INSIST_WITHIN: Duration = Duration::from_secs(10);

/// SIGTERM and SIGINT.
pub struct Ending {
    terminate: Signal,
    interrupt: Signal,
    asked: Vec<Instant>,
}

impl Ending {
    /// Begins to listen; from now on the signals end nothing by themselves.
    pub fn listen() -> Self {
        let listen = |kind| signal(kind).expect("the runtime handles signals");
        Self {
            terminate: listen(SignalKind::terminate()),
            interrupt: listen(SignalKind::interrupt()),
            asked: Vec::new(),
        }
    }

    /// Waits for the next signal. Cancel-safe.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.asked.push(Instant::now());
    }

    /// Whether the last signal came soon after another.
    pub fn insists(&self) -> bool {
        let [.., before, last] = self.asked[..] else {
            return false;
        };
        last.duration_since(before) < INSIST_WITHIN
    }
}

/// A VM's process, while the VM is here or on its way from here.
pub(super) struct Life {
    pub(super) node: Arc<Node>,
    machine: Arc<Machine>,
    ownership: Arc<Mutex<ownership::Source>>,
    pub(super) migration: Option<Moving>,
    pub(super) paused: Option<Paused>,
    /// How often the migration's link was tried again by itself.
    pub(super) recovery: Option<Recovery>,
    /// Who wants the VM back, while an attempt to connect comes to its end.
    pub(super) wants_back: Option<Reply<Accepted>>,
    pub(super) last_id: u64,
    /// In which the latest migration is logged.
    pub(super) span: tracing::Span,
    /// Connections of the latest migration: one, and one more for each recovery.
    pub(super) connections: u64,
    /// The process ends as soon as the VM is known to be here.
    is_ending: bool,
    /// Told that ending now would lose the VM.
    is_warned: bool,
}

/// A migration under way.
pub(super) struct Moving {
    pub(super) task: JoinHandle<Ended>,
    pub(super) wish: watch::Sender<Wish>,
    pub(super) observer: Observer,
}

/// Lives with the VM until it ends, has moved away, or is stopped.
pub async fn live(
    node: Arc<Node>,
    machine: Arc<Machine>,
    ownership: Arc<Mutex<ownership::Source>>,
    mut inputs: Inputs,
) -> ExitCode {
    let mut life = Life {
        node,
        machine,
        ownership,
        migration: None,
        paused: None,
        recovery: None,
        wants_back: None,
        last_id: 0,
        span: tracing::Span::none(),
        connections: 0,
        is_ending: false,
        is_warned: false,
    };
    let code = life.until_end(&mut inputs).await;
    life.node.close().await;
    code
}

impl Life {
    async fn until_end(&mut self, inputs: &mut Inputs) -> ExitCode {
        let mut ending = Ending::listen();
        let mut tick = tokio::time::interval(GUEST_INTERVAL);
        loop {
            tokio::select! {
                Some(reason) = inputs.ended.recv() => {
                    self.node.set_state(VmState::Stopped);
                    self.bury_migration().await;
                    return exit_code(&reason);
                }
                Some(command) = inputs.commands.recv() => {
                    if self.carry_out(command).await {
                        return ExitCode::SUCCESS;
                    }
                }
                ended = moved(&mut self.migration) => {
                    if self.conclude(ended) {
                        return ExitCode::SUCCESS;
                    }
                }
                () = ending.wait() => {
                    if let Some(code) = self.asked_to_end(ending.insists()) {
                        return code;
                    }
                }
                () = due(self.paused.as_ref().and_then(Paused::retries_at)) => self.retry(),
                _ = tick.tick() => {
                    self.node.publish_guest(&self.machine.monitor);
                    self.tell_recovery();
                    self.refuse_taking_back();
                }
            }
        }
    }

    /// Whether nobody but this process has anything of the VM.
    fn may_end(&self) -> bool {
        self.ownership
            .lock()
            .expect("no panics under this lock")
            .may_run()
    }

    /// SIGTERM or SIGINT: with what the process ends now, if it does.
    ///
    /// Before the handover the migration is cancelled first, and its followers see that. After it, this
    /// side may have the only copy of pages: it stays, and one signal is not enough.
    fn asked_to_end(&mut self, insists: bool) -> Option<ExitCode> {
        match (&self.migration, self.may_end()) {
            (None, true) => Some(self.end_here()),
            (Some(moving), true) => {
                tracing::info!("ending: the migration is cancelled first");
                moving.wish.send_replace(Wish::Cancel);
                self.is_ending = true;
                None
            }
            (_, false) if insists && self.is_warned => {
                tracing::error!("ended by a signal while the destination still needed this side");
                Some(ExitCode::from(5))
            }
            (_, false) => {
                tracing::warn!(
                    "the VM has left but its pages have not: the same signal again ends this side all \
                     the same, and the VM may be lost with it"
                );
                self.is_warned = true;
                None
            }
        }
    }

    /// The VM ends, as if its power were cut.
    fn end_here(&self) -> ExitCode {
        self.machine.vm.request_stop();
        self.node.set_state(VmState::Stopped);
        ExitCode::SUCCESS
    }

    /// The VM ended here: the destination is told by the connection's end.
    async fn bury_migration(&mut self) {
        if let Some(moving) = self.migration.take() {
            let _ = moving.wish.send(Wish::Bury);
            if let Ok(ended) = moving.task.await {
                let (outcome, report) = ended.summary();
                moving.observer.end(outcome, report.clone());
            }
        }
    }

    /// True: the process shall end.
    async fn carry_out(&mut self, command: Command) -> bool {
        match command {
            Command::Migrate { request, reply } => _ = reply.send(self.migrate(request)),
            Command::Describe { reply } => {
                _ = reply.send(Ok(self.machine.vm.document().clone()));
            }
            Command::Recover { request, reply } => self.recover(request, reply),
            Command::Cancel { reply } => _ = reply.send(self.cancel()),
            Command::SwitchNow { reply } => _ = reply.send(self.switch_now()),
            Command::Pause { reply } => _ = reply.send(self.pause()),
            Command::Resume { reply } => _ = reply.send(self.resume()),
            Command::Stop { reply } => {
                if self.migration.is_some() || !self.may_end() {
                    _ = reply.send(Err(Refusal::conflict(
                        "a migration is under way",
                        "wait for its end, or cancel it",
                    )));
                    return false;
                }
                self.end_here();
                _ = reply.send(Ok(()));
                return true;
            }
            Command::Type { bytes, reply } => _ = reply.send(self.type_in(&bytes)),
        }
        false
    }

    fn migrate(&mut self, request: MigrateRequest) -> Result<Accepted, Refusal> {
        request
            .check()
            .map_err(|error| Refusal::invalid(error, "see me2 hybrid-migrate --help"))?;
        if self.migration.is_some() || !self.may_end() {
            return Err(Refusal::conflict(
                "a migration is under way",
                "me2 status tells how far it is",
            ));
        }
        if !self.machine.vm.vcpus().is_running() {
            return Err(Refusal::conflict(
                "the VM is paused",
                "resume it, then move it",
            ));
        }
        self.last_id += 1;
        self.connections = 1;
        self.recovery = None;
        let (id, mode, started) = (self.last_id, request.mode, Instant::now());
        let observer = self.observe(id, mode, started);
        let (wish, wished) = watch::channel(Wish::GoOn);
        let cap = request.max_bandwidth_bytes_per_second;
        let pacer = Pacer::shared(cap, self.node.runtime_dir.as_deref());
        let identity = migration_identity(id);
        self.span = crate::migrate::span(&identity);
        let warning = self.node.credentials.identity().warning(Moment::now());
        let attempt = Attempt::new(
            self.machine.clone(),
            &self.node.credentials,
            request,
            identity,
            self.ownership.clone(),
            observer.clone(),
            pacer,
            self.node.qlog.clone(),
            wished,
        );
        let task = tokio::spawn(attempt.migrate().instrument(self.span.clone()));
        self.migration = Some(Moving {
            task,
            wish,
            observer,
        });
        Ok(Accepted {
            id,
            warnings: warning.into_iter().collect(),
        })
    }

    pub(super) fn observe(&self, id: u64, mode: crate::report::Mode, started: Instant) -> Observer {
        let events = self.node.events.begin(id);
        Observer::new(
            events,
            self.node.status.clone(),
            id,
            self.connections,
            mode,
            started,
        )
    }

    fn cancel(&mut self) -> Result<(), Refusal> {
        let moving = self.before_handover()?;
        moving.wish.send_replace(Wish::Cancel);
        Ok(())
    }

    /// Ends pre-copy: what was not sent goes after the resume, or while the VM stands still.
    fn switch_now(&mut self) -> Result<(), Refusal> {
        let moving = self.before_handover()?;
        moving.wish.send_if_modified(|wish| {
            let may = *wish == Wish::GoOn;
            if may {
                *wish = Wish::SwitchNow;
            }
            may
        });
        Ok(())
    }

    /// The migration under way, while it can still be changed.
    fn before_handover(&self) -> Result<&Moving, Refusal> {
        let Some(moving) = &self.migration else {
            return Err(Refusal::conflict(
                "no migration is under way",
                "me2 status tells the state of the VM",
            ));
        };
        if !self.may_end() {
            return Err(Refusal::conflict(
                "the VM has left already",
                "wait until the migration is complete",
            ));
        }
        Ok(moving)
    }

    fn pause(&mut self) -> Result<(), Refusal> {
        self.refuse_while_moving()?;
        self.machine.vm.request_stop();
        self.node.set_state(VmState::Paused);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Refusal> {
        self.refuse_while_moving()?;
        self.machine.vm.resume(false).map_err(|error| {
            let mend = "end whoever uses the disk; then resume it";
            Refusal::conflict(format!("the VM stays paused: {error}"), mend)
        })?;
        self.node.set_state(VmState::Running);
        Ok(())
    }

    /// What is typed would be lost with a VM that stands still to be moved: its state is saved already.
    fn type_in(&self, bytes: &[u8]) -> Result<Typed, Refusal> {
        if !self.may_end() || !self.machine.vm.vcpus().is_running() {
            return Err(Refusal::conflict(
                "the VM does not run here",
                "me2 status tells where it is",
            ));
        }
        let taken_bytes = self.machine.vm.type_into_console(bytes);
        Ok(Typed { taken_bytes })
    }

    fn refuse_while_moving(&self) -> Result<(), Refusal> {
        if self.migration.is_some() || !self.may_end() {
            return Err(Refusal::conflict(
                "a migration is under way",
                "wait for its end, or cancel it",
            ));
        }
        Ok(())
    }

    /// A migration has ended. True: the process shall end, since the VM has moved or it was asked to.
    fn conclude(&mut self, ended: Ended) -> bool {
        let moving = self.migration.take().expect("it has just ended");
        let _logged = self.span.clone().entered();
        if let Ended::Paused(attempt, report) = ended {
            if std::mem::take(&mut self.is_ending) {
                tracing::warn!("asked to end, but the VM has left: this side stays for its pages");
            }
            self.pause_migration(attempt, moving.observer, report);
            return false;
        }
        self.recovery = None;
        self.node.publish_migration(|status| {
            status.risk = None;
            status.recovery = None;
        });
        let (outcome, report) = ended.summary();
        if let Some(error) = &report.error {
            tracing::error!("the migration did not complete: {error}");
        }
        self.node.set_state(match outcome {
            Outcome::Moved => VmState::Migrated,
            _ if self.machine.vm.vcpus().is_running() => VmState::Running,
            // A disk of it is in use elsewhere.
            _ => VmState::Paused,
        });
        moving.observer.end(outcome, report.clone());
        if self.is_ending && !matches!(ended, Ended::Moved(_)) {
            self.end_here();
        }
        self.is_ending || matches!(ended, Ended::Moved(_))
    }
}

/// Waits for the end of the migration under way; for ever if there is none. Cancel-safe.
async fn moved(migration: &mut Option<Moving>) -> Ended {
    match migration {
        Some(moving) => (&mut moving.task).await.expect("panics end the process"),
        None => std::future::pending().await,
    }
}

/// Names a migration: this process, its start, and a number.
fn migration_identity(id: u64) -> [u8; 16] {
    let time = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let mut identity = [0; 16];
    identity[..8].copy_from_slice(&(time.as_nanos() as u64).to_le_bytes());
    identity[8..12].copy_from_slice(&std::process::id().to_le_bytes());
    identity[12..].copy_from_slice(&(id as u32).to_le_bytes());
    identity
}
