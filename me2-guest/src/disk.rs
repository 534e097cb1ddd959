//! Blocks on a disk: which is written when, and what must be in it.
//!
//! Writes are numbered from 1, and go round over the blocks. A block says which write it is of, so
//! that who reads the disk from outside can tell whether a write that was acknowledged is missing, or
//! an older one came after it.

use crate::scatter;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 4096;
/// Words of a block.
pub const BLOCK_WORDS: usize = BLOCK_BYTES / 8;
/// Requests that are under way at a time.
pub const DEPTH: usize = 4;
/// Pages that requests use in turn: what came from the disk stays in memory for a while, and is looked
/// at again.
pub const BUFFERS: usize = 64;
/// The first word of a block, but for the write's number.
const MARK: u64 = u64::from_le_bytes(*b"me2-disk");
/// Every so many writes there is a flush, and a read.
const FLUSH_EVERY: u64 = 64;
const READ_EVERY: u64 = 2;

/// What to ask the disk for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The write of this number.
    Write(u64),
    /// What the write of this number has written.
    Read(u64),
    /// That all that was written stays.
    Flush,
}

/// What has been acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// All writes up to this number.
    pub written: u64,
    /// Reads, each found right.
    pub read: u64,
    /// Flushes.
    pub flushed: u64,
}

/// What is asked for in which order, and what has been answered.
#[derive(Debug)]
pub struct Schedule {
    blocks: u64,
    /// The last write that was asked for.
    last: u64,
    asked: u64,
    under_way: [Option<Request>; DEPTH],
    done: Done,
}

impl Schedule {
    /// For a disk of so many blocks, at least four times what is under way at a time.
    pub fn new(blocks: u64) -> Self {
        assert!(blocks >= 4 * DEPTH as u64, "a disk with some blocks");
        Self {
            blocks,
            last: 0,
            asked: 0,
            under_way: [None; DEPTH],
            done: Done::default(),
        }
    }

    /// Which block a write goes to.
    pub fn block(&self, write: u64) -> u64 {
        write % self.blocks
    }

    /// The next request, and the place that it has until it is answered; `None` while all are taken.
    pub fn begin_next(&mut self) -> Option<(usize, Request)> {
        let place = self.under_way.iter().position(Option::is_none)?;
        self.asked += 1;
        // Written half a round ago: it is there, and not written again for half a round.
        let old = self.done.written.saturating_sub(self.blocks / 2);
        let request = if self.asked.is_multiple_of(FLUSH_EVERY) {
            Request::Flush
        } else if self.asked.is_multiple_of(READ_EVERY) && old > 0 {
            Request::Read(old)
        } else {
            self.last += 1;
            Request::Write(self.last)
        };
        self.under_way[place] = Some(request);
        Some((place, request))
    }

    /// The request in a place has been answered; what it was.
    pub fn answered(&mut self, place: usize) -> Option<Request> {
        let request = self.under_way.get_mut(place)?.take()?;
        match request {
            Request::Write(_) => {}
            Request::Read(_) => self.done.read += 1,
            Request::Flush => self.done.flushed += 1,
        }
        let first = self.under_way.iter().filter_map(|request| match request {
            Some(Request::Write(write)) => Some(*write),
            _ => None,
        });
        self.done.written = first.min().map_or(self.last, |write| write - 1);
        Some(request)
    }

    /// What has been acknowledged.
    pub fn done(&self) -> Done {
        self.done
    }
}

/// The word of a block at a place.
pub const fn word(write: u64, place: usize) -> u64 {
    match place {
        0 => MARK,
        1 => write,
        _ => scatter(write.wrapping_mul(BLOCK_WORDS as u64) + place as u64),
    }
}

/// Whether a block is what this write has written; else the first word that is not: what it should
/// be, and what it is.
pub fn check(block: &[u64; BLOCK_WORDS], write: u64) -> Result<(), (u64, u64)> {
    let words = block.iter().enumerate();
    let mut wrong = words.filter(|(place, found)| **found != word(write, *place));
    match wrong.next() {
        None => Ok(()),
        Some((place, found)) => Err((word(write, place), *found)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_has_been_written_and_is_not_being_written() {
        let mut schedule = Schedule::new(16);
        let mut disk = [0u64; 16];
        let mut under_way = std::collections::VecDeque::new();
        let mut reads = 0;
        for _ in 0..10_000 {
            while let Some(asked) = schedule.begin_next() {
                if let (_, Request::Read(old)) = asked {
                    reads += 1;
                    for (_, other) in &under_way {
                        if let Request::Write(new) = other {
                            assert_ne!(schedule.block(*new), schedule.block(old));
                        }
                    }
                    assert_eq!(disk[schedule.block(old) as usize], old);
                }
                under_way.push_back(asked);
            }
            let (place, request) = under_way.pop_front().expect("something is under way");
            if let Request::Write(write) = request {
                disk[schedule.block(write) as usize] = write;
            }
            assert_eq!(schedule.answered(place), Some(request));
        }
        let done = schedule.done();
        assert!(reads > 1000 && done.flushed > 100 && done.written > 1000);
        assert_eq!(schedule.answered(99), None);
    }

    #[test]
    fn writes_that_are_overtaken_are_not_acknowledged() {
        let mut schedule = Schedule::new(64);
        let places: Vec<_> = (0..3).filter_map(|_| schedule.begin_next()).collect();
        schedule.answered(places[2].0);
        schedule.answered(places[1].0);
        assert_eq!(schedule.done().written, 0);
        schedule.answered(places[0].0);
        assert_eq!(schedule.done().written, 3);
    }

    #[test]
    fn a_block_tells_its_write() {
        let block = core::array::from_fn(|place| word(7, place));
        assert_eq!(check(&block, 7), Ok(()));
        assert_eq!(check(&block, 8), Err((8, 7)));
    }
}
