//! Where the demonstration takes place: a private folder, and a guard who clears everything away.

use std::{
    fs::DirBuilder,
    io::{Read, Write},
    os::unix::{fs::DirBuilderExt, net::UnixStream, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use super::{options::Options, process::Process};
use crate::Result;

/// A folder with an identity, and the sockets of VMs.
pub(super) struct Stage<'me2> {
    me2: &'me2 Path,
    guard: Guard,
}

/// What a VM process tells of its guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct VmStatus {
    pub(super) operations: u64,
    pub(super) errors: u64,
}

impl<'me2> Stage<'me2> {
    /// Makes the folder, and an identity in it.
    pub(super) fn set_up(me2: &'me2 Path) -> Result<Self> {
        let stage = Self {
            me2,
            guard: Guard::start()?,
        };
        stage.ask(&["cert", "create"])?;
        Ok(stage)
    }

    /// Starts a process that stays: a VM, or one that waits for it.
    pub(super) fn start(&self, name: &str, arguments: &[String]) -> Result<Process<'_>> {
        let mut command = self.command();
        command.args(arguments);
        Process::start(name, &mut command, Stdio::piped(), &self.guard)
    }

    /// Moves a VM, with its progress on our stderr; gives the report, and what came of it.
    pub(super) fn migrate(
        &self,
        vm: &str,
        to: &str,
        options: &Options,
    ) -> Result<(String, Result)> {
        let Options {
            mode,
            verify,
            output,
            ..
        } = options;
        let mut command = self.command();
        command
            .args(["hybrid-migrate", "--vm", vm, "--to", to, "--timeout", "60s"])
            .args(["--mode", mode, "--verify", verify, "--output", output]);
        let mut migration =
            Process::start("migration", &mut command, Stdio::inherit(), &self.guard)?;
        migration.wait_output()
    }

    /// What the guest told last; `None` if nothing yet.
    pub(super) fn status(&self, vm: &str) -> Result<Option<VmStatus>> {
        let document = self.ask(&["status", "--vm", vm, "--output", "json"])?;
        let number = |name| number(&document, name);
        let status = number("operations").zip(number("errors"));
        Ok(status.map(|(operations, errors)| VmStatus { operations, errors }))
    }

    /// Ends a VM.
    pub(super) fn stop(&self, vm: &str) -> Result {
        let socket = self.guard.folder.join(format!("run/{vm}.sock"));
        let answer = post(&socket, "/v1/stop")
            .map_err(|error| format!("the process of {vm} does not answer: {error}"))?;
        match answer.starts_with("HTTP/1.1 202 ") {
            true => Ok(()),
            false => Err(format!(
                "{vm} does not end: {}",
                answer.lines().next_back().unwrap_or("no answer")
            )),
        }
    }

    /// Runs a command that ends soon; gives what it printed.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let shown = arguments.join(" ");
        let output = self.command().args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("cannot run me2 {shown}: {error}"))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(format!(
                "me2 {shown} failed ({}): {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            )),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.me2);
        command
            .env("ME2_CONFIG_DIR", self.guard.folder.join("config"))
            // No defaults of this host.
            .env("ME2_CONFIG", "/dev/null")
            .env("ME2_RUNTIME_DIR", self.guard.folder.join("run"));
        command
    }
}

/// Removes the folder and kills the processes that are left when this process ends, however that
/// comes about: a shell that reads until the other end of its input is gone.
pub(super) struct Guard {
    folder: PathBuf,
    shell: Child,
    /// `None` only while it ends.
    orders: Mutex<Option<ChildStdin>>,
}

const GUARD_SCRIPT: &str = r#"
pids=
while read -r order pid; do
    case $order in
    watch) pids="$pids $pid" ;;
    forget)
        left=
        for other in $pids; do [ "$other" = "$pid" ] || left="$left $other"; done
        pids=$left
        ;;
    esac
done
[ -z "$pids" ] || kill -9 $pids 2>/dev/null
rm -rf -- "$1"
"#;

impl Guard {
    fn start() -> Result<Self> {
        let folder = private_folder()?;
        let shell = Command::new("sh")
            .args(["-c", GUARD_SCRIPT, "guard"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A Ctrl-C at the terminal is not for it.
            .process_group(0)
            .spawn();
        let mut shell = shell.map_err(|error| {
            let _ = std::fs::remove_dir(&folder);
            format!("cannot start a shell: {error}")
        })?;
        let orders = Mutex::new(shell.stdin.take());
        Ok(Self {
            folder,
            shell,
            orders,
        })
    }

    /// From now on, this process ends with ours.
    pub(super) fn watch(&self, pid: u32) -> Result {
        self.order("watch", pid)
            .map_err(|error| format!("the guard has ended: {error}"))
    }

    /// It has ended, or is about to.
    pub(super) fn forget(&self, pid: u32) {
        // A guard that has gone kills nobody.
        let _ = self.order("forget", pid);
    }

    fn order(&self, order: &str, pid: u32) -> std::io::Result<()> {
        let mut orders = self.orders.lock().expect("no panics under this lock");
        match &mut *orders {
            Some(orders) => orders.write_all(format!("{order} {pid}\n").as_bytes()),
            None => Ok(()),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // The end of its input is its sign.
        drop(
            self.orders
                .lock()
                .expect("no panics under this lock")
                .take(),
        );
        let _ = self.shell.wait();
    }
}

/// A new folder that is ours alone.
fn private_folder() -> Result<PathBuf> {
    const TRIES: u32 = 100;
    let parent = std::env::temp_dir();
    let own = std::process::id();
    let mut last = None;
    for number in 0..TRIES {
        let folder = parent.join(format!("me2-demo-{own}-{number}"));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => return Ok(folder),
            Err(error) => last = Some(error),
        }
    }
    let error = last.expect("tried");
    Err(format!(
        "cannot make a folder in {}: {error}",
        parent.display()
    ))
}

/// An order to a VM process, and the answer to it.
fn post(socket: &Path, path: &str) -> std::io::Result<String> {
    const PATIENCE: Duration = Duration::from_secs(20);
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: me2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// The number of this name in a JSON document in which the name occurs once.
fn number(document: &str, name: &str) -> Option<u64> {
    let (_, rest) = document.split_once(&format!("\"{name}\""))?;
    let value = rest.trim_start().strip_prefix(':')?.trim_start();
    let end = value.find(|c: char| !c.is_ascii_digit());
    value[..end.unwrap_or(value.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_name() {
        let document = "{\n  \"guest\": {\n    \"operations\": 120,\n    \"errors\": 0\n  }\n}";
        assert_eq!(number(document, "operations"), Some(120));
        assert_eq!(number(document, "errors"), Some(0));
        assert_eq!(number(document, "pages"), None);
        assert_eq!(number("{\"guest\": null}", "guest"), None);
    }

    #[test]
    fn the_guard_clears_up_even_if_nobody_asks_it_to() {
        let guard = Guard::start().expect("a shell");
        let folder = guard.folder.clone();
        std::fs::write(folder.join("file"), "left behind").expect("a file");
        let mut watched = sleeper();
        let mut forgotten = sleeper();
        guard.watch(watched.id()).expect("alive");
        guard.watch(forgotten.id()).expect("alive");
        guard.forget(forgotten.id());
        drop(guard);
        assert!(!folder.exists());
        let killed = watched.wait().expect("a child");
        assert!(!killed.success());
        let left = forgotten.try_wait().expect("a child");
        forgotten.kill().expect("still there");
        forgotten.wait().expect("a child");
        assert_eq!(left, None);
    }

    fn sleeper() -> Child {
        Command::new("sleep").arg("60").spawn().expect("sleep")
    }
}
