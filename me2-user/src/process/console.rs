//! The way out of the guest's console: a bounded queue and a thread that writes.
//!
//! A terminal that is not read, or a full pipe, must not stop the guest, its API or a migration: what
//! does not fit into the queue is dropped.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use crate::control::console::ConsoleLog;

/// Pieces of output that wait to be written.
const PIECES_QUEUED: usize = 4096;
/// How long the end of the process waits for the last output.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Writes without waiting. Clones share the queue; with the last one, the thread ends.
#[derive(Clone)]
pub struct ConsoleWriter {
    end: Arc<End>,
    /// For those who attach to it.
    log: ConsoleLog,
}

/// The writers' end of the queue.
struct End {
    queue: Arc<Queue>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.queue.lock().is_closed = true;
        self.queue.changed.notify_all();
    }
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    /// A piece has left the queue and is being written.
    is_writing: bool,
    /// Nothing more will come.
    is_closed: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }

    /// The next piece; waits for it. The one before is written. `None`: nothing more comes.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.is_writing = false;
        self.changed.notify_all();
        loop {
            if let Some(piece) = state.pieces.pop_front() {
                state.is_writing = true;
                return Some(piece);
            }
            if state.is_closed {
                return None;
            }
            state = self.changed.wait(state).expect("no panics under this lock");
        }
    }
}

impl ConsoleWriter {
    /// Starts the thread that writes to `output`; what is written is shown in `log` too.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(mut output: Box<dyn Write + Send>, log: ConsoleLog) -> io::Result<Self> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let pieces = queue.clone();
        let write = move || {
            while let Some(piece) = pieces.next() {
                // A full disk or a closed terminal stops nobody either.
                let _ = output.write_all(&piece).and_then(|()| output.flush());
            }
        };
        std::thread::Builder::new()
            .name("console".into())
            .spawn(write)?;
        Ok(Self {
            end: Arc::new(End { queue }),
            log,
        })
    }

    /// Queues bytes; drops them if nobody has read for long.
    pub fn write(&self, bytes: &[u8]) {
        self.log.push(bytes);
        let mut state = self.end.queue.lock();
        if state.pieces.len() < PIECES_QUEUED {
            state.pieces.push_back(bytes.to_vec());
            self.end.queue.changed.notify_all();
        }
    }

    /// Waits, a bounded time, until everything queued is written.
    pub fn drain(&self) {
        let is_busy = |state: &mut State| state.is_writing || !state.pieces.is_empty();
        let queue = &self.end.queue;
        let _ = queue
            .changed
            .wait_timeout_while(queue.lock(), DRAIN_TIMEOUT, is_busy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io, sync::mpsc};

    /// An output that nobody reads until it is told.
    struct Stuck(mpsc::Receiver<()>, mpsc::Sender<Vec<u8>>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            let _ = self.1.send(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_stuck_holds_up_nobody() {
        let (release, stuck) = mpsc::channel();
        let (sender, written) = mpsc::channel();
        let writer = ConsoleWriter::start(Box::new(Stuck(stuck, sender)), ConsoleLog::default())
            .expect("a thread");
        for _ in 0..3 * PIECES_QUEUED {
            writer.write(b"x");
        }
        drop(release);
        writer.drain();
        let count = written.try_iter().count();
        assert!(
            (PIECES_QUEUED..=PIECES_QUEUED + 1).contains(&count),
            "{count}"
        );
    }

    #[test]
    fn the_thread_ends_with_the_last_writer() {
        let (release, stuck) = mpsc::channel();
        let (sender, written) = mpsc::channel();
        drop(release);
        let writer = ConsoleWriter::start(Box::new(Stuck(stuck, sender)), ConsoleLog::default())
            .expect("a thread");
        writer.clone().write(b"last words");
        drop(writer);
        assert_eq!(written.iter().collect::<Vec<_>>(), [b"last words"]);
    }
}
