//! Network namespaces: made, used and removed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::LinkError;

/// Where `ip netns` keeps its namespaces.
const FOLDER: &str = "/run/netns";
/// What the names of all namespaces begin with, before the id of the process that holds them.
const PREFIX: &str = "me2-";

/// A network namespace with its loopback up. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
}

/// Names for two namespaces that belong together: `me2-PROCESS-a`, from the second link of a
/// process on `me2-PROCESS.NUMBER-a`.
pub(crate) fn names() -> [String; 2] {
    static LINKS: AtomicU32 = AtomicU32::new(0);
    let process = std::process::id();
    let stem = match LINKS.fetch_add(1, Ordering::Relaxed) {
        0 => format!("{PREFIX}{process}"),
        number => format!("{PREFIX}{process}.{number}"),
    };
    [format!("{stem}-a"), format!("{stem}-b")]
}

impl Namespace {
    pub(crate) fn make(name: String) -> Result<Self, LinkError> {
        ip(&["netns", "add", &name])?;
        let namespace = Self { name };
        namespace.ip(&["link set dev lo up"])?;
        Ok(namespace)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs commands of `ip` in this namespace, each given without the program's name.
    pub(crate) fn ip(&self, commands: &[&str]) -> Result<(), LinkError> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.name, "-batch", "-"]);
        let shown = format!("ip -netns {} {}", self.name, commands.join("; "));
        run(command, "ip", shown, &commands.join("\n")).map(drop)
    }

    /// Runs `tc` in this namespace, and returns what it prints.
    pub(crate) fn tc(&self, arguments: &str) -> Result<Vec<u8>, LinkError> {
        let mut command = Command::new("tc");
        command
            .args(["-netns", &self.name])
            .args(arguments.split_whitespace());
        let shown = format!("tc -netns {} {arguments}", self.name);
        run(command, "tc", shown, "").map(|output| output.stdout)
    }

    /// A command that runs in this namespace.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Calls a function on a new thread in this namespace.
    pub(crate) fn within<T: Send>(
        &self,
        function: impl FnOnce() -> T + Send,
    ) -> Result<T, LinkError> {
        let entry = File::open(Path::new(FOLDER).join(&self.name))
            .map_err(LinkError::system("cannot open the network namespace"))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(entry.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(LinkError::system("cannot enter the network namespace"))?;
                Ok(function())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // What stays is removed at the next start of any link.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

/// Removes the namespaces of processes that are no more.
pub(crate) fn remove_leftovers() {
    let Ok(entries) = std::fs::read_dir(FOLDER) else {
        return; // The first namespace makes the folder.
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str()
            && let Some(process) = holder(name)
            && !is_alive(process)
        {
            // Another process may have been quicker.
            let _ = ip(&["netns", "delete", name]);
        }
    }
}

/// The process that holds the namespace of a name, if it is one of a link.
fn holder(name: &str) -> Option<u32> {
    let stem = name.strip_prefix(PREFIX)?;
    let stem = stem
        .strip_suffix("-a")
        .or_else(|| stem.strip_suffix("-b"))?;
    let process = match stem.split_once('.') {
        Some((process, number)) if number.parse::<u32>().is_ok() => process,
        Some(_) => return None,
        None => stem,
    };
    process.parse().ok()
}

/// Whether a process exists, and is more than a zombie.
fn is_alive(process: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{process}/stat")) else {
        return false;
    };
    // The state follows the name, which may hold anything, in parentheses.
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

fn ip(arguments: &[&str]) -> Result<Output, LinkError> {
    let mut command = Command::new("ip");
    command.args(arguments);
    run(command, "ip", format!("ip {}", arguments.join(" ")), "")
}

fn run(
    mut command: Command,
    program: &'static str,
    shown: String,
    input: &str,
) -> Result<Output, LinkError> {
    let not_run = |source| LinkError::Program { program, source };
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(not_run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has ended early says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(not_run)?;
    if output.status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LinkError::Command {
        command: shown,
        message,
    })
}

#[cfg(test)]
mod tests {
    use super::{holder, is_alive};

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }

    #[test]
    fn names_tell_their_holder() {
        assert_eq!(holder("me2-123-a"), Some(123));
        assert_eq!(holder("me2-123.4-b"), Some(123));
        for other in ["me2-123", "me2-x-a", "me2-123.x-a", "other-123-a", "me2--a"] {
            assert_eq!(holder(other), None, "{other}");
        }
    }
}
