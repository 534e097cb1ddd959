//! What real memory looks like: text, sparse structures, pointers, incompressible data, zero pages.
//!
//! All of it follows from the seed and the page's number alone.

use crate::page::{BODY, PAGE_WORDS, Page};
use crate::{Random, scatter};

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

/// Where contents come from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The seed of everything that is generated.
    pub seed: u64,
    /// Bytes to use instead, over and over; pages that would be zero stay so. Empty: none.
    pub module: &'a [u8],
}

impl Source<'_> {
    /// Writes the page with this number, all but the stamp.
    pub fn fill(&self, page: &mut Page, number: u64) {
        page.fill(0);
        let kind = Kind::of(self.seed, number);
        let body = &mut page[BODY..];
        let mut random = Random::new(self.seed.wrapping_add(scatter(number)));
        match kind {
            Kind::Zero => {}
            _ if !self.module.is_empty() => {
                let bytes = number.wrapping_mul((PAGE_WORDS - BODY) as u64 * 8);
                self.copy_module(body, bytes);
            }
            Kind::Text => text(body, &mut random),
            Kind::Structures => structures(body, &mut random),
            Kind::Pointers => pointers(body, &mut random),
            Kind::Random => body.fill_with(|| random.next()),
        }
    }

    /// Writes a value of the hash table: like a record of an application, some of it
    /// incompressible, most of it text.
    pub fn value(&self, value: &mut [u64], key: u64, version: u32) {
        let mut random = Random::new(self.seed ^ scatter(key).wrapping_add(u64::from(version)));
        if self.module.is_empty() {
            let (identity, words) = value.split_at_mut(value.len() / 3);
            identity.fill_with(|| random.next());
            words.fill_with(|| {
                u64::from_le_bytes(*FIELDS[random.below(FIELDS.len() as u64) as usize])
            });
        } else {
            self.copy_module(value, random.next());
        }
    }

    fn copy_module(&self, words: &mut [u64], offset: u64) {
        let mut rest = &self.module[(offset % self.module.len() as u64) as usize..];
        for word in words {
            let mut bytes = [0; 8];
            for byte in &mut bytes {
                if rest.is_empty() {
                    rest = self.module;
                }
                *byte = rest[0];
                rest = &rest[1..];
            }
            *word = u64::from_le_bytes(bytes);
        }
    }
}

fn text(body: &mut [u64], random: &mut Random) {
    let mut bytes = Bytes { words: body, at: 0 };
    while bytes.put(WORDS[random.below(WORDS.len() as u64) as usize].as_bytes()) {
        match random.below(12) {
            0 => bytes.put(b".\n"),
            1 => bytes.put(b"="),
            2 => bytes.put(&digits(random.below(1_000_000))),
            _ => bytes.put(b" "),
        };
    }
}

fn structures(body: &mut [u64], random: &mut Random) {
    let first = random.below(1 << 20);
    for (index, record) in body.chunks_mut(8).enumerate() {
        // Two records in five are free.
        if random.below(5) < 2 {
            continue;
        }
        record[0] = first + index as u64;
        if let [_, flags, link, .., count] = record {
            *flags = 1 << random.below(6);
            *link = HEAP + (random.below(1 << 16) << 6);
            *count = random.below(4);
        }
    }
}

fn pointers(body: &mut [u64], random: &mut Random) {
    let base = HEAP + (random.below(1 << 12) << 16);
    for word in body {
        *word = if random.below(8) == 0 {
            0
        } else {
            base + (random.below(1 << 12) << 4)
        };
    }
}

/// Where the addresses in generated pages point: a process's heap.
const HEAP: u64 = 0x7f3a_4000_0000;

const WORDS: [&str; 48] = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "request",
    "connection",
    "from",
    "server",
    "client",
    "error",
    "warning",
    "timeout",
    "after",
    "seconds",
    "user",
    "session",
    "started",
    "closed",
    "id",
    "is",
    "not",
    "found",
    "memory",
    "page",
    "table",
    "index",
    "update",
    "select",
    "where",
    "order",
    "by",
    "name",
    "value",
    "return",
    "if",
    "else",
    "for",
    "each",
    "with",
    "status",
    "length",
    "content",
    "type",
    "accept",
    "encoding",
    "host",
    "keep-alive",
];

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

fn digits(mut number: u64) -> [u8; 6] {
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    digits
}

/// Bytes laid into words in memory order.
struct Bytes<'a> {
    words: &'a mut [u64],
    at: usize,
}

impl Bytes<'_> {
    /// Appends as much of `text` as there is room for; false if it was not all.
    fn put(&mut self, text: &[u8]) -> bool {
        for byte in text {
            let Some(word) = self.words.get_mut(self.at / 8) else {
                return false;
            };
            *word |= u64::from(*byte) << (self.at % 8 * 8);
            self.at += 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(source: &Source<'_>, number: u64) -> Page {
        let mut page = [u64::MAX; PAGE_WORDS];
        source.fill(&mut page, number);
        page
    }

    fn generated(seed: u64) -> Source<'static> {
        Source { seed, module: &[] }
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
        let module: Vec<u8> = (0..100_003u32)
            .map(|index| (index % 251) as u8 | 1)
            .collect();
        let source = Source {
            seed: 1,
            module: &module,
        };
        let number = number_of(Kind::Text) + 1000 * u64::from(Kind::of(1, 1000) == Kind::Text);
        let bytes: Vec<u8> = page(&source, number)[BODY..]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let start = number as usize * (PAGE_WORDS - BODY) * 8;
        let expected: Vec<u8> = (start..start + bytes.len())
            .map(|at| module[at % module.len()])
            .collect();
        assert_eq!(bytes, expected);
        assert!(
            page(&source, number_of(Kind::Zero))
                .iter()
                .all(|word| *word == 0)
        );
        let tiny = Source {
            seed: 1,
            module: b"x",
        };
        assert!(
            page(&tiny, number)[BODY..]
                .iter()
                .all(|word| *word == u64::from_le_bytes(*b"xxxxxxxx"))
        );
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
