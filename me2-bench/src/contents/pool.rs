//! The file that pages are gathered in.

use std::{
    io::{BufWriter, Write},
    ops::ControlFlow,
    path::Path,
};

use anyhow::Result;
use tempfile::{Builder, NamedTempFile};

use super::{Page, Source, distinct::Distinct};

/// Pages gathered so far, and where they came from.
pub(crate) struct Pool {
    pub(crate) file: BufWriter<NamedTempFile>,
    pub(crate) sources: Vec<Source>,
    pub(crate) pages: u64,
    distinct: Distinct,
}

impl Pool {
    /// An empty one, in a file of `folder` that goes away unless it is kept.
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let file = Builder::new().prefix("gathering-").tempfile_in(folder)?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            sources: Vec::new(),
            pages: 0,
            distinct: Distinct::default(),
        })
    }

    /// Takes what is new of the pages that `read` gives to its argument, until there are `limit`
    /// pages in all. An error of `read` is given back once what came before it is counted.
    pub(crate) fn take(
        &mut self,
        what: &str,
        limit: u64,
        read: impl FnOnce(&mut dyn FnMut(&Page) -> ControlFlow<()>) -> Result<()>,
    ) -> Result<()> {
        let before = self.pages;
        let mut written = Ok(());
        let outcome = read(&mut |page| {
            if self.pages >= limit {
                return ControlFlow::Break(());
            }
            if self.distinct.is_new(page) {
                written = self.file.write_all(page);
                self.pages += 1;
            }
            if written.is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if self.pages > before {
            self.sources.push(Source {
                what: what.to_owned(),
                pages: self.pages - before,
            });
        }
        written?;
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contents::PAGE_BYTES;

    #[test]
    fn new_pages_are_taken_up_to_the_limit_and_their_source_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut pool = Pool::new(folder.path()).unwrap();
        let give = |bytes: &'static [u8]| {
            move |take: &mut dyn FnMut(&Page) -> ControlFlow<()>| {
                for byte in bytes {
                    if take(&[*byte; PAGE_BYTES]).is_break() {
                        break;
                    }
                }
                Ok(())
            }
        };
        pool.take("first", 4, give(&[1, 0, 1, 2])).unwrap();
        pool.take("nothing new", 4, give(&[2, 1])).unwrap();
        pool.take("second", 4, give(&[2, 3, 4, 5, 6])).unwrap();
        let broken = pool.take("broken", 9, |_| anyhow::bail!("ended"));
        assert!(broken.is_err());
        let sources: Vec<_> = pool
            .sources
            .iter()
            .map(|source| (source.what.as_str(), source.pages))
            .collect();
        assert_eq!(sources, [("first", 2), ("second", 2)]);
        let file = pool.file.into_inner().unwrap();
        let bytes = std::fs::read(file.path()).unwrap();
        let firsts: Vec<u8> = bytes.iter().step_by(PAGE_BYTES).copied().collect();
        assert_eq!(firsts, [1, 2, 3, 4]);
    }
}
