//! `cargo xtask fuzz`: every decoder of what a peer can send, with any bytes, for some time.

mod outcome;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use crate::{
    Result,
    cargo::{root, run, target},
    setup,
};
use outcome::Outcome;

const USAGE: &str = "\
Usage: cargo xtask fuzz [OPTIONS]

Installs a nightly compiler and cargo-fuzz if they are missing, then runs the fuzz targets of
fuzz/, one after the other. What one finds is kept in target/fuzz/corpus for the next time.

Options:
  --seconds N      for all targets together [default: 60]
  --target NAME    only this one; may be given several times
  --output FORMAT  human or json, one document on stdout [default: human]
  --help           show this text

Exit status: 0 nothing found; 1 a crash, with the path of its input; 2 usage.
";

/// An input that takes so long is a finding, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// So is an allocation of more than this at once, or more memory in all, in MiB: no more than what a
/// receiver may hold for a peer.
const ALLOCATION_MIB_MAX: u32 = 160;
const MEMORY_MIB_MAX: u32 = 1024;
const INPUT_BYTES_MAX: u32 = 16 << 10;

#[derive(Debug, PartialEq, Eq)]
struct Options {
    seconds: u64,
    targets: Vec<String>,
    json: bool,
}

/// Runs the targets; status 1 if one of them crashed.
pub(crate) fn fuzz(arguments: &[String]) -> Result<ExitCode> {
    let known = targets()?;
    let options = match parse(arguments, &known) {
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
    let fuzzer = Fuzzer::build()?;
    let seconds = (options.seconds / options.targets.len() as u64).max(1);
    let mut outcomes = Vec::new();
    for name in &options.targets {
        let outcome = fuzzer.run(name, seconds)?;
        eprintln!("{}", outcome.line());
        outcomes.push(outcome);
    }
    match options.json {
        true => println!("{}", outcome::json(&outcomes)),
        false => println!("{}", outcome::summary(&outcomes)),
    }
    let crashes: Vec<_> = outcomes.iter().filter_map(Outcome::finding).collect();
    match crashes.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(crashes.join("; ")),
    }
}

/// The programs that the manifest lists.
fn targets() -> Result<Vec<String>> {
    let path = root().join("fuzz/Cargo.toml");
    let manifest = fs::read_to_string(&path);
    let manifest = manifest.map_err(|error| format!("{}: {error}", path.display()))?;
    let programs = manifest.split("[[bin]]").skip(1);
    let names = programs.filter_map(|program| program.split('"').nth(1));
    Ok(names.map(str::to_owned).collect())
}

fn parse(arguments: &[String], known: &[String]) -> Result<Option<Options>> {
    let mut options = Options {
        seconds: 60,
        targets: Vec::new(),
        json: false,
    };
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        if name == "--help" || name == "-h" {
            return Ok(None);
        }
        let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => {
                let seconds = value.parse().ok().filter(|seconds| *seconds > 0);
                options.seconds = seconds.ok_or("--seconds takes a number above 0")?;
            }
            "--target" if known.contains(value) => options.targets.push(value.clone()),
            "--target" => {
                let known = known.join(", ");
                return Err(format!("no target {value:?}; there are {known}"));
            }
            "--output" => match value.as_str() {
                "human" => options.json = false,
                "json" => options.json = true,
                _ => return Err("--output takes human or json".into()),
            },
            unknown => return Err(format!("unexpected argument: {unknown}")),
        }
    }
    if options.targets.is_empty() {
        options.targets = known.to_vec();
    }
    Ok(Some(options))
}

/// The fuzz targets, built.
struct Fuzzer {
    programs: PathBuf,
    /// For what is found, and what is worth keeping.
    folder: PathBuf,
}

impl Fuzzer {
    fn build() -> Result<Self> {
        setup::setup()?; // libclang, for a crate that me2-vmm builds on
        let cargo_fuzz = setup::ensure_fuzzer()?;
        let folder = target()?.join("fuzz");
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut build = setup::nightly();
        build
            .arg(cargo_fuzz)
            .args(["build", "--fuzz-dir", "fuzz", "--target", &triple])
            .arg("--target-dir")
            .arg(&folder)
            .current_dir(root())
            // Chosen for other programs, and by the cargo that runs this one.
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTFLAGS");
        run(&mut build)?;
        Ok(Self {
            programs: folder.join(triple).join("release"),
            folder,
        })
    }

    fn run(&self, name: &str, seconds: u64) -> Result<Outcome> {
        let corpus = self.folder.join("corpus").join(name);
        let artifacts = self.folder.join("artifacts").join(name);
        for folder in [&corpus, &artifacts] {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let mut program = Command::new(self.programs.join(name));
        program
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-malloc_limit_mb={ALLOCATION_MIB_MAX}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .arg(corpus)
            .arg(seeds(name));
        watch(name, program)
    }
}

fn seeds(name: &str) -> PathBuf {
    root().join("fuzz/seeds").join(name)
}

/// Runs a program to its end, and reads what it says. Should it crash, that is shown.
fn watch(name: &str, mut program: Command) -> Result<Outcome> {
    let begun = Instant::now();
    let started = program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = started.map_err(|error| format!("cannot run the target {name}: {error}"))?;
    let stderr = child.stderr.take().ok_or("it has no stderr")?;
    let mut outcome = Outcome::new(name);
    let mut said = Vec::new();
    // Inputs are among what is said: any bytes.
    for line in BufReader::new(stderr).split(b'\n') {
        let line = line.map_err(|error| format!("the target {name}: {error}"))?;
        let line = String::from_utf8_lossy(&line).into_owned();
        outcome.read(&line);
        said.push(line);
    }
    let status = child
        .wait()
        .map_err(|error| format!("the target {name}: {error}"))?;
    outcome.end(status.success(), begun.elapsed());
    if !status.success() {
        const LINES_SHOWN: usize = 60;
        let from = said.len().saturating_sub(LINES_SHOWN);
        eprintln!("{}", said[from..].join("\n"));
    }
    Ok(outcome)
}

/// Where an input lies, as a person would type it.
fn shown(path: &str) -> String {
    let path = Path::new(path);
    path.strip_prefix(root())
        .unwrap_or(path)
        .display()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<Options>> {
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(&words, &["a".to_owned(), "b".to_owned()])
    }

    #[test]
    fn arguments_are_read() {
        let all = parsed(&[]).expect("right").expect("no help");
        assert_eq!((all.seconds, all.json, all.targets.len()), (60, false, 2));
        let one = parsed(&["--target", "b", "--seconds", "9", "--output", "json"]);
        let expected = Options {
            seconds: 9,
            targets: vec!["b".to_owned()],
            json: true,
        };
        assert_eq!(one, Ok(Some(expected)));
        assert_eq!(parsed(&["--help"]), Ok(None));
        for wrong in [
            &["--target", "c"][..],
            &["--seconds", "0"],
            &["--output", "xml"],
            &["--seconds"],
            &["now", "then"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_target_that_crashes_is_told_with_the_input_that_does_it() {
        let mut target = Command::new("sh");
        target.args([
            "-c",
            r"printf '#9\tNEW cov: 1\nMS: \377\nTest unit written to a/crash-1\n' >&2; exit 77",
        ]);
        let outcome = watch("chunk", target).expect("it runs");
        let finding = outcome.finding().expect("it crashed");
        assert!(finding.contains("a/crash-1"), "{finding}");
        assert!(outcome::json(&[outcome]).contains(r#""crashed":true,"input":"a/crash-1""#));
        let well = watch("chunk", Command::new("true")).expect("it runs");
        assert_eq!(well.finding(), None);
    }

    #[test]
    fn every_target_has_seeds() {
        let targets = targets().expect("the manifest is there");
        assert!(!targets.is_empty());
        for target in targets {
            assert!(seeds(&target).is_dir(), "{target}");
        }
    }
}
