//! The package in use: installed in a clean Debian whose first process is systemd, in namespaces of
//! its own; VMs moved into and out of its units; removed.

use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Result,
    cargo::{run as run_command, target},
    setup,
};

/// Makes the namespaces and becomes systemd in them.
const BOOT: &str = include_str!("boot.sh");
/// What is done inside.
const TRIAL: &str = include_str!("trial.sh");
/// Runs it there, then switches off.
const UNIT: &str = include_str!("trial.service");

const SUITE: &str = "bookworm";
/// Besides the essential ones; the clean system is made anew when this changes.
const PACKAGES: &str = "systemd,systemd-sysv,man-db,bash-completion";
const LIMIT: Duration = Duration::from_secs(180);
/// How often the end of the trial is looked for, a matter of a minute.
const POLL: Duration = Duration::from_millis(100);

/// Whether this is root.
pub(super) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Tries `package`, and shows what was done.
///
/// # Errors
/// If something of it went wrong, or if this machine lacks what the trial takes: a sentence says what.
pub(super) fn run(package: &Path) -> Result {
    setup::ensure_ip()?;
    let hierarchy = prerequisites()?;
    let folder = target()?.join("package");
    let base = clean_system(&folder)?;
    let upper = folder.join("upper");
    for name in ["upper", "work", "root"] {
        let path = folder.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(|error| cannot("remove", &path, &error))?;
        }
        fs::create_dir_all(&path).map_err(|error| cannot("make", &path, &error))?;
    }
    let trial = prepare(&upper).map_err(|error| cannot("prepare", &upper, &error))?;
    let copy = trial.join("me2.deb");
    fs::copy(package, &copy).map_err(|error| cannot("write", &copy, &error))?;
    let outcome = boot(&folder, &base, &hierarchy);
    let log = fs::read_to_string(trial.join("log")).unwrap_or_default();
    eprint!("{log}");
    outcome?;
    match fs::read_to_string(trial.join("verdict")) {
        Ok(verdict) if verdict.trim() == "passed" => Ok(()),
        Ok(_) => Err("the trial of the package failed; what it did is above".into()),
        Err(_) => Err(format!(
            "the trial of the package did not come to its end; the system's own log is {}",
            folder.join("systemd.log").display()
        )),
    }
}

/// Has the system do the trial when it starts; gives the trial's folder.
fn prepare(upper: &Path) -> std::io::Result<PathBuf> {
    let (trial, units) = (upper.join("trial"), upper.join("etc/systemd/system"));
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&trial)?;
    fs::create_dir_all(&wanted)?;
    fs::write(trial.join("trial.sh"), TRIAL)?;
    fs::write(units.join("trial.service"), UNIT)?;
    symlink("../trial.service", wanted.join("trial.service"))?;
    Ok(trial)
}

/// Where cgroup2 is mounted, if everything else is there too.
fn prerequisites() -> Result<PathBuf> {
    if !is_root() {
        return Err("trying the package takes root: for namespaces, and /dev/kvm in them".into());
    }
    for device in ["/dev/kvm", "/dev/userfaultfd"] {
        if !Path::new(device).exists() {
            return Err(format!(
                "trying the package takes {device}, which this machine lacks"
            ));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    cgroup2(&mounts).ok_or_else(|| {
        "trying the package takes cgroup2, and it is not mounted: mount -t cgroup2 cgroup2 \
         /sys/fs/cgroup"
            .into()
    })
}

fn cgroup2(mounts: &str) -> Option<PathBuf> {
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    mounts.find_map(|mut words| {
        let place = words.nth(1)?;
        (words.next()? == "cgroup2").then(|| place.into())
    })
}

/// A Debian that nothing was installed in, made once.
fn clean_system(folder: &Path) -> Result<PathBuf> {
    let base = folder.join("base");
    let stamp = folder.join("base.packages");
    if base.is_dir() && fs::read_to_string(&stamp).is_ok_and(|made| made == PACKAGES) {
        return Ok(base);
    }
    setup::ensure_mmdebstrap()?;
    if base.exists() {
        fs::remove_dir_all(&base).map_err(|error| cannot("remove", &base, &error))?;
    }
    fs::create_dir_all(folder).map_err(|error| cannot("make", folder, &error))?;
    eprintln!(
        "package: making a clean Debian ({SUITE}) in {} (1 minute, once)",
        base.display()
    );
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .arg(SUITE)
        .arg(&base);
    run_command(&mut make)
        .map_err(|error| format!("{error}: is a Debian mirror to be reached?"))?;
    fs::write(&stamp, PACKAGES).map_err(|error| cannot("write", &stamp, &error))?;
    Ok(base)
}

/// Starts the system, and waits until it has switched itself off.
fn boot(folder: &Path, base: &Path, hierarchy: &Path) -> Result {
    let log = folder.join("systemd.log");
    let output = fs::File::create(&log).map_err(|error| cannot("write", &log, &error))?;
    let errors = output
        .try_clone()
        .map_err(|error| cannot("write", &log, &error))?;
    let group = hierarchy.join(format!("me2-package-{}", std::process::id()));
    let mut shell = Command::new("/bin/bash");
    shell
        .args(["-c", BOOT, "boot"])
        .args([base, folder, &group])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    let start = Instant::now();
    let mut system = shell
        .spawn()
        .map_err(|error| format!("cannot run bash: {error}"))?;
    let ended = loop {
        match system.try_wait() {
            Ok(Some(_)) => break Ok(()),
            Ok(None) if start.elapsed() < LIMIT => thread::sleep(POLL),
            Ok(None) => break Err(format!("the trial takes longer than {} s", LIMIT.as_secs())),
            Err(error) => break Err(format!("cannot wait for the trial: {error}")),
        }
    };
    if ended.is_err() {
        // unshare takes the system's first process with it, and that all others.
        let _ = system.kill();
        let _ = system.wait();
    }
    remove_group(&group);
    ended
}

/// With the groups inside, which systemd leaves when it ends at once.
fn remove_group(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::cgroup2;

    #[test]
    fn cgroup2_is_found_beside_the_first_version() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2("proc /proc proc rw 0 0\n"), None);
    }
}
