//! Reading whole vectors up to the end of a row of words.

/// Longest vector, in bytes.
const VECTOR_MAX: usize = 64;

/// The last words again, with zeros behind them: a whole vector can be read from wherever a word
/// begins, and from the end.
pub(crate) struct Tail {
    bytes: [u8; 2 * VECTOR_MAX],
    /// Where it begins in the words.
    start: usize,
}

impl Tail {
    #[inline(always)]
    pub(crate) fn of(words: &[u8]) -> Self {
        let start = words.len().saturating_sub(VECTOR_MAX);
        let mut bytes = [0; 2 * VECTOR_MAX];
        bytes[..words.len() - start].copy_from_slice(&words[start..]);
        Self { bytes, start }
    }

    /// The vector that begins at a byte of the words.
    #[inline(always)]
    pub(crate) fn vector<'a, const BYTES: usize>(
        &'a self,
        words: &'a [u8],
        at: usize,
    ) -> &'a [u8; BYTES] {
        const { assert!(BYTES <= VECTOR_MAX) }
        let (from, at) = match at.checked_sub(self.start) {
            None => (words, at),
            Some(at) => (&self.bytes[..], at),
        };
        from[at..].first_chunk().expect("a vector behind each word")
    }
}
