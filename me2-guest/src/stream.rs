//! A buffer that is written from beginning to end, over and over: whole pages, all of them new.
//!
//! ```text
//! share: | buffer, written in order → | pages that stay as they were filled |
//!                       ↑ a variation of one of these, in order, too
//! ```
//! Each pass starts elsewhere in what stays, and varies it otherwise. Like a decoder, a copy to a cache of
//! files, or a scratch array of a computation.

use crate::page::{self, BODY};
use crate::share::{self, Failure, Pages};
use crate::vary::Variation;

/// The buffer of one share, and how far it is written.
#[derive(Debug, Clone)]
pub struct Stream {
    seed: u64,
    buffer: u64,
    stays: u64,
    pass: u64,
    next: u64,
}

impl Stream {
    /// A buffer of the first `buffer` of the `pages` of a share: at least one, and not all.
    pub fn new(seed: u64, pages: u64, buffer: u64) -> Self {
        assert!(
            0 < buffer && buffer < pages,
            "contents come from pages behind the buffer"
        );
        Self {
            seed,
            buffer,
            stays: pages - buffer,
            pass: 0,
            next: 0,
        }
    }

    /// Writes the next page, having checked what it was, and the one that its contents come from. How many
    /// pages were checked.
    pub fn write(&mut self, pages: &mut impl Pages) -> Result<u64, Failure> {
        let local = self.next_page();
        // A prime, so that it is long until a pass starts where an earlier one did.
        const SHIFT: u64 = 104_729;
        let place = self.pass.wrapping_mul(SHIFT) % self.stays + self.next;
        // A buffer larger than what stays comes to a page twice in a pass.
        let round = place / self.stays;
        let variation = Variation::new(self.seed ^ self.pass << 16 ^ round);
        let from = (self.buffer + place % self.stays) as usize;
        share::verify(pages, local)?;
        share::verify(pages, from)?;
        let version = page::next_version(pages.version(local));
        write_like(pages, local, from, &variation, version, &[]);
        self.next += 1;
        if self.next == self.buffer {
            self.next = 0;
            self.pass += 1;
        }
        Ok(2)
    }

    /// The page of the share that is written next.
    pub fn next_page(&self) -> usize {
        self.next as usize
    }
}

/// Writes a page with contents like those of another, but for its first words if there are any in `head`.
pub(crate) fn write_like(
    pages: &mut impl Pages,
    local: usize,
    from: usize,
    variation: &Variation,
    version: u32,
    head: &[u64],
) {
    let address = pages.address(local);
    let mut contents = *pages.page(from);
    variation.apply(&mut contents[BODY..]);
    contents[BODY..BODY + head.len()].copy_from_slice(head);
    page::seal(&mut contents, address, version);
    *pages.page(local) = contents;
    pages.set_version(local, version);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::Check;
    use crate::share::tests::{Memory, filled};

    #[test]
    fn the_buffer_is_written_in_order_and_all_else_stays() {
        let mut memory = filled(300);
        let before = memory.pages.clone();
        let mut stream = Stream::new(1, 300, 200);
        for pass in 0..3 {
            for local in 0..200 {
                let versions = memory.versions.clone();
                assert_eq!(stream.next_page(), local);
                assert_eq!(stream.write(&mut memory), Ok(2));
                let written: Vec<usize> = (0..300)
                    .filter(|local| memory.versions[*local] != versions[*local])
                    .collect();
                assert_eq!(written, [local], "pass {pass}");
            }
        }
        assert_eq!(memory.pages[200..], before[200..]);
        for local in 0..300 {
            share::verify(&mut memory, local).expect("all is as it was written");
        }
    }

    #[test]
    fn no_page_is_like_another_nor_as_before() {
        let mut memory = filled(300);
        let before = memory.pages.clone();
        let mut stream = Stream::new(1, 300, 200);
        for _ in 0..350 {
            stream.write(&mut memory).expect("nothing is wrong");
        }
        let mut bodies: Vec<&[u64]> = before
            .iter()
            .chain(&memory.pages[..200])
            .map(|page| &page[BODY..])
            .filter(|body| body.iter().any(|word| *word != 0))
            .collect();
        let all = bodies.len();
        bodies.sort_unstable();
        bodies.dedup();
        assert!(
            all > 450 && bodies.len() == all,
            "{} of {all}",
            bodies.len()
        );
    }

    #[test]
    fn damage_is_noticed_before_it_is_written_over_or_copied() {
        for local in [0, 200] {
            let mut memory: Memory = filled(300);
            // Page 200 may be a zero page: then it is that check which fails.
            share::corrupt(&mut memory, local);
            let failure = Stream::new(1, 300, 200)
                .write(&mut memory)
                .expect_err("a flipped bit must show");
            assert_eq!(failure.address, memory.address(local));
            assert!(matches!(
                failure.damage.check,
                Check::Checksum | Check::Zero
            ));
        }
    }
}
