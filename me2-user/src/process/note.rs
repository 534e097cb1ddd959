//! What a receiver leaves in the runtime folder, `NAME.receiving`, in case that it dies: which attempt
//! it was ready for, and whether it took the VM over. On disk before the VM's first instruction runs.
//!
//! The living process holds a lock on its note, which goes with it however it ends. So a note that
//! nobody has locked is of a process that is gone.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};

/// The largest note that is read: a real one has some hundred bytes.
const NOTE_BYTES_MAX: u64 = 4096;
/// Notes are padded to this, so that one is replaced by one write, whole.
const NOTE_BYTES: usize = 512;

/// What is noted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The VM.
    pub vm: String,
    /// The migration, as hexadecimal digits.
    pub migration: String,
    /// The attempt.
    pub epoch: u64,
    /// The process.
    pub pid: u32,
    /// How far it was.
    pub state: NoteState,
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// How far a receiver was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteState {
    /// It had not taken the VM over: it never ran there.
    Prepared,
    /// It had: the VM may have run there.
    Accepted,
}

/// A note of this process; its file goes away with it.
#[derive(Debug)]
pub struct Note {
    file: File,
    path: PathBuf,
    entry: Entry,
}

impl Note {
    /// Leaves a note that this process is ready for an attempt, in place of one of a process that is
    /// gone.
    pub fn prepare(folder: &Path, vm: &str, migration: &[u8; 16], epoch: u64) -> io::Result<Self> {
        let path = folder.join(format!("{vm}.receiving"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                io::Error::other("another process receives a VM of this name")
            }
            TryLockError::Error(error) => error,
        })?;
        let migration = migration.iter().map(|byte| format!("{byte:02x}")).collect();
        let entry = Entry {
            vm: vm.to_owned(),
            migration,
            epoch,
            pid: std::process::id(),
            state: NoteState::Prepared,
            since_unix_ms: unix_ms(),
        };
        let note = Self { file, path, entry };
        note.write()?;
        // The file's name too, and not when the VM stands still.
        File::open(folder)?.sync_all()?;
        Ok(note)
    }

    /// Notes that the VM is this process's now. On disk when this returns.
    pub fn accept(&mut self) -> io::Result<()> {
        self.entry.state = NoteState::Accepted;
        self.entry.since_unix_ms = unix_ms();
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let mut text = serde_json::to_vec(&self.entry).map_err(io::Error::other)?;
        text.resize(text.len().max(NOTE_BYTES - 1), b' ');
        text.push(b'\n');
        self.file.write_all_at(&text, 0)?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_data()
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        // Still locked: nobody else's.
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// What processes that are gone have left: VMs that they took over and did not complete. Others are
/// removed, since they tell nothing.
pub fn left_behind(folder: &Path) -> Vec<Entry> {
    let Ok(files) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let notes = paths.filter(|path| path.extension().is_some_and(|name| name == "receiving"));
    notes.filter_map(|path| left(&path)).collect()
}

fn left(path: &Path) -> Option<Entry> {
    let file = File::open(path).ok()?;
    file.try_lock().ok()?;
    let is_small = file.metadata().ok()?.len() <= NOTE_BYTES_MAX;
    let text = is_small.then(|| fs::read(path).ok())??;
    let entry: Entry = serde_json::from_slice(&text).ok()?;
    match entry.state {
        NoteState::Accepted => Some(entry),
        NoteState::Prepared => {
            let _ = fs::remove_file(path);
            None
        }
    }
}

/// Warns of what processes before this one left unfinished.
pub fn warn_of_left_behind(folder: &Path) {
    for entry in left_behind(folder) {
        tracing::warn!(
            vm = entry.vm,
            migration = entry.migration,
            epoch = entry.epoch,
            pid = entry.pid,
            ago_s = unix_ms().saturating_sub(entry.since_unix_ms) / 1000,
            "a receiver before this one took a VM over and has ended before it was all there: if its \
             source still keeps it, `me2 recover --resume-here --destination-is-fenced` there goes on \
             from when it was stopped"
        );
    }
}

fn unix_ms() -> u64 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    time.unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_there_as_long_as_it_is_true_and_survives_its_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.receiving");
        let mut note = Note::prepare(folder.path(), "demo", &[0xab; 16], 3).unwrap();
        assert!(Note::prepare(folder.path(), "demo", &[0; 16], 4).is_err());
        assert_eq!(left_behind(folder.path()), [], "its process lives");
        note.accept().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), NOTE_BYTES as u64);

        // As if killed: unlocked, and nothing tidied up.
        let kept = fs::read(&path).unwrap();
        drop(note);
        assert!(!path.exists());
        fs::write(&path, kept).unwrap();
        let left = left_behind(folder.path());
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].epoch, left[0].state), (3, NoteState::Accepted));
        assert_eq!(left[0].migration, "ab".repeat(16));

        // The next one takes its place.
        drop(Note::prepare(folder.path(), "demo", &[1; 16], 5).unwrap());
        assert_eq!(left_behind(folder.path()), []);
    }

    #[test]
    fn what_was_only_prepared_tells_nothing_and_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("demo.receiving");
        let note = Note::prepare(folder.path(), "demo", &[1; 16], 1).unwrap();
        let kept = fs::read(&path).unwrap();
        drop(note);
        fs::write(&path, kept).unwrap();
        fs::write(folder.path().join("bad.receiving"), "{").unwrap();
        assert_eq!(left_behind(folder.path()), []);
        assert!(!path.exists());
    }
}
