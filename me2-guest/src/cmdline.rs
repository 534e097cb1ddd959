//! The command line, and the settings that follow from it and from the memory's size.

use core::fmt;

use crate::pace::RATE_MAX;
use crate::{CPUS_MAX, PAGE_SIZE};

/// What the guest does once its memory is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    /// Sleep, and look at a page a hundred times a second.
    Idle,
    /// Gets and sets on a hash table.
    Kv,
}

impl Workload {
    /// The name used on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Kv => "kv",
        }
    }
}

/// What was asked for; `None` where the default depends on the machine or on other options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `workload=`
    pub workload: Workload,
    /// `fill=`, bytes
    pub fill: Option<u64>,
    /// `hot=`, bytes
    pub hot: Option<u64>,
    /// `rate=`, operations per second over all CPUs; 0 is full speed
    pub rate: u64,
    /// `writes=`, percent
    pub writes: u64,
    /// `scan=`, pages per second over all CPUs
    pub scan: Option<u64>,
    /// `seed=`
    pub seed: u64,
    /// `cpus=`
    pub cpus: Option<usize>,
    /// `tsc_khz=`, for a machine without kvmclock
    pub tsc_khz: Option<u64>,
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
            scan: None,
            seed: 1,
            cpus: None,
            tsc_khz: None,
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
                self.workload = match value {
                    "idle" => Workload::Idle,
                    "kv" => Workload::Kv,
                    _ => return Err(bad("idle or kv")),
                }
            }
            "fill" => self.fill = Some(size(value, FILL_MIN).ok_or(bad(FILL_WANTED))?),
            "hot" => self.hot = Some(size(value, HOT_MIN).ok_or(bad(HOT_WANTED))?),
            "rate" => {
                self.rate = number(
                    0..=RATE_MAX,
                    "operations per second, 0 (full speed) to 1000000000",
                )?
            }
            "writes" => self.writes = number(0..=100, "percent, 0 to 100")?,
            "scan" => self.scan = Some(number(0..=RATE_MAX, "pages per second, 0 to 1000000000")?),
            "seed" => self.seed = number(0..=u64::MAX, "a number")?,
            "cpus" => self.cpus = Some(number(1..=CPUS_MAX as u64, "1 to 8")? as usize),
            "tsc_khz" => {
                self.tsc_khz = Some(number(1_000..=100_000_000, "kHz, 1000 to 100000000")?)
            }
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

/// How much memory takes part; whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Pages that hold contents.
    pub fill_pages: u64,
    /// Those of them that the hash table is in; 0 if the workload has none.
    pub hot_pages: u64,
}

impl Sizes {
    /// The sizes for a machine with `ram_pages` of memory. Whether the fill finds room beside the guest
    /// itself is for the one who places it to say.
    pub fn resolve(options: &Options, ram_pages: u64) -> Result<Self, BadSize> {
        let half = ram_pages * PAGE_SIZE / 2;
        let fill = options.fill.unwrap_or(FILL_DEFAULT.min(half));
        if fill < FILL_MIN {
            return Err(BadSize::TooLittleRam {
                ram: ram_pages * PAGE_SIZE,
            });
        }
        let hot = options.hot.unwrap_or(HOT_DEFAULT.min(fill / 2));
        if hot > fill {
            return Err(BadSize::HotAboveFill { hot, fill });
        }
        let hot_pages = match options.workload {
            Workload::Kv => hot / PAGE_SIZE,
            Workload::Idle => 0,
        };
        Ok(Self {
            fill_pages: fill / PAGE_SIZE,
            hot_pages,
        })
    }
}

/// Sizes that do not go together; all in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadSize {
    /// The machine is too small for any fill.
    TooLittleRam {
        /// What the machine has.
        ram: u64,
    },
    /// More is to be hot than there is.
    HotAboveFill {
        /// `hot=`
        hot: u64,
        /// `fill=` or its default
        fill: u64,
    },
}

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittleRam { ram } => {
                write!(f, "{ram} bytes of RAM are too few, give the machine more")
            }
            Self::HotAboveFill { hot, fill } => {
                write!(f, "hot={hot} is more than fill={fill} (bytes)")
            }
        }
    }
}

const FILL_DEFAULT: u64 = 256 << 20;
const HOT_DEFAULT: u64 = 32 << 20;
// Enough for each of 8 CPUs to have pages and buckets of its own.
const FILL_MIN: u64 = 1 << 20;
const HOT_MIN: u64 = 64 << 10;
const FILL_WANTED: &str = "a size with K, M or G, at least 1M";
const HOT_WANTED: &str = "a size with K, M or G, at least 64K";
const MS_MAX: u64 = 1_000_000_000;
const KEYS: &str = "workload fill hot rate writes scan seed cpus tsc_khz corrupt_ms run_ms";

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
            "workload=idle fill=2G hot=64M rate=0 writes=7 scan=9 seed=3 cpus=2 tsc_khz=2000000 corrupt_ms=5 run_ms=6",
        );
        let expected = Options {
            workload: Workload::Idle,
            fill: Some(2 << 30),
            hot: Some(64 << 20),
            rate: 0,
            writes: 7,
            scan: Some(9),
            seed: 3,
            cpus: Some(2),
            tsc_khz: Some(2_000_000),
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
    fn sizes_follow_the_machine() {
        let sizes = |text: &str, ram: u64| Sizes::resolve(&parse(text), ram / PAGE_SIZE);
        let roomy = Sizes {
            fill_pages: 65_536,
            hot_pages: 8_192,
        };
        assert_eq!(sizes("", 1 << 30), Ok(roomy));
        let tight = Sizes {
            fill_pages: 8_192,
            hot_pages: 4_096,
        };
        assert_eq!(sizes("", 64 << 20), Ok(tight));
        assert_eq!(
            sizes("workload=idle", 1 << 30).map(|sizes| sizes.hot_pages),
            Ok(0)
        );
        assert_eq!(
            sizes("", 1 << 20),
            Err(BadSize::TooLittleRam { ram: 1 << 20 })
        );
        let above = BadSize::HotAboveFill {
            hot: 2 << 20,
            fill: 1 << 20,
        };
        assert_eq!(sizes("fill=1M hot=2M", 1 << 30), Err(above));
    }
}
