//! How much memory this host has, and has to spare.

use anyhow::Context;
use me2_wire::PAGE_SIZE;

/// A field of `/proc/meminfo`, such as `MemTotal`, in KiB.
pub fn kib(field: &str) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    parse(&text, field).with_context(|| format!("/proc/meminfo tells no {field}"))
}

/// Guest pages that would fit into what is available; 0 if that cannot be told.
pub fn available_pages() -> usize {
    kib("MemAvailable").map_or(0, |kib| kib as usize * 1024 / PAGE_SIZE)
}

fn parse(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let value = line.strip_prefix(field)?.strip_prefix(':')?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "MemTotalX:  1 kB\nMemTotal:   24000 kB\nHugePages_Total: 7\n";
        assert_eq!(parse(text, "MemTotal"), Some(24000));
        assert_eq!(parse(text, "HugePages_Total"), None);
        assert_eq!(parse("", "MemTotal"), None);
    }

    #[test]
    fn this_host_has_memory() {
        assert!(kib("MemTotal").unwrap() >= kib("MemAvailable").unwrap());
    }
}
