//! The end of a migration: both sides compare the hashes of all pages.

use me2_engine::{
    ownership::{DestinationMessage, SourceAction},
    phase::Phase,
    tree,
};
use me2_wire::{
    PAGE_SIZE, PageIndex,
    message::{DestinationStatistics, ToDestination, ToSource},
    page_hash,
};

use super::{Attempt, finish::Interrupted, link::Link};
use crate::{report::Verify, transport::frames::LinkError};

/// Differing leaves of the hash tree that are looked into, to name frames.
const EXPANDED_LEAVES_MAX: usize = 16;
/// Differing frames that are named, and asked for once more.
const NAMED_FRAMES_MAX: usize = 16;
/// How often a destination may compare anew, with pages that were sent once more.
const COMPARISONS_MAX: u32 = 4;

impl Attempt {
    /// Compares the hash trees. True: all equal, acknowledged, the VM is the destination's alone.
    pub(super) async fn complete(
        &mut self,
        link: &mut Link,
        epoch: u64,
        leaves: &[u64],
        statistics: &DestinationStatistics,
    ) -> Result<bool, Interrupted> {
        let ours = self.lock_pages().leaves();
        let differing = tree::differing(&ours, leaves);
        let pages = self.differing_pages(link, &differing).await?;
        // Differing leaves mean differing pages, even where none could be named.
        let mismatched = if differing.is_empty() {
            0
        } else {
            pages.len().max(1) as u64
        };
        self.report.verify = Verify {
            pages: u64::from(self.pending.len()),
            mismatched_pages: mismatched,
            full: self.request.verify_full,
        };
        self.note_statistics(statistics);
        let action = self
            .lock_ownership()
            .on_peer(DestinationMessage::Complete {
                epoch,
                verified: mismatched == 0,
            })?;
        let named = &pages[..pages.len().min(NAMED_FRAMES_MAX)];
        let layout = self.machine.vm.memory().layout();
        let frames: Vec<u64> = named
            .iter()
            .map(|page| layout.frame_of_page(*page))
            .collect();
        if mismatched > 0 {
            self.let_ask_again(named);
        }
        let ack = ToDestination::CompleteAck {
            epoch,
            mismatched,
            frames: frames.clone(),
        };
        link.control.message(&ack).await?;
        if mismatched > 0 {
            self.comparisons += 1;
            if self.comparisons >= COMPARISONS_MAX || frames.is_empty() {
                return Err(Interrupted::Mismatch(mismatched, frames));
            }
            tracing::warn!(
                mismatched,
                frames = format!("{frames:x?}"),
                "pages differ at the destination: it asks for them once more"
            );
            return Ok(false);
        }
        if !matches!(action, SourceAction::LetGoMemory(_)) {
            return Ok(false);
        }
        if matches!(self.log.current(), Phase::Handover) {
            self.observer.enter(&mut self.log, Phase::Postcopy);
        }
        if matches!(self.log.current(), Phase::Postcopy) {
            self.observer.enter(&mut self.log, Phase::Complete);
        }
        Ok(true)
    }

    /// Lets the destination ask for these pages once more. They build on nothing: what they built on
    /// may not be there any more.
    fn let_ask_again(&self, pages: &[PageIndex]) {
        pages.iter().for_each(|page| self.sent.forget(*page));
        self.lock_pages().answer_again(pages);
    }

    /// Pages that differ, in the first few of the differing leaves.
    async fn differing_pages(
        &self,
        link: &mut Link,
        leaves: &[usize],
    ) -> Result<Vec<PageIndex>, LinkError> {
        let mut differing = Vec::new();
        let leaves = &leaves[..leaves.len().min(EXPANDED_LEAVES_MAX)];
        if leaves.is_empty() {
            return Ok(differing);
        }
        let numbers = leaves.iter().map(|leaf| *leaf as u32).collect();
        link.control
            .message(&ToDestination::ExpandLeaves { leaves: numbers })
            .await?;
        for leaf in leaves {
            let hashes = loop {
                match link.reply().await? {
                    ToSource::LeafHashes { hashes, .. } => break hashes,
                    ToSource::Progress { .. } => {}
                    _ => return Err(LinkError::Unexpected("another message than page hashes")),
                }
            };
            let pages = self.lock_pages();
            let ours = pages.leaf_hashes(*leaf);
            let first = (leaf * tree::LEAF_PAGES) as PageIndex;
            for (offset, hash) in ours.iter().enumerate() {
                if hashes.get(offset) != Some(hash) {
                    differing.push(first + offset as PageIndex);
                }
            }
        }
        Ok(differing)
    }

    /// The hash tree over the frozen memory itself, not over what was sent of it.
    pub(super) fn hash_memory(&self) -> Vec<u64> {
        let mut page = [0u8; PAGE_SIZE];
        let pages = self.lock_pages();
        let hashes: Vec<u64> = (0..self.pending.len())
            .map(|index| {
                if pages.is_hole(index) {
                    return 0;
                }
                self.machine.vm.memory().read_page(index, &mut page);
                page_hash(&page)
            })
            .collect();
        tree::leaves(&hashes)
    }
}
