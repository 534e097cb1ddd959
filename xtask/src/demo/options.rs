//! What the demonstration can be asked for.

use std::thread;

pub(crate) const USAGE: &str = "\
Usage: cargo xtask run [OPTIONS]

Builds everything, starts a VM, moves it while it works from one me2 process to
another over QUIC, and prints the report.

Options:
  --mode MODE        hybrid, precopy, postcopy or stop-and-copy [default: hybrid]
  --memory SIZE      memory of the VM, with K, M or G [default: 256M]
  --cpus N           vCPUs [default: 2 if the host has as many, else 1]
  --workload TEXT    kv, idle, or a whole command line for the guest
                     [default: kv with half of the memory filled]
  --verify HOW       full: hash the real memory, with the VM held until then
                     [default: hashes]
  --output FORMAT    human or json, one document on stdout [default: human]
  --help             show this text

Exit status: 0 the VM moved and goes on; 2 usage; 3 no KVM; 1 anything else.
";

/// One demonstration.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// As `me2 hybrid-migrate` takes it; so are `verify` and `output`.
    pub(crate) mode: String,
    pub(crate) verify: String,
    pub(crate) output: String,
    /// As `me2 run` takes it.
    pub(crate) memory: String,
    pub(crate) cpus: usize,
    /// The command line of the built-in guest.
    pub(crate) cmdline: String,
}

/// What the arguments say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// Go ahead.
    Run(Options),
    /// Only tell what there is.
    Help,
}

impl Options {
    /// Reads the arguments behind `cargo xtask run`; an error is one sentence.
    pub(crate) fn parse(arguments: &[String]) -> Result<Parsed, String> {
        let mut mode = "hybrid".to_owned();
        let mut verify = "hashes".to_owned();
        let mut output = "human".to_owned();
        let mut memory = "256M".to_owned();
        let mut workload = "kv".to_owned();
        let mut cpus = thread::available_parallelism().map_or(1, |count| count.get().min(2));
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            if name == "--help" || name == "-h" {
                return Ok(Parsed::Help);
            }
            // Both `--name value` and `--name=value`.
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name.as_str(), None),
            };
            let known = [
                "--mode",
                "--verify",
                "--output",
                "--memory",
                "--workload",
                "--cpus",
            ];
            if !known.contains(&name) {
                return Err(format!("unexpected argument: {name}"));
            }
            let value = value
                .or_else(|| rest.next().cloned())
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name {
                "--mode" => {
                    mode = one_of(
                        name,
                        value,
                        &["hybrid", "precopy", "postcopy", "stop-and-copy"],
                    )?;
                }
                "--verify" => verify = one_of(name, value, &["hashes", "full"])?,
                "--output" => output = one_of(name, value, &["human", "json"])?,
                "--memory" => memory = value,
                "--workload" => workload = value,
                _ => {
                    let count = value.parse().ok().filter(|count| (1..=8).contains(count));
                    cpus = count.ok_or_else(|| format!("--cpus takes 1 to 8, not {value}"))?;
                }
            }
        }
        let bytes = bytes(&memory).filter(|bytes| (MEMORY_MIN..=MEMORY_MAX).contains(bytes));
        let bytes = bytes.ok_or_else(|| {
            format!("--memory takes a size from 16M to 1024G, such as 256M, not {memory}")
        })?;
        let cmdline = match workload.contains('=') {
            true => workload,
            // At full speed: a guest that waits most of the time is easy to move.
            false => format!("workload={workload} fill={}K rate=0", bytes / 2 / 1024),
        };
        Ok(Parsed::Run(Self {
            mode,
            verify,
            output,
            memory,
            cpus,
            cmdline,
        }))
    }
}

/// Enough for the guest, its tables and a fill.
const MEMORY_MIN: u64 = 16 << 20;
/// The largest VM that me2 takes.
const MEMORY_MAX: u64 = 1 << 40;

fn one_of(name: &str, value: String, choices: &[&str]) -> Result<String, String> {
    match choices.contains(&value.as_str()) {
        true => Ok(value),
        false => Err(format!(
            "{name} takes {}, not {value}",
            choices.join(" or ")
        )),
    }
}

/// A size with K, M or G, in bytes; `None` if it is none.
fn bytes(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(['K', 'M', 'G']);
    let scale = match &size[digits.len()..] {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    // `parse` would also take a sign.
    let is_number = digits.bytes().all(|digit| digit.is_ascii_digit());
    digits
        .parse::<u64>()
        .ok()
        .filter(|_| is_number)?
        .checked_mul(scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Parsed, String> {
        let words: Vec<String> = text.split_ascii_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn nothing_need_be_said() {
        let Ok(Parsed::Run(options)) = parse("") else {
            panic!("refused");
        };
        assert_eq!(
            (options.mode.as_str(), options.memory.as_str()),
            ("hybrid", "256M")
        );
        assert_eq!(options.cmdline, "workload=kv fill=131072K rate=0");
        assert!((1..=2).contains(&options.cpus));
    }

    #[test]
    fn everything_can_be_said() {
        let text =
            "--mode postcopy --memory=4G --cpus 1 --workload idle --verify full --output=json";
        let expected = Options {
            mode: "postcopy".into(),
            verify: "full".into(),
            output: "json".into(),
            memory: "4G".into(),
            cpus: 1,
            cmdline: "workload=idle fill=2097152K rate=0".into(),
        };
        assert_eq!(parse(text), Ok(Parsed::Run(expected)));
        assert_eq!(parse("--mode hybrid --help"), Ok(Parsed::Help));
        let Ok(Parsed::Run(options)) = parse("--workload fill=8M") else {
            panic!("refused");
        };
        assert_eq!(options.cmdline, "fill=8M");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, word) in [
            ("--mode fast", "fast"),
            ("--mode", "--mode"),
            ("--cpus 0", "--cpus"),
            ("--cpus x", "--cpus"),
            ("--memory 1M", "1M"),
            ("--memory +256M", "+256M"),
            ("--memory MM", "MM"),
            ("--memory 1KM", "1KM"),
            ("--output xml", "xml"),
            ("--colour red", "--colour"),
            ("now", "now"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(word), "{error}");
        }
    }
}
