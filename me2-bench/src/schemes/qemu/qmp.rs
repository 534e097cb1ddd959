//! QEMU's machine protocol: one JSON document a line, over a Unix socket.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// How long a command may take. Some wait for locks that a migration holds.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a socket is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Something about the migration has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// Its status.
    Status(String),
    /// This pass begins.
    Pass(u64),
}

impl Change {
    pub(super) fn status(&self) -> Option<&str> {
        match self {
            Self::Status(status) => Some(status),
            Self::Pass(_) => None,
        }
    }
}

/// A change, and when it was heard of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at: Instant,
    pub(super) change: Change,
}

/// A connection to one QEMU.
pub(super) struct Qmp {
    stream: UnixStream,
    incoming: Receiver<(Instant, Value)>,
    /// Heard of while an answer was waited for.
    events: VecDeque<Event>,
}

impl Qmp {
    /// Connects as soon as QEMU listens, as long as `is_running`.
    pub(super) fn connect(
        socket: &Path,
        deadline: Instant,
        mut is_running: impl FnMut() -> bool,
    ) -> anyhow::Result<Self> {
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(_) if is_running() && Instant::now() < deadline => {
                    thread::sleep(POLL_INTERVAL);
                }
                Err(error) => return Err(error.into()),
            }
        };
        let incoming = read(stream.try_clone()?);
        let mut qmp = Self {
            stream,
            incoming,
            events: VecDeque::new(),
        };
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Has a command carried out; gives what it returns.
    pub(super) fn execute(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.stream.write_all(format!("{request}\n").as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (at, mut document) = self
                .next(deadline)?
                .with_context(|| format!("QEMU does not answer {command}"))?;
            if let Some(error) = document.get("error") {
                bail!("QEMU refuses {command}: {}", error["desc"]);
            }
            if document.get("return").is_some() {
                return Ok(document["return"].take());
            }
            self.events.extend(event(at, &document));
        }
    }

    /// The next change of the migration; `None` at the deadline.
    pub(super) fn next_change(&mut self, deadline: Instant) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            let Some((at, document)) = self.next(deadline)? else {
                return Ok(None);
            };
            self.events.extend(event(at, &document));
        }
    }

    fn next(&self, deadline: Instant) -> anyhow::Result<Option<(Instant, Value)>> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.incoming.recv_timeout(left) {
            Ok(document) => Ok(Some(document)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => bail!("QEMU has closed the connection"),
        }
    }
}

fn event(at: Instant, document: &Value) -> Option<Event> {
    let data = &document["data"];
    let change = match document["event"].as_str()? {
        "MIGRATION" => Change::Status(data["status"].as_str()?.to_owned()),
        "MIGRATION_PASS" => Change::Pass(data["pass"].as_u64()?),
        _ => return None,
    };
    Some(Event { at, change })
}

/// Each document with the time of its arrival.
fn read(stream: UnixStream) -> Receiver<(Instant, Value)> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            let Ok(document) = serde_json::from_str(&line) else {
                continue;
            };
            if sender.send((Instant::now(), document)).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn events_between_request_and_answer_are_kept_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp");
        let listener = UnixListener::bind(&socket).unwrap();
        let qemu = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
            stream.write_all(b"{\"QMP\": {}}\n").unwrap();
            requests.next();
            stream.write_all(b"{\"return\": {}}\n").unwrap();
            requests.next();
            let answers = b"{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}\n\
                {\"event\": \"STOP\"}\n\
                {\"event\": \"MIGRATION_PASS\", \"data\": {\"pass\": 2}}\n\
                {\"return\": {\"status\": \"active\"}}\n";
            stream.write_all(answers).unwrap();
            requests.next();
            stream
                .write_all(b"{\"error\": {\"desc\": \"no\"}}\n")
                .unwrap();
        });
        let deadline = Instant::now() + PATIENCE;
        let mut qmp = Qmp::connect(&socket, deadline, || true).unwrap();
        let status = qmp.execute("query-migrate", json!({})).unwrap();
        assert_eq!(status["status"], "active");
        assert!(qmp.execute("migrate", json!({})).is_err());
        qemu.join().unwrap();
        let mut change = || qmp.next_change(deadline).map(|event| event.unwrap().change);
        assert_eq!(change().unwrap(), Change::Status("active".into()));
        assert_eq!(change().unwrap(), Change::Pass(2));
        assert!(change().is_err(), "it has ended");
    }
}
