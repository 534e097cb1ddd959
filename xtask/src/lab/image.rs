//! The first and only file system of the lab's machine: busybox, modules, `me2` and the programs of
//! the scenario with the shared libraries that they need, and `init.sh`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
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
const LIMIT_SECONDS: u64 = 840;

/// The link between the two hosts of a Linux guest, in each direction.
const NETEM: &str = "delay 20ms rate 50mbit loss 0.1% limit 2000";
/// For so long nothing passes, behind a handover.
const CUT_SECONDS: u64 = 10;
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
/// Where Debian's programs look for libraries, whatever their settings.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// A file, and where it is to be.
struct Program {
    inside: String,
    from: PathBuf,
}

impl Program {
    fn new(inside: impl Into<String>, from: impl Into<PathBuf>) -> Self {
        Self {
            inside: inside.into(),
            from: from.into(),
        }
    }
}

/// The programs of the workspace that run in the lab.
pub(super) struct Own<'a> {
    pub(super) me2: &'a Path,
    pub(super) checker: &'a Path,
}

/// Writes the archive to `path`.
pub(super) fn write(path: &Path, pieces: &Pieces, own: &Own, options: &Options) -> Result {
    let mut programs = vec![
        Program::new("bin/busybox", &pieces.busybox),
        Program::new("bin/me2", own.me2),
    ];
    let mut linked = vec![own.me2.to_owned()];
    let (scenario, guest) = match options.scenario {
        Scenario::Smoke => (SMOKE, Vec::new()),
        Scenario::Linux => {
            let database = pieces.database.join("redis-server");
            let guest = guest(pieces, &libraries(&[&database], &pieces.database)?)?;
            programs.push(Program::new("bin/checker", own.checker));
            programs.push(Program::new("bin/redis-server", &database));
            linked.extend([own.checker.to_owned(), database]);
            // busybox's own know neither veth nor netem, and make no ext4.
            for name in ["ip", "tc", "mke2fs"] {
                let program = setup::system_program(name);
                programs.push(Program::new(format!("sbin/{name}"), &program));
                linked.push(program);
            }
            (LINUX, guest)
        }
    };
    let linked: Vec<_> = linked.iter().map(PathBuf::as_path).collect();
    programs.extend(libraries(&linked, &pieces.database)?);
    programs.extend(pieces.modules.iter().map(|module| {
        let name = module.file_name().unwrap_or_default().display();
        Program::new(format!("lib/modules/{name}"), module)
    }));
    programs.push(Program::new("boot/vmlinuz", &pieces.kernel));

    let error = |error| format!("cannot write {}: {error}", path.display());
    let file = BufWriter::new(File::create(path).map_err(error)?);
    let mut archive = archive(file, &FOLDERS, &programs)?;
    let settings = settings(options);
    for (name, content) in [
        ("init", INIT.as_bytes()),
        ("scenario.sh", scenario.as_bytes()),
        ("boot/guest", &guest),
        ("lab.sh", settings.as_bytes()),
    ] {
        archive.program(name, content).map_err(error)?;
    }
    archive.finish().map(drop).map_err(error)
}

/// The file system of the Linux guest.
fn guest(pieces: &Pieces, libraries: &[Program]) -> Result<Vec<u8>> {
    let mut programs = vec![
        Program::new("bin/busybox", &pieces.busybox),
        Program::new("bin/redis-server", pieces.database.join("redis-server")),
    ];
    for (number, module) in pieces.guest_modules.iter().enumerate() {
        // Loaded in the order of their names.
        let name = module.file_name().unwrap_or_default().display();
        programs.push(Program::new(format!("lib/modules/{number}-{name}"), module));
    }
    for library in libraries {
        programs.push(Program::new(&library.inside, &library.from));
    }
    let folders = [
        "bin",
        "data",
        "dev",
        "lib",
        "lib/modules",
        "proc",
        "sys",
        "tmp",
    ];
    let mut archive = archive(Vec::new(), &folders, &programs)?;
    archive
        .program("init", GUEST.as_bytes())
        .and_then(|()| archive.finish())
        .map_err(|error| error.to_string())
}

/// An archive with these folders, these programs and the folders in which those are.
fn archive<W: Write>(to: W, empty: &[&str], programs: &[Program]) -> Result<Archive<W>> {
    let mut archive = Archive::new(to);
    for folder in folders(empty, programs) {
        archive.folder(&folder).map_err(|error| error.to_string())?;
    }
    for Program { inside, from } in programs {
        let content = fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?;
        archive
            .program(inside, &content)
            .map_err(|error| error.to_string())?;
    }
    Ok(archive)
}

/// What `init.sh` reads; the values are of this program's own making.
fn settings(options: &Options) -> String {
    let Options { cpus, scenario, .. } = options;
    format!(
        "LIMIT_SECONDS={LIMIT_SECONDS}\nMOVE_SECONDS={}\nCPUS={cpus}\nMEMORY={}\nCMDLINE='{}'\n\
         NETEM='{NETEM}'\nTICKS={TICKS}\nCUT_SECONDS={CUT_SECONDS}\n",
        scenario.move_seconds(),
        scenario.memory(),
        scenario.command_line()
    )
}

/// The shared libraries of programs, each once, and their loader; those in `folder` go before the system's.
fn libraries(programs: &[&Path], folder: &Path) -> Result<Vec<Program>> {
    let mut found = Vec::new();
    for program in programs {
        let mut ldd = Command::new("ldd");
        let output = ldd.arg(program).env("LD_LIBRARY_PATH", folder).output();
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
        found.extend(library_paths(&text));
    }
    found.sort();
    found.dedup();
    Ok(found
        .into_iter()
        .map(|path| match Path::new(&path).strip_prefix(folder) {
            Ok(name) => Program::new(format!("{LIBRARIES}/{}", name.display()), &path),
            Err(_) => Program::new(path.trim_start_matches('/'), &path),
        })
        .collect())
}

/// Lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, or the path alone.
fn library_paths(listing: &str) -> Vec<String> {
    let words = listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(str::to_owned).collect()
}

/// All folders, each after those above it.
fn folders(empty: &[&str], programs: &[Program]) -> Vec<String> {
    let mut folders: Vec<_> = empty.iter().map(|&name| name.to_owned()).collect();
    for Program { inside, .. } in programs {
        for (end, _) in inside.match_indices('/') {
            folders.push(inside[..end].to_owned());
        }
    }
    // Sorted, a folder comes before what is in it.
    folders.sort();
    folders.dedup();
    folders
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
        let libraries: [String; 2] = libraries.try_into().unwrap();
        assert_eq!(
            libraries,
            [
                "/lib/x86_64-linux-gnu/libm.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        let programs = libraries
            .each_ref()
            .map(|path| Program::new(path.trim_start_matches('/'), path));
        let folders = folders(&["lib"], &programs);
        let place = |name: &str| folders.iter().position(|folder| folder == name);
        assert!(place("lib").unwrap() < place("lib/x86_64-linux-gnu").unwrap());
        assert!(place("lib64").is_some());
        assert_eq!(folders.iter().filter(|folder| *folder == "lib").count(), 1);
    }
}
