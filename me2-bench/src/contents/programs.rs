//! Programs at work, whose memory is read as they grow.

use std::{
    collections::HashMap,
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    memory::{self, Stopped, anonymous_bytes},
    pool::Pool,
};
use crate::process::bound_to_us;

/// A program that is started for its memory.
pub(crate) struct Job {
    command: Command,
    /// Names of the processes that are looked at: the program's own, or of those that it starts.
    names: &'static [&'static str],
}

/// A process is first looked at when it has so much anonymous memory, bytes.
const FIRST_VISIT_BYTES: u64 = 32 << 20;

/// Then again when it has grown by half.
const GROWTH_PERCENT: u64 = 150;

/// How often is looked; nothing announces that a process has grown.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What the programs may know of the environment: paths, and nothing personal.
const ENVIRONMENT: [&str; 5] = [
    "PATH",
    "HOME",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
];

impl Job {
    /// Compiles this workspace with everything that it depends on, anew, into `target`.
    pub(crate) fn compilers(target: &Path, further: &[&str]) -> Self {
        let mut command = bound_to_us("cargo", |program| Command::new(program));
        command
            .args([
                "build",
                "--offline",
                "--workspace",
                "--keep-going",
                "--quiet",
                "--jobs=2",
            ])
            .arg("--manifest-path")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
            .arg("--target-dir")
            .arg(target)
            .args(further);
        Self {
            command,
            names: &["rustc", "cc1", "cc1plus"],
        }
    }

    /// Reads Python's own library into syntax trees, and keeps them.
    pub(crate) fn python() -> Self {
        const PROGRAM: &str = include_str!("trees.py");
        let mut command = bound_to_us("python3", |program| Command::new(program));
        command.args(["-c", PROGRAM]);
        Self {
            command,
            names: &["python"],
        }
    }

    /// Runs it until it ends, the pool has `limit` pages, or the deadline; its memory goes into
    /// the pool.
    pub(crate) fn gather(mut self, pool: &mut Pool, limit: u64, deadline: Instant) -> Result<()> {
        let mut group = Group::start(&mut self.command)?;
        let mut visited = HashMap::new();
        while pool.pages < limit && Instant::now() < deadline && group.is_running() {
            for pid in group.members()? {
                let bytes = anonymous_bytes(pid).unwrap_or(0);
                let last = visited.get(&pid).copied().unwrap_or(0);
                if bytes < FIRST_VISIT_BYTES || bytes * 100 < last * GROWTH_PERCENT {
                    continue;
                }
                let Some(what) = describe(pid, self.names) else {
                    continue;
                };
                visited.insert(pid, bytes);
                // It may end at any moment, which is no failure.
                if let Ok(stopped) = Stopped::stop(pid) {
                    let _ = pool.take(&what, limit, |take| stopped.read(take));
                }
            }
            thread::sleep(LOOK_INTERVAL);
        }
        Ok(())
    }
}

/// A program and all that it starts; killed when dropped.
struct Group {
    leader: Child,
}

impl Group {
    fn start(command: &mut Command) -> Result<Self> {
        let known = ENVIRONMENT
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        let command = command
            .env_clear()
            .envs(known)
            // The probes need a toolchain of their own, which adds nothing here.
            .env("ME2_WITHOUT_PROBES", "1")
            .env("RUSTFLAGS", "--cap-lints=allow")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let shown = format!("{command:?}");
        let leader = command
            .spawn()
            .with_context(|| format!("cannot start {shown}"))?;
        Ok(Self { leader })
    }

    fn is_running(&mut self) -> bool {
        matches!(self.leader.try_wait(), Ok(None))
    }

    /// The processes of the group.
    fn members(&self) -> Result<Vec<u32>> {
        let mut members = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let pid = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let stat = |pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
            let group = |pid: &u32| stat(*pid).as_deref().and_then(process_group);
            members.extend(pid.filter(|pid| group(pid) == Some(self.leader.id())));
        }
        Ok(members)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // All may have ended already.
        let _ = memory::signal("KILL", &format!("-{}", self.leader.id()));
        let _ = self.leader.wait();
    }
}

/// The process group of a line of `/proc/PID/stat`.
fn process_group(stat: &str) -> Option<u32> {
    // The name, in parentheses, may have anything in it.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(2)?.parse().ok()
}

/// What a process is and is at, if its name begins with one of `names`.
fn describe(pid: u32, names: &[&str]) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let name = name.trim_end();
    if !names.iter().any(|wanted| name.starts_with(wanted)) {
        return None;
    }
    let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    Some(match compiled_crate(&line) {
        Some(of) => format!("{name} of {of}"),
        None => name.to_owned(),
    })
}

fn compiled_crate(command_line: &str) -> Option<&str> {
    let mut words = command_line.split('\0');
    words.find(|word| *word == "--crate-name")?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart() {
        assert_eq!(process_group("12 (a) b) S 1 77 77 0 -1"), Some(77));
        assert_eq!(process_group("nonsense"), None);
        let line = "rustc\0--crate-name\0syn\0--edition=2021\0";
        assert_eq!(compiled_crate(line), Some("syn"));
        assert_eq!(compiled_crate("cc1\0-quiet"), None);
    }

    #[test]
    fn a_group_ends_with_its_guard() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60"]);
        let mut group = Group::start(&mut command).unwrap();
        assert!(group.is_running());
        let members = group.members().unwrap();
        assert!(members.contains(&group.leader.id()));
        drop(group);
        // They are killed, and end when they next get a processor.
        let deadline = Instant::now() + Duration::from_secs(20);
        for pid in members {
            while let Some(state) = running(pid) {
                assert!(Instant::now() < deadline, "{state}");
                std::thread::yield_now();
            }
        }
    }

    /// The state of a process, unless it has ended.
    fn running(pid: u32) -> Option<String> {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let has_ended = state.contains(") Z ") || state.contains(") X ");
        (!has_ended).then_some(state)
    }
}
