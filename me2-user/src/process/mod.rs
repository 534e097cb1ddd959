//! The process of one VM: started with it ([`run`]) or by receiving it ([`receive`]), and the same
//! from then on: it has the VM, answers its API, and can move it away.

mod collapse;
mod commands;
mod console;
mod devices;
pub mod host_memory;
pub mod monitor;
pub mod note;
pub mod published;
mod receive;
mod recovery;
mod run;
mod sandbox;
mod serial;

pub use receive::receive;
pub use run::run;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use me2_engine::quantile::Histogram;
use me2_vmm::{
    machine::MachineDocument,
    paging::Userfault,
    vcpu::{EndHandler, EndReason},
    vm::Host,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::block_in_place,
};

use crate::{
    cli::SerialTarget,
    control::{
        self, ControlHandle, EventHub,
        channel::Command,
        server,
        socket::{self, ControlSocket},
        types::{MigrationStatus, Mode, Role, STATUS_SCHEMA_VERSION, VmState, VmStatus},
    },
    explore::Probing,
    identity::{Credentials, Moment},
    migrate::destination::{self, Incoming},
    transport::{
        endpoint::Peer,
        qlog::{Qlog, QlogError},
    },
};
use devices::Mapped;
use monitor::GuestMonitor;
use note::Note;
use serial::Serial;

/// What a VM process has whether or not the VM is here: opened when it starts, before it gives up its
/// privileges (`sandbox.rs`).
pub struct Node {
    host: Host,
    credentials: Arc<Credentials>,
    probing: Arc<Probing>,
    serial: Serial,
    ended: mpsc::UnboundedSender<EndReason>,
    status: watch::Sender<VmStatus>,
    events: EventHub,
    control: ControlHandle,
    api: Mutex<Option<ApiServer>>,
    /// Bound at the start, to be served from [`Node::open_api`] on.
    api_socket: Mutex<Option<ControlSocket>>,
    /// Bound at the start, to be served from [`Node::serve_metrics`] on.
    metrics_socket: Mutex<Option<TcpListener>>,
    /// Of all connections to peers.
    qlog: Qlog,
    /// Where the API of a VM with this name is to be.
    api_path: ApiPath,
    /// Where processes of this host share the bandwidth cap.
    runtime_dir: Option<PathBuf>,
    memory_max: u64,
    /// For the devices of a VM that comes.
    mapped: Mapped,
    /// Of the VM that is here, or on its way.
    console: Mutex<Option<GuestMonitor>>,
    /// The VM has been handed over to here and is being restored: it may run any moment.
    is_taking_over: AtomicBool,
}

/// While it lives, the process has a VM handed over to it.
pub struct TakingOver<'a>(&'a AtomicBool);

impl Drop for TakingOver<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Given the name that a VM comes with: its name here, and the path of its API socket.
pub type ApiPath = Box<dyn Fn(&str) -> anyhow::Result<(String, PathBuf)> + Send + Sync>;

/// What the process takes in while it lives.
pub struct Inputs {
    /// The VM ended by itself.
    pub ended: mpsc::UnboundedReceiver<EndReason>,
    /// What clients ask for.
    pub commands: mpsc::Receiver<Command>,
}

/// A running API server.
struct ApiServer {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
    /// Whether it was there before a VM was, and stays if that VM's migration fails.
    is_permanent: bool,
}

/// What a process is started with.
pub struct NodeOptions {
    /// Name until a VM brings one.
    pub name: String,
    /// Source or receiver.
    pub role: Role,
    /// Folder of the identity.
    pub config_dir: PathBuf,
    /// Where the console goes.
    pub serial: SerialTarget,
    /// Whether to attach probes.
    pub probes: bool,
    /// Largest VM to be received, in bytes.
    pub memory_max: u64,
    /// For the devices of a VM that is received.
    pub mapped: Mapped,
    /// Where the API of a VM is to be.
    pub api_path: ApiPath,
    /// The name for which the API is there from the start; without, it comes with the VM.
    pub api_name: Option<String>,
    /// The runtime folder, if it is known.
    pub runtime_dir: Option<PathBuf>,
    /// Where metrics are served beside the API.
    pub metrics: Option<SocketAddr>,
    /// Where connections to peers are recorded.
    pub qlog: Qlog,
}

impl Node {
    /// Opens everything that needs privileges, and starts no thread.
    pub fn open(options: NodeOptions) -> anyhow::Result<(Arc<Self>, Inputs)> {
        me2_vmm::memory::configure_heap();
        let credentials = Credentials::load(&options.config_dir)?;
        if let Some(warning) = credentials.identity().warning(Moment::now()) {
            tracing::warn!("{warning}");
        }
        if let Some(folder) = &options.runtime_dir {
            socket::prepare_folder(folder)?;
        }
        let api_socket = match &options.api_name {
            Some(name) => Some(bind_api(&(options.api_path)(name)?.1)?),
            None => None,
        };
        let metrics_socket = options.metrics.map(bind_metrics).transpose()?;
        let serial = Serial::open(&options.serial)?;
        let userfault = Arc::new(Userfault::open()?);
        let host = Host::open(userfault)?;
        let probing = if options.probes {
            Probing::start(frames_of_host()?)
        } else {
            Probing::disabled()
        };
        // The kernel's type information was read for the probes, and is not needed any more.
        me2_vmm::memory::release_free_heap();
        let state = if options.role == Role::Source {
            VmState::Paused
        } else {
            VmState::Waiting
        };
        let status = VmStatus {
            schema_version: STATUS_SCHEMA_VERSION,
            name: options.name,
            pid: std::process::id(),
            role: options.role,
            vm_state: state,
            memory_bytes: None,
            vcpus: None,
            migration: None,
            guest: None,
        };
        let (control, port) = control::channel(status);
        let (ended_sender, ended) = mpsc::unbounded_channel();
        let node = Self {
            host,
            credentials: Arc::new(credentials),
            probing: Arc::new(probing),
            serial,
            ended: ended_sender,
            status: port.status,
            events: port.events,
            control,
            api: Mutex::default(),
            api_socket: Mutex::new(api_socket),
            metrics_socket: Mutex::new(metrics_socket),
            qlog: options.qlog,
            api_path: options.api_path,
            runtime_dir: options.runtime_dir,
            memory_max: options.memory_max,
            mapped: options.mapped,
            console: Mutex::default(),
            is_taking_over: AtomicBool::new(false),
        };
        Ok((
            Arc::new(node),
            Inputs {
                ended,
                commands: port.commands,
            },
        ))
    }

    /// Sets what status tells of the VM.
    pub fn set_state(&self, state: VmState) {
        self.status.send_modify(|status| status.vm_state = state);
    }

    /// A VM is handed over to here: until the result is dropped, the process is needed.
    pub fn take_over(&self) -> TakingOver<'_> {
        self.is_taking_over.store(true, Ordering::Release);
        TakingOver(&self.is_taking_over)
    }

    /// Whether a receiver may have the only copy of what its VM has done.
    fn is_needed(&self) -> bool {
        let state = self.status.borrow().vm_state;
        matches!(state, VmState::Running | VmState::PostcopyPaused)
            || self.is_taking_over.load(Ordering::Acquire)
    }

    /// Publishes what the guest tells of itself.
    pub fn publish_guest(&self, monitor: &GuestMonitor) {
        let guest = monitor.status();
        self.status.send_if_modified(|status| {
            let is_new = status.guest != guest;
            status.guest = guest;
            is_new
        });
    }

    /// Sets what status tells of the machine: that of this document, or none.
    pub fn set_machine(&self, document: Option<&MachineDocument>) {
        self.status.send_modify(|status| {
            status.memory_bytes = document.map(|document| document.memory_bytes);
            status.vcpus = document.map(|document| document.cpus);
        });
    }

    /// A migration to here begins.
    pub fn begin_incoming(&self, mode: Mode) {
        let migration = MigrationStatus::begun(1, 1, mode);
        self.status
            .send_modify(|status| status.migration = Some(migration));
    }

    /// Publishes how far the migration is, if there is one.
    pub fn publish_migration(&self, change: impl FnOnce(&mut MigrationStatus)) {
        self.status
            .send_modify(|status| _ = status.migration.as_mut().map(change));
    }

    /// The same at the destination, where it is counted too, with how long accesses waited so far.
    pub fn publish_incoming(&self, change: impl FnOnce(&mut MigrationStatus), waits: Histogram) {
        self.publish_migration(change);
        if let Some(status) = &self.status.borrow().migration {
            self.control.metrics.progress(Role::Receiver, status);
        }
        self.control.metrics.fault_latency(waits);
    }

    /// Takes a VM in whose source has described it: checks it against this host and this
    /// process's limits, opens its console and its API, and builds its machine.
    pub fn admit(
        &self,
        document: MachineDocument,
        peer: &Peer,
        migration: [u8; 16],
        epoch: u64,
        same_host: bool,
    ) -> anyhow::Result<Incoming> {
        let (trust, now) = (self.credentials.trust(), Moment::now());
        trust.allow(&peer.certificates, &document.name, now)?;
        self.fits(&document)?;
        self.host.check(&document)?;
        let connections = self.mapped.expect(&document)?;
        self.open_api(&document.name, false)?;
        let monitor = self.open_console(document.builtin_guest)?;
        self.set_machine(Some(&document));
        self.credentials.hold(&peer.own, peer.fingerprint);
        let ended = self.end_handler();
        let probing = self.probing.clone();
        let note = self.leave_note(&migration, epoch)?;
        Incoming::prepare(
            &self.host,
            document,
            connections,
            monitor,
            probing,
            ended,
            peer.fingerprint,
            note,
            migration,
            epoch,
            same_host,
        )
    }

    /// Everything for which [`admit`](Self::admit) would refuse a VM now, as far as that can be known
    /// without beginning to build it.
    pub fn objections(
        &self,
        document: &MachineDocument,
        peer: &Peer,
    ) -> anyhow::Result<Vec<String>> {
        let mut reasons = Vec::new();
        if self.status.borrow().vm_state != VmState::Waiting {
            reasons.push("another migration is under way there".to_owned());
        }
        let told = |error: anyhow::Error| format!("{error:#}");
        let (trust, now) = (self.credentials.trust(), Moment::now());
        let allowed = trust.allow(&peer.certificates, &document.name, now);
        reasons.extend(allowed.err().map(|error| told(error.into())));
        reasons.extend(self.fits(document).err().map(told));
        let objections = self.host.objections(document)?;
        reasons.extend(objections.into_iter().map(|error| told(error.into())));
        reasons.extend(destination::admit(document.memory_bytes).err().map(told));
        reasons.extend(self.is_named_anew(&document.name).err().map(told));
        Ok(reasons)
    }

    fn fits(&self, document: &MachineDocument) -> anyhow::Result<()> {
        anyhow::ensure!(
            document.memory_bytes <= self.memory_max,
            "the VM has {} MiB of memory, more than this receiver's --max-memory",
            document.memory_bytes >> 20
        );
        Ok(())
    }

    /// Whether the API of a VM with this name could be opened.
    fn is_named_anew(&self, name: &str) -> anyhow::Result<()> {
        let (name, path) = (self.api_path)(name)?;
        let has_api = self
            .api
            .lock()
            .expect("no panics under this lock")
            .is_some();
        anyhow::ensure!(
            has_api || !socket::is_listening(&path),
            "a VM of the name {name} runs there; give the receiver another: --name"
        );
        Ok(())
    }

    /// Notes in the runtime folder, if there is one, that this process is ready for an attempt.
    fn leave_note(&self, migration: &[u8; 16], epoch: u64) -> anyhow::Result<Option<Note>> {
        let Some(folder) = &self.runtime_dir else {
            tracing::warn!("no runtime folder: nothing will tell that the VM was taken over here");
            return Ok(None);
        };
        let name = self.status.borrow().name.clone();
        Note::prepare(folder, &name, migration, epoch)
            .with_context(|| format!("cannot leave a note in {}", folder.display()))
            .map(Some)
    }

    /// The VM that was admitted does not come after all.
    pub fn withdraw(&self) {
        self.credentials.release();
        self.set_machine(None);
        self.publish_migration(|status| status.is_under_way = false);
        *self.console.lock().expect("no panics under this lock") = None;
        let api = {
            let mut api = self.api.lock().expect("no panics under this lock");
            api.take_if(|api| !api.is_permanent)
        };
        if let Some(api) = api {
            let _ = api.stop.send(());
        }
    }

    /// Opens the API for a VM of this name, if it is not open yet.
    fn open_api(&self, name: &str, is_permanent: bool) -> anyhow::Result<()> {
        let mut api = self.api.lock().expect("no panics under this lock");
        let (name, path) = (self.api_path)(name)?;
        self.status.send_modify(|status| status.name = name);
        if api.is_some() {
            return Ok(());
        }
        let bound = self
            .api_socket
            .lock()
            .expect("no panics under this lock")
            .take();
        let socket = match bound {
            Some(socket) => socket,
            None => bind_api(&path)?,
        };
        tracing::info!(api = %path.display(), "API open");
        let (stop, stopped) = oneshot::channel();
        let control = self.control.clone();
        let task = tokio::spawn(async move {
            let shutdown = async move { _ = stopped.await };
            if let Err(error) = server::serve(socket, control, shutdown).await {
                tracing::error!("the API ended: {error}");
            }
        });
        *api = Some(ApiServer {
            stop,
            task,
            is_permanent,
        });
        Ok(())
    }

    /// Serves metrics from now on where they were asked for beside the API.
    fn serve_metrics(&self) -> anyhow::Result<()> {
        let socket = self.metrics_socket.lock();
        let Some(socket) = socket.expect("no panics under this lock").take() else {
            return Ok(());
        };
        socket.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(socket)?;
        tracing::info!(metrics = %listener.local_addr()?, "metrics are served");
        let control = self.control.clone();
        tokio::spawn(async move {
            if let Err(error) = server::serve_metrics(listener, control).await {
                tracing::error!("metrics are not served any more: {error}");
            }
        });
        Ok(())
    }

    /// Ends what others read: the console when it is written, the API when its clients have read
    /// what there is to read.
    async fn close(&self) {
        let console = self
            .console
            .lock()
            .expect("no panics under this lock")
            .take();
        if let Some(console) = console {
            block_in_place(|| console.drain());
        }
        let api = self.api.lock().expect("no panics under this lock").take();
        if let Some(api) = api {
            let _ = api.stop.send(());
            let _ = api.task.await;
        }
    }

    fn open_console(&self, builtin_guest: bool) -> anyhow::Result<GuestMonitor> {
        let log = self.control.console.clone();
        let monitor = GuestMonitor::new(self.serial.writer()?, log, builtin_guest)
            .context("cannot start a thread")?;
        *self.console.lock().expect("no panics under this lock") = Some(monitor.clone());
        Ok(monitor)
    }

    fn end_handler(&self) -> EndHandler {
        let ended = self.ended.clone();
        // Nobody listens only when the process ends.
        Arc::new(move |reason| _ = ended.send(reason))
    }
}

fn bind_metrics(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| {
        format!("cannot listen at {address} for metrics; choose another --metrics")
    })
}

/// Opens what `--qlog` names; the title says whose connections these are.
fn open_qlog(path: Option<&Path>, title: String) -> Result<Qlog, QlogError> {
    path.map_or_else(|| Ok(Qlog::default()), |path| Qlog::open(path, title))
}

fn bind_api(path: &Path) -> anyhow::Result<ControlSocket> {
    ControlSocket::bind(path)
        .context("the API socket (does a VM of this name run here? --name gives another)")
}

/// Whoever started the process is to start it again: systemd-nspawn says so in the same way.
const REBOOT: u8 = 133;

/// How a VM that ended by itself ends its process.
fn exit_code(reason: &EndReason) -> ExitCode {
    match reason {
        EndReason::Exit(0) | EndReason::PoweredOff => ExitCode::SUCCESS,
        EndReason::Reset => {
            tracing::info!("the guest reboots: status {REBOOT} asks to start it again");
            ExitCode::from(REBOOT)
        }
        EndReason::TripleFault(state) => {
            let state = state.map_or("no registers".into(), |state| state.to_string());
            tracing::error!("the guest crashed (triple fault): {state}");
            ExitCode::FAILURE
        }
        EndReason::Shutdown => {
            tracing::error!("the guest shut down, in a way that is not known here");
            ExitCode::FAILURE
        }
        EndReason::Exit(status) => {
            tracing::error!(status, "the guest ended with an error");
            // Some statuses would read as success in eight bits.
            ExitCode::from((*status).clamp(1, 255) as u8)
        }
        EndReason::Failed(reason) => {
            tracing::error!("the VM cannot go on: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Frames that any VM of this host can have: all of its memory, and the hole below 4 GiB.
fn frames_of_host() -> anyhow::Result<u64> {
    let total_kib = host_memory::kib("MemTotal")?;
    Ok(total_kib / 4 + (1 << 30) / 4096)
}

/// The runtime of a VM process: vCPUs, paging and encoding have threads of their own.
/// Threads for what blocks: more than do at once.
const BLOCKING_THREADS: usize = 4;
/// Longer than any process lives.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// With its threads for what blocks made, and kept: once there is a VM, it must not end with tokio,
/// which panics where it needs one and there are no more to be had (`pids.max` of a container).
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(FOR_EVER)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    // All at once, so that each takes one.
    let all = Arc::new(Barrier::new(BLOCKING_THREADS + 1));
    for _ in 0..BLOCKING_THREADS {
        let all = all.clone();
        runtime.spawn_blocking(move || _ = all.wait());
    }
    all.wait();
    Ok(runtime)
}
