//! Passes over the memory while the VM runs: what is pending is announced, sent, and waited for
//! where that must be.

use std::time::{Duration, Instant};

use anyhow::Context;
use me2_engine::{
    bitmap::Bitmap,
    phase::Phase,
    switch::{self, Converged, Limits, PRECOPY_PASSES_MAX, PassResult, Strategy},
};
use me2_vmm::dirty::Collect;
use me2_wire::{
    PAGE_SIZE, Version,
    message::{self, RANGES_PER_MESSAGE_MAX, ToDestination, ToSource},
};
use tokio::task::block_in_place;

use super::{Attempt, Failure, bulk::Bulk, link::Link};
use crate::{control::types::Part, transport::frames::LinkError};

/// Downtime that plain pre-copy converges to, if the request names none.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(300);
/// A hybrid's next pass does not wait for the one before, if it has at least so many pages: fewer
/// are sent within a round trip.
const OVERLAP_PAGES_MIN: u64 = 1024;

/// A pass on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    pub(super) version: Version,
    pages: u64,
    begun: Instant,
    /// What all passes before it had sent.
    pages_before: u64,
    encoded_before: u64,
}

impl Attempt {
    /// Precopy: passes, as long as they pay.
    pub(super) async fn precopy(
        &mut self,
        link: &mut Link,
        bulk: &mut Bulk,
    ) -> Result<(), Failure> {
        let limits = Limits {
            converged: self.converged(),
            passes: PRECOPY_PASSES_MAX,
        };
        let limit = self.request.precopy_limit_ms.map(Duration::from_millis);
        let (strategy, begun) = (self.strategy, Instant::now());
        let pays = |result: &PassResult| {
            let is_late = limit.is_some_and(|limit| begun.elapsed() >= limit);
            !is_late && switch::another_pass(strategy, result, &limits)
        };
        // The first of the passes that were not waited for: the rate is that of all of them.
        let mut since = None;
        for pass in 1.. {
            self.observer.enter(&mut self.log, Phase::Precopy(pass));
            let sending = self.send_pending(link, bulk).await?;
            let first = *since.get_or_insert(sending);
            // Once the last page has been read, the next pass can begin, while the link is still
            // busy with this one.
            let queued = self.pass_result(pass, &sending)?;
            let overlaps = strategy == Strategy::Hybrid && queued.dirty_pages >= OVERLAP_PAGES_MIN;
            if overlaps && pays(&queued) {
                continue;
            }
            self.wait_received(link, bulk, sending.version).await?;
            self.measure_rate(&first);
            if !pays(&self.pass_result(pass, &sending)?) {
                break;
            }
            since = None;
        }
        Ok(())
    }

    /// Reads the dirty log, and tells how far a pass has come.
    fn pass_result(&mut self, pass: u32, sending: &Sending) -> Result<PassResult, Failure> {
        let dirty = block_in_place(|| self.machine.vm.collect_dirty(Collect::AndProtect))
            .context("cannot read the dirty log")?;
        self.pending
            .union(&Bitmap::from_words(dirty, self.pending.len()));
        self.report.precopy.passes = u64::from(pass);
        self.report.precopy.pages = self.counters.pages();
        self.report.precopy.bytes = self.counters.encoded_bytes();
        let result = PassResult {
            pass,
            sent_pages: sending.pages,
            took: sending.begun.elapsed(),
            dirty_pages: self.pending.count(),
            total_sent_pages: self.report.precopy.pages,
            used_pages: self.report.ram.useful_pages,
        };
        tracing::info!(
            pass,
            sent_pages = result.sent_pages,
            dirty_pages = result.dirty_pages,
            took_ms = result.took.as_millis() as u64,
            encoded_bytes = self.counters.encoded_bytes() - sending.encoded_before,
            "pass"
        );
        Ok(result)
    }

    /// When plain pre-copy stops the VM.
    fn converged(&self) -> Converged {
        let downtime = self.request.downtime_limit_ms.map(Duration::from_millis);
        match self.request.stop_below_pages {
            Some(pages) => Converged::Pages(pages),
            None => Converged::Within(downtime.unwrap_or(DOWNTIME_LIMIT)),
        }
    }

    /// Announces and sends everything pending; returns when all of it is queued.
    pub(super) async fn send_pending(
        &mut self,
        link: &mut Link,
        bulk: &mut Bulk,
    ) -> Result<Sending, Failure> {
        let pages = self.pending.count();
        let (version, ranges) = self.lock_pages().begin_version(&self.pending);
        for pages in ranges.split(RANGES_PER_MESSAGE_MAX) {
            link.control
                .message(&ToDestination::Announce { version, pages })
                .await?;
        }
        let layout = self.machine.vm.memory().layout();
        let order = match self.uses(Part::Probes) {
            true => self.machine.probing.hot_last(layout, self.pending.iter()),
            false => self.pending.iter().collect(),
        };
        self.pending = Bitmap::new(self.pending.len());
        let sending = Sending {
            version,
            pages,
            begun: Instant::now(),
            pages_before: self.counters.pages(),
            encoded_before: self.counters.encoded_bytes(),
        };
        bulk.pass(order).await?;
        Ok(sending)
    }

    /// Waits until the destination has what was sent last, and with it everything before.
    pub(super) async fn wait_received(
        &mut self,
        link: &mut Link,
        bulk: &mut Bulk,
        version: Version,
    ) -> Result<(), Failure> {
        link.control
            .message(&ToDestination::PassEnd { version })
            .await?;
        loop {
            let reply = tokio::select! {
                reply = link.replies.message() => reply?,
                failure = bulk.failed() => return Err(failure.into()),
            };
            match reply {
                ToSource::PassReceived { version: received } if received == version => break,
                ToSource::Progress { missing_pages, .. } => {
                    self.observer
                        .update(|status| status.pages_remaining = missing_pages);
                }
                ToSource::Refused { reason, .. } => {
                    return Err(Failure::Refused(message::clean_text(&reason)));
                }
                _ => return Err(LinkError::Unexpected("a message in pre-copy").into()),
            }
        }
        Ok(())
    }

    /// Notes how quickly everything went that was sent since then, and has arrived.
    pub(super) fn measure_rate(&mut self, since: &Sending) {
        let seconds = since.begun.elapsed().as_secs_f64();
        let pages = self.counters.pages() - since.pages_before;
        self.rate = (pages * PAGE_SIZE as u64) as f64 / seconds;
    }
}
