//! Passes over the memory while the VM runs: what is pending is announced, sent, and waited for
//! where that must be.

use std::time::{Duration, Instant};

use me2_engine::{
    bitmap::Bitmap,
    phase::Phase,
    switch::{
        self, Converged, Limits, Outlook, PRECOPY_PASSES_MAX, PassResult, Strategy, final_set_limit,
    },
};
use me2_wire::{
    PageIndex, Version,
    message::{self, RANGES_PER_MESSAGE_MAX, ToDestination, ToSource},
    range::RangeList,
};
use tokio::{sync::watch, task::block_in_place};

use super::{
    super::CHUNK_PAGES, Attempt, Failure, Wish, bulk::Bulk, encoding::Encoder, link::Link,
};
use crate::{
    control::types::Part,
    report::Switch,
    transport::{congestion, frames::LinkError},
};

/// Downtime that plain pre-copy converges to, if the request names none.
const DOWNTIME_LIMIT: Duration = Duration::from_millis(300);
/// A hybrid's next pass does not wait for the one before, if it has at least so many pages: fewer
/// are sent within a round trip.
const OVERLAP_PAGES_MIN: u64 = 1024;
/// A page is hot if it is expected to be written again, as likely as this, before a pass is over.
const HOT: f64 = 0.5;
/// Pending pages that are encoded to see what all of them would take.
const SAMPLE_PAGES: usize = CHUNK_PAGES;
const SECOND: Duration = Duration::from_secs(1);

/// A pass on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sending {
    pub(super) version: Version,
    pages: u64,
    begun: Instant,
    /// What all passes before it had sent.
    encoded_before: u64,
}

impl Attempt {
    /// Precopy: passes, as long as they pay.
    pub(super) async fn precopy(
        &mut self,
        link: &mut Link,
        bulk: &mut Bulk,
    ) -> Result<(), Failure> {
        self.precopy_begun = Instant::now();
        for pass in 1.. {
            self.observer.enter(&mut self.log, Phase::Precopy(pass));
            self.pending_before = (pass > 1).then(|| self.pending.count());
            let hot = self.take_hot(pass);
            let sending = self.send_pending(link, bulk).await?;
            self.pending.union(&hot);
            // Once the last page has been read, the next pass can begin, while the link is still
            // busy with this one.
            let queued = self.pass_result(pass, &sending)?;
            if self.must_switch() {
                // What is final may build on anything that was sent.
                return self.wait_received(link, bulk, sending.version).await;
            }
            let overlaps =
                self.strategy == Strategy::Hybrid && self.pending.count() >= OVERLAP_PAGES_MIN;
            if overlaps && self.another_pass(&queued, link) {
                continue;
            }
            self.wait_received(link, bulk, sending.version).await?;
            let received = self.pass_result(pass, &sending)?;
            if self.must_switch() || !self.another_pass(&received, link) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether the operator's limit, or the operator, ends pre-copy now.
    fn must_switch(&self) -> bool {
        let limit = self.request.precopy_limit_ms.map(Duration::from_millis);
        let is_late = limit.is_some_and(|limit| self.precopy_begun.elapsed() >= limit);
        is_late || *self.wish.borrow() == Wish::SwitchNow
    }

    /// Whether another pass pays.
    fn another_pass(&mut self, result: &PassResult, link: &Link) -> bool {
        if self.strategy == Strategy::Precopy {
            let limits = Limits {
                converged: self.converged(),
                passes: PRECOPY_PASSES_MAX,
            };
            return switch::another_pass(result, &limits);
        }
        let outlook = self.outlook(link);
        self.report.switch = describe(&outlook, self.writes.heat.written_within(SECOND));
        result.pass < PRECOPY_PASSES_MAX && outlook.another_pass()
    }

    /// What is known when a hybrid may switch.
    fn outlook(&self, link: &Link) -> Outlook {
        let pending_pages = self.pending.count();
        let (rate, round_trip) = (self.link_rate(link), link.connection.rtt());
        let bytes_per_page = self.bytes_per_page();
        let time_of = |pages: f64| Duration::from_secs_f64(pages * bytes_per_page / rate);
        let horizon = time_of(pending_pages as f64) + round_trip;
        let heat = &self.writes.heat;
        let likely = |time| move |page| heat.is_written_within(page, time);
        let hot_pages = self
            .pending
            .iter()
            .map(likely(horizon))
            .filter(|p| *p >= HOT)
            .count();
        let cold = pending_pages - hot_pages as u64;
        Outlook {
            pending_pages,
            hot_pages: hot_pages as u64,
            written_pages: heat.written_within(time_of(cold as f64) + round_trip),
            wanted_pages: self
                .pending
                .iter()
                .map(likely(time_of(pending_pages as f64)))
                .sum(),
            bytes_per_page,
            rate,
            round_trip,
            final_set_limit: self.final_set_limit(link),
            pending_before: self.pending_before,
        }
    }

    /// How long the VM may stand still for what was written last.
    pub(super) fn final_set_limit(&self, link: &Link) -> Duration {
        let asked = self.request.downtime_limit_ms.map(Duration::from_millis);
        final_set_limit(link.connection.rtt(), asked)
    }

    /// What goes through, in bytes a second: what the link takes, or the cap. Where the cap was the
    /// limit all along, the model of the path knows nothing, but what was sent says it.
    pub(super) fn link_rate(&self, link: &Link) -> f64 {
        let seconds = self.precopy_begun.elapsed().as_secs_f64();
        let sent = link.connection.stats().udp_tx.bytes as f64 / seconds.max(f64::MIN_POSITIVE);
        let path = congestion::estimate(&link.connection).rate;
        match self.request.max_bandwidth_bytes_per_second {
            Some(cap) => path.max(sent).min(cap as f64).max(1.0),
            None => path.max(1.0),
        }
    }

    /// What a pending page takes that is sent again: a sample is encoded to see.
    fn bytes_per_page(&self) -> f64 {
        let step = (self.pending.count() as usize / SAMPLE_PAGES).max(1);
        let sample: Vec<_> = self
            .pending
            .iter()
            .step_by(step)
            .take(SAMPLE_PAGES)
            .collect();
        if sample.is_empty() {
            return 0.0;
        }
        block_in_place(|| Encoder::new(self.encoding()).measure(&sample))
    }

    /// After the first pass: takes out of what is pending what will have been written again before
    /// a pass is over.
    fn take_hot(&mut self, pass: u32) -> Bitmap {
        let mut hot = Bitmap::new(self.pending.len());
        if pass == 1 || self.strategy != Strategy::Hybrid || !self.uses(Part::Heat) {
            return hot;
        }
        let horizon = Duration::from_secs_f64(self.report.switch.pass_ms / 1e3);
        for page in self.pending.iter() {
            if self.writes.heat.is_written_within(page, horizon) >= HOT {
                hot.set(page);
            }
        }
        self.pending.subtract(&hot);
        self.writes.saved.hot += hot.count();
        hot
    }

    /// Reads the dirty log, and tells how far a pass has come.
    fn pass_result(&mut self, pass: u32, sending: &Sending) -> Result<PassResult, Failure> {
        self.look_at_writes()?;
        self.writes.end_pass(&self.pending);
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

    /// Announces and sends everything pending; returns when all of it is queued, or when pre-copy
    /// ends before: what was not read for the pass is pending again.
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
        let order = block_in_place(|| match self.uses(Part::Heat) {
            true => self.writes.heat.coldest_first(self.pending.iter()),
            false => self.pending.iter().collect(),
        });
        self.pending = Bitmap::new(self.pending.len());
        let sending = Sending {
            version,
            pages,
            begun: Instant::now(),
            encoded_before: self.counters.encoded_bytes(),
        };
        self.watch_pass(bulk, order).await?;
        let unsent = self.lock_pages().take_unsent();
        self.was_cut = !unsent.is_empty();
        if self.was_cut {
            let ranges = RangeList::from_bitmap(unsent.words());
            for pages in ranges.split(RANGES_PER_MESSAGE_MAX) {
                link.control
                    .message(&ToDestination::Withdraw { pages })
                    .await?;
            }
            self.pending.union(&unsent);
        }
        Ok(sending)
    }

    /// Sends these pages, and looks at what is written meanwhile.
    async fn watch_pass(&mut self, bulk: &mut Bulk, order: Vec<PageIndex>) -> Result<(), Failure> {
        let vcpus = self.machine.vm.vcpus().count();
        let is_running = self.stop.is_none();
        let looks = is_running && self.strategy == Strategy::Hybrid;
        let mut wish = self.wish.clone();
        let limit = self.request.precopy_limit_ms.map(Duration::from_millis);
        let until = limit.map(|limit| self.precopy_begun + limit);
        let mut pass = bulk.begin_pass(order);
        loop {
            let look = self.writes.next_look(vcpus);
            tokio::select! {
                done = pass.done() => {
                    if !done {
                        return Err(bulk.failed().await.into());
                    }
                    return Ok(());
                }
                () = tokio::time::sleep_until(look.unwrap_or_else(Instant::now).into()),
                    if looks && look.is_some() => self.explore_writes()?,
                () = must_switch(&mut wish, until), if is_running && !pass.is_cut() => pass.cut(),
            }
        }
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
                reply = link.reply() => reply?,
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
}

fn describe(outlook: &Outlook, dirty_pages_per_second: f64) -> Switch {
    let forecast = outlook.forecast();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Switch {
        pending_pages: outlook.pending_pages,
        hot_pages: outlook.hot_pages,
        dirty_pages_per_second,
        written_pages: outlook.written_pages,
        wanted_pages: outlook.wanted_pages,
        bytes_per_page: outlook.bytes_per_page,
        rate_bytes_per_second: outlook.rate,
        round_trip_ms: ms(outlook.round_trip),
        final_set_limit_ms: ms(outlook.final_set_limit),
        stalls_ms: ms(forecast.now.total()),
        stalls_after_pass_ms: ms(forecast.then.total()),
        pass_ms: ms(forecast.pass),
    }
}

/// Waits until the operator wants the handover, or the time for pre-copy is over.
async fn must_switch(wish: &mut watch::Receiver<Wish>, until: Option<Instant>) {
    let asked = async {
        if wish
            .wait_for(|wish| *wish == Wish::SwitchNow)
            .await
            .is_err()
        {
            std::future::pending().await
        }
    };
    let late = async {
        match until {
            Some(until) => tokio::time::sleep_until(until.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = asked => {}
        () = late => {}
    }
}
