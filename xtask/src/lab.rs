//! The nested lab: me2 on ordinary KVM, whatever this machine has.
//!
//! ```text
//! this machine ─▶ QEMU, emulating (TCG) ─▶ Debian's kernel, kvm_amd ─▶ me2 ⇄ me2 ─▶ guest
//! ```
//! It needs no `/dev/kvm`. Its counts and its verdicts mean something, its times nothing.

mod checks;
mod cpio;
mod events;
mod image;
mod json;
mod linux;
mod machine;
mod pieces;
mod record;
mod summary;

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{Command, ExitCode},
};

use crate::{Result, cargo, setup};
use image::Own;
use pieces::Pieces;
use record::Record;

const USAGE: &str = "\
Usage: cargo xtask lab --smoke [OPTIONS]
       cargo xtask lab --linux [OPTIONS]

Boots Debian's kernel in an emulated AMD machine and moves a VM there, on
kvm_amd with nested paging. Says which tracepoints of KVM fired.

  --smoke          the built-in guest: hybrid with all memory compared, then
                   post-copy alone
  --linux          the same kernel as the guest, with a database on its disk
                   under load, over a slow link to another network namespace
                   and back; a receiver is killed and the link is cut

Options:
  --cpus N         vCPUs of the VM, 1 or 2 [default: 2]
  --kernel VERSION another kernel than the release's own, from its backports,
                   such as 6.12; outside and in the guest
  --me2 FILE       take this me2 binary rather than building one
  --output FORMAT  human or json, one document on stdout [default: human]
  --help           show this text

Exit status: 0 all is well; 1 something is not; 2 usage.
";

/// What is done in the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scenario {
    /// `smoke.sh`.
    Smoke,
    /// `linux.sh`.
    Linux,
}

impl Scenario {
    /// Memory of the VM, as `me2 run` takes it.
    fn memory(self) -> &'static str {
        match self {
            Self::Smoke => "64M",
            Self::Linux => "160M",
        }
    }

    /// Command line of the guest: little work, since everything is emulated.
    fn command_line(self) -> &'static str {
        match self {
            Self::Smoke => "workload=kv fill=16M hot=4M rate=500 scan=100",
            Self::Linux => "console=ttyS0 loglevel=5 panic=-1 mitigations=off",
        }
    }

    /// Longest time of one move.
    fn move_seconds(self) -> u64 {
        match self {
            Self::Smoke => 60,
            Self::Linux => 240,
        }
    }
}

/// What can be asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    scenario: Scenario,
    cpus: u8,
    /// None: the release's own.
    kernel: Option<String>,
    me2: Option<String>,
    json: bool,
}

/// Installs what is missing, builds, boots the lab's machine, and judges what came of it.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode> {
    let options = match Options::parse(arguments) {
        Ok(Some(options)) => options,
        Ok(None) => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            eprint!("error: {error}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    let me2 = match &options.me2 {
        Some(me2) => me2.into(),
        None => {
            setup::setup()?;
            cargo::build_me2()?;
            cargo::me2()?
        }
    };
    let checker = cargo::checker()?;
    setup::ensure_qemu()?;
    if options.scenario == Scenario::Linux {
        setup::ensure_ip()?;
    }
    let folder = cargo::target()?.join("lab");
    let record = experiment(
        &folder,
        &Own {
            me2: &me2,
            checker: &checker,
        },
        &options,
    )?;
    let checks = match options.scenario {
        Scenario::Smoke => checks::all(&record),
        Scenario::Linux => linux::checks(&record, options.cpus),
    };
    match options.json {
        true => print!("{}", summary::json(&record, &checks, &options)),
        false => print!("{}", summary::human(&record, &checks, &options)),
    }
    match checks.iter().all(|check| check.ok) {
        true => Ok(ExitCode::SUCCESS),
        false => Err(format!("not all is well; logs are in {}", folder.display())),
    }
}

/// Boots the machine with all that it needs, and keeps its logs in `folder`.
fn experiment(folder: &Path, own: &Own<'_>, options: &Options) -> Result<Record> {
    let _alone = lock(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let pieces = Pieces::ensure(folder, options.kernel.as_deref())?;
    let image = folder.join("image.cpio");
    let stripped = folder.join("me2");
    let own = Own {
        me2: strip(own.me2, &stripped),
        ..*own
    };
    image::write(&image, &pieces, &own, options)?;
    let record = machine::run(folder, &pieces.kernel, &image)?;
    for (name, lines) in record.texts("log.") {
        let path = folder.join(format!("{name}.log"));
        fs::write(&path, lines.join("\n"))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    Ok(record)
}

/// Waits for other runs in this folder to end; a run ends at the latest when its process does.
fn lock(folder: &Path) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let file = File::create(folder.join("lock"))?;
    if file.try_lock().is_err() {
        eprintln!("lab: waiting for another run to end");
        file.lock()?;
    }
    Ok(file)
}

/// The program without what only debuggers read, if that can be had: a sixth of the size, all of
/// which an emulated processor would have to copy.
fn strip<'a>(program: &'a Path, to: &'a Path) -> &'a Path {
    let mut strip = Command::new("strip");
    let done = strip.arg("-o").arg(to).arg(program).output();
    match done.is_ok_and(|done| done.status.success()) {
        true => to,
        false => program,
    }
}

impl Options {
    /// Reads the arguments; `None` if only help is wanted. An error is one sentence.
    fn parse(arguments: &[String]) -> Result<Option<Self>> {
        let mut options = Self {
            scenario: Scenario::Smoke,
            cpus: 2,
            kernel: None,
            me2: None,
            json: false,
        };
        let mut scenario = None;
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            // Both `--name value` and `--name=value`.
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name.as_str(), None),
            };
            let mut value = || {
                let value = value.clone().or_else(|| rest.next().cloned());
                value.ok_or_else(|| format!("{name} needs a value"))
            };
            match name {
                "--help" | "-h" => return Ok(None),
                "--smoke" => scenario = Some(Scenario::Smoke),
                "--linux" => scenario = Some(Scenario::Linux),
                "--me2" => options.me2 = Some(value()?),
                "--kernel" => options.kernel = Some(kernel_version(value()?)?),
                "--cpus" => {
                    let value = value()?;
                    let count = value.parse().ok().filter(|count| (1..=2).contains(count));
                    options.cpus =
                        count.ok_or_else(|| format!("--cpus takes 1 or 2, not {value}"))?;
                }
                "--output" => {
                    options.json = match value()?.as_str() {
                        "json" => true,
                        "human" => false,
                        other => {
                            return Err(format!("--output takes human or json, not {other}"));
                        }
                    };
                }
                _ => return Err(format!("unexpected argument: {name}")),
            }
        }
        options.scenario = scenario.ok_or("say what to do: --smoke or --linux")?;
        Ok(Some(options))
    }
}

/// Two numbers, since it becomes part of a package's and of a folder's name.
fn kernel_version(text: String) -> Result<String> {
    let numbers: Vec<_> = text.split('.').map(str::parse::<u16>).collect();
    match numbers[..] {
        [Ok(_), Ok(_)] => Ok(text),
        _ => Err(format!(
            "--kernel takes two numbers, such as 6.12, not {text}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Options>> {
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn options_are_read() {
        let all = Options {
            scenario: Scenario::Smoke,
            cpus: 1,
            kernel: Some("6.12".into()),
            me2: Some("a/me2".into()),
            json: true,
        };
        let text = "--smoke --cpus 1 --kernel 6.12 --me2=a/me2 --output json";
        assert_eq!(parse(text), Ok(Some(all)));
        let linux = parse("--linux").unwrap().unwrap();
        assert_eq!(linux.scenario, Scenario::Linux);
        assert_eq!(parse("--cpus 9 --smoke").ok(), None);
        assert_eq!(parse("--help"), Ok(None));
        for (text, word) in [
            ("", "--smoke"),
            ("--smoke --cpus 3", "3"),
            ("--smoke --output xml", "xml"),
            ("--smoke --kernel ../x", "../x"),
            ("--smoke --kernel 6.1.0", "6.1.0"),
            ("--smoke --me2", "--me2"),
            ("--smoke now", "now"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(word), "{error}");
        }
    }
}
