//! A process that has a VM, or waits for one.

use std::{
    io::BufRead,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::Duration,
};

use rustix::process::{Resource, Signal};
use serde_json::Value;

use crate::{
    Confinement, Guest, Process, Usage,
    api::{self, Answer},
    try_until,
};

/// `me2 run` or `me2 receive`; killed when dropped.
pub struct Vm {
    name: String,
    process: Process,
    socket: PathBuf,
    listens: Option<SocketAddr>,
}

impl Vm {
    pub(crate) fn start(mut me2: Command, runtime: &Path, name: &str, guest: &Guest) -> Self {
        let cpus = guest.cpus.to_string();
        me2.args(["--name", name, "--memory", guest.memory]).args([
            "--cpus",
            &cpus,
            "--cmdline",
            &guest.cmdline,
        ]);
        me2.args(&guest.options);
        if let Some(kernel) = &guest.kernel {
            me2.arg("--kernel").arg(kernel);
        }
        Self::spawn(me2, runtime, name)
    }

    /// The port is the process's choice, so that tests cannot get in each other's way.
    pub(crate) fn receive(
        mut me2: Command,
        at: IpAddr,
        options: &[&str],
        runtime: &Path,
        name: &str,
    ) -> Self {
        let listen = SocketAddr::new(at, 0).to_string();
        me2.args(["--name", name, "--listen", &listen])
            .args(options);
        let vm = Self::spawn(me2, runtime, name);
        let address = vm.process.wait_stderr("address", listening_address);
        vm.wait_for("a receiver that waits", |status| {
            (status["vm_state"] == "waiting").then_some(())
        });
        Self {
            listens: Some(address),
            ..vm
        }
    }

    fn spawn(mut me2: Command, runtime: &Path, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            process: Process::start(name, &mut me2),
            socket: runtime.join(format!("{name}.sock")),
            listens: None,
        }
    }

    /// What `--vm` calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it waits, or waited.
    ///
    /// # Panics
    /// If it was not started as a receiver.
    pub fn address(&self) -> SocketAddr {
        self.listens.expect("this is a receiver")
    }

    /// The guest's console so far, of its time in this process.
    pub fn console(&self) -> String {
        self.process.stdout()
    }

    /// The log of the process so far.
    pub fn log(&self) -> String {
        self.process.stderr()
    }

    /// Waits until `find` finds something in the guest's console.
    pub fn wait_console<T>(&self, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.process.wait_stdout(what, find)
    }

    /// Waits until the log has this text.
    pub fn wait_log(&self, text: &str) {
        self.process
            .wait_stderr(text, |log| log.contains(text).then_some(()));
    }

    /// Waits until a line of the log behind so many bytes has this text; gives the line.
    pub fn wait_log_from(&self, bytes: usize, text: &str) -> String {
        self.process.wait_stderr(text, |log| {
            let new = log.get(bytes..)?;
            let line = new.lines().find(|line| line.contains(text))?;
            let said = line
                .split_once("failed before the handover: ")
                .map_or(line, |(_, said)| said);
            let said = said
                .split_once("refused a peer: ")
                .map_or(said, |(_, said)| said);
            Some(said.to_owned())
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it holds of the host.
    pub fn usage(&self) -> Usage {
        Usage::of(self.process.pid())
    }

    /// The most that it ever had resident.
    pub fn peak_bytes(&self) -> u64 {
        Usage::peak_bytes(self.process.pid())
    }

    /// What each of its threads may still do.
    pub fn confinement(&self) -> Vec<(String, Confinement)> {
        Confinement::of_threads(self.process.pid())
    }

    /// Its status; `None` if it does not answer (yet, or any more).
    pub fn try_status(&self) -> Option<Value> {
        let (code, status) = api::request(&self.socket, "GET", "/v1/status").ok()?;
        assert_eq!(code, 200, "{status}");
        Some(status)
    }

    /// Waits until `find` finds something in its status.
    ///
    /// # Panics
    /// If that does not happen.
    pub fn wait_for<T>(&self, what: &str, mut find: impl FnMut(&Value) -> Option<T>) -> T {
        let mut last = None;
        let found = try_until(|| {
            let status = self.try_status()?;
            let found = find(&status);
            last = Some(status);
            found
        });
        found.unwrap_or_else(|| panic!("no {what}: the last status of {}: {last:#?}", self.name))
    }

    /// Waits for this `vm_state`.
    pub fn wait_state(&self, state: &str) {
        self.wait_for(state, |status| (status["vm_state"] == state).then_some(()));
    }

    /// Waits for a migration in this phase that has sent something, or is beyond sending.
    pub fn wait_phase(&self, phase: &str) {
        self.wait_for(phase, |status| {
            let migration = &status["migration"];
            let has_sent = migration["sent_bytes"].as_u64() > Some(0);
            (migration["phase"] == phase && has_sent).then_some(())
        });
    }

    /// Waits until the built-in guest has filled its memory and works.
    pub fn wait_ready(&self) {
        self.wait_console("guest that is ready", |console| {
            console.contains("me2-guest ready ").then_some(())
        });
        self.works();
    }

    /// Waits until the guest has done something more, without an error; gives all it has done.
    ///
    /// # Panics
    /// If it stands still, or tells of an error.
    pub fn works(&self) -> u64 {
        let before = self.wait_for("operations of the guest", operations);
        self.works_beyond(before)
    }

    /// Waits until the guest has done more than so many operations, without an error.
    ///
    /// # Panics
    /// If it does not, or tells of an error.
    pub fn works_beyond(&self, before: u64) -> u64 {
        let after = self.wait_for("more operations of the guest", |status| {
            // Null until the guest has told something here.
            let errors = status["guest"]["errors"].as_u64();
            assert!(errors.unwrap_or(0) == 0, "{status}");
            operations(status).filter(|after| *after > before)
        });
        let console = self.console();
        for bad in ["me2-guest ERROR", "me2-guest PANIC"] {
            assert!(
                !console.contains(bad),
                "{bad} on the console of {}",
                self.name
            );
        }
        after
    }

    /// The VM has moved: this process ends well, and the guest does more than so many operations
    /// there; gives how many.
    ///
    /// # Panics
    /// If it is otherwise.
    pub fn moved_to(mut self, to: &Self, before: u64) -> u64 {
        assert_eq!(self.wait_exit().code(), Some(0), "the source");
        to.works_beyond(before)
    }

    /// Gives it an order by its API, which it must accept.
    pub fn order(&self, path: &str) {
        let answer = api::request(&self.socket, "POST", path);
        let (code, answer) = answer.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert_eq!(code, 202, "{path}: {answer}");
    }

    /// Gives it an order by its API, which it must refuse; gives the HTTP status.
    pub fn refused(&self, path: &str) -> u16 {
        let answer = api::request(&self.socket, "POST", path);
        let (code, answer) = answer.unwrap_or_else(|error| panic!("{}: {error}", self.name));
        assert!(code >= 400, "{path}: {answer}");
        for part in ["error", "mend"] {
            assert!(answer[part].is_string(), "{path}: {answer}");
        }
        code
    }

    /// Asks its API, whatever comes of it.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let answer = api::ask(&self.socket, method, path, body);
        answer.unwrap_or_else(|error| panic!("{}: {method} {path}: {error}", self.name))
    }

    /// Asks its API for something that goes on; gives the answer's head and then its lines.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn follow(&self, path: &str) -> (Answer, impl BufRead + use<>) {
        let answer = api::follow(&self.socket, path);
        answer.unwrap_or_else(|error| panic!("{}: {path}: {error}", self.name))
    }

    /// Waits until its log tells the address at which metrics are served.
    pub fn metrics_address(&self) -> SocketAddr {
        self.process.wait_stderr("address of metrics", |log| {
            let (_, rest) = log.split_once("metrics=")?;
            let (line, _) = rest.split_once('\n')?;
            line.split_ascii_whitespace().next()?.parse().ok()
        })
    }

    /// Sends its process a signal.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends the VM, and waits for its process, which must end well.
    pub fn stop(mut self) {
        self.order("/v1/stop");
        let status = self.process.wait();
        assert_eq!(status.code(), Some(0), "{} after a stop", self.name);
    }

    /// Waits for the end of the process.
    pub fn wait_exit(&mut self) -> ExitStatus {
        self.process.wait()
    }

    /// Whether the process is there.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Lets the process do nothing for this long, as a host that swaps or sleeps: SIGSTOP, SIGCONT.
    ///
    /// # Panics
    /// If it has ended.
    pub fn freeze(&mut self, time: Duration) {
        self.process.signal(Signal::STOP);
        thread::sleep(time);
        self.process.signal(Signal::CONT);
    }

    /// Lets the process have no more of something; with `None`, as much as this one may.
    ///
    /// # Panics
    /// If it has ended.
    pub fn limit(&mut self, resource: Resource, most: Option<u64>) {
        self.process.limit(resource, most);
    }

    /// Kills the process: SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

fn operations(status: &Value) -> Option<u64> {
    status["guest"]["operations"].as_u64()
}

/// The address that a receiver's log tells.
fn listening_address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("address=")?;
    // The whole line must be there, or the port may be cut.
    let (line, _) = rest.split_once('\n')?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_once_its_line_is_there() {
        let log = "INFO me2: waiting for a VM address=127.0.0.1:4711 identity=sha256:00";
        assert_eq!(listening_address(log), None);
        let address = listening_address(&format!("a\n{log}\n"));
        assert_eq!(address, Some(([127, 0, 0, 1], 4711).into()));
    }
}
