//! The way out of the guest's console: a bounded queue and a thread that writes.
//!
//! A terminal that is not read, or a full pipe, must not stop the guest, its API or a migration: what
//! does not fit into the queue is dropped.

use std::{
    io::Write,
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    time::Duration,
};

/// Pieces of output that wait to be written.
const PIECES_QUEUED: usize = 4096;
/// How long the end of the process waits for the last output.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

enum Piece {
    Bytes(Vec<u8>),
    /// Answer when everything before is written.
    Drain(SyncSender<()>),
}

/// Writes without waiting. Clones share the queue.
#[derive(Clone)]
pub struct ConsoleWriter {
    pieces: SyncSender<Piece>,
}

impl ConsoleWriter {
    /// Starts the thread that writes to `output`.
    pub fn start(output: Box<dyn Write + Send>) -> Self {
        let (pieces, queue) = sync_channel(PIECES_QUEUED);
        std::thread::Builder::new()
            .name("console".into())
            .spawn(move || write_all(output, &queue))
            .expect("a thread can be started");
        Self { pieces }
    }

    /// Queues bytes; drops them if nobody has read for long.
    pub fn write(&self, bytes: &[u8]) {
        if let Err(TrySendError::Full(_)) = self.pieces.try_send(Piece::Bytes(bytes.to_vec())) {
            tracing::debug!(
                bytes = bytes.len(),
                "console output dropped: nobody reads it"
            );
        }
    }

    /// Waits, a bounded time, until everything queued is written.
    pub fn drain(&self) {
        let (done, written) = sync_channel(1);
        if self.pieces.try_send(Piece::Drain(done)).is_ok() {
            let _ = written.recv_timeout(DRAIN_TIMEOUT);
        }
    }
}

fn write_all(mut output: Box<dyn Write + Send>, queue: &Receiver<Piece>) {
    while let Ok(piece) = queue.recv() {
        match piece {
            // A full disk or a closed terminal stops nobody either.
            Piece::Bytes(bytes) => _ = output.write_all(&bytes).and_then(|()| output.flush()),
            Piece::Drain(done) => _ = done.send(()),
        }
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
        let writer = ConsoleWriter::start(Box::new(Stuck(stuck, sender)));
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
}
