//! What QUIC did, packet by packet, in a file for viewers: qlog, as a sequence of JSON texts
//! (RFC 7464).
//!
//! quinn writes where it makes packets, so nothing here may wait: whole records go into a bounded
//! queue, and a thread writes them. What finds no room there is left out, and counted.

mod queue;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use queue::{Queue, Sink};
use quinn_proto::{QlogConfig, QlogStream};
use tracing::{info, warn};

/// What each record begins with.
const RECORD_BEGIN: u8 = 0x1e;

/// How long the end of the process waits for the last records.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);

/// Where the connections of a process are recorded, if anywhere: all of them in one file, told apart
/// by their `group_id`. Clones are the same recording.
#[derive(Clone, Default)]
pub struct Qlog(Option<Arc<Recording>>);

struct Recording {
    path: PathBuf,
    title: String,
    queue: Arc<Queue>,
    /// Until the first connection.
    file: Mutex<Option<File>>,
    /// From the first connection on, by whose beginning times are told.
    stream: OnceLock<Option<QlogStream>>,
}

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum QlogError {
    /// The file cannot be written.
    #[error("cannot write {path} for --qlog")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A second recording in a file would make it unreadable, and instead of it would lose the first.
    #[error("{path} has something in it; name another file for --qlog, or take it away")]
    InUse {
        /// The file.
        path: PathBuf,
    },
}

impl Qlog {
    /// Opens the file, and starts no thread yet. The title is what viewers show.
    ///
    /// # Errors
    /// It cannot be written, or has something in it.
    pub fn open(path: &Path, title: String) -> Result<Self, QlogError> {
        let failed = |source| QlogError::Open {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        let file = options.create(true).append(true).open(path);
        let file = file.map_err(failed)?;
        if file.metadata().map_err(failed)?.len() > 0 {
            return Err(QlogError::InUse {
                path: path.to_owned(),
            });
        }
        Ok(Self(Some(Arc::new(Recording {
            path: path.to_owned(),
            title,
            queue: Arc::default(),
            file: Mutex::new(Some(file)),
            stream: OnceLock::new(),
        }))))
    }

    /// Where a connection that begins now is recorded.
    pub fn stream(&self) -> Option<QlogStream> {
        let recording = self.0.as_deref()?;
        let stream = recording.stream.get_or_init(|| recording.start());
        stream.clone()
    }

    /// Waits, a bounded time, until what was recorded is in the file, and tells what is missing there.
    /// What comes later is not recorded.
    pub fn finish(&self) {
        let Some(recording) = self.0.as_deref() else {
            return;
        };
        let path = recording.path.display();
        let end = recording.queue.close(FINISH_TIMEOUT);
        if end.left_out > 0 {
            warn!(
                "{path} (--qlog) lacks {} records, and has {}: the disk was too slow, or full",
                end.left_out, end.written
            );
        } else if end.written > 0 {
            info!("{path} (--qlog) has {} records", end.written);
        }
    }
}

impl fmt::Debug for Qlog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.as_ref().map(|recording| &recording.path);
        f.debug_tuple("Qlog").field(&path).finish()
    }
}

impl Recording {
    /// Starts the thread and the trace.
    fn start(&self) -> Option<QlogStream> {
        let file = self.file.lock().expect("no panics under this lock").take();
        let sink = WholeRecords {
            file: file?,
            bytes: 0,
        };
        let (queue, name) = (
            self.queue.clone(),
            format!("{} (--qlog)", self.path.display()),
        );
        let started = std::thread::Builder::new()
            .name("qlog".into())
            .spawn(move || queue.write(sink, &name));
        if let Err(error) = started {
            warn!("no thread to be had for --qlog, nothing is recorded: {error}");
            return None;
        }
        let mut config = QlogConfig::default();
        config
            .writer(Box::new(Records::new(self.queue.clone())))
            .title(Some(self.title.clone()));
        config.into_stream()
    }
}

/// A file that has no half of a record in it.
struct WholeRecords {
    /// Opened to append.
    file: File,
    /// What is in it.
    bytes: u64,
}

impl Sink for WholeRecords {
    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(records);
        match &written {
            Ok(()) => self.bytes += records.len() as u64,
            Err(_) => self.take_back(),
        }
        written
    }
}

impl WholeRecords {
    /// Takes what was written of the last records out of the file.
    fn take_back(&self) {
        // What is no file, such as a pipe, keeps its half: readers know by the beginning of the next
        // record.
        let _ = self.file.set_len(self.bytes);
    }
}

/// Makes whole records of the pieces that quinn writes.
struct Records {
    queue: Arc<Queue>,
    record: Vec<u8>,
}

impl Records {
    fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            record: Vec::new(),
        }
    }
}

impl Write for Records {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        // Neither byte is in the JSON between: both are escaped there.
        if piece.first() == Some(&RECORD_BEGIN) {
            self.record.clear();
        }
        self.record.extend_from_slice(piece);
        if piece.last() == Some(&b'\n') {
            self.queue.push(&self.record);
            self.record.clear();
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
