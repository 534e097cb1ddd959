//! The bandwidth cap, in every phase and to the byte.
//!
//! It is kept where packets are made: while the cap is used up, the congestion controller has no
//! window. What waits then waits inside of QUIC, which sends by priority: urgent streams are ahead of
//! bulk without a word from here, and no packet is older than it seems. The socket counts what
//! leaves, with IP and UDP headers: acknowledgements and retransmissions too. Some packets do not
//! wait (the handshake, acknowledgements, probes for lost ones), but all are paid for.
//!
//! ```text
//!  streams ─▶ QUIC ── packets ─▶ CountedSocket ─▶ kernel
//!               │ window?             │ bytes
//!          PathControl ─ wait? ─▶   Pacer ── books slices ──▶ Clock (a file) ◀── other processes
//! ```
//!
//! Migrations of one host share the cap by sharing the [`Clock`]. Each books the time of a slice,
//! sends so many bytes, and books the next, which comes after what the others have booked: those
//! that have much to send take turns. What a vCPU waits for has its time booked at once, ahead of
//! all bulk of this host.

mod clock;
mod socket;

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use me2_vmm::clock::monotonic_ns;
use quinn::{AsyncUdpSocket, Connection};
use tokio::{sync::Notify, task::JoinSet};

use super::endpoint::RECEIVE_WINDOW;
use clock::Clock;

/// What is booked at once: long beside the millisecond of a timer, short for whoever comes next.
const SLICE: Duration = Duration::from_millis(4);

/// The cap is the limit until the link is: so many slices have not to be waited for, though all was
/// under way that may be. Where encoders fall behind, or threads are late, the link is not the limit.
const SLICES_WITHOUT_WAITING: u32 = 25;

/// Bytes on the link for a byte of an urgent frame: packets' headers, QUIC's and those below. If it
/// is less, the rest is bulk's; if it is more, the rest waits like bulk.
const URGENT_OVERHEAD: f64 = 1.05;

/// What was granted and could not leave, since the link stood still, is kept up to this much of the
/// cap, or else all of it would leave at once later. Beyond that it is paid for again.
const URGENT_KEPT: Duration = Duration::from_millis(20);

/// Lets so many bytes a second through. Without a cap it never waits.
#[derive(Debug)]
pub struct Pacer {
    cap: Option<Cap>,
}

#[derive(Debug)]
struct Cap {
    bytes_per_second: f64,
    clock: Clock,
    grant: Mutex<Grant>,
    /// Told when a connection has begun to wait.
    held: Notify,
}

/// What was booked and not yet sent, in bytes.
#[derive(Debug)]
struct Grant {
    urgent: u64,
    /// Less than none, when the last packets were more than was left.
    any: i64,
    next: Option<Slice>,
    /// Connections that can be woken when a slice begins; no other waits.
    connections: usize,
    /// Whether all was under way that may be, when acknowledgements came last.
    is_link_full: bool,
    /// Slices that filled the link, since one had to be waited for.
    without_waiting: u32,
}

/// Bytes that may be sent from some time on.
#[derive(Debug)]
struct Slice {
    begins_ns: u64,
    bytes: i64,
}

impl Pacer {
    /// Everything goes at once.
    pub fn unlimited() -> Self {
        Self { cap: None }
    }

    /// A cap for one migration, or none.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self::with_clock(bytes_per_second, Clock::own)
    }

    /// A cap that all migrations share which have one and use this folder. Where that cannot be, a
    /// line in the log says so, and the cap is this migration's.
    pub fn shared(bytes_per_second: Option<u64>, folder: Option<&Path>) -> Self {
        let clock = || {
            let folder = folder.ok_or_else(|| anyhow::anyhow!("no runtime folder"));
            folder.and_then(Clock::shared).unwrap_or_else(|error| {
                tracing::warn!(
                    "the bandwidth cap is this migration's alone, not shared with others: {error:#}"
                );
                Clock::own()
            })
        };
        Self::with_clock(bytes_per_second, clock)
    }

    /// The socket, with what it sends counted.
    pub fn count(self: &Arc<Self>, socket: Arc<dyn AsyncUdpSocket>) -> Arc<dyn AsyncUdpSocket> {
        match self.cap {
            Some(_) => Arc::new(socket::CountedSocket::new(socket, self.clone())),
            None => socket,
        }
    }

    /// Makes a connection keep to the cap while the result lives, which has a handle of it. The
    /// connection was made with this pacer.
    pub fn hold(self: &Arc<Self>, connection: Connection) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        if let Some(woken) = Woken::begin(self.clone()) {
            tasks.spawn(woken.whenever_it_may_go_on(connection));
        }
        tasks
    }

    /// Whether no packet may be made now.
    pub fn is_used_up(&self) -> bool {
        let waits = |cap: &Cap| cap.wait(monotonic_ns()).is_some();
        self.cap.as_ref().is_some_and(waits)
    }

    /// Waits until `bytes` of frames that a vCPU waits for may be sent: behind others such, before
    /// all else. Then they must be handed to QUIC at once.
    pub async fn admit_urgent(&self, bytes: usize) {
        let Some(cap) = &self.cap else { return };
        let now = monotonic_ns();
        let begins = cap.book_urgent(bytes, now);
        if begins > now {
            tokio::time::sleep(Duration::from_nanos(begins - now)).await;
        }
        cap.grant_urgent(bytes);
    }

    /// Books `bytes` of frames that leave at once: what comes after them waits the longer.
    pub fn book(&self, bytes: usize) {
        if let Some(cap) = &self.cap {
            cap.book_urgent(bytes, monotonic_ns());
            cap.grant_urgent(bytes);
        }
    }

    /// Whether it is the cap that limits, rather than the link.
    pub fn is_limit(&self) -> bool {
        let limits = |cap: &Cap| cap.lock().without_waiting < SLICES_WITHOUT_WAITING;
        self.cap.as_ref().is_some_and(limits)
    }

    /// Whether the link takes no more now: all is under way that may be.
    pub fn note_link(&self, is_full: bool) {
        if let Some(cap) = &self.cap {
            cap.lock().is_link_full = is_full;
        }
    }

    /// What the cap lets through in this time, in bytes.
    pub fn bytes_in(&self, time: Duration) -> Option<u64> {
        let bytes = |cap: &Cap| (cap.bytes_per_second * time.as_secs_f64()) as u64;
        self.cap.as_ref().map(bytes)
    }

    fn with_clock(bytes_per_second: Option<u64>, clock: impl FnOnce() -> Clock) -> Self {
        let cap = |rate| Cap {
            bytes_per_second: rate as f64,
            clock: clock(),
            grant: Mutex::new(Grant {
                urgent: 0,
                any: 0,
                next: None,
                connections: 0,
                is_link_full: false,
                without_waiting: SLICES_WITHOUT_WAITING,
            }),
            held: Notify::new(),
        };
        Self {
            cap: bytes_per_second.map(cap),
        }
    }

    /// So many bytes have left, headers included.
    fn sent(&self, bytes: u64) {
        if let Some(cap) = &self.cap {
            cap.lock().spend(bytes);
        }
    }
}

impl Cap {
    /// How long packets must wait; `None`: they may go.
    fn wait(&self, now_ns: u64) -> Option<Duration> {
        let mut grant = self.lock();
        if grant.urgent > 0 || grant.any > 0 || grant.connections == 0 {
            return None;
        }
        if grant.next.is_none() {
            let slice = self.book_slice(grant.any, now_ns);
            if slice.begins_ns > now_ns {
                grant.without_waiting = 0;
                self.held.notify_one();
            } else if grant.is_link_full {
                grant.without_waiting = grant.without_waiting.saturating_add(1);
            }
            grant.next = Some(slice);
        }
        let slice = grant.next.take_if(|slice| slice.begins_ns <= now_ns);
        if let Some(slice) = slice {
            grant.any += slice.bytes;
            return None;
        }
        let begins_ns = grant.next.as_ref().map_or(now_ns, |slice| slice.begins_ns);
        Some(Duration::from_nanos(begins_ns - now_ns))
    }

    /// The next slice: at least what is owed, and a byte.
    fn book_slice(&self, left: i64, now_ns: u64) -> Slice {
        let bytes = (self.bytes_per_second * SLICE.as_secs_f64()) as i64;
        let bytes = bytes.max(1 - left);
        Slice {
            begins_ns: self.clock.book(self.time_ns(bytes as f64), now_ns),
            bytes,
        }
    }

    fn book_urgent(&self, bytes: usize, now_ns: u64) -> u64 {
        let takes_ns = self.time_ns(bytes as f64 * URGENT_OVERHEAD);
        self.clock.book_urgent(takes_ns, now_ns)
    }

    fn grant_urgent(&self, bytes: usize) {
        let granted = (bytes as f64 * URGENT_OVERHEAD) as u64;
        let kept = (self.bytes_per_second * URGENT_KEPT.as_secs_f64()) as u64;
        let mut grant = self.lock();
        grant.urgent = (grant.urgent + granted).min(kept.max(granted));
    }

    fn time_ns(&self, bytes: f64) -> u64 {
        (bytes / self.bytes_per_second * 1e9) as u64
    }

    fn lock(&self) -> MutexGuard<'_, Grant> {
        self.grant.lock().expect("no panics under this lock")
    }
}

/// A connection that is woken, and so may wait: from now on, not only when its task first runs.
struct Woken(Arc<Pacer>);

impl Woken {
    fn begin(pacer: Arc<Pacer>) -> Option<Self> {
        let cap = pacer.cap.as_ref()?;
        cap.lock().connections += 1;
        // A slice may be waited for already, on behalf of a connection that broke.
        cap.held.notify_one();
        Some(Self(pacer))
    }

    async fn whenever_it_may_go_on(self, connection: Connection) {
        let Some(cap) = &self.0.cap else { return };
        loop {
            cap.held.notified().await;
            while let Some(wait) = cap.wait(monotonic_ns()) {
                tokio::time::sleep(wait).await;
            }
            // Changes nothing, but has QUIC look again at what it can send.
            connection.set_receive_window(RECEIVE_WINDOW);
        }
    }
}

impl Drop for Woken {
    fn drop(&mut self) {
        if let Some(cap) = &self.0.cap {
            cap.lock().connections -= 1;
        }
    }
}

impl Grant {
    fn spend(&mut self, bytes: u64) {
        let urgent = self.urgent.min(bytes);
        self.urgent -= urgent;
        self.any -= (bytes - urgent) as i64;
    }
}

#[cfg(test)]
mod tests;
