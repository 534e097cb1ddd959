//! How much memory takes part, by the command line and what the machine has.

use core::fmt;

use crate::PAGE_SIZE;
use crate::cmdline::{FILL_MIN, Fill, Options, Workload};

/// How much memory takes part; whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Pages that hold contents.
    pub fill_pages: u64,
    /// Those of them that the workload works in; 0 if it is in none in particular.
    pub hot_pages: u64,
}

impl Sizes {
    /// The sizes for a machine with `ram_pages` of memory and a module of `module_pages` whole pages.
    /// Whether the fill finds room beside the guest itself is for the one who places it to say.
    pub fn resolve(options: &Options, ram_pages: u64, module_pages: u64) -> Result<Self, BadSize> {
        let half = ram_pages * PAGE_SIZE / 2;
        let fill = match options.fill {
            Some(Fill::Bytes(bytes)) => bytes,
            Some(Fill::Module) => module_pages * PAGE_SIZE,
            None => FILL_DEFAULT.min(half),
        };
        if fill < FILL_MIN {
            return Err(match options.fill {
                Some(Fill::Module) => BadSize::SmallModule { module: fill },
                _ => BadSize::TooLittleRam {
                    ram: ram_pages * PAGE_SIZE,
                },
            });
        }
        let (default, most) = match options.workload {
            Workload::Idle => (0, fill),
            Workload::Kv | Workload::Rewrite => (HOT_DEFAULT.min(fill / 2), fill),
            Workload::Graph => (fill / 2, fill),
            // Contents come from the rest.
            Workload::Stream | Workload::Churn => (fill / 2, fill / 8 * 7),
        };
        let hot = options.hot.unwrap_or(default);
        if hot > most {
            return Err(BadSize::HotTooLarge { hot, most });
        }
        let hot_pages = match options.workload {
            Workload::Idle => 0,
            _ => hot / PAGE_SIZE,
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
    /// The fill is to be the module, and there is none, or hardly any.
    SmallModule {
        /// Its whole pages.
        module: u64,
    },
    /// More is to be hot than the workload can use.
    HotTooLarge {
        /// `hot=`
        hot: u64,
        /// The most it can be
        most: u64,
    },
}

impl fmt::Display for BadSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittleRam { ram } => {
                write!(f, "{ram} bytes of RAM are too few, give the machine more")
            }
            Self::SmallModule { module } => {
                write!(
                    f,
                    "fill=module needs a module (an initrd) of {FILL_MIN} bytes or more, there are {module}"
                )
            }
            Self::HotTooLarge { hot, most } => {
                write!(f, "hot={hot} is more than the fill allows, {most} (bytes)")
            }
        }
    }
}

const FILL_DEFAULT: u64 = 256 << 20;
const HOT_DEFAULT: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn sizes_follow_the_machine() {
        let sizes = |text: &str, ram: u64| Sizes::resolve(&parse(text), ram / PAGE_SIZE, 0);
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
        let above = BadSize::HotTooLarge {
            hot: 2 << 20,
            most: 1 << 20,
        };
        assert_eq!(sizes("fill=1M hot=2M", 1 << 30), Err(above));
        let all = BadSize::HotTooLarge {
            hot: 1 << 20,
            most: 7 << 17,
        };
        assert_eq!(sizes("workload=stream fill=1M hot=1M", 1 << 30), Err(all));
    }

    #[test]
    fn the_module_can_be_the_fill() {
        let sizes = |pages| {
            let options = parse("workload=graph fill=module");
            Sizes::resolve(&options, 262_144, pages)
        };
        let expected = Sizes {
            fill_pages: 200_001,
            hot_pages: 100_000,
        };
        assert_eq!(sizes(200_001), Ok(expected));
        assert_eq!(sizes(0), Err(BadSize::SmallModule { module: 0 }));
    }
}
