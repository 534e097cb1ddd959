//! The anonymous memory of a process of ours, as it stands.

use std::{
    fs::{self, File},
    io,
    ops::{ControlFlow, Range},
    os::unix::fs::FileExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use super::{PAGE_BYTES, Page};

/// A process that was told to stand still; it goes on when this is dropped.
pub(crate) struct Stopped {
    pid: u32,
}

/// Pages that are read at once.
const PAGES_PER_READ: usize = 256;

/// Bits of an entry of the pagemap: the page is in memory; it belongs to a file, or is shared.
const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;

impl Stopped {
    /// Stops a process that this program has started.
    pub(crate) fn stop(pid: u32) -> Result<Self> {
        signal("STOP", &pid.to_string())?;
        Ok(Self { pid })
    }

    /// Gives every page of private anonymous memory that is there, but for stacks and libraries'
    /// data, to `take`, until that breaks off.
    pub(crate) fn read(&self, mut take: impl FnMut(&Page) -> ControlFlow<()>) -> Result<()> {
        let open = |name| File::open(format!("/proc/{}/{name}", self.pid));
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let (memory, pagemap) = (open("mem")?, open("pagemap")?);
        for range in maps.lines().filter_map(anonymous_range) {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at + PAGES_PER_READ as u64);
                if read_pages(&memory, &pagemap, at..end, &mut take)?.is_break() {
                    return Ok(());
                }
                at = end;
            }
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // If it has ended meanwhile, there is nothing to wake.
        let _ = signal("CONT", &self.pid.to_string());
    }
}

/// Sends a signal to a process, or, with a minus before its number, to a group.
pub(crate) fn signal(name: &str, target: &str) -> Result<()> {
    let mut command = Command::new("kill");
    let status = command
        .args(["-s", name, "--", target])
        .stderr(Stdio::null());
    let status = status
        .status()
        .context("cannot run kill (package procps)")?;
    ensure!(
        status.success(),
        "cannot send SIG{name} to process {target}"
    );
    Ok(())
}

/// Bytes of anonymous memory that a process has; `None` if it has ended.
pub(crate) fn anonymous_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// The pages of a line of `/proc/PID/maps`, by their number, if they are private, writable and
/// neither a file's nor a stack's.
fn anonymous_range(line: &str) -> Option<Range<u64>> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_writable = words.next()? == "rw-p";
    let name = words.nth(3);
    let page = |address| Some(u64::from_str_radix(address, 16).ok()? / PAGE_BYTES as u64);
    (is_writable && matches!(name, None | Some("[heap]"))).then_some(page(start)?..page(end)?)
}

/// Reads those of some pages that are there.
fn read_pages(
    memory: &File,
    pagemap: &File,
    pages: Range<u64>,
    take: &mut impl FnMut(&Page) -> ControlFlow<()>,
) -> io::Result<ControlFlow<()>> {
    let count = (pages.end - pages.start) as usize;
    let mut entries = [0; PAGES_PER_READ * 8];
    let entries = &mut entries[..count * 8];
    pagemap.read_exact_at(entries, pages.start * 8)?;
    let (entries, _) = entries.as_chunks::<8>();
    let is_there = |entry: &[u8; 8]| u64::from_le_bytes(*entry) & (PRESENT | OF_A_FILE) == PRESENT;
    if !entries.iter().any(is_there) {
        return Ok(ControlFlow::Continue(()));
    }
    let mut page = [0; PAGE_BYTES];
    for (number, _) in pages.zip(entries).filter(|(_, entry)| is_there(entry)) {
        memory.read_exact_at(&mut page, number * PAGE_BYTES as u64)?;
        if take(&page).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn only_private_anonymous_memory_counts() {
        let heap = "55d0c8a00000-55d0c8a21000 rw-p 00000000 00:00 0                  [heap]";
        assert_eq!(anonymous_range(heap), Some(0x5_5d0c_8a00..0x5_5d0c_8a21));
        let nameless = "7f2a00000000-7f2a00021000 rw-p 00000000 00:00 0 ";
        assert_eq!(
            anonymous_range(nameless).map(|range| range.count()),
            Some(0x21)
        );
        for other in [
            "7f2a00000000-7f2a00021000 r--p 00000000 00:00 0 ",
            "7f2a00000000-7f2a00021000 rw-s 00000000 00:05 0 ",
            "7f2a00000000-7f2a00021000 rw-p 00000000 fd:00 12 /usr/lib/libc.so.6",
            "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]",
            "",
            "nonsense",
        ] {
            assert_eq!(anonymous_range(other), None, "{other}");
        }
    }

    #[test]
    fn a_process_of_ours_can_be_read_and_goes_on() {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            "told=$(echo me2 was here | tr a-z A-Z); echo; read answer; echo $answer",
        ]);
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        output.read_exact(&mut [0]).unwrap();
        let mut has_it = false;
        let stopped = Stopped::stop(child.id()).unwrap();
        let read = stopped.read(|page| {
            has_it |= page.windows(12).any(|bytes| bytes == b"ME2 WAS HERE");
            ControlFlow::Continue(())
        });
        drop(stopped);
        read.unwrap();
        assert!(has_it && anonymous_bytes(child.id()).is_some());
        child.stdin.take().unwrap().write_all(b"on\n").unwrap();
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        child.wait().unwrap();
        assert_eq!(rest, "on\n");
        assert_eq!(anonymous_bytes(u32::MAX), None);
    }
}
