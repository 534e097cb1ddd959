//! The first and only file system of the lab's machine: busybox, modules, `me2` with the shared
//! libraries that it needs, and `init.sh`.

use std::{
    fs::{self, File},
    io::{self, BufWriter},
    path::Path,
    process::Command,
};

use super::{Options, Scenario, cpio::Archive, pieces::Pieces};
use crate::{Result, setup};

/// What runs there.
const INIT: &str = include_str!("init.sh");
const SMOKE: &str = include_str!("smoke.sh");
const LINUX: &str = include_str!("linux.sh");
/// What runs in a Linux guest.
const GUEST: &str = include_str!("guest.sh");

/// How long the machine lives at most, by its own clock.
const LIMIT_SECONDS: u64 = 420;

/// The link between the two hosts of a Linux guest, in each direction.
const NETEM: &str = "delay 20ms rate 50mbit loss 0.1% limit 2000";
/// Reports of a Linux guest that are waited for between two moves.
const TICKS: u64 = 5;

/// Folders besides those of the libraries.
const FOLDERS: [&str; 9] = [
    "bin",
    "boot",
    "dev",
    "lib",
    "lib/modules",
    "proc",
    "sbin",
    "sys",
    "tmp",
];

/// Writes the archive to `path`.
pub(super) fn write(path: &Path, pieces: &Pieces, me2: &Path, options: &Options) -> Result {
    // busybox's own do not know veth and netem.
    let network: Vec<_> = match options.scenario {
        Scenario::Smoke => Vec::new(),
        Scenario::Linux => ["ip", "tc"].map(|name| (name, setup::iproute(name))).into(),
    };
    let mut libraries = libraries(me2)?;
    for (_, program) in &network {
        libraries.extend(self::libraries(program)?);
    }
    libraries.sort();
    libraries.dedup();
    let error = |error| format!("cannot write {}: {error}", path.display());
    let mut archive = Archive::new(BufWriter::new(File::create(path).map_err(error)?));
    for folder in folders(&libraries) {
        archive.folder(&folder).map_err(error)?;
    }
    let mut programs = vec![
        ("bin/busybox".to_owned(), pieces.busybox.as_path()),
        ("bin/me2".to_owned(), me2),
    ];
    for (name, program) in &network {
        programs.push((format!("sbin/{name}"), program));
    }
    for file in &pieces.modules {
        let name = file.file_name().unwrap_or_default().display();
        programs.push((format!("lib/modules/{name}"), file));
    }
    programs.push(("boot/vmlinuz".to_owned(), &pieces.kernel));
    for library in &libraries {
        programs.push((inside(library), Path::new(library)));
    }
    for (name, file) in programs {
        let content = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        archive.program(&name, &content).map_err(error)?;
    }
    archive.program("init", INIT.as_bytes()).map_err(error)?;
    let (scenario, guest) = match options.scenario {
        Scenario::Smoke => (SMOKE, Vec::new()),
        Scenario::Linux => (LINUX, guest(pieces).map_err(error)?),
    };
    archive
        .program("scenario.sh", scenario.as_bytes())
        .map_err(error)?;
    archive.program("boot/guest", &guest).map_err(error)?;
    let settings = settings(options);
    archive
        .program("lab.sh", settings.as_bytes())
        .map_err(error)?;
    archive.finish().map(drop).map_err(error)
}

/// The file system of the Linux guest.
fn guest(pieces: &Pieces) -> io::Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    for folder in ["bin", "dev", "lib", "lib/modules", "proc", "sys", "tmp"] {
        archive.folder(folder)?;
    }
    for (number, module) in pieces.guest_modules.iter().enumerate() {
        // Loaded in the order of their names.
        let name = module.file_name().unwrap_or_default().display();
        archive.program(&format!("lib/modules/{number}-{name}"), &fs::read(module)?)?;
    }
    archive.program("bin/busybox", &fs::read(&pieces.busybox)?)?;
    archive.program("init", GUEST.as_bytes())?;
    archive.finish()
}

/// What `init.sh` reads; the values are of this program's own making.
fn settings(options: &Options) -> String {
    let Options { cpus, scenario, .. } = options;
    format!(
        "LIMIT_SECONDS={LIMIT_SECONDS}\nMOVE_SECONDS={}\nCPUS={cpus}\nMEMORY={}\nCMDLINE='{}'\n\
         NETEM='{NETEM}'\nTICKS={TICKS}\n",
        scenario.move_seconds(),
        scenario.memory(),
        scenario.command_line()
    )
}

/// The shared libraries of a program and its loader, as absolute paths.
fn libraries(program: &Path) -> Result<Vec<String>> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|error| format!("cannot run ldd: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.contains("not found") {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let said = format!("{text}{complaint}");
        return Err(format!(
            "cannot tell the libraries of {}: {}",
            program.display(),
            said.trim()
        ));
    }
    Ok(library_paths(&text))
}

/// Lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or the path alone.
fn library_paths(listing: &str) -> Vec<String> {
    let words = listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(str::to_owned).collect()
}

/// All folders, each after those above it.
fn folders(libraries: &[String]) -> Vec<String> {
    let mut folders: Vec<String> = FOLDERS.map(str::to_owned).into();
    for library in libraries {
        let inside = inside(library);
        for (end, _) in inside.match_indices('/') {
            folders.push(inside[..end].to_owned());
        }
    }
    // Sorted, a folder comes before what is in it.
    folders.sort();
    folders.dedup();
    folders
}

fn inside(path: &str) -> String {
    path.trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_and_have_their_folders() {
        let listing = "\tlinux-vdso.so.1 (0x00007fe594b78000)\n\
                       \tlibm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x00007fe594320000)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007fe594b7a000)\n";
        let libraries = library_paths(listing);
        assert_eq!(
            libraries,
            [
                "/lib/x86_64-linux-gnu/libm.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        let folders = folders(&libraries);
        let place = |name: &str| folders.iter().position(|folder| folder == name);
        assert!(place("lib").unwrap() < place("lib/x86_64-linux-gnu").unwrap());
        assert!(place("lib64").is_some());
        assert_eq!(folders.iter().filter(|folder| *folder == "lib").count(), 1);
    }
}
