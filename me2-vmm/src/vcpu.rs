//! vCPU threads, and how they are stopped.
//!
//! A vCPU that waits for a missing page inside KVM may not be interruptible, and once signalled it
//! spins and floods the fault queue. So stopping sets `immediate_exit` everywhere, but signals
//! only vCPUs not known to wait; the others are signalled once, when their page is in
//! ([`Vcpus::page_placed`]). Never in a loop: the thread id of a fault is a hint.

use std::{
    io,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, Once,
        atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Instant,
};

use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::{
    errno,
    signal::{Killable, SIGRTMIN, register_signal_handler},
};

use crate::{clock::monotonic_ns, devices::Devices, last_state::LastState, layout::PageIndex};

/// Why a VM ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndReason {
    /// The guest wrote this status to the debug exit port.
    Exit(u32),
    /// The guest asked for a reset.
    Reset,
    /// The guest switched itself off.
    PoweredOff,
    /// The guest crashed with a triple fault; what its vCPU was at, if KVM still says.
    TripleFault(Option<LastState>),
    /// The guest shut down.
    Shutdown,
    /// KVM could not go on.
    Failed(String),
}

/// Told once, from a vCPU thread, when the VM ends by itself.
pub type EndHandler = Arc<dyn Fn(EndReason) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Stopped,
    Running,
    Gone,
}

struct ControlState {
    target: Target,
    parked: usize,
    /// Time at which the last vCPU parked.
    parked_ns: u64,
    /// Time at which the first vCPU went (back) into the guest after [`Vcpus::resume`].
    started_ns: Option<u64>,
    /// The VM has ended by itself: it never runs again.
    ended: bool,
}

struct Control {
    state: Mutex<ControlState>,
    changed: Condvar,
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, ControlState> {
        self.state.lock().expect("no panics under this lock")
    }
}

/// The byte of `struct kvm_run` that makes `KVM_RUN` return at once.
struct ImmediateExit(*mut u8);

// SAFETY: the byte lies in the vCPU's kvm_run mapping, which the VcpuFd of the same `Vcpu` keeps,
// and is only accessed atomically.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    fn set(&self, value: bool) {
        // SAFETY: the pointer is valid as long as `self` (see above); the kernel reads the byte
        // with READ_ONCE, and every access here is atomic.
        unsafe { AtomicU8::from_ptr(self.0) }.store(value.into(), Ordering::SeqCst);
    }
}

/// One vCPU: its descriptor is locked by its thread while it runs.
struct Vcpu {
    immediate_exit: ImmediateExit,
    fd: Mutex<VcpuFd>,
    thread: AtomicI32,
    /// Page that it is known to wait for, plus one; 0 if none.
    waits_for: AtomicU64,
}

/// All vCPUs of a VM and their threads.
pub struct Vcpus {
    vcpus: Vec<Arc<Vcpu>>,
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
}

impl Vcpus {
    /// Starts a thread for each vCPU, stopped. `keep` outlives all of them.
    pub(crate) fn start(
        fds: Vec<VcpuFd>,
        devices: Arc<Devices>,
        ended: EndHandler,
        keep: Arc<dyn std::any::Any + Send + Sync>,
    ) -> io::Result<Self> {
        static HANDLER: Once = Once::new();
        HANDLER.call_once(|| {
            register_signal_handler(SIGRTMIN(), ignore_signal).expect("SIGRTMIN can be handled");
        });
        let control = Arc::new(Control {
            state: Mutex::new(ControlState {
                target: Target::Stopped,
                parked: 0,
                parked_ns: 0,
                started_ns: None,
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let mut vcpus = Vec::new();
        let mut threads = Vec::new();
        for (index, mut fd) in fds.into_iter().enumerate() {
            let immediate_exit = ImmediateExit(&raw mut fd.get_kvm_run().immediate_exit);
            let vcpu = Arc::new(Vcpu {
                immediate_exit,
                fd: Mutex::new(fd),
                thread: AtomicI32::new(0),
                waits_for: AtomicU64::new(0),
            });
            vcpus.push(vcpu.clone());
            let (control, devices, ended, keep) = (
                control.clone(),
                devices.clone(),
                ended.clone(),
                keep.clone(),
            );
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || {
                    // SAFETY: gettid has no preconditions.
                    vcpu.thread
                        .store(unsafe { libc::gettid() }, Ordering::SeqCst);
                    run_until_gone(&vcpu, &control, &devices, &ended);
                    drop(keep);
                })?;
            threads.push(thread);
        }
        let this = Self {
            vcpus,
            control,
            threads,
        };
        this.wait_stopped(None);
        Ok(this)
    }

    /// Number of vCPUs.
    pub fn count(&self) -> usize {
        self.vcpus.len()
    }

    /// Lets the guest run (again), unless it has ended by itself.
    pub fn resume(&self) {
        let mut state = self.control.lock();
        if state.target == Target::Stopped && !state.ended {
            state.target = Target::Running;
            state.started_ns = None;
            self.control.changed.notify_all();
        }
    }

    /// Asks every vCPU to stop, and returns at once.
    pub fn request_stop(&self) {
        self.request(Target::Stopped);
    }

    fn request(&self, target: Target) {
        let mut state = self.control.lock();
        if state.target == Target::Gone {
            return;
        }
        state.target = target;
        for (vcpu, thread) in self.vcpus.iter().zip(&self.threads) {
            vcpu.immediate_exit.set(true);
            if vcpu.waits_for.load(Ordering::SeqCst) == 0 {
                // A thread that is gone already needs no signal.
                let _ = thread.kill(SIGRTMIN());
            }
        }
        self.control.changed.notify_all();
    }

    /// Waits until every vCPU is stopped, or until `deadline`. Gives the time (see
    /// [`monotonic_ns`]) at which the last one left the guest, or `None` at the deadline.
    pub fn wait_stopped(&self, deadline: Option<Instant>) -> Option<u64> {
        let mut state = self.control.lock();
        while state.parked < self.vcpus.len() {
            state = match deadline {
                None => self
                    .control
                    .changed
                    .wait(state)
                    .expect("no panics under this lock"),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.control
                        .changed
                        .wait_timeout(state, left)
                        .expect("no panics under this lock")
                        .0
                }
            };
        }
        Some(state.parked_ns)
    }

    /// Waits until a vCPU entered the guest after [`Vcpus::resume`], and gives the time.
    pub fn wait_started(&self) -> u64 {
        let mut state = self.control.lock();
        loop {
            if let Some(started_ns) = state.started_ns {
                return started_ns;
            }
            state = self
                .control
                .changed
                .wait(state)
                .expect("no panics under this lock");
        }
    }

    /// Whether the VM has ended by itself.
    pub fn has_ended(&self) -> bool {
        self.control.lock().ended
    }

    /// Whether the vCPUs are asked to run.
    pub fn is_running(&self) -> bool {
        self.control.lock().target == Target::Running
    }

    /// The descriptor of a stopped vCPU; waits while it runs.
    pub(crate) fn fd(&self, index: usize) -> MutexGuard<'_, VcpuFd> {
        self.vcpus[index]
            .fd
            .lock()
            .expect("no panics under this lock")
    }

    /// A fault message named this thread: remembers which vCPU waits for which page.
    pub fn note_waiting(&self, thread: i32, page: PageIndex) {
        if let Some(vcpu) = self
            .vcpus
            .iter()
            .find(|vcpu| vcpu.thread.load(Ordering::Relaxed) == thread)
        {
            vcpu.waits_for.store(u64::from(page) + 1, Ordering::SeqCst);
        }
    }

    /// Pages are in: vCPUs known to wait for one of them wait no longer, and are signalled if they
    /// are asked to stop.
    pub fn page_placed(&self, pages: Range<PageIndex>) {
        let waited = u64::from(pages.start) + 1..u64::from(pages.end) + 1;
        for (vcpu, thread) in self.vcpus.iter().zip(&self.threads) {
            let page = vcpu.waits_for.load(Ordering::SeqCst);
            if waited.contains(&page)
                && vcpu
                    .waits_for
                    .compare_exchange(page, 0, Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok()
                && !self.is_running()
            {
                let _ = thread.kill(SIGRTMIN());
            }
        }
    }

    /// vCPUs known to wait for a page at this moment.
    pub fn waiting(&self) -> usize {
        self.vcpus
            .iter()
            .filter(|vcpu| vcpu.waits_for.load(Ordering::Relaxed) != 0)
            .count()
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.request(Target::Gone);
        for thread in self.threads.drain(..) {
            // The VM may be dropped by whoever a vCPU thread told of its end.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// The signal only interrupts `KVM_RUN`.
extern "C" fn ignore_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn run_until_gone(vcpu: &Vcpu, control: &Control, devices: &Devices, ended: &EndHandler) {
    while wait_for_run(vcpu, control) {
        let mut fd = vcpu.fd.lock().expect("no panics under this lock");
        let end = run(&mut fd, control, devices);
        // The exit that was being handled is completed before anybody saves the state.
        fd.set_kvm_immediate_exit(1);
        while matches!(fd.run(), Err(error) if error.errno() == libc::EAGAIN) {}
        drop(fd);
        if let Some(reason) = end {
            stop_all(control);
            ended(reason);
        }
    }
}

/// Parks until the target is to run (true) or to be gone (false).
fn wait_for_run(vcpu: &Vcpu, control: &Control) -> bool {
    let mut state = control.lock();
    state.parked += 1;
    state.parked_ns = monotonic_ns();
    control.changed.notify_all();
    loop {
        match state.target {
            Target::Gone => return false,
            Target::Running => break,
            Target::Stopped => {
                state = control
                    .changed
                    .wait(state)
                    .expect("no panics under this lock")
            }
        }
    }
    vcpu.immediate_exit.set(false);
    vcpu.waits_for.store(0, Ordering::SeqCst);
    state.parked -= 1;
    if state.started_ns.is_none() {
        state.started_ns = Some(monotonic_ns());
        control.changed.notify_all();
    }
    true
}

/// One vCPU found that the VM has ended: nobody goes on. The others are not interrupted here;
/// whoever is told of the end stops or drops the VM.
fn stop_all(control: &Control) {
    let mut state = control.lock();
    state.ended = true;
    if state.target == Target::Running {
        state.target = Target::Stopped;
    }
}

/// Runs the guest until it is asked to stop (`None`) or ends by itself.
fn run(fd: &mut VcpuFd, control: &Control, devices: &Devices) -> Option<EndReason> {
    loop {
        let exit = match fd.run() {
            Ok(exit) => exit,
            Err(error) => match error.errno() {
                // EINTR: signalled; EAGAIN: a vCPU that waited for its start-up interrupt got it.
                libc::EINTR | libc::EAGAIN => {
                    let state = control.lock();
                    if state.target != Target::Running {
                        return None;
                    }
                    // A stop that was taken back before this vCPU saw it.
                    fd.set_kvm_immediate_exit(0);
                    drop(state);
                    continue;
                }
                _ => return Some(EndReason::Failed(format!("KVM_RUN: {}", errno_text(error)))),
            },
        };
        match exit {
            VcpuExit::IoOut(port, data) => {
                let end = devices.port_write(port, data);
                if end.is_some() {
                    return end;
                }
            }
            VcpuExit::IoIn(port, data) => devices.port_read(port, data),
            VcpuExit::MmioRead(address, data) => devices.memory_read(address, data),
            VcpuExit::MmioWrite(address, data) => devices.memory_write(address, data),
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
            VcpuExit::Shutdown => {
                return Some(EndReason::TripleFault(LastState::read(fd).ok()));
            }
            VcpuExit::SystemEvent(kvm_bindings::KVM_SYSTEM_EVENT_RESET, _) => {
                return Some(EndReason::Reset);
            }
            VcpuExit::SystemEvent(..) => return Some(EndReason::Shutdown),
            other => {
                return Some(EndReason::Failed(format!(
                    "unexpected exit from the guest: {other:?}"
                )));
            }
        }
    }
}

fn errno_text(error: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
