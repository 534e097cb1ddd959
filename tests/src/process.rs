//! A process of a test's own, whose output is kept.

use std::{
    io::Read,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread::{self, JoinHandle},
    time::Instant,
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::{PATIENCE, wait_until};

/// Bytes of each output shown when a test fails.
const SHOWN_BYTES_MAX: usize = 4000;

/// A running program; killed when dropped. If a test fails meanwhile, its output is shown.
pub struct Process {
    name: String,
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    /// Starts a program; `name` is for people.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Self {
        // Killed when the thread that starts it ends: with the test, however it ends.
        let mut command = by_way_of(&["setpriv", "--pdeathsig", "KILL", "--"], command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = Output::read(child.stdout.take().expect("it is piped"));
        let stderr = Output::read(child.stderr.take().expect("it is piped"));
        Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until `find` finds something in what it has written to stdout.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn wait_stdout<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.stdout.wait(&self.name, what, find)
    }

    /// Waits until `find` finds something in what it has written to stderr.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn wait_stderr<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.stderr.wait(&self.name, what, find)
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its end, and for all of its output.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("end of {}", self.name);
        let status = wait_until(&what, || self.child.try_wait().expect("it is our child"));
        self.stdout.join();
        self.stderr.join();
        status
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.is_running(), "{} has ended", self.name);
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("it is our child");
    }

    /// Lets it have no more of something; with `None`, as much as this process may.
    ///
    /// # Panics
    /// If it has ended.
    pub fn limit(&mut self, resource: Resource, most: Option<u64>) {
        assert!(self.is_running(), "{} has ended", self.name);
        let own = getrlimit(resource);
        let limit = Rlimit {
            current: most.or(own.current),
            maximum: own.maximum,
        };
        prlimit(Some(Pid::from_child(&self.child)), resource, limit).expect("it is our child");
    }

    /// Ends it as nothing can be prepared for: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("it is our child");
        self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            for (stream, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
                eprintln!(
                    "--- {stream} of {}:\n{}",
                    self.name,
                    last_part(&output.text())
                );
            }
        }
    }
}

fn last_part(text: &str) -> &str {
    let from = text.len().saturating_sub(SHOWN_BYTES_MAX);
    let from = (from..).find(|at| text.is_char_boundary(*at));
    &text[from.expect("the end is one")..]
}

/// One output of a process, read by a thread.
struct Output {
    shared: Arc<(Mutex<Kept>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    is_all: bool,
}

impl Output {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let shared = Arc::<(Mutex<Kept>, Condvar)>::default();
        let of_reader = Arc::clone(&shared);
        let reader = thread::spawn(move || {
            let (kept, news) = &*of_reader;
            let mut buffer = [0; 4096];
            loop {
                // An error is an end, too.
                let length = from.read(&mut buffer).unwrap_or(0);
                let mut kept = kept.lock().expect("no panics under this lock");
                kept.bytes.extend_from_slice(&buffer[..length]);
                kept.is_all = length == 0;
                news.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        Self {
            shared,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        let kept = self.shared.0.lock().expect("no panics under this lock");
        String::from_utf8_lossy(&kept.bytes).into_owned()
    }

    fn wait<T>(&self, name: &str, what: &str, mut find: impl FnMut(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let (kept, news) = &*self.shared;
        let mut kept = kept.lock().expect("no panics under this lock");
        loop {
            if let Some(found) = find(&String::from_utf8_lossy(&kept.bytes)) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let is_over = kept.is_all || left.is_zero();
            if is_over {
                let why = if kept.is_all {
                    "it ended"
                } else {
                    "time is up"
                };
                drop(kept);
                panic!("no {what} from {name}: {why}");
            }
            kept = news
                .wait_timeout(kept, left)
                .expect("no panics under this lock")
                .0;
        }
    }

    fn join(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("a reader does not panic");
        }
    }
}

/// The same program by way of another that gives way to it, and so keeps the process id.
pub(crate) fn by_way_of(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped
        .args(&wrapper[1..])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::start("the shell", Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn output_is_waited_for_and_kept() {
        let mut process = shell("echo one; echo two >&2; sleep 0.05; echo three; exit 7");
        process.wait_stdout("three", |text| text.contains("three").then_some(()));
        assert_eq!(process.wait().code(), Some(7));
        assert_eq!(process.stdout(), "one\nthree\n");
        assert_eq!(process.stderr(), "two\n");
        assert!(!process.is_running());
    }

    #[test]
    fn a_process_ends_with_its_owner() {
        let process = shell("exec sleep 100");
        let folder = format!("/proc/{}", process.pid());
        assert!(std::fs::exists(&folder).expect("readable"));
        drop(process);
        assert!(!std::fs::exists(&folder).expect("readable"));
    }

    #[test]
    #[should_panic(expected = "no two from the shell: it ended")]
    fn what_never_comes_is_told() {
        shell("echo one").wait_stdout("two", |text| text.contains("two").then_some(()));
    }

    #[test]
    fn only_the_last_part_is_shown() {
        let text = "ü".repeat(SHOWN_BYTES_MAX);
        assert!(last_part(&text).len() <= SHOWN_BYTES_MAX);
        assert_eq!(last_part("short"), "short");
    }
}
