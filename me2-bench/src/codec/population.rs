//! Populations of pages, each of one kind.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result};
use me2_guest::{
    Random,
    contents::{MIX, Origin, Source},
};
use me2_wire::PAGE_SIZE;
use serde_json::{Value, json};

use super::memory::Memory;
use crate::contents::{Recipe, prepare_of};

/// What pages are worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Population {
    /// Pages of zeros.
    Zero,
    /// Zeros but for 1 to 32 words anywhere in the page.
    Sparse,
    /// The heaps of compilers at work.
    Compilers,
    /// The heap of a Python program.
    Python,
    /// Programs and libraries, as in the page cache.
    Files,
    /// What the built-in guest fills its memory with.
    Generated,
}

/// Most words that are not zero in a page of [`Population::Sparse`].
const SPARSE_WORDS_MAX: u64 = 32;

/// Of everything that is made up.
const SEED: u64 = 20_120_924;

impl Population {
    pub(super) const ALL: [Self; 6] = [
        Self::Zero,
        Self::Sparse,
        Self::Compilers,
        Self::Python,
        Self::Files,
        Self::Generated,
    ];

    /// Those with these names; all, if there are none.
    pub(super) fn named(names: &[&str]) -> Result<Vec<Self>> {
        if names.is_empty() {
            return Ok(Self::ALL.to_vec());
        }
        let find = |name: &&str| {
            let found = Self::ALL
                .into_iter()
                .find(|population| population.name() == *name);
            found.with_context(|| format!("no population is called {name} (--help lists them)"))
        };
        names.iter().map(find).collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Sparse => "sparse",
            Self::Compilers => "compilers",
            Self::Python => "python",
            Self::Files => "files",
            Self::Generated => "generated",
        }
    }

    /// `bytes` of it; captured memory is kept in `folder` for later runs.
    pub(super) fn fill(self, bytes: u64, folder: &Path) -> Result<Memory> {
        let pages = usize::try_from(bytes)? / PAGE_SIZE;
        let mut memory = Memory::of_zeros(pages);
        let description = match self {
            Self::Zero => json!({ "what": "pages of zeros" }),
            Self::Sparse => {
                sparse(&mut memory);
                json!({ "what": format!("1 to {SPARSE_WORDS_MAX} words in a page are not zero") })
            }
            Self::Compilers => captured(Recipe::Compilers, &mut memory, bytes, folder)?,
            Self::Python => captured(Recipe::Python, &mut memory, bytes, folder)?,
            Self::Files => captured(Recipe::Files, &mut memory, bytes, folder)?,
            Self::Generated => {
                generated(&mut memory);
                json!({ "what": "the guest's own contents", "mix_percent": format!("{MIX:?}") })
            }
        };
        Ok(memory.described(description))
    }
}

fn sparse(memory: &mut Memory) {
    let mut random = Random::new(SEED);
    for page in &mut memory.pages {
        let (words, _) = page.0.as_chunks_mut::<8>();
        for _ in 0..=random.below(SPARSE_WORDS_MAX) {
            words[random.below(words.len() as u64) as usize] = random.next().to_le_bytes();
        }
    }
}

fn generated(memory: &mut Memory) {
    let source = Source {
        seed: SEED,
        origin: Origin::Generated,
    };
    let mut words = [0; PAGE_SIZE / 8];
    for (number, page) in (0..).zip(&mut memory.pages) {
        source.fill(&mut words, number);
        let (bytes, _) = page.0.as_chunks_mut::<8>();
        for (bytes, word) in bytes.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
    }
}

fn captured(recipe: Recipe, memory: &mut Memory, bytes: u64, folder: &Path) -> Result<Value> {
    let contents = prepare_of(recipe, bytes, folder)?;
    let mut file = File::open(&contents.path)?;
    for page in &mut memory.pages {
        file.read_exact(&mut page.0)?;
    }
    Ok(serde_json::to_value(contents)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGES: u64 = 64;

    fn filled(population: Population) -> Memory {
        population
            .fill(PAGES * PAGE_SIZE as u64, Path::new(""))
            .unwrap()
    }

    #[test]
    fn populations_have_names() {
        let names: Vec<_> = Population::ALL
            .iter()
            .map(|population| population.name())
            .collect();
        assert_eq!(Population::named(&names).unwrap(), Population::ALL);
        assert_eq!(Population::named(&[]).unwrap(), Population::ALL);
        assert!(Population::named(&["none"]).is_err());
    }

    #[test]
    fn sparse_pages_are_sparse_and_differ() {
        let memory = filled(Population::Sparse);
        for page in &memory.pages {
            let (words, _) = page.0.as_chunks::<8>();
            let count = words.iter().filter(|word| **word != [0; 8]).count();
            assert!((1..=SPARSE_WORDS_MAX as usize).contains(&count), "{count}");
        }
        assert_ne!(memory.pages[0].0, memory.pages[1].0);
    }

    #[test]
    fn the_guest_s_own_contents_are_cut_into_pages() {
        let memory = filled(Population::Generated);
        let mut expected = [0; PAGE_SIZE / 8];
        Source {
            seed: SEED,
            origin: Origin::Generated,
        }
        .fill(&mut expected, 5);
        let (words, _) = memory.pages[5].0.as_chunks::<8>();
        assert!(
            words
                .iter()
                .zip(expected)
                .all(|(word, expected)| u64::from_le_bytes(*word) == expected)
        );
        assert!(
            filled(Population::Zero)
                .pages
                .iter()
                .all(|page| page.0 == [0; PAGE_SIZE])
        );
    }
}
