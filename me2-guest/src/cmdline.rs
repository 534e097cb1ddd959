//! The command line.

use core::fmt;

use crate::CPUS_MAX;
use crate::churn::Freed;
use crate::pace::RATE_MAX;
use crate::rewrite::Order;

/// What the guest does once its memory is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Sleep, and look at a page a hundred times a second.
    Idle,
    /// Gets and sets on a hash table.
    Kv,
    /// Small records, rewritten.
    Rewrite,
    /// A large buffer, written in order.
    Stream,
    /// Blocks of pages, allocated and freed.
    Churn,
    /// A walk over a large working set.
    Graph,
}

impl Workload {
    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Kv => "kv",
            Self::Rewrite => "rewrite",
            Self::Stream => "stream",
            Self::Churn => "churn",
            Self::Graph => "graph",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let all = [
            Self::Idle,
            Self::Kv,
            Self::Rewrite,
            Self::Stream,
            Self::Churn,
            Self::Graph,
        ];
        all.into_iter().find(|workload| workload.name() == name)
    }
}

/// How much memory holds contents, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// This many bytes of free memory.
    Bytes(u64),
    /// The memory that the module is in.
    Module,
}

/// What was asked for; `None` where the default depends on the machine or on other options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `workload=`
    pub workload: Workload,
    /// `fill=`
    pub fill: Option<Fill>,
    /// `hot=`, bytes
    pub hot: Option<u64>,
    /// `rate=`, operations per second over all CPUs; 0 is full speed
    pub rate: u64,
    /// `writes=`, percent
    pub writes: u64,
    /// `order=`, of `rewrite`
    pub order: Order,
    /// `freed=`, of `churn`
    pub freed: Freed,
    /// `scan=`, pages per second over all CPUs
    pub scan: Option<u64>,
    /// `seed=`
    pub seed: u64,
    /// `cpus=`
    pub cpus: Option<usize>,
    /// `tsc_khz=`, for a machine without kvmclock
    pub tsc_khz: Option<u64>,
    /// `disk=`, bytes of the first disk to work on besides
    pub disk: Option<u64>,
    /// `net=echo`: send datagrams back that come to the first network card
    pub echo: bool,
    /// `corrupt_ms=`, milliseconds after the fill
    pub corrupt_ms: Option<u64>,
    /// `run_ms=`, milliseconds after the fill
    pub run_ms: Option<u64>,
}

impl Options {
    /// Reads a command line; what is not said has its default. A later option replaces an earlier one.
    pub fn parse(text: &str) -> Result<Self, BadOption<'_>> {
        let mut options = Self {
            workload: Workload::Kv,
            fill: None,
            hot: None,
            rate: 20_000,
            writes: 50,
            order: Order::Sequence,
            freed: Freed::Kept,
            scan: None,
            seed: 1,
            cpus: None,
            tsc_khz: None,
            disk: None,
            echo: false,
            corrupt_ms: None,
            run_ms: None,
        };
        for word in text.split_ascii_whitespace() {
            options.set(word)?;
        }
        Ok(options)
    }

    fn set<'a>(&mut self, word: &'a str) -> Result<(), BadOption<'a>> {
        let bad = |wanted| BadOption { word, wanted };
        let (key, value) = word.split_once('=').ok_or(bad("key=value"))?;
        let number = |range: core::ops::RangeInclusive<u64>, wanted| {
            decimal(value)
                .filter(|number| range.contains(number))
                .ok_or(bad(wanted))
        };
        match key {
            "workload" => {
                self.workload = Workload::of_name(value).ok_or(bad(WORKLOADS))?;
            }
            "fill" if value == "module" => self.fill = Some(Fill::Module),
            "fill" => {
                let bytes = size(value, FILL_MIN).ok_or(bad(FILL_WANTED))?;
                self.fill = Some(Fill::Bytes(bytes));
            }
            "hot" => self.hot = Some(size(value, HOT_MIN).ok_or(bad(HOT_WANTED))?),
            "rate" => {
                self.rate = number(
                    0..=RATE_MAX,
                    "operations per second, 0 (full speed) to 1000000000",
                )?
            }
            "writes" => self.writes = number(0..=100, "percent, 0 to 100")?,
            "order" => {
                self.order = match value {
                    "sequence" => Order::Sequence,
                    "uniform" => Order::Uniform,
                    _ => return Err(bad("sequence or uniform")),
                }
            }
            "freed" => {
                self.freed = match value {
                    "kept" => Freed::Kept,
                    "zeroed" => Freed::Zeroed,
                    _ => return Err(bad("kept or zeroed")),
                }
            }
            "scan" => self.scan = Some(number(0..=RATE_MAX, "pages per second, 0 to 1000000000")?),
            "seed" => self.seed = number(0..=u64::MAX, "a number")?,
            "cpus" => self.cpus = Some(number(1..=CPUS_MAX as u64, "1 to 8")? as usize),
            "tsc_khz" => {
                self.tsc_khz = Some(number(1_000..=100_000_000, "kHz, 1000 to 100000000")?)
            }
            "disk" => self.disk = Some(size(value, DISK_MIN).ok_or(bad(DISK_WANTED))?),
            "net" if value == "echo" => self.echo = true,
            "net" => return Err(bad("echo")),
            "corrupt_ms" => self.corrupt_ms = Some(number(0..=MS_MAX, "milliseconds")?),
            "run_ms" => self.run_ms = Some(number(0..=MS_MAX, "milliseconds")?),
            _ => return Err(bad(KEYS)),
        }
        Ok(())
    }
}

/// An option that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadOption<'a> {
    word: &'a str,
    wanted: &'static str,
}

impl fmt::Display for BadOption<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cut short, so that what is wanted is on the line too.
        let end = (0..=40)
            .rev()
            .find(|end| self.word.is_char_boundary(*end))
            .unwrap_or(0);
        let word = self.word.get(..end).unwrap_or(self.word);
        write!(f, "bad option \"{word}\", wanted: {}", self.wanted)
    }
}

/// Enough for each of 8 CPUs to have pages and buckets of its own.
pub const FILL_MIN: u64 = 1 << 20;
const HOT_MIN: u64 = 64 << 10;
const DISK_MIN: u64 = 64 << 10;
const FILL_WANTED: &str = "module, or a size with K, M or G, at least 1M";
const WORKLOADS: &str = "idle, kv, rewrite, stream, churn or graph";
const HOT_WANTED: &str = "a size with K, M or G, at least 64K";
const DISK_WANTED: &str = "a size with K, M or G, at least 64K";
const MS_MAX: u64 = 1_000_000_000;
const KEYS: &str =
    "workload fill hot rate writes order freed scan seed cpus tsc_khz disk net corrupt_ms run_ms";

/// Digits alone: `parse` would also take a sign.
fn decimal(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

fn size(text: &str, least: u64) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = decimal(digits)?.checked_mul(1 << shift)?;
    (least..=SIZE_MAX).contains(&bytes).then_some(bytes)
}

/// More than any machine has, and small enough to be added up.
const SIZE_MAX: u64 = 1 << 48;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn everything_can_be_said() {
        let options = parse(
            "workload=idle fill=2G hot=64M rate=0 writes=7 order=uniform freed=zeroed scan=9 seed=3 cpus=2 tsc_khz=2000000 disk=1M net=echo corrupt_ms=5 run_ms=6",
        );
        let expected = Options {
            workload: Workload::Idle,
            fill: Some(Fill::Bytes(2 << 30)),
            hot: Some(64 << 20),
            rate: 0,
            writes: 7,
            order: Order::Uniform,
            freed: Freed::Zeroed,
            scan: Some(9),
            seed: 3,
            cpus: Some(2),
            tsc_khz: Some(2_000_000),
            disk: Some(1 << 20),
            echo: true,
            corrupt_ms: Some(5),
            run_ms: Some(6),
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn nothing_need_be_said() {
        let options = parse(" ");
        assert_eq!(
            (options.workload, options.rate, options.writes),
            (Workload::Kv, 20_000, 50)
        );
        assert_eq!((options.fill, options.cpus), (None, None));
        assert_eq!(parse("rate=1 rate=2").rate, 2);
    }

    #[test]
    fn bad_options_are_named() {
        for text in [
            "quiet",
            "colour=blue",
            "workload=web",
            "workload=",
            "fill=",
            "fill=K",
            "fill=12Q",
            "fill=1K",
            "fill=-1M",
            "fill=99999999999G",
            "hot=1",
            "rate=x",
            "rate=+1",
            "rate=1000000001",
            "fill=modules",
            "order=",
            "freed=no",
            "writes=101",
            "cpus=0",
            "cpus=9",
            "seed=18446744073709551616",
            "=",
            "tsc_khz=1",
            "run_ms=1e3",
        ] {
            let error = Options::parse(text).expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_long_bad_option_is_cut_between_characters() {
        let text = "ü".repeat(100);
        let message = Options::parse(&text).expect_err("no value").to_string();
        assert!(
            message.len() < 80 && message.ends_with("key=value"),
            "{message}"
        );
        let text = format!("x{text}");
        assert!(
            Options::parse(&text)
                .expect_err("no value")
                .to_string()
                .len()
                < 80
        );
    }

    #[test]
    fn every_workload_has_a_name() {
        for name in ["idle", "kv", "rewrite", "stream", "churn", "graph"] {
            assert!(WORKLOADS.contains(name));
            let options = parse(&format!("workload={name}"));
            assert_eq!(options.workload.name(), name);
        }
    }
}
