//! A limit on how many threads a process may have, as containers have one.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the kernel's controller of processes may be: by itself (cgroup v1), or with the others.
const CONTROLLERS: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

/// A control group for one process; gone when dropped.
pub struct ThreadLimit {
    folder: PathBuf,
    pid: u32,
}

impl ThreadLimit {
    /// Puts a process into a group of its own, without a limit yet.
    ///
    /// # Errors
    /// Why that cannot be done here.
    pub fn of(pid: u32) -> Result<Self, String> {
        let attempts = CONTROLLERS.map(|controller| Self::make(Path::new(controller), pid));
        let [by_itself, with_others] = attempts;
        by_itself.or(with_others)
    }

    fn make(controller: &Path, pid: u32) -> Result<Self, String> {
        let folder = controller.join(format!("me2-tests-{pid}"));
        let told = |error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(told)?;
        let group = Self {
            folder: folder.clone(),
            pid,
        };
        match folder.join("pids.max").exists() {
            true => fs::write(folder.join("cgroup.procs"), pid.to_string()).map_err(told)?,
            false => return Err(format!("{}: it limits no processes", folder.display())),
        }
        Ok(group)
    }

    /// The process can start so many threads more; with `None`, as many as it likes.
    ///
    /// # Panics
    /// If that is not allowed any more.
    pub fn allow_more(&self, threads: Option<u64>) {
        let most = match threads {
            None => "max".to_owned(),
            Some(threads) => {
                let current =
                    fs::read_to_string(self.folder.join("pids.current")).expect("a group");
                let current: u64 = current.trim().parse().expect("a number");
                (current + threads).to_string()
            }
        };
        fs::write(self.folder.join("pids.max"), most).expect("a group of our own");
    }
}

impl Drop for ThreadLimit {
    fn drop(&mut self) {
        // The process leaves it, unless it has ended.
        if let Some(controller) = self.folder.parent() {
            let _ = fs::write(controller.join("cgroup.procs"), self.pid.to_string());
        }
        let _ = fs::remove_dir(&self.folder);
    }
}
