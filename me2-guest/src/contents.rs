//! What real memory looks like: text, sparse structures, pointers, incompressible data, zero pages.
//!
//! All of it follows from the seed and the page's number alone.

use crate::page::{BODY, PAGE_WORDS, Page};
use crate::vary::Variation;
use crate::{Random, generate, scatter};

/// What a page is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Lines of words and numbers: files, logs, strings.
    Text,
    /// Records of 64 bytes with a few small fields, many of them empty: kernel and heap objects.
    Structures,
    /// Arrays of addresses near each other: tables, trees, lists.
    Pointers,
    /// Random bytes: compressed or encrypted data.
    Random,
    /// Nothing.
    Zero,
}

/// How many pages in a hundred are of each kind. Few are zero: what nobody wrote is not populated,
/// and takes no part here.
pub const MIX: [(Kind, u64); 5] = [
    (Kind::Text, 25),
    (Kind::Structures, 30),
    (Kind::Pointers, 20),
    (Kind::Random, 22),
    (Kind::Zero, 3),
];

impl Kind {
    /// The kind of the page with this number.
    pub fn of(seed: u64, number: u64) -> Self {
        let mut point = scatter(seed ^ scatter(number)) % 100;
        for (kind, share) in MIX {
            if point < share {
                return kind;
            }
            point -= share;
        }
        unreachable!("the shares of the mix add up to a hundred")
    }
}

/// What pages are filled with.
#[derive(Debug, Clone, Copy)]
pub enum Origin<'a> {
    /// Contents made up by [`Kind`].
    Generated,
    /// These bytes instead, of which there are some, over and over: each time round another variation of them.
    /// Pages that would be zero stay so.
    Module(&'a [u8]),
    /// What is in them already.
    InPlace,
}

/// Where contents come from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The seed of everything that is generated.
    pub seed: u64,
    /// What pages are filled with.
    pub origin: Origin<'a>,
}

/// What a page has after it was filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Nothing.
    Zero,
    /// Contents; a stamp is still missing.
    Contents,
}

impl Source<'_> {
    /// Writes the page with this number, all but the stamp.
    pub fn fill(&self, page: &mut Page, number: u64) -> Filled {
        if let Origin::InPlace = self.origin {
            let zero = page.iter().all(|word| *word == 0);
            return if zero { Filled::Zero } else { Filled::Contents };
        }
        page.fill(0);
        let body = &mut page[BODY..];
        let mut random = Random::new(self.seed.wrapping_add(scatter(number)));
        match (Kind::of(self.seed, number), self.origin) {
            (Kind::Zero, _) => return Filled::Zero,
            (_, Origin::Module(module)) => {
                let start = number.wrapping_mul(BODY_BYTES);
                copy_round(body, module, start);
                match start / module.len() as u64 {
                    0 => {}
                    round => Variation::new(self.seed ^ round).apply(body),
                }
            }
            (Kind::Text, _) => generate::text(body, &mut random),
            (Kind::Structures, _) => generate::structures(body, &mut random),
            (Kind::Pointers, _) => generate::pointers(body, &mut random),
            (Kind::Random, _) => body.fill_with(|| random.next()),
        }
        Filled::Contents
    }

    /// Writes a value of the hash table: like a record of an application, some of it
    /// incompressible, most of it text.
    pub fn value(&self, value: &mut [u64], key: u64, version: u32) {
        let mut random = Random::new(self.seed ^ scatter(key).wrapping_add(u64::from(version)));
        if let Origin::Module(module) = self.origin {
            return copy_round(value, module, random.next());
        }
        let (identity, words) = value.split_at_mut(value.len() / 3);
        identity.fill_with(|| random.next());
        words.fill_with(|| u64::from_le_bytes(*FIELDS[random.below(FIELDS.len() as u64) as usize]));
    }
}

const BODY_BYTES: u64 = (PAGE_WORDS - BODY) as u64 * 8;

/// Copies from this offset on, and from the beginning again after the end.
fn copy_round(words: &mut [u64], module: &[u8], offset: u64) {
    let mut rest = &module[(offset % module.len() as u64) as usize..];
    for word in words {
        let mut bytes = [0; 8];
        if let Some((first, behind)) = rest.split_first_chunk() {
            (bytes, rest) = (*first, behind);
        } else {
            for byte in &mut bytes {
                let (first, behind) = rest.split_first().unwrap_or((&module[0], &module[1..]));
                (*byte, rest) = (*first, behind);
            }
        }
        *word = u64::from_le_bytes(bytes);
    }
}

/// Text in pieces of eight, so that a value is quick to make again when it is checked.
const FIELDS: [&[u8; 8]; 16] = [
    b"name=an ",
    b"state=ok",
    b"; role= ",
    b"user    ",
    b"admin   ",
    b"2026-01-",
    b"T12:00Z ",
    b"eu-west ",
    b"active; ",
    b"visits=1",
    b"0 items ",
    b"{\"cart\":",
    b"[1,2,3]}",
    b"last=no ",
    b"true    ",
    b"null    ",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::generated;

    fn page(source: &Source<'_>, number: u64) -> Page {
        let mut page = [u64::MAX; PAGE_WORDS];
        source.fill(&mut page, number);
        page
    }

    fn module(bytes: &[u8]) -> Source<'_> {
        Source {
            seed: 1,
            origin: Origin::Module(bytes),
        }
    }

    fn number_of(kind: Kind) -> u64 {
        (0..)
            .find(|number| Kind::of(1, *number) == kind)
            .expect("every kind occurs")
    }

    #[test]
    fn the_mix_is_what_it_says() {
        assert_eq!(MIX.iter().map(|(_, share)| share).sum::<u64>(), 100);
        let pages = 100_000;
        for (kind, share) in MIX {
            let count = (0..pages)
                .filter(|number| Kind::of(5, *number) == kind)
                .count() as u64;
            assert!(
                (count * 100).abs_diff(pages * share) < pages,
                "{kind:?}: {count}"
            );
        }
    }

    #[test]
    fn contents_follow_from_seed_and_number() {
        let number = number_of(Kind::Text);
        assert_eq!(page(&generated(1), number), page(&generated(1), number));
        let random = number_of(Kind::Random);
        assert_ne!(
            page(&generated(1), random)[BODY..],
            page(&generated(1), random + 1)[BODY..]
        );
        assert_ne!(
            page(&generated(1), random)[BODY..],
            page(&generated(2), random)[BODY..]
        );
    }

    #[test]
    fn every_kind_looks_like_itself() {
        let zeros = |page: &Page| page[BODY..].iter().filter(|word| **word == 0).count();
        assert_eq!(
            zeros(&page(&generated(1), number_of(Kind::Zero))),
            PAGE_WORDS - BODY
        );
        assert_eq!(zeros(&page(&generated(1), number_of(Kind::Random))), 0);
        assert!(zeros(&page(&generated(1), number_of(Kind::Structures))) > PAGE_WORDS / 2);
        let pointers = page(&generated(1), number_of(Kind::Pointers));
        assert!((PAGE_WORDS / 16..PAGE_WORDS / 4).contains(&zeros(&pointers)));
        let text: Vec<u8> = page(&generated(1), number_of(Kind::Text))[BODY..]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        assert!(
            text.iter()
                .all(|byte| byte.is_ascii_graphic() || b" \n".contains(byte))
        );
        assert!(text.contains(&b'\n'));
    }

    #[test]
    fn a_module_goes_round_over_the_pages() {
        let bytes: Vec<u8> = (0..100_003u32)
            .map(|index| (index % 251) as u8 | 1)
            .collect();
        let source = module(&bytes);
        // In the 24th page the module begins anew, from the 25th on it is another variation.
        for number in (0..24).filter(|number| Kind::of(1, *number) != Kind::Zero) {
            let start = number as usize * (PAGE_WORDS - BODY) * 8;
            let expected: Vec<u8> = (start..start + 4072)
                .map(|at| bytes[at % bytes.len()])
                .collect();
            assert_eq!(body_bytes(&page(&source, number)), expected, "{number}");
        }
        let zero = page(&source, number_of(Kind::Zero));
        assert!(zero.iter().all(|word| *word == 0));
    }

    #[test]
    fn a_module_is_another_one_each_time_round() {
        let bytes: Vec<u8> = (0..509)
            .flat_map(|word| scatter(word).to_le_bytes())
            .collect();
        let mut pages: Vec<Page> = (0..200)
            .map(|number| page(&module(&bytes), number))
            .filter(|page| page[BODY] != 0)
            .collect();
        let all = pages.len();
        pages.sort_unstable();
        pages.dedup();
        assert!(all > 180 && pages.len() == all, "{} of {all}", pages.len());
    }

    #[test]
    fn a_module_may_be_of_one_byte() {
        let contents = page(&module(b"x"), 0);
        assert_eq!(body_bytes(&contents), [b'x'; 4072]);
    }

    fn body_bytes(page: &Page) -> Vec<u8> {
        page[BODY..]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }

    #[test]
    fn values_differ_by_key_version_and_seed() {
        let value = |source: Source<'_>, key, version| {
            let mut value = [0; 13];
            source.value(&mut value, key, version);
            value
        };
        let one = value(generated(1), 5, 1);
        assert_eq!(one, value(generated(1), 5, 1));
        for other in [
            value(generated(1), 5, 2),
            value(generated(1), 6, 1),
            value(generated(2), 5, 1),
        ] {
            assert_ne!(one, other);
        }
    }
}
