//! A walk through a large working set, hard on every way to move memory.
//!
//! ```text
//! page: stamp · state · 3 words of contents · state · 3 words of contents · …   (128 words of state)
//! visit: check the page → read 16 words of state, anywhere in it → perhaps write them anew → they name the next page
//! ```
//! Analyses of graphs do that, simulations, in-memory indexes under uniform load. What makes it hard:
//!
//! - *For pre-copy*: pages are visited with equal chances, so there is no hot part to leave for last: nearly every
//!   write makes another page dirty, and each round finds as many as the last.
//! - *For deltas*: the 16 words are as many separate pieces, incompressible. A delta has ten times the bytes
//!   of a counter's, grows with every visit, and a cache of what was sent must hold the whole working set.
//! - *For post-copy*: the next page is known only when this one is there, and may be any. Every step waits for
//!   a page, once the one before it is there; neither order nor neighbourhood says what to send first.

use crate::Random;
use crate::page::{self, BODY, PAGE_WORDS};
use crate::scatter;
use crate::scattered::Scattered;
use crate::share::{self, Failure, Pages};

/// Words of state in a page: every fourth.
const STATES: usize = (PAGE_WORDS - BODY).div_ceil(4);

/// Words of state that a visit reads, and may write.
const TOUCHED: usize = 16;

// Any odd step comes to all of them.
const _: () = assert!(STATES.is_power_of_two());

/// The working set of one share, and where the walk is.
#[derive(Debug, Clone)]
pub struct Graph {
    set: Scattered,
    random: Random,
    /// Percent of visits that write.
    writes: u64,
    next: u64,
}

impl Graph {
    /// A walk through `hot_pages` of the `pages` of a share. Neither is 0, and hot pages are not the more.
    pub fn new(seed: u64, pages: u64, hot_pages: u64, writes: u64, random: Random) -> Self {
        Self {
            set: Scattered::new(seed, pages, hot_pages),
            random,
            writes,
            next: 0,
        }
    }

    /// Puts the state into pages that are filled.
    pub fn build(&mut self, pages: &mut impl Pages) {
        for index in 0..self.set.count() {
            let local = self.set.page_of(index);
            for state in 0..STATES {
                pages.page(local)[word_of(state)] = self.random.next();
            }
            share::seal(pages, local);
        }
    }

    /// Visits a page, which it checks. How many pages were checked.
    pub fn visit(&mut self, pages: &mut impl Pages) -> Result<u64, Failure> {
        let local = self.next_page();
        share::verify(pages, local)?;
        let (start, step) = (self.random.next() as usize, self.random.next() as usize | 1);
        let touched: [usize; TOUCHED] = core::array::from_fn(|index| {
            word_of(start.wrapping_add(step.wrapping_mul(index)) % STATES)
        });
        let found = touched
            .iter()
            .fold(0, |sum, word| scatter(sum ^ pages.page(local)[*word]));
        if self.random.below(100) < self.writes {
            let version = page::next_version(pages.version(local));
            let random = &mut self.random;
            let words = touched.iter().map(|word| (*word, random.next()));
            page::replace_words(pages.page(local), words, version);
            pages.set_version(local, version);
        }
        self.next = found % self.set.count();
        Ok(1)
    }

    /// The page of the share that is visited next.
    pub fn next_page(&self) -> usize {
        self.set.page_of(self.next)
    }
}

fn word_of(state: usize) -> usize {
    BODY + 4 * state
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::{Memory, filled};

    fn graph(writes: u64) -> (Graph, Memory) {
        let mut memory = filled(300);
        let mut graph = Graph::new(1, 300, 100, writes, Random::new(5));
        graph.build(&mut memory);
        (graph, memory)
    }

    #[test]
    fn a_visit_writes_to_one_page_in_many_places() {
        let (mut graph, mut memory) = graph(100);
        for _ in 0..300 {
            let before = memory.pages.clone();
            let local = graph.next_page();
            assert_eq!(graph.visit(&mut memory), Ok(1));
            let words: Vec<usize> = (0..PAGE_WORDS)
                .filter(|word| before[local][*word] != memory.pages[local][*word])
                .collect();
            assert_eq!(words.len(), TOUCHED + 2, "and version and checksum");
            let others = (0..300).filter(|other| before[*other] != memory.pages[*other]);
            assert_eq!(others.count(), 1);
        }
        for local in 0..300 {
            share::verify(&mut memory, local).expect("all is as it was written");
        }
    }

    #[test]
    fn all_pages_have_equal_chances() {
        for writes in [0, 100] {
            let (mut graph, mut memory) = graph(writes);
            let mut visits = vec![0u32; 300];
            for _ in 0..20_000 {
                visits[graph.next_page()] += 1;
                graph.visit(&mut memory).expect("nothing is wrong");
            }
            let (least, most) = (0..300)
                .filter(|local| graph.set.contains(*local))
                .fold((u32::MAX, 0), |(least, most), local| {
                    (least.min(visits[local]), most.max(visits[local]))
                });
            assert!(least > 130 && most < 280, "{least} to {most} of 200");
        }
    }

    #[test]
    fn the_way_depends_on_what_is_in_memory() {
        let (mut graph, mut memory) = graph(0);
        let mut other = graph.clone();
        other.visit(&mut memory).expect("nothing is wrong");
        let local = graph.next_page();
        let words = (0..STATES).map(|state| (word_of(state), 7));
        page::replace_words(&mut memory.pages[local], words, 1);
        graph.visit(&mut memory).expect("nothing is wrong");
        assert_ne!(graph.next, other.next);
    }

    #[test]
    fn damage_is_noticed_and_not_covered_up() {
        let (mut graph, mut memory) = graph(100);
        share::corrupt(&mut memory, graph.next_page());
        for _ in 0..2 {
            assert!(graph.visit(&mut memory).is_err());
        }
    }
}
