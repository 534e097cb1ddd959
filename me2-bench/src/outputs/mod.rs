//! What a guest and the processes around it say, with the time at which each byte was seen here.
//!
//! The guest's serial port is a pipe to this program, for every scheme alike. So the guest's work is
//! seen from outside, by one clock, whoever runs it.

mod recorder;
mod report;

use std::time::Instant;

pub(crate) use recorder::Recorder;
pub(crate) use report::{GuestLine, Ready};

/// A sign of life: this CPU of the guest has completed operations since the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    pub(crate) at: Instant,
    pub(crate) cpu: u8,
}

/// A line, stamped with the arrival of its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) at: Instant,
    pub(crate) text: String,
}

/// All that came out of one process so far, or of a source and then its destination.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recording {
    pub(crate) beats: Vec<Beat>,
    pub(crate) lines: Vec<Line>,
    /// Text after the last line feed.
    partial: Vec<u8>,
}

/// Heartbeats are bytes from here on; text is below.
const BEAT: u8 = 0x80;

/// More without a line feed is nothing that a guest or a tool of ours says.
const LINE_BYTES_MAX: usize = 64 * 1024;

impl Recording {
    /// Takes bytes that arrived at `at`; those from 0x80 on are heartbeats.
    fn take_serial(&mut self, bytes: &[u8], at: Instant) {
        for &byte in bytes {
            match byte.checked_sub(BEAT) {
                Some(cpu) => self.beats.push(Beat { at, cpu }),
                None => self.take_text(byte, at),
            }
        }
    }

    fn take_text(&mut self, byte: u8, at: Instant) {
        if byte != b'\n' && self.partial.len() < LINE_BYTES_MAX {
            self.partial.push(byte);
            return;
        }
        let text = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
        self.partial.clear();
        self.lines.push(Line { at, text });
    }

    /// The guest's whole life: what it said at the source, then at the destination. A line that was
    /// cut in two by the move is one again.
    pub(crate) fn joined(source: &Self, destination: &Self) -> Self {
        let mut joined = source.clone();
        joined.beats.extend(&destination.beats);
        joined.beats.sort_by_key(|beat| beat.at);
        let cut = String::from_utf8_lossy(&std::mem::take(&mut joined.partial)).into_owned();
        let mut lines = destination.lines.iter().cloned();
        if let Some(mut first) = lines.next() {
            first.text.insert_str(0, &cut);
            joined.lines.push(first);
        }
        joined.lines.extend(lines);
        joined.partial.clone_from(&destination.partial);
        joined
    }

    /// What the guest found wrong, in its own words; and an end that nobody asked for.
    pub(crate) fn complaints(&self) -> impl Iterator<Item = &str> {
        let lines = self.lines.iter().map(|line| line.text.as_str());
        lines.filter(|text| match GuestLine::parse(text) {
            Some(line) => line.errors > 0,
            None => ["ERROR", "PANIC", "done", "error"]
                .iter()
                .any(|word| text.starts_with(&format!("me2-guest {word}"))),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn heartbeats_stand_anywhere_and_a_cut_line_is_made_whole() {
        let start = Instant::now();
        let later = start + Duration::from_millis(5);
        let mut source = Recording::default();
        source.take_serial(b"first\nsec\x80o\x81", start);
        let mut destination = Recording::default();
        destination.take_serial(b"\x80nd\nthird\n", later);
        let joined = Recording::joined(&source, &destination);
        let texts: Vec<_> = joined.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["first", "second", "third"]);
        assert_eq!(joined.lines[1].at, later);
        let beats: Vec<_> = joined.beats.iter().map(|beat| beat.cpu).collect();
        assert_eq!(beats, [0, 1, 0]);
    }

    #[test]
    fn a_destination_that_said_nothing_changes_nothing() {
        let mut source = Recording::default();
        source.take_serial(b"whole\ncut", Instant::now());
        let joined = Recording::joined(&source, &Recording::default());
        assert_eq!(joined.lines.len(), 1);
    }

    #[test]
    fn what_the_guest_complains_of_is_found() {
        let mut recording = Recording::default();
        let text = b"me2-guest cpu=0 t_ms=1 ops=2 verified=3 errors=0\n\
            me2-guest ready cpus=1 fill_pages=3 workload=kv\n\
            me2-guest ERROR cpu=0 page=0x1 check=version expected=0x12 found=0x11\n\
            me2-guest cpu=0 t_ms=1 ops=2 verified=3 errors=1\n";
        recording.take_serial(text, Instant::now());
        assert_eq!(recording.complaints().count(), 2);
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut recording = Recording::default();
        recording.take_serial(&vec![b'x'; 3 * LINE_BYTES_MAX], Instant::now());
        assert!(recording.partial.len() <= LINE_BYTES_MAX);
        assert_eq!(recording.lines.len(), 2);
    }
}
