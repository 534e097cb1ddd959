//! A `me2` of an earlier commit, and today's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, bail, ensure};
use me2_wire::{PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
use serde::Serialize;

use crate::{Bench, Ended, Guest, Vm};

/// Where the versions of the protocol are written.
const VERSIONS_FILE: &str = "me2-wire/src/lib.rs";

/// A build of an earlier commit.
#[derive(Debug, Clone)]
pub struct Earlier {
    /// The commit, whole.
    pub commit: String,
    /// The versions of the protocol that it speaks: the lowest, the highest.
    pub versions: (u16, u16),
    me2: PathBuf,
}

/// What came of moving VMs between it and today's `me2`.
#[derive(Debug, Serialize)]
pub struct Skew {
    /// 1.
    pub schema_version: u32,
    /// The commit of the earlier one.
    pub commit: String,
    /// The versions of the protocol that it speaks.
    pub earlier: (u16, u16),
    /// Those of today's.
    pub today: (u16, u16),
    /// What came of it.
    pub outcome: Outcome,
}

/// What must come of it, by the versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// They share one: a VM moved to today's `me2`, and back.
    MovedThereAndBack,
    /// They share none: refused both ways, each time in one sentence; the VMs ran on.
    Refused {
        /// What the earlier one's client said.
        by_today: String,
        /// What today's client said.
        by_earlier: String,
    },
}

impl Earlier {
    /// Builds it, without probes, unless that was done before, into `target`.
    ///
    /// # Errors
    /// The checkout has no such commit, or it cannot be built.
    pub fn build(checkout: &Path, commit: &str, target: &Path) -> anyhow::Result<Self> {
        let revision = format!("{commit}^{{commit}}");
        let commit =
            git(checkout, &["rev-parse", "--verify", "--quiet", &revision]).with_context(|| {
                format!(
                    "{commit} is not in the history of this checkout: use one that is not shallow"
                )
            })?;
        let commit = commit.trim().to_owned();
        let file = git(checkout, &["show", &format!("{commit}:{VERSIONS_FILE}")])?;
        let versions =
            versions(&file).context("that commit does not say which versions it speaks")?;
        let folder = target.join("skew");
        let me2 = folder.join(&commit).join("me2");
        if !me2.exists() {
            build(checkout, &commit, &folder)?;
        }
        Ok(Self {
            commit,
            versions,
            me2,
        })
    }

    /// All that were built into `target` before.
    pub fn built(checkout: &Path, target: &Path) -> Vec<Self> {
        let folders = fs::read_dir(target.join("skew")).into_iter().flatten();
        let commits = folders.filter_map(|folder| folder.ok()?.file_name().into_string().ok());
        let kept = commits.filter(|commit| target.join("skew").join(commit).join("me2").exists());
        kept.filter_map(|commit| Self::build(checkout, &commit, target).ok())
            .collect()
    }

    /// Moves VMs between it and today's.
    ///
    /// # Panics
    /// If what comes of it is not what must, by the versions.
    pub fn play(&self) -> Skew {
        let today = (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION_MAX);
        let (low, high) = self.versions;
        let outcome = match low.max(today.0) <= high.min(today.1) {
            true => self.move_there_and_back(),
            false => self.be_refused(),
        };
        Skew {
            schema_version: 1,
            commit: self.commit.clone(),
            earlier: self.versions,
            today,
            outcome,
        }
    }

    fn move_there_and_back(&self) -> Outcome {
        let now = Bench::new();
        let before = now.with(&self.me2);
        let vm = before.start(&guest());
        vm.wait_ready();
        let operations = vm.works();
        let to = now.receive();
        is_moved(&before.migrate(&vm, to.address(), &[]).end());
        let operations = vm.moved_to(&to, operations);
        let back = before.receive();
        is_moved(&now.migrate(&to, back.address(), &[]).end());
        to.moved_to(&back, operations);
        back.stop();
        Outcome::MovedThereAndBack
    }

    fn be_refused(&self) -> Outcome {
        let now = Bench::new();
        let before = now.with(&self.me2);
        let [by_today, by_earlier] = [(&before, &now), (&now, &before)].map(|(from, to)| {
            let vm = from.start(&guest());
            vm.wait_ready();
            let to = to.receive();
            let said = is_refused(&from.migrate(&vm, to.address(), &[]).end());
            vm.works();
            vm.stop();
            Vm::stop(to);
            said
        });
        Outcome::Refused {
            by_today,
            by_earlier,
        }
    }
}

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=16M hot=2M rate=20000")
}

/// Its report may be of another schema.
fn is_moved(ended: &Ended) {
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(ended.report.text("status"), "completed", "{}", ended.report);
    let mismatched = ended.report.count("verify.mismatched_pages");
    assert_eq!(mismatched, 0, "{}", ended.report);
}

/// Gives what was said last.
fn is_refused(ended: &Ended) -> String {
    assert!(matches!(ended.code, Some(1 | 3)), "{}", ended.stderr);
    let last = ended.stderr.lines().next_back().unwrap_or_default();
    assert!(last.contains("version"), "{}", ended.stderr);
    last.to_owned()
}

fn versions(source: &str) -> Option<(u16, u16)> {
    let constant = |name: &str| {
        let (_, rest) = source.split_once(&format!("pub const {name}: u16 = "))?;
        rest.split_once(';')?.0.parse().ok()
    };
    Some((
        constant("PROTOCOL_VERSION_MIN")?,
        constant("PROTOCOL_VERSION_MAX")?,
    ))
}

fn git(checkout: &Path, words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(checkout)
        .args(words)
        .output();
    let output = output.context("cannot run git")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "git {}: {}",
        words.join(" "),
        stderr.trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Each commit is built in a target folder of its own: in a shared one, cargo takes a build script for
/// the same that was compiled for another commit's folder.
fn build(checkout: &Path, commit: &str, folder: &Path) -> anyhow::Result<()> {
    let own = folder.join(commit);
    let (source, target) = (own.join("source"), own.join("target"));
    fs::create_dir_all(&source)?;
    let mut archive = Command::new("git");
    archive.arg("-C").arg(checkout).args(["archive", commit]);
    let mut archive = archive.stdout(Stdio::piped()).spawn()?;
    let tar = archive.stdout.take().context("it is piped")?;
    let unpacked = Command::new("tar")
        .arg("-xC")
        .arg(&source)
        .stdin(tar)
        .status()?;
    ensure!(
        archive.wait()?.success() && unpacked.success(),
        "cannot unpack {commit}"
    );
    let built = Command::new("cargo")
        .args(["build", "--release", "--locked", "--package", "me2-user"])
        .current_dir(&source)
        .env("CARGO_TARGET_DIR", &target)
        .env("ME2_WITHOUT_PROBES", "1")
        .status()?;
    if !built.success() {
        bail!("{commit} cannot be built");
    }
    // Whole or not at all.
    fs::rename(target.join("release/me2"), own.join("me2"))?;
    fs::remove_dir_all(&source)?;
    fs::remove_dir_all(&target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_source() {
        let source = "/// Lowest.\npub const PROTOCOL_VERSION_MIN: u16 = 2;\n\
                      pub const PROTOCOL_VERSION_MAX: u16 = 3;\n";
        assert_eq!(versions(source), Some((2, 3)));
        assert_eq!(versions("pub const PROTOCOL_VERSION_MIN: u16 = 2;"), None);
    }
}
