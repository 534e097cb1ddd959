//! Made-up contents of a page; it is zero before.

use crate::Random;

/// Lines of words and numbers.
pub(crate) fn text(body: &mut [u64], random: &mut Random) {
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

/// Records of 64 bytes with a few small fields.
pub(crate) fn structures(body: &mut [u64], random: &mut Random) {
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

/// Addresses near each other.
pub(crate) fn pointers(body: &mut [u64], random: &mut Random) {
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
