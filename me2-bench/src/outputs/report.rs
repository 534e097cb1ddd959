//! Lines of the built-in guest.

use std::str::FromStr;

/// `me2-guest cpu=0 t_ms=1900 ops=38005 verified=39914 errors=0`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestLine {
    pub(crate) cpu: u8,
    /// Completed since the start, by this CPU.
    pub(crate) operations: u64,
    pub(crate) errors: u64,
}

impl GuestLine {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("me2-guest cpu=")?;
        let (cpu, rest) = rest.split_once(' ')?;
        Some(Self {
            cpu: cpu.parse().ok()?,
            operations: field(rest, "ops")?,
            errors: field(rest, "errors")?,
        })
    }
}

/// `me2-guest ready cpus=2 fill_pages=65536 workload=kv`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) fill_pages: u64,
}

impl Ready {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("me2-guest ready ")?;
        Some(Self {
            fill_pages: field(rest, "fill_pages")?,
        })
    }
}

fn field<T: FromStr>(text: &str, name: &str) -> Option<T> {
    let mut words = text.split(' ').filter_map(|word| word.split_once('='));
    words
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_guest_are_read() {
        let line = GuestLine::parse("me2-guest cpu=1 t_ms=1900 ops=38005 verified=39914 errors=2");
        let expected = GuestLine {
            cpu: 1,
            operations: 38005,
            errors: 2,
        };
        assert_eq!(line, Some(expected));
        let ready = Ready::parse("me2-guest ready cpus=2 fill_pages=65536 workload=kv");
        assert_eq!(ready, Some(Ready { fill_pages: 65536 }));
        for other in [
            "",
            "me2-guest cpu=1",
            "me2-guest cpu=x ops=1 errors=0",
            "ops=1 errors=0",
        ] {
            assert_eq!(GuestLine::parse(other), None, "{other}");
        }
    }
}
