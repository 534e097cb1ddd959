//! The emulator: a thread for each direction, which reads packets from one TUN device, lets
//! [`Direction`] decide, and writes them to the other device when they are due.
//!
//! What it costs competes with what is measured, and most of it is waking up. So a lone packet is
//! read at once and delivered when it is due, but in a stream of packets a thread naps between
//! wake-ups, 0.1 ms or up to 0.4 ms on links of long delay ([`PACE`]). It takes what has come during
//! a nap as having entered in its middle, and delivers what is due up to half a nap later. So a
//! packet by itself may be early or late by a nap at most, and the mean is right. Rates do not
//! suffer, as departures follow a virtual clock. A full link of 1 Gbit/s takes about 0.45 of a core
//! in all, the kernel's work of receiving at the far end included; 100 Mbit/s over 50 ms, 0.14.

use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::clock_gettime;
use tun_rs::SyncDevice;

use crate::LinkError;
use crate::counters::Counters;
use crate::direction::{Direction, Nanoseconds};
use crate::pool::Pool;
use crate::spec::{Action, MTU};
use crate::tun::{Inlet, Outlet};

/// Bounds of the time from one wake-up of a thread to the next in a stream of packets.
const PACE: RangeInclusive<Nanoseconds> = 100_000..=400_000;
/// Between the bounds, the delay divided by this: coarser where it is a smaller part of the whole.
const PACES_PER_DELAY: Nanoseconds = 50;
/// Packets read before those due are delivered.
const BATCH: usize = 64;
/// CPU time is published at most this often: it costs a system call.
const CPU_TIME_INTERVAL: Nanoseconds = 50_000_000;

/// One direction at work. Dropping it stops its thread.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The clock's reading at the start of the link.
    epoch: Nanoseconds,
    counters: Mutex<Counters>,
    cpu_time: AtomicU64,
    commands: Mutex<Vec<(Nanoseconds, Action)>>,
    has_commands: AtomicBool,
    stop: AtomicBool,
    wake: OwnedFd,
}

impl Running {
    /// Starts the thread; `epoch` is the [`clock`]'s reading at the direction's time 0.
    pub(crate) fn start(
        direction: Direction,
        from: Arc<SyncDevice>,
        to: Arc<SyncDevice>,
        epoch: Nanoseconds,
        name: &str,
    ) -> Result<Self, LinkError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(LinkError::system("cannot make an eventfd"))?;
        let shared = Arc::new(Shared {
            epoch,
            counters: Mutex::default(),
            cpu_time: AtomicU64::new(0),
            commands: Mutex::default(),
            has_commands: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake,
        });
        let forwarder = Forwarder {
            pool: Pool::new(usize::from(MTU)),
            to: Outlet::new(to, direction.keeps_order()),
            from: Inlet::new(from),
            direction,
            shared: Arc::clone(&shared),
        };
        let (ready, is_ready) = channel();
        let work = move || {
            go_first();
            drop(ready);
            forwarder.run();
        };
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(work)
            .map_err(LinkError::system("cannot start a thread"))?;
        // Nothing is ever sent: the channel closes.
        let _: Result<(), _> = is_ready.recv();
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Changes the link now.
    pub(crate) fn command(&self, action: Action) {
        let now = self.shared.now();
        let mut commands = self
            .shared
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        commands.push((now, action));
        drop(commands);
        self.shared.has_commands.store(true, Ordering::Release);
        self.shared.wake();
    }

    /// What has happened so far.
    pub(crate) fn counters(&self) -> Counters {
        *self
            .shared
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// CPU time of the thread, up to 50 ms old.
    pub(crate) fn cpu_time(&self) -> Nanoseconds {
        self.shared.cpu_time.load(Ordering::Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn now(&self) -> Nanoseconds {
        clock(ClockId::Monotonic) - self.epoch
    }

    fn wake(&self) {
        // The counter cannot overflow: the thread empties it.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }
}

/// A clock's reading.
pub(crate) fn clock(id: ClockId) -> Nanoseconds {
    let time = clock_gettime(id);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

struct Forwarder {
    direction: Direction,
    pool: Pool,
    from: Inlet,
    to: Outlet,
    shared: Arc<Shared>,
}

impl Forwarder {
    fn run(mut self) {
        let mut cpu_time_at = 0;
        let delay = self.direction.delay();
        let pace = (delay / PACES_PER_DELAY).clamp(*PACE.start(), *PACE.end());
        let mut rhythm = Rhythm {
            pace,
            ..Rhythm::default()
        };
        while !self.shared.stop.load(Ordering::Acquire) {
            let now = self.shared.now();
            rhythm.wake(now);
            self.obey();
            let taken = self.take_in(rhythm.entered());
            let delivered = self.deliver(rhythm.ahead());
            self.publish();
            if now >= cpu_time_at {
                self.publish_cpu_time();
                cpu_time_at = now + CPU_TIME_INTERVAL;
            }
            rhythm.worked = taken + delivered > 0;
            if taken < BATCH {
                self.wait(&mut rhythm);
            }
        }
    }

    fn obey(&mut self) {
        if !self.shared.has_commands.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut count = [0; 8];
        let _ = rustix::io::read(&self.shared.wake, &mut count);
        let mut commands = self
            .shared
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (at, action) in commands.drain(..) {
            self.direction.apply(at, action);
        }
    }

    /// Reads what has come, until there is nothing more or [`BATCH`] is reached. Returns how many
    /// packets.
    fn take_in(&mut self, entered: Nanoseconds) -> usize {
        let mut taken = 0;
        while taken < BATCH {
            let packets = match self.from.read() {
                Ok(packets) => packets,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return taken,
                Err(_) => {
                    // What cannot be understood does not travel.
                    self.direction.refuse();
                    return taken;
                }
            };
            for packet in packets {
                taken += 1;
                match self.pool.store(packet) {
                    Some(token) => self.direction.offer(entered, token, packet.len() as u32),
                    None => self.direction.refuse(),
                }
                while let Some(token) = self.direction.take_discarded() {
                    self.pool.put_back(token);
                }
            }
        }
        taken
    }

    /// Writes what is due up to `ahead` after now. Returns how many packets.
    fn deliver(&mut self, ahead: Nanoseconds) -> usize {
        let mut delivered = 0;
        loop {
            let now = self.shared.now();
            self.direction.advance(now);
            while !self.to.is_full()
                && let Some((token, bytes)) = self.direction.pop_due(now + ahead)
            {
                self.to.push(self.pool.packet(token, bytes));
                self.pool.put_back(token);
                delivered += 1;
            }
            while let Some(token) = self.direction.take_discarded() {
                self.pool.put_back(token);
            }
            if self.to.is_empty() {
                return delivered;
            }
            self.to.flush();
        }
    }

    fn publish(&self) {
        let mut counters = self
            .shared
            .counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *counters = *self.direction.counters();
    }

    fn publish_cpu_time(&self) {
        self.shared
            .cpu_time
            .store(clock(ClockId::ThreadCPUTime), Ordering::Relaxed);
    }

    fn wait(&self, rhythm: &mut Rhythm) {
        rhythm.napped = rhythm.is_stream();
        if rhythm.napped {
            let until = timespec(rhythm.woken + rhythm.pace + self.shared.epoch);
            // Interrupted or not, the loop looks at the clock again.
            let _ = clock_nanosleep_absolute(ClockId::Monotonic, &until);
            return;
        }
        let now = self.shared.now();
        let next = self.direction.next_event().unwrap_or(Nanoseconds::MAX);
        if next <= now {
            return;
        }
        let timeout = (next != Nanoseconds::MAX).then(|| timespec(next - now));
        let mut files = [
            PollFd::from_borrowed_fd(self.from.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.shared.wake.as_fd(), PollFlags::IN),
        ];
        match poll(&mut files, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("poll of two open files failed: {error}"),
        }
    }
}

/// Puts this thread before ordinary ones, and has it woken exactly: a late wake-up would be delay
/// that nobody asked for. Where the system refuses, the link works too, less exactly.
fn go_first() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let _ = Command::new("chrt")
        .args(["--rr", "--pid", "1", &thread])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// How a thread has woken of late.
#[derive(Debug, Default)]
struct Rhythm {
    /// Time between two wake-ups in a stream.
    pace: Nanoseconds,
    woken: Nanoseconds,
    woken_before: Nanoseconds,
    /// Whether there was a packet to handle.
    worked: bool,
    /// Whether it slept before it woke, and so could not be woken by a packet.
    napped: bool,
}

impl Rhythm {
    fn wake(&mut self, now: Nanoseconds) {
        self.woken_before = self.woken;
        self.woken = now;
    }

    /// Whether packets follow each other closely.
    fn is_stream(&self) -> bool {
        self.worked && self.woken - self.woken_before < 2 * self.pace
    }

    /// When packets that are there now are taken to have entered.
    fn entered(&self) -> Nanoseconds {
        if self.napped {
            self.woken_before
                .max(self.woken.saturating_sub(self.pace / 2))
        } else {
            self.woken
        }
    }

    /// By how much packets may be delivered early.
    fn ahead(&self) -> Nanoseconds {
        if self.napped { self.pace / 2 } else { 0 }
    }
}

fn timespec(time: Nanoseconds) -> Timespec {
    Timespec {
        tv_sec: (time / 1_000_000_000) as i64,
        tv_nsec: (time % 1_000_000_000) as i64,
    }
}
