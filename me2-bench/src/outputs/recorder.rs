//! Reads a pipe to its end, in a thread of its own.

use std::{
    io::Read,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Instant,
};

use super::Recording;

/// The reader of one pipe, and what it has read.
pub(crate) struct Recorder {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    recording: Recording,
    has_ended: bool,
}

/// More than a burst of output between two turns of the reader.
const READ_BYTES_MAX: usize = 16 * 1024;

impl Recorder {
    /// Reads a guest's serial port: text and heartbeats.
    pub(crate) fn serial(pipe: impl Read + Send + 'static) -> Self {
        Self::start(pipe, Recording::take_serial)
    }

    /// Reads a program's text.
    pub(crate) fn text(pipe: impl Read + Send + 'static) -> Self {
        Self::start(pipe, |recording, bytes, at| {
            for &byte in bytes {
                recording.take_text(byte, at);
            }
        })
    }

    fn start(
        mut pipe: impl Read + Send + 'static,
        take: impl Fn(&mut Recording, &[u8], Instant) + Send + 'static,
    ) -> Self {
        let shared = Arc::<Shared>::default();
        let written = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = [0; READ_BYTES_MAX];
            loop {
                let length = pipe.read(&mut buffer).unwrap_or(0);
                let at = Instant::now();
                let mut state = written.lock();
                take(&mut state.recording, &buffer[..length], at);
                state.has_ended = length == 0;
                drop(state);
                written.changed.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        Self { shared }
    }

    /// Waits until a line is there in which `find` finds something, until the deadline or the end of
    /// the output.
    pub(crate) fn wait_for<T>(
        &self,
        deadline: Instant,
        find: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let mut seen = 0;
        let mut state = self.shared.lock();
        loop {
            let new = &state.recording.lines[seen..];
            if let Some(found) = new.iter().find_map(|line| find(&line.text)) {
                return Some(found);
            }
            seen = state.recording.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if state.has_ended || left.is_zero() {
                return None;
            }
            let changed = self.shared.changed.wait_timeout(state, left);
            state = changed.expect("no panics under this lock").0;
        }
    }

    /// Waits for the end of the output, until the deadline; gives all of its whole lines.
    pub(crate) fn ended(&self, deadline: Instant) -> Vec<String> {
        let _ = self.wait_for(deadline, |_| None::<()>);
        let mut recording = self.recording();
        recording.take_text(b'\n', deadline);
        recording.lines.into_iter().map(|line| line.text).collect()
    }

    /// What has come so far.
    pub(crate) fn recording(&self) -> Recording {
        self.shared.lock().recording.clone()
    }

    /// The last lines, for who must find out what went wrong.
    pub(crate) fn last_lines(&self, count: usize) -> Vec<String> {
        let state = self.shared.lock();
        let lines = &state.recording.lines;
        let from = lines.len().saturating_sub(count);
        lines[from..].iter().map(|line| line.text.clone()).collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn lines_are_found_and_an_end_is_noticed() {
        let recorder = Recorder::serial(&b"one\ntwo \x80words\n"[..]);
        let deadline = Instant::now() + Duration::from_secs(60);
        let words = |text: &str| text.strip_suffix("words").map(str::to_owned);
        assert_eq!(recorder.wait_for(deadline, words), Some("two ".to_owned()));
        assert_eq!(recorder.wait_for(deadline, |_| None::<()>), None);
        assert_eq!(recorder.recording().beats.len(), 1);
        assert_eq!(recorder.last_lines(1), ["two words"]);
    }
}
