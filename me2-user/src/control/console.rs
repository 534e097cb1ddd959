//! What a guest wrote to its console of late, for those who attach to it.
//!
//! A bounded number of bytes is kept, whoever reads and however slowly: who is too slow misses some,
//! and is told where. So nobody who reads can hold up the guest.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

/// Bytes that are kept.
pub const SCROLLBACK_BYTES_MAX: usize = 64 * 1024;

/// Bytes read at a time.
const CHUNK_BYTES_MAX: usize = 16 * 1024;

/// The console's latest output. Clones share it.
#[derive(Debug, Clone)]
pub struct ConsoleLog {
    kept: Arc<Mutex<VecDeque<u8>>>,
    /// Bytes written in all.
    written: Arc<watch::Sender<u64>>,
}

/// Reads a console's output, from some of what is kept on.
#[derive(Debug)]
pub struct ConsoleReader {
    log: ConsoleLog,
    written: watch::Receiver<u64>,
    position: u64,
    has_read: bool,
}

impl Default for ConsoleLog {
    fn default() -> Self {
        Self {
            kept: Arc::default(),
            written: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl ConsoleLog {
    /// Keeps what the guest wrote. Never waits.
    pub fn push(&self, bytes: &[u8]) {
        let tail = &bytes[bytes.len().saturating_sub(SCROLLBACK_BYTES_MAX)..];
        let mut kept = self.kept.lock().expect("no panics under this lock");
        let surplus = (kept.len() + tail.len()).saturating_sub(SCROLLBACK_BYTES_MAX);
        kept.drain(..surplus);
        kept.extend(tail);
        // Under the lock, so that what is kept is what was written last.
        self.written.send_modify(|all| *all += bytes.len() as u64);
    }

    /// Reads from at most so many bytes before the end on.
    pub fn reader(&self, scrollback_bytes: usize) -> ConsoleReader {
        let written = self.written.subscribe();
        let position = (*written.borrow()).saturating_sub(scrollback_bytes as u64);
        ConsoleReader {
            log: self.clone(),
            written,
            position,
            has_read: false,
        }
    }

    /// Up to a chunk from `position` on, with where it begins; that is later where bytes are gone.
    fn chunk(&self, position: u64) -> (u64, Vec<u8>) {
        let kept = self.kept.lock().expect("no panics under this lock");
        let oldest = *self.written.borrow() - kept.len() as u64;
        let from = position.max(oldest);
        let bytes = kept.iter().skip((from - oldest) as usize);
        (from, bytes.take(CHUNK_BYTES_MAX).copied().collect())
    }
}

impl ConsoleReader {
    /// What there is to read next; waits for it. Cancel-safe.
    pub async fn next(&mut self) -> Vec<u8> {
        // The log is held by this reader, so its sender lives.
        let _ = self.written.wait_for(|all| *all > self.position).await;
        let (from, mut bytes) = self.log.chunk(self.position);
        let missed = from - self.position;
        self.position = from + bytes.len() as u64;
        // What was asked for of the past and is not kept was not missed by being slow.
        if std::mem::replace(&mut self.has_read, true) && missed > 0 {
            bytes.splice(..0, format!("\r\n[{missed} bytes missed]\r\n").into_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_latest_is_kept_and_no_more() {
        let log = ConsoleLog::default();
        log.push(&vec![b'a'; SCROLLBACK_BYTES_MAX]);
        log.push(b"end");
        assert_eq!(log.reader(3).next().await, b"end");
        let mut reader = log.reader(usize::MAX);
        let mut read = Vec::new();
        while read.len() < SCROLLBACK_BYTES_MAX {
            read.extend(reader.next().await);
        }
        assert_eq!(read.len(), SCROLLBACK_BYTES_MAX);
        assert!(read.ends_with(b"aend"));
        log.push(b"more");
        assert_eq!(reader.next().await, b"more");
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told() {
        let log = ConsoleLog::default();
        let mut reader = log.reader(0);
        log.push(b"x");
        assert_eq!(reader.next().await, b"x");
        log.push(&vec![b'y'; SCROLLBACK_BYTES_MAX + 7]);
        let read = String::from_utf8(reader.next().await).unwrap();
        assert!(read.starts_with("\r\n[7 bytes missed]\r\nyy"), "{read}");
    }
}
