//! How often pages are written, from looks at the dirty log: what will have changed again before
//! it would matter need not travel now.
//!
//! ```text
//! share of looks that found a page written = 1 - exp(-writes per second * time between looks)
//! ```
//!
//! Old looks count less and less, so a page cools down by itself.

use std::{cmp::Reverse, time::Duration};

use me2_wire::PageIndex;

use crate::bitmap::Bitmap;

/// After so long a look counts for 1/e of what it did.
const MEMORY: Duration = Duration::from_secs(3);
/// Looks without a finding that are taken to have come before the first one: a page found written
/// by the only look so far is not sure to be written always.
const DOUBT: f64 = 0.5;
/// The most that a share of looks tells: always written is only known as often as was looked.
const SHARE_MAX: f64 = 0.97;

/// Decayed writes of every page.
#[derive(Debug)]
pub struct WriteHeat {
    pages: Vec<Heat>,
    /// Time looked at, in seconds.
    now: f64,
    /// Looks, decayed.
    looks: f64,
    /// Time looked at, decayed, in seconds.
    span: f64,
}

/// Looks that found a page written, decayed, as of the last of them.
#[derive(Debug, Clone, Copy, Default)]
struct Heat {
    found: f32,
    at: f32,
}

impl WriteHeat {
    /// Nothing is known of so many pages.
    pub fn new(pages: PageIndex) -> Self {
        Self {
            pages: vec![Heat::default(); pages as usize],
            now: 0.0,
            looks: 0.0,
            span: 0.0,
        }
    }

    /// A look: these pages were written within the time since the last one, the others were not.
    pub fn look(&mut self, written: &Bitmap, since_last: Duration) {
        let decay = decay(since_last.as_secs_f64());
        self.now += since_last.as_secs_f64();
        self.looks = self.looks * decay + 1.0;
        self.span = self.span * decay + since_last.as_secs_f64();
        for page in written.iter() {
            let heat = &mut self.pages[page as usize];
            heat.found = (heat.found_at(self.now) + 1.0) as f32;
            heat.at = self.now as f32;
        }
    }

    /// How likely a page is written within a time from now.
    pub fn is_written_within(&self, page: PageIndex, time: Duration) -> f64 {
        1.0 - (-self.writes_per_second(page) * time.as_secs_f64()).exp()
    }

    /// How often a page is written; never more often than was looked, nearly.
    pub fn writes_per_second(&self, page: PageIndex) -> f64 {
        let found = self.pages[page as usize].found_at(self.now);
        if found == 0.0 {
            return 0.0;
        }
        let share = (found / (self.looks + DOUBT)).min(SHARE_MAX);
        -(1.0 - share).ln() * self.looks / self.span.max(f64::MIN_POSITIVE)
    }

    /// How many pages are expected to be written within a time from now.
    pub fn written_within(&self, time: Duration) -> f64 {
        (0..self.pages.len() as PageIndex)
            .filter(|page| self.pages[*page as usize].found > 0.0)
            .map(|page| self.is_written_within(page, time))
            .sum()
    }

    /// The same pages, those that are written most often first.
    pub fn hottest_first(&self, pages: impl Iterator<Item = PageIndex>) -> Vec<PageIndex> {
        let (mut warm, cold) = self.split(pages);
        warm.sort_by_cached_key(|page| Reverse(self.rank(*page)));
        warm.extend(cold);
        warm
    }

    /// The same pages, those that are written most often last.
    pub fn coldest_first(&self, pages: impl Iterator<Item = PageIndex>) -> Vec<PageIndex> {
        let (mut warm, mut cold) = self.split(pages);
        warm.sort_by_cached_key(|page| self.rank(*page));
        cold.append(&mut warm);
        cold
    }

    /// Pages that were ever found written, and the others: most are, and need no sorting.
    fn split(&self, pages: impl Iterator<Item = PageIndex>) -> (Vec<PageIndex>, Vec<PageIndex>) {
        pages.partition(|page| self.pages[*page as usize].found > 0.0)
    }

    /// Grows with how often a page is written: findings are not negative, so their bits are in
    /// their order.
    fn rank(&self, page: PageIndex) -> u32 {
        (self.pages[page as usize].found_at(self.now) as f32).to_bits()
    }
}

impl Heat {
    fn found_at(self, now: f64) -> f64 {
        f64::from(self.found) * decay((now - f64::from(self.at)).max(0.0))
    }
}

fn decay(seconds: f64) -> f64 {
    (-seconds / MEMORY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOK: Duration = Duration::from_millis(100);

    fn looks(heat: &mut WriteHeat, count: u32, written: impl Fn(u32) -> Vec<PageIndex>) {
        for look in 0..count {
            let mut bitmap = Bitmap::new(64);
            written(look).iter().for_each(|page| _ = bitmap.set(*page));
            heat.look(&bitmap, LOOK);
        }
    }

    #[test]
    fn rates_are_told_apart() {
        let mut heat = WriteHeat::new(64);
        // Page 1 in every look, page 2 in every fourth, page 3 once at the beginning.
        looks(&mut heat, 40, |look| {
            let mut pages = vec![1];
            pages.extend((look % 4 == 0).then_some(2));
            pages.extend((look == 0).then_some(3));
            pages
        });
        let within = |page, ms| heat.is_written_within(page, Duration::from_millis(ms));
        assert!(within(1, 100) > 0.9, "{}", within(1, 100));
        assert!((0.15..0.35).contains(&within(2, 100)), "{}", within(2, 100));
        assert!(
            (0.85..1.0).contains(&within(2, 1000)),
            "{}",
            within(2, 1000)
        );
        assert!(within(3, 100) < 0.05, "{}", within(3, 100));
        assert_eq!(within(4, 100_000), 0.0);
        let expected = heat.written_within(LOOK);
        assert!((1.0..1.5).contains(&expected), "{expected}");
        assert_eq!(heat.hottest_first([4, 3, 2, 1].into_iter()), [1, 2, 3, 4]);
        assert_eq!(
            heat.coldest_first([1, 2, 3, 5, 4].into_iter()),
            [5, 4, 3, 2, 1]
        );
    }

    #[test]
    fn a_page_cools_down() {
        let mut heat = WriteHeat::new(64);
        looks(&mut heat, 20, |_| vec![7]);
        let before = heat.writes_per_second(7);
        looks(&mut heat, 60, |_| vec![]);
        let after = heat.writes_per_second(7);
        assert!(after < before / 10.0, "{before} to {after} a second");
    }

    #[test]
    fn one_look_leaves_doubt() {
        let mut heat = WriteHeat::new(64);
        looks(&mut heat, 1, |_| vec![7]);
        let again = heat.is_written_within(7, LOOK);
        assert!((0.5..0.8).contains(&again), "{again}");
        assert_eq!(WriteHeat::new(64).writes_per_second(1), 0.0);
    }
}
