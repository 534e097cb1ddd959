//! The thread of a virtio device, and how it is stopped.
//!
//! It serves the queues when the guest notifies it, and parks when it is asked to stop: between two
//! requests, so that none is half done. Nobody waits for it but who needs its state: it may itself
//! wait for a missing page of guest memory. Each time it starts it looks at all of its queues, so a
//! notification is never lost, whichever process it was made in.

use std::{
    io,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use virtio_queue::{Error, Queue};
use vmm_sys_util::eventfd::EventFd;

use crate::memory::{GuestMemory, GuestMemoryView};

/// Causes of an interrupt, as the guest reads them.
pub(crate) const CAUSE_QUEUES: u32 = 1;
const CAUSE_CONFIG: u32 = 2;

/// What a device does with its queues.
pub(crate) trait Backend: Send {
    /// Serves requests until there are none, `stop` is set, or each queue has been gone through
    /// once. Requests are done whole: what is left in a queue was not begun.
    ///
    /// # Errors
    /// The queues make no sense: the device stands still until its driver resets it.
    fn serve(
        &mut self,
        queues: &mut [Queue],
        memory: &GuestMemoryView,
        stop: &AtomicBool,
    ) -> Result<Served, Error>;

    /// A driver is ready, having taken these features; or, `None`, the device was reset.
    fn configure(&mut self, _features: Option<u64>) {}

    /// The VM begins to run; `arrived` says that it did not run in this process before.
    fn begin(&mut self, _arrived: bool) {}

    /// What else to wait for: a descriptor that can be read.
    fn input(&self) -> Option<RawFd> {
        None
    }

    /// When to serve again though nothing has happened.
    fn timer(&self) -> Option<Instant> {
        None
    }
}

/// What came of serving.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Served {
    /// Requests were completed: the guest is interrupted.
    pub(crate) completed: bool,
    /// There may be more.
    pub(crate) more: bool,
}

/// The interrupt of a device.
pub(crate) struct Interrupt {
    causes: AtomicU32,
    event: EventFd,
}

impl Interrupt {
    pub(crate) fn new(event: EventFd) -> Self {
        Self {
            causes: AtomicU32::new(0),
            event,
        }
    }

    /// Causes that the driver has not acknowledged.
    pub(crate) fn causes(&self) -> u32 {
        self.causes.load(Ordering::SeqCst)
    }

    pub(crate) fn acknowledge(&self, causes: u32) {
        self.causes.fetch_and(!causes, Ordering::SeqCst);
    }

    pub(crate) fn set_causes(&self, causes: u32) {
        self.causes.store(causes, Ordering::SeqCst);
    }

    fn raise(&self, cause: u32) {
        self.causes.fetch_or(cause, Ordering::SeqCst);
        self.trigger();
    }

    fn trigger(&self) {
        // The counter is full only if the kernel takes no interrupts: then it has one to deliver.
        let _ = self.event.write(1);
    }
}

/// What a thread works on, while it works.
pub(crate) struct Work {
    /// Empty until the driver is ready.
    pub(crate) queues: Vec<Queue>,
    pub(crate) backend: Box<dyn Backend>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Stopped,
    Running { arrived: bool },
    Gone,
}

struct Control {
    target: Target,
    is_parked: bool,
}

struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
    /// For the thread, between requests: the target is not to run.
    stop: AtomicBool,
    kick: EventFd,
    interrupt: Arc<Interrupt>,
    work: Mutex<Work>,
    /// The queues made no sense.
    is_broken: AtomicBool,
    memory: GuestMemory,
}

/// The thread of a device.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread, parked. `keep` outlives it.
    pub(crate) fn start(
        name: &str,
        backend: Box<dyn Backend>,
        interrupt: Arc<Interrupt>,
        memory: GuestMemory,
        keep: Arc<dyn std::any::Any + Send + Sync>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            control: Mutex::new(Control {
                target: Target::Stopped,
                is_parked: true,
            }),
            changed: Condvar::new(),
            stop: AtomicBool::new(true),
            kick: EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?,
            interrupt,
            work: Mutex::new(Work {
                queues: Vec::new(),
                backend,
            }),
            is_broken: AtomicBool::new(false),
            memory,
        });
        let working = shared.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                working.run_until_gone();
                drop(keep);
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// What the guest notifies the device by.
    pub(crate) fn kick(&self) -> &EventFd {
        &self.shared.kick
    }

    /// What the thread works on; waits until it is between two looks at its queues.
    pub(crate) fn work(&self) -> MutexGuard<'_, Work> {
        self.shared.work.lock().expect("no panics under this lock")
    }

    /// Whether the device stands still because its queues made no sense.
    pub(crate) fn is_broken(&self) -> bool {
        self.shared.is_broken.load(Ordering::SeqCst)
    }

    pub(crate) fn set_broken(&self, is_broken: bool) {
        self.shared.is_broken.store(is_broken, Ordering::SeqCst);
    }

    /// Lets it work (again).
    pub(crate) fn resume(&self, arrived: bool) {
        let mut control = self.shared.lock();
        if control.target == Target::Stopped {
            control.target = Target::Running { arrived };
            self.shared.stop.store(false, Ordering::SeqCst);
            self.shared.changed.notify_all();
        }
    }

    /// Asks it to stop, and returns at once.
    pub(crate) fn request_stop(&self) {
        self.request(Target::Stopped);
    }

    fn request(&self, target: Target) {
        let mut control = self.shared.lock();
        control.target = target;
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        // A full counter wakes it too.
        let _ = self.shared.kick.write(1);
    }

    /// Waits until it is parked; false at the deadline.
    pub(crate) fn wait_stopped(&self, deadline: Option<Instant>) -> bool {
        let mut control = self.shared.lock();
        while !control.is_parked || control.target != Target::Stopped {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let changed = &self.shared.changed;
            control = match left {
                Some(Duration::ZERO) => return false,
                Some(left) => {
                    let waited = changed.wait_timeout(control, left);
                    waited.expect("no panics under this lock").0
                }
                None => changed.wait(control).expect("no panics under this lock"),
            };
        }
        true
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let is_parked = self.shared.lock().is_parked;
        self.request(Target::Gone);
        // One that waits for a page may wait for ever, and keeps what it needs.
        if let Some(thread) = self.thread.take().filter(|_| is_parked) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().expect("no panics under this lock")
    }

    fn run_until_gone(&self) {
        while let Some(arrived) = self.wait_for_run() {
            {
                let mut work = self.work.lock().expect("no panics under this lock");
                work.backend.begin(arrived);
            }
            // The state may have been saved between its cause and its delivery.
            if self.interrupt.causes() != 0 {
                self.interrupt.trigger();
            }
            while !self.stop.load(Ordering::SeqCst) {
                let (more, input, timer) = self.serve();
                if !more && !self.stop.load(Ordering::SeqCst) {
                    self.wait_for_work(input, timer);
                }
            }
        }
    }

    /// Parks until it is to run, or, `None`, to be gone.
    fn wait_for_run(&self) -> Option<bool> {
        let mut control = self.lock();
        control.is_parked = true;
        self.changed.notify_all();
        loop {
            match control.target {
                Target::Gone => return None,
                Target::Running { arrived } => {
                    control.is_parked = false;
                    return Some(arrived);
                }
                Target::Stopped => {
                    let waited = self.changed.wait(control);
                    control = waited.expect("no panics under this lock");
                }
            }
        }
    }

    /// Looks at all queues once; what to wait for then.
    fn serve(&self) -> (bool, Option<RawFd>, Option<Instant>) {
        let mut work = self.work.lock().expect("no panics under this lock");
        let Work { queues, backend } = &mut *work;
        if queues.is_empty() || self.is_broken.load(Ordering::SeqCst) {
            return (false, None, None);
        }
        match backend.serve(queues, self.memory.guest(), &self.stop) {
            Ok(served) => {
                if served.completed {
                    self.interrupt.raise(CAUSE_QUEUES);
                }
                (served.more, backend.input(), backend.timer())
            }
            Err(error) => {
                tracing::warn!(%error, "a virtio device stands still: its driver must reset it");
                self.is_broken.store(true, Ordering::SeqCst);
                self.interrupt.raise(CAUSE_CONFIG);
                (false, None, None)
            }
        }
    }

    /// Waits for a notification, an order, input, or the timer.
    fn wait_for_work(&self, input: Option<RawFd>, timer: Option<Instant>) {
        let descriptor = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        // A negative descriptor is passed over.
        let mut descriptors = [
            descriptor(self.kick.as_raw_fd()),
            descriptor(input.unwrap_or(-1)),
        ];
        let timeout_ms = timer.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            left.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32
        });
        // SAFETY: the array is as long as said, and lives across the call. Whatever it returns for,
        // the queues are looked at.
        unsafe { libc::poll(descriptors.as_mut_ptr(), 2, timeout_ms) };
        // Nothing to read: it was input or the timer.
        let _ = self.kick.read();
    }
}
