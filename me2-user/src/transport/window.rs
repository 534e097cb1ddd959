//! What waits in a connection to be sent.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use quinn::{Connection, SendStream, WriteError};
use tokio::task::JoinSet;

use super::{congestion, pace::Pacer};

/// How often the window follows the congestion window.
const INTERVAL: Duration = Duration::from_millis(20);
/// Congestion windows that may be sent or wait to be sent, in quarters. One is on its way; the rest is
/// what the next acknowledgements let go. More would only age in the queue.
const BEFORE: Windows = Windows {
    usual: 8,
    with_loss: 16,
    bytes_min: 1 << 20,
};
/// While the guest waits for what is pushed: a page that it wants had better not be far back.
const BEHIND: Windows = Windows {
    usual: 5,
    with_loss: 8,
    bytes_min: 256 << 10,
};
/// How long a lost packet makes a difference.
const LOSS_COUNTS: Duration = Duration::from_secs(2);
/// With a cap, what may wait besides what is under way, by the time that it takes: encoders always
/// have the next packets ready, and no more than that.
const CAPPED_QUEUE: Duration = Duration::from_millis(50);
/// The least where the cap is low.
const CAPPED_BYTES_MIN: u64 = 64 << 10;
/// The most, in every phase: what one stream may have under way.
const BYTES_MAX: u64 = 32 << 20;

/// Quarters of congestion windows.
struct Windows {
    usual: u32,
    /// Where packets are lost: what came after a lost one is kept, though it was acknowledged, until
    /// that one has got through, a round trip later or two.
    with_loss: u32,
    /// The least: while the congestion window is still small.
    bytes_min: u64,
}

/// What the data is that a window is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Nobody waits for it: all that counts is that the link is full.
    Nobody,
    /// A guest may want any of it.
    Guest,
}

/// How much a connection takes before it is acknowledged, all streams together, in bytes. Bulk fills
/// it at all times; what is urgent gets room of its own.
#[derive(Debug, Clone)]
pub struct SendWindow {
    connection: Connection,
    pacer: Arc<Pacer>,
    size: Arc<Mutex<Size>>,
    _held: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct Size {
    all: u64,
    urgent: u64,
}

impl SendWindow {
    /// The window of a connection, as large as it can be. While it lives, the connection keeps to the
    /// cap, with which it was made.
    pub fn new(connection: Connection, pacer: Arc<Pacer>) -> Self {
        let size = Size {
            all: BYTES_MAX,
            urgent: 0,
        };
        Self {
            _held: Arc::new(pacer.hold(connection.clone())),
            connection,
            pacer,
            size: Arc::new(Mutex::new(size)),
        }
    }

    /// Sets it, within its bounds.
    pub(super) fn set(&self, bytes: u64, bytes_min: u64) {
        self.change(|size| size.all = bytes.clamp(bytes_min, BYTES_MAX));
    }

    /// Lets as much wait as the congestion window explains, until dropped: encoders feel the link's
    /// pace soon, and pages are not old when they leave.
    pub async fn follow(self, waiting: Waiting) {
        let windows = match waiting {
            Waiting::Nobody => BEFORE,
            Waiting::Guest => BEHIND,
        };
        let mut interval = tokio::time::interval(INTERVAL);
        let (mut lost, mut lost_at) = (0, None);
        loop {
            let now = interval.tick().await;
            let path = self.connection.stats().path;
            if path.lost_packets != lost {
                (lost, lost_at) = (path.lost_packets, Some(now));
            }
            let is_lossy = lost_at.is_some_and(|at| now - at < LOSS_COUNTS);
            let quarters = match is_lossy {
                true => windows.with_loss,
                false => windows.usual,
            };
            let window = congestion::window(&self.connection) * u64::from(quarters) / 4;
            match self.pacer.bytes_in(path.rtt * quarters / 4 + CAPPED_QUEUE) {
                Some(capped) => self.set(window.min(capped), CAPPED_BYTES_MIN),
                None => self.set(window, windows.bytes_min),
            }
        }
    }

    /// Writes what must not wait for room behind bulk: the window is larger by as much for as long
    /// as it takes to write, which is at once.
    pub async fn write(&self, stream: &mut SendStream, bytes: &[u8]) -> Result<(), WriteError> {
        let _room = Room::make(self, bytes.len() as u64);
        stream.write_all(bytes).await
    }

    fn change(&self, change: impl FnOnce(&mut Size)) {
        let mut size = self.size.lock().expect("no panics under this lock");
        let before = size.all + size.urgent;
        change(&mut size);
        let after = size.all + size.urgent;
        if after != before {
            self.connection.set_send_window(after);
        }
    }
}

/// Room for something urgent, while it is written.
struct Room<'a> {
    window: &'a SendWindow,
    bytes: u64,
}

impl<'a> Room<'a> {
    fn make(window: &'a SendWindow, bytes: u64) -> Self {
        let mut room = bytes;
        window.change(|size| {
            // What bulk has may be more than the window, when that has just shrunk.
            room += size.all / 2;
            size.urgent += room;
        });
        Self {
            window,
            bytes: room,
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.window.change(|size| size.urgent -= self.bytes);
    }
}
