//! Records on their way to a file that may be slow: bounded, and nobody waits who has one.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

use tracing::warn;

/// What may wait to be written: about a second of a full 1 Gbit/s.
pub(super) const QUEUED_BYTES_MAX: usize = 8 << 20;

/// So much is written at once, where it comes fast,
const BATCH_BYTES: usize = 64 << 10;

/// else what has come within so long.
const BATCH_TIME: Duration = Duration::from_millis(100);

/// Where records go.
pub(super) trait Sink {
    /// Writes all of these records, or none.
    fn append(&mut self, records: &[u8]) -> io::Result<()>;
}

/// Between those who have records and the thread that writes them.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queued: Batch,
    /// Records that have left the queue and are being written.
    writing: u64,
    written: u64,
    left_out: u64,
    is_closed: bool,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    records: u64,
}

/// What became of all records.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) written: u64,
    pub(super) left_out: u64,
}

impl Queue {
    /// Takes a whole record, if there is room.
    pub(super) fn push(&self, record: &[u8]) {
        let mut state = self.lock();
        if state.is_closed {
            return;
        }
        let before = state.queued.bytes.len();
        let after = before + record.len();
        if after > QUEUED_BYTES_MAX {
            state.left_out += 1;
            let is_first = state.left_out == 1;
            drop(state);
            if is_first {
                warn!("the disk does not keep up with --qlog: records are left out from here on");
            }
            return;
        }
        state.queued.bytes.extend_from_slice(record);
        state.queued.records += 1;
        let is_news = before == 0 || before < BATCH_BYTES && after >= BATCH_BYTES;
        drop(state);
        if is_news {
            self.changed.notify_all();
        }
    }

    /// Writes what comes, until the queue is closed and empty. The name is for the log.
    pub(super) fn write(&self, mut sink: impl Sink, name: &str) {
        let mut batch = Batch::default();
        let mut has_failed = false;
        while self.take(&mut batch) {
            let result = sink.append(&batch.bytes);
            self.settle(result.is_ok());
            match result {
                Err(error) if !has_failed => {
                    has_failed = true;
                    warn!("cannot write {name}, records are left out from here on: {error}");
                }
                _ => {}
            }
        }
    }

    /// Takes no more, waits so long at most until all is written, and tells what became of it.
    pub(super) fn close(&self, timeout: Duration) -> End {
        let mut state = self.lock();
        state.is_closed = true;
        self.changed.notify_all();
        let is_busy = |state: &mut State| state.writing + state.queued.records > 0;
        let waited = self.changed.wait_timeout_while(state, timeout, is_busy);
        let (state, _) = waited.expect("no panics under this lock");
        End {
            written: state.written,
            left_out: state.left_out + state.writing + state.queued.records,
        }
    }

    /// Exchanges a batch that is written for the next; waits for it. False: nothing more comes.
    fn take(&self, batch: &mut Batch) -> bool {
        batch.bytes.clear();
        batch.records = 0;
        let is_empty = |state: &mut State| state.queued.bytes.is_empty() && !state.is_closed;
        let state = self.changed.wait_while(self.lock(), is_empty);
        let state = state.expect("no panics under this lock");
        let is_little =
            |state: &mut State| state.queued.bytes.len() < BATCH_BYTES && !state.is_closed;
        let waited = self
            .changed
            .wait_timeout_while(state, BATCH_TIME, is_little);
        let (mut state, _) = waited.expect("no panics under this lock");
        std::mem::swap(&mut state.queued, batch);
        state.writing = batch.records;
        batch.records > 0
    }

    /// What was taken is written, or will never be.
    fn settle(&self, is_written: bool) {
        let mut state = self.lock();
        let records = std::mem::take(&mut state.writing);
        if is_written {
            state.written += records;
        } else {
            state.left_out += records;
        }
        drop(state);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }
}
