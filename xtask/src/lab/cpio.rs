//! Archives as the kernel takes them for its first file system: the "newc" form of cpio, as the
//! kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` describes it.

use std::io::{self, Write};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const END: &str = "TRAILER!!!";

/// An archive that grows file by file.
pub(super) struct Archive<W> {
    to: W,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An archive without files.
    pub(super) fn new(to: W) -> Self {
        Self { to, entries: 0 }
    }

    /// Adds a folder; those above it must have been added. Paths are without a leading slash.
    pub(super) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER, &[])
    }

    /// Adds a file that may be executed.
    pub(super) fn program(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, PROGRAM, content)
    }

    /// Ends the archive; without it, the kernel refuses it.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.entry(END, 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let length = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.entries += 1;
        let links = 1 + u32::from(mode == FOLDER);
        // Inode, mode, owner, group, links, time, length, device and its minor, special device and
        // its minor, length of the name with its zero, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, length, 0, 0, 0, 0];
        let mut header = String::from("070701");
        for field in fields.into_iter().chain([path.len() as u32 + 1, 0]) {
            header += &format!("{field:08x}");
        }
        header += path;
        header.push('\0');
        self.padded(header.as_bytes())?;
        self.padded(content)
    }

    /// Everything starts at a multiple of four bytes.
    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.to.write_all(bytes)?;
        self.to.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("bin").unwrap();
        archive.program("bin/a", b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8(bytes).unwrap();
        let entries: Vec<_> = text.split("070701").skip(1).collect();
        assert_eq!(entries.len(), 3);
        assert!(entries[0].starts_with("00000001000041ed"));
        assert!(entries[0][104..].starts_with("bin\0"));
        assert!(entries[1].starts_with("00000002000081ed"));
        assert_eq!(&entries[1][48..56], "00000005");
        assert_eq!(&entries[1][88..96], "00000006");
        // 6 + 104 bytes of header, 6 of name, and the content, which is padded on its own.
        assert_eq!(&entries[1][104..], "bin/a\0hello\0\0\0");
        assert!(entries[2][104..].starts_with("TRAILER!!!\0"));
    }
}
