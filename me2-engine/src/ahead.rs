//! Where the guest is heading: what it writes next, by what it wrote in two looks shortly before it
//! stops.
//!
//! A guest that goes through a buffer in order leaves runs of written pages. Those in the run it will
//! not want for a while; those ahead of it it wants at once. No heat tells: over a longer time all of
//! the buffer is equally warm.

use std::cmp::Reverse;

use me2_wire::PageIndex;

use crate::bitmap::Bitmap;

/// Fewer pages side by side are no walk.
const RUN_PAGES_MIN: usize = 8;
/// More side by side are what a guest works on, and not what it works with.
const LONE_PAGES_MAX: usize = 32;
/// More pages that lie alone are nothing special.
const LONE_MAX: usize = 64;
/// So many times what a walk went through in the look is taken to be ahead of it.
const RUNS_AHEAD: usize = 256;
/// About so many steps of all walks are looked at: the VM stands still meanwhile.
const STEPS_MAX: usize = 1 << 16;
/// Runs that are followed: those that a guest with some threads can be at.
const RUNS_MAX: usize = 64;

/// The next pages of a walk, in its order.
struct Walk {
    next: PageIndex,
    is_up: bool,
    left: usize,
    /// How far it went in the look.
    pace: usize,
}

/// Pages found in both looks, where the guest is all the time; and those beside them, which it comes
/// to when it is through with these: the next counters, the next page table.
pub fn at_hand(earlier: &Bitmap, latest: &Bitmap) -> Vec<PageIndex> {
    let in_both = latest.iter().filter(|page| earlier.contains(*page));
    let mut pages: Vec<_> = in_both.collect();
    for index in 0..pages.len() {
        let page = pages[index];
        let beside = [page.checked_add(1), page.checked_sub(1)];
        pages.extend(
            beside
                .into_iter()
                .flatten()
                .filter(|page| *page < latest.len()),
        );
    }
    pages
}

/// The pages of `pending` that lie apart from all large runs of it, if they are few: stacks, counters
/// and tables beside the buffers that a guest works on. It may use them seldom, but it does again and
/// again.
pub fn lone(pending: &Bitmap) -> Vec<PageIndex> {
    let lone = runs(pending).filter(|(_, pages)| *pages <= LONE_PAGES_MAX);
    let pages = lone.flat_map(|(first, pages)| first..first + pages as PageIndex);
    let pages: Vec<_> = pages.take(LONE_MAX + 1).collect();
    match pages.len() {
        0..=LONE_MAX => pages,
        _ => Vec::new(),
    }
}

/// The pages of `pending` that lie ahead of the runs in the `latest` of two looks, in the order in
/// which their walks come to them, side by side. Where the run of the `earlier` look lies tells where
/// a walk comes from; if nothing does, it may go either way.
pub fn of_walks(earlier: &Bitmap, latest: &Bitmap, pending: &Bitmap) -> Vec<PageIndex> {
    let mut walks: Vec<_> = long_runs(latest)
        .into_iter()
        .flat_map(|run| walks(run, earlier))
        .collect();
    let (mut pages, mut steps) = (Vec::new(), 0);
    while !walks.is_empty() && steps < STEPS_MAX {
        walks.retain_mut(|walk| {
            steps += walk.pace;
            for _ in 0..walk.pace {
                if walk.left == 0 || walk.next >= pending.len() {
                    return false;
                }
                if pending.contains(walk.next) && !latest.contains(walk.next) {
                    pages.push(walk.next);
                }
                walk.left -= 1;
                walk.next = match walk.is_up {
                    true => walk.next + 1,
                    // Wraps beyond the last page.
                    false => walk.next.wrapping_sub(1),
                };
            }
            true
        });
    }
    pages
}

/// Runs of pages side by side: the first one, and how many.
fn runs(pages: &Bitmap) -> impl Iterator<Item = (PageIndex, usize)> {
    let mut pages = pages.iter().peekable();
    std::iter::from_fn(move || {
        let first = pages.next()?;
        let mut count = 1;
        while pages.next_if_eq(&(first + count as PageIndex)).is_some() {
            count += 1;
        }
        Some((first, count))
    })
}

/// The longest of them, if they are long enough for walks.
fn long_runs(latest: &Bitmap) -> Vec<(PageIndex, usize)> {
    let mut runs: Vec<_> = runs(latest)
        .filter(|(_, pages)| *pages >= RUN_PAGES_MIN)
        .collect();
    runs.sort_by_key(|(_, pages)| Reverse(*pages));
    runs.truncate(RUNS_MAX);
    runs
}

fn walks((first, pages): (PageIndex, usize), earlier: &Bitmap) -> Vec<Walk> {
    let behind_last = first + pages as PageIndex;
    let was_below = first
        .checked_sub(1)
        .is_some_and(|page| earlier.contains(page));
    let was_above = behind_last < earlier.len() && earlier.contains(behind_last);
    let walk = |is_up| Walk {
        next: if is_up {
            behind_last
        } else {
            first.wrapping_sub(1)
        },
        is_up,
        left: pages.saturating_mul(RUNS_AHEAD),
        pace: pages,
    };
    match (was_below, was_above) {
        (true, false) => vec![walk(true)],
        (false, true) => vec![walk(false)],
        _ => vec![walk(true), walk(false)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: PageIndex = 10_000;

    /// Pages from the first of each pair to before the second.
    fn set(ranges: &[(PageIndex, PageIndex)]) -> Bitmap {
        let mut bitmap = Bitmap::new(PAGES);
        for page in ranges.iter().flat_map(|(first, end)| *first..*end) {
            bitmap.set(page);
        }
        bitmap
    }

    #[test]
    fn a_walk_goes_on_where_it_was_going() {
        let pending = Bitmap::full(PAGES);
        let up = of_walks(&set(&[(80, 100)]), &set(&[(100, 120)]), &pending);
        assert_eq!(up[..3], [120, 121, 122]);
        assert_eq!(up.len(), 20 * RUNS_AHEAD);
        let down = of_walks(&set(&[(120, 140)]), &set(&[(100, 120)]), &pending);
        assert_eq!(down[..3], [99, 98, 97]);
        assert_eq!(down.len(), 100, "to the first page");
    }

    #[test]
    fn walks_are_served_side_by_side_and_either_way_where_nothing_tells() {
        let pending = Bitmap::full(PAGES);
        let both = of_walks(&set(&[]), &set(&[(100, 108)]), &pending);
        assert_eq!(both[..10], [108, 109, 110, 111, 112, 113, 114, 115, 99, 98]);
        let two = of_walks(
            &set(&[(92, 100), (1984, 2000)]),
            &set(&[(100, 108), (2000, 2016)]),
            &pending,
        );
        assert_eq!(two[..2], [2016, 2017], "the faster one first");
        assert_eq!(two[16..18], [108, 109]);
    }

    #[test]
    fn looking_ahead_takes_no_time() {
        let pending = Bitmap::full(1 << 22);
        let mut latest = Bitmap::new(1 << 22);
        // 60 MiB, in runs of 960 KiB.
        for page in (0..64).flat_map(|run| run << 16..(run << 16) + 240) {
            latest.set(page);
        }
        let ahead = of_walks(&Bitmap::new(1 << 22), &latest, &pending);
        assert!((STEPS_MAX / 2..2 * STEPS_MAX).contains(&ahead.len()));
    }

    #[test]
    fn only_what_is_pending_and_no_run_of_a_few() {
        let looks = (set(&[(80, 100)]), set(&[(100, 120), (500, 507)]));
        assert!(of_walks(&looks.0, &looks.1, &set(&[(0, 120)])).is_empty());
        assert_eq!(
            of_walks(&looks.0, &looks.1, &set(&[(130, 133), (400, 600)]))[..4],
            [130, 131, 132, 400]
        );
        // At the end of memory.
        let pending = Bitmap::full(PAGES);
        let last = of_walks(&set(&[(9_970, 9_980)]), &set(&[(9_980, 9_998)]), &pending);
        assert_eq!(last, [9_998, 9_999]);
        let last = of_walks(&set(&[(9_970, 9_980)]), &set(&[(9_980, 10_000)]), &pending);
        assert!(last.is_empty());
    }

    #[test]
    fn pages_that_lie_alone_if_they_are_few() {
        assert_eq!(lone(&set(&[(3, 5), (100, 200), (300, 301)])), [3, 4, 300]);
        let many: Vec<_> = (0..=LONE_MAX as PageIndex)
            .map(|n| (9 * n, 9 * n + 1))
            .collect();
        assert_eq!(lone(&set(&many[1..])).len(), LONE_MAX);
        assert!(lone(&set(&many)).is_empty());
    }

    #[test]
    fn what_is_in_both_looks_and_beside() {
        assert_eq!(
            at_hand(&set(&[(1, 5)]), &set(&[(4, 9), (20, 21)])),
            [4, 5, 3]
        );
        let ends = set(&[(0, 1), (PAGES - 1, PAGES)]);
        assert_eq!(at_hand(&ends, &ends), [0, PAGES - 1, 1, PAGES - 2]);
    }
}
