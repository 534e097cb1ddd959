//! Guests that are not the built-in one, assembled when a test asks for them: `guest/counter.S` and
//! `guest/echo.S`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Where the guest's second region of memory begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecondRegion {
    /// At 64 MiB, like the first below the hole.
    Low,
    /// At 4 GiB, behind the hole: the VM must have more than 3 GiB.
    BehindHole,
}

/// Assembles the guest that counts, in this folder; gives the ELF.
///
/// # Panics
/// If there is no C compiler (`cc`, or what `CC` says), or it fails.
pub fn build(folder: &Path, second: SecondRegion) -> PathBuf {
    let guest = folder.join(format!("counter-{second:?}.elf"));
    let second = match second {
        SecondRegion::Low => "0x4000000",
        SecondRegion::BehindHole => "0x100000000",
    };
    assemble("counter.S", &[&format!("-DSECOND_REGION={second}")], guest)
}

/// Assembles the guest that gives back what comes in at its serial port; gives the ELF.
///
/// # Panics
/// As [`build`] does.
pub fn build_echo(folder: &Path) -> PathBuf {
    assemble("echo.S", &[], folder.join("echo.elf"))
}

fn assemble(source: &str, options: &[&str], guest: PathBuf) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(&compiler)
        .args(["-static", "-no-pie", "-nostdlib", "-Wl,--build-id=none"])
        .args(options)
        .arg("-T")
        .arg(sources.join("counter.ld"))
        .arg(sources.join(source))
        .arg("-o")
        .arg(&guest)
        .output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {compiler:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{compiler:?}: {stderr}");
    guest
}

/// The numbers of whole lines that the guest has printed. What came before the first whole line,
/// and a last line that is not whole yet, are left out.
///
/// # Panics
/// If there is a line that the guest does not print.
pub fn numbers(console: &str) -> Vec<u64> {
    let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let number = |line: &str| {
        let digits = line.strip_prefix("count ")?;
        u64::from_str_radix(digits, 16).ok()
    };
    whole
        .lines()
        .map(|line| number(line).unwrap_or_else(|| panic!("not a line of this guest: {line:?}")))
        .collect()
}

/// # Panics
/// If the numbers are not 1, 2, 3 and so on.
pub fn check_no_gap(numbers: &[u64]) {
    for (expected, number) in (1..).zip(numbers) {
        assert_eq!(*number, expected, "a gap, or a repetition");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_numbers() {
        assert_eq!(numbers("count 00000001\ncount 0000000a\ncount 00"), [1, 10]);
        assert!(numbers("count 000").is_empty());
        check_no_gap(&[1, 2, 3]);
    }

    #[test]
    #[should_panic(expected = "a gap, or a repetition")]
    fn a_repetition_is_noticed() {
        check_no_gap(&[1, 2, 2]);
    }

    #[test]
    fn it_can_be_built() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for second in [SecondRegion::Low, SecondRegion::BehindHole] {
            let guest = std::fs::read(build(folder.path(), second)).expect("a file");
            assert!(guest.starts_with(b"\x7fELF"));
        }
    }
}
