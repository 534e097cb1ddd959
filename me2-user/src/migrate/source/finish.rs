//! From the handover to the end: serving what is missing, comparing hashes, letting go; and the
//! way back in after the link broke.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, anyhow};
use me2_engine::{
    bitmap::Bitmap,
    ownership::{DestinationMessage, SourceAction},
    phase::Phase,
    tree,
};
use me2_vmm::clock;
use me2_wire::{
    PAGE_SIZE, PageIndex,
    message::{self, DestinationStatistics, Purpose, ResumeTiming, ToDestination, ToSource},
    page_hash,
    range::RangeList,
};
use tokio::task::block_in_place;

use super::{Attempt, Ended, Failure, answers, bulk::Bulk, link::Link};
use crate::{
    control::types::Outcome,
    migrate::observer::{AbortOnDrop, Observer},
    process::published,
    report::{
        self, Downtime, DowntimeSource, FaultLatency, Postcopy, Status, TouchedFirstSecond, Verify,
    },
    transport::{congestion, frames::LinkError, limits},
};

/// How long the destination may take to close the connection after the acknowledgement.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// With this code the destination closes a connection whose migration is complete.
const COMPLETE: quinn::VarInt = quinn::VarInt::from_u32(0);
/// Page tables of the guest that are pushed first: those of 4 GiB in pages of 4 KiB.
const TABLE_PAGES_MAX: usize = 2100;
/// How often the acknowledgement is tried again over a new connection.
const ACKNOWLEDGE_ATTEMPTS_MAX: usize = 5;
/// Differing leaves of the hash tree that are looked into, to name frames.
const EXPANDED_LEAVES_MAX: usize = 16;
/// Differing frames that are named.
const NAMED_FRAMES_MAX: usize = 16;

/// How serving ended.
enum Served {
    /// Complete and acknowledged.
    Complete,
    /// The destination refused the handover before any vCPU ran.
    Refused(String),
}

/// Why serving stopped short: the memory stays, and a recovery can go on.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("{0} pages differ between source and destination, the first at frames {1:x?}")]
    Mismatch(u64, Vec<u64>),
    #[error("the peer broke the rules of the handover: {0}")]
    Rules(#[from] me2_engine::ownership::Violation),
}

impl Attempt {
    /// Handover, Postcopy, Complete. Nothing here resumes the VM but the destination's refusal.
    pub(super) async fn hand_over_and_finish(mut self, mut link: Link) -> Ended {
        let sent = self.hand_over(&mut link).await;
        let result = match sent {
            Ok(()) => self.serve(&mut link).await,
            Err(error) => Err(error.into()),
        };
        self.conclude(link, result).await
    }

    /// Reconnects after the link broke, and goes on.
    pub async fn recover(mut self: Box<Self>, observer: Observer) -> Ended {
        self.observer = observer;
        let result = self.reconnect().await;
        match result {
            Ok((link, Some(reason))) => self.conclude(link, Ok(Served::Refused(reason))).await,
            Ok((mut link, None)) => {
                let served = self.serve(&mut link).await;
                self.conclude(link, served).await
            }
            Err(failure) => self.pause(format!("{:#}", anyhow!(failure))),
        }
    }

    /// A new connection, and the answer to who owns the VM: with a reason, it is this side.
    async fn reconnect(&mut self) -> Result<(Link, Option<String>), Failure> {
        let mut link = self.connect(Purpose::Recover).await?;
        self.connection = Some(link.connection.clone());
        self.socket = Some(link.socket);
        let mut missing = Bitmap::new(self.pending.len());
        let mut add = |pages: &RangeList| {
            pages
                .check(missing.len())
                .context("the destination's list of missing pages")?;
            missing.extend(pages);
            anyhow::Ok(())
        };
        let (epoch, ownership) = loop {
            match link.reply().await? {
                ToSource::Missing { pages } => add(&pages)?,
                ToSource::Recovering {
                    epoch,
                    ownership,
                    missing,
                } => {
                    add(&missing)?;
                    break (epoch, ownership);
                }
                _ => {
                    return Err(LinkError::Unexpected(
                        "another message than the state of the recovery",
                    )
                    .into());
                }
            }
        };
        let state = DestinationMessage::PeerState {
            epoch,
            state: published::peer_state(ownership),
        };
        let action = self
            .lock_ownership()
            .on_peer(state)
            .map_err(|violation| anyhow!(violation))?;
        match action {
            SourceAction::ResumeVm => Ok((
                link,
                Some("the link broke before the handover was in".to_owned()),
            )),
            SourceAction::KeepStopped => Err(anyhow!(
                "the destination cannot tell what became of the VM ({ownership:?})"
            )
            .into()),
            _ => {
                self.lock_pages().reset_unsent(&missing);
                link.bulk =
                    Some(Bulk::open(&link.connection, link.preface, &self.encoding()).await?);
                Ok((link, None))
            }
        }
    }

    async fn conclude(mut self, mut link: Link, result: Result<Served, Interrupted>) -> Ended {
        match result {
            Ok(Served::Complete) => {
                self.report.status = Status::Completed;
                // Of a link that broke on the way.
                self.report.error = None;
                self.report.total_time_ms = ms(self.started.elapsed());
                self.fill_report();
                self.deliver_acknowledgement(link).await;
                Ended::Moved(self.report)
            }
            Ok(Served::Refused(reason)) => {
                self.fill_report();
                self.stay(Failure::Refused(reason))
            }
            Err(interrupted) => {
                link.bulk = None;
                self.fill_report();
                self.past_wire_bytes = self.report.wire_bytes;
                link.connection.close(1u8.into(), b"interrupted");
                self.pause(format!("{:#}", anyhow!(interrupted)))
            }
        }
    }

    /// The destination has everything, and closes the connection when it knows that this side knows.
    /// If the link breaks just then, it is told again: this side has nothing to lose any more.
    async fn deliver_acknowledgement(&mut self, mut link: Link) {
        for _ in 0..ACKNOWLEDGE_ATTEMPTS_MAX {
            let closed = tokio::time::timeout(CLOSE_TIMEOUT, link.connection.closed()).await;
            let knows = |error: &quinn::ConnectionError| matches!(error, quinn::ConnectionError::ApplicationClosed(close) if close.error_code == COMPLETE);
            if closed.as_ref().is_ok_and(knows) {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, link.endpoint.wait_idle()).await;
                return;
            }
            link.connection.close(1u8.into(), b"interrupted");
            tracing::warn!("the acknowledgement may not have arrived; connecting again");
            let Ok((again, None)) = self.reconnect().await else {
                continue;
            };
            link = again;
            let _ = self.serve(&mut link).await;
        }
        tracing::warn!("the destination has every page, but may not know that this side knows");
    }

    fn pause(mut self, reason: String) -> Ended {
        self.report.status = Status::PostcopyPaused;
        self.report.error = Some(format!(
            "{reason}; the VM has left, this side keeps its memory: mend the link, then `me2 recover`"
        ));
        self.report.total_time_ms = ms(self.started.elapsed());
        let report = self.report.clone();
        Ended::Paused(Box::new(self), report)
    }

    /// Pushes and answers until the destination is complete.
    async fn serve(&mut self, link: &mut Link) -> Result<Served, Interrupted> {
        let _progress = self.tell_progress(link);
        let answering = answers::serve(
            link.connection.clone(),
            link.window.clone(),
            link.preface,
            self.encoding(),
            self.pacer.clone(),
        );
        let _answering = AbortOnDrop(tokio::spawn(async move {
            let reason = answering.await;
            tracing::debug!("no more page requests: {reason}");
        }));
        let mut bulk = link.bulk.take().expect("opened with the link");
        let _window = AbortOnDrop(tokio::spawn(link.window.clone().follow()));
        self.start_push(&bulk);
        loop {
            let next_reply = async {
                match self.request.verify_full {
                    // It hashes its memory meanwhile, and says nothing.
                    true => link.replies.message().await,
                    false => link.reply().await,
                }
            };
            let message = tokio::select! {
                message = next_reply => message?,
                failure = bulk.failed() => return Err(failure.into()),
            };
            match message {
                ToSource::Verify { leaves } => {
                    let ours = block_in_place(|| self.hash_memory());
                    let mismatched = tree::differing(&ours, &leaves).len() as u64;
                    link.control
                        .message(&ToDestination::Verified { mismatched })
                        .await?;
                }
                ToSource::Resumed { epoch, timing } => {
                    self.lock_ownership()
                        .on_peer(DestinationMessage::Resumed { epoch })?;
                    self.resumed(link, &timing);
                }
                ToSource::Progress {
                    missing_pages,
                    faults,
                } => self.observer.update(|status| {
                    status.pages_remaining = missing_pages;
                    status.faults = faults;
                }),
                ToSource::Refused { epoch, reason } => {
                    if self
                        .lock_ownership()
                        .on_peer(DestinationMessage::Refused { epoch })?
                        == SourceAction::ResumeVm
                    {
                        return Ok(Served::Refused(message::clean_text(&reason)));
                    }
                }
                ToSource::Complete {
                    epoch,
                    leaves,
                    statistics,
                } => {
                    if self.complete(link, epoch, &leaves, &statistics).await? {
                        return Ok(Served::Complete);
                    }
                }
                _ => return Err(LinkError::Unexpected("a message in post-copy").into()),
            }
        }
    }

    fn start_push(&self, bulk: &Bulk) {
        let tables = self.table_pages(TABLE_PAGES_MAX);
        let order = block_in_place(|| self.wanted_first(&tables, self.pending.iter()));
        self.lock_pages().set_push_order(order);
        bulk.push();
    }

    /// The VM runs at the destination.
    fn resumed(&mut self, link: &Link, timing: &ResumeTiming) {
        let Some(stop) = &self.stop else { return };
        let span = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        self.report.handover.missing_pages = timing.missing_pages;
        self.report.downtime = Downtime {
            stop_ms: span(stop.requested_ns, stop.stopped_ns),
            save_ms: span(stop.stopped_ns, stop.saved_ns),
            transfer_ms: span(stop.saved_ns, timing.received_ns),
            restore_ms: span(timing.received_ns, timing.restored_ns),
            start_ms: span(timing.restored_ns, timing.started_ns),
        };
        if link.same_host {
            self.report.downtime_source = Some(DowntimeSource::Monotonic);
            self.report.downtime_ms = span(stop.stopped_ns, timing.started_ns);
        } else {
            let arrived_ms = span(stop.stopped_ns, clock::monotonic_ns());
            self.report.downtime_source = Some(DowntimeSource::HalfRtt);
            self.report.downtime_ms =
                (arrived_ms - timing.half_round_trip_ns as f64 / 1e6).max(0.0);
            let known = self.report.downtime.save_ms
                + self.report.downtime.restore_ms
                + self.report.downtime.start_ms;
            self.report.downtime.transfer_ms = (self.report.downtime_ms - known).max(0.0);
        }
        if matches!(self.log.current(), Phase::Handover) {
            self.observer.enter(&mut self.log, Phase::Postcopy);
        }
    }

    /// Compares the hash trees. True: all equal, acknowledged, the VM is the destination's alone.
    async fn complete(
        &mut self,
        link: &mut Link,
        epoch: u64,
        leaves: &[u64],
        statistics: &DestinationStatistics,
    ) -> Result<bool, Interrupted> {
        let ours = self.lock_pages().leaves();
        let differing = tree::differing(&ours, leaves);
        let frames = self.differing_frames(link, &differing).await?;
        // Differing leaves mean differing pages, even where none could be named.
        let mismatched = if differing.is_empty() {
            0
        } else {
            frames.len().max(1) as u64
        };
        let total_pages = u64::from(self.pending.len());
        self.report.verify = Verify {
            pages: total_pages,
            mismatched_pages: mismatched,
            full: self.request.verify_full,
        };
        self.note_statistics(statistics);
        let named: Vec<u64> = frames.into_iter().take(NAMED_FRAMES_MAX).collect();
        let action = self
            .lock_ownership()
            .on_peer(DestinationMessage::Complete {
                epoch,
                verified: mismatched == 0,
            })?;
        let ack = ToDestination::CompleteAck {
            epoch,
            mismatched,
            frames: named.clone(),
        };
        link.control.message(&ack).await?;
        if mismatched > 0 {
            return Err(Interrupted::Mismatch(mismatched, named));
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

    /// Guest frames of pages that differ, in the first few of the differing leaves.
    async fn differing_frames(
        &self,
        link: &mut Link,
        leaves: &[usize],
    ) -> Result<Vec<u64>, LinkError> {
        let mut frames = Vec::new();
        let leaves = &leaves[..leaves.len().min(EXPANDED_LEAVES_MAX)];
        if leaves.is_empty() {
            return Ok(frames);
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
            let layout = self.machine.vm.memory().layout();
            for (offset, hash) in ours.iter().enumerate() {
                if hashes.get(offset) != Some(hash) {
                    frames.push(layout.frame_of_page(first + offset as PageIndex));
                }
            }
        }
        Ok(frames)
    }

    /// The hash tree over the frozen memory itself, not over what was sent of it.
    fn hash_memory(&self) -> Vec<u64> {
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

    fn note_statistics(&mut self, statistics: &DestinationStatistics) {
        self.report.postcopy = Postcopy {
            faults: statistics.faults,
            demand_pages: statistics.demand_pages,
            pushed_pages: statistics.pushed_pages,
            duplicate_pages: statistics.duplicate_pages,
            fault_latency_us: FaultLatency {
                p50: statistics.fault_latency_p50_us,
                p99: statistics.fault_latency_p99_us,
                max: statistics.fault_latency_max_us,
            },
            vcpu_blocktime_ms: statistics.vcpu_blocktime_us as f64 / 1e3,
            touched_first_second: statistics.first_second.as_ref().map(|first| {
                TouchedFirstSecond {
                    pages: first.touched_pages,
                    present: first.touched_pages.saturating_sub(first.missed_pages),
                }
            }),
        };
        self.report.first_progress_ms = statistics
            .first_progress_us
            .map(|micros| self.report.downtime_ms + micros as f64 / 1e3);
        self.report.guest.rate_during = self.rate_during(statistics.guest_rate);
    }

    /// Operations a second over the whole migration: before the stop as told here, none in the
    /// downtime, and after the resume as told there.
    fn rate_during(&self, after: Option<f64>) -> Option<f64> {
        let stopped = self.stop.as_ref()?.at;
        let before = self.machine.monitor.rate(self.started, stopped);
        let before_s = stopped.duration_since(self.started).as_secs_f64();
        let after_s = stopped.elapsed().as_secs_f64() - self.report.downtime_ms / 1e3;
        match (before, after) {
            (Some(before), Some(after)) => {
                Some((before * before_s + after * after_s) / self.started.elapsed().as_secs_f64())
            }
            (one, other) => one.or(other),
        }
    }

    /// Fills in what is counted along the way.
    pub(super) fn fill_report(&mut self) {
        let now = self.started.elapsed();
        let took = |name| ms(self.log.took(name, now));
        self.report.setup_time_ms = took("setup");
        self.report.precopy_time_ms = took("precopy");
        self.report.postcopy_time_ms = took("postcopy");
        if self.report.total_time_ms == 0.0 {
            self.report.total_time_ms = ms(now);
        }
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        self.report.codec.zero = load(&self.counters.zero);
        self.report.codec.rle = load(&self.counters.rle);
        self.report.codec.delta = load(&self.counters.delta);
        self.report.codec.reference = load(&self.counters.reference);
        self.report.codec.zstd = load(&self.counters.zstd);
        self.report.codec.raw = load(&self.counters.raw);
        self.report.encoding = report::Encoding {
            plain_bytes: load(&self.counters.plain_bytes),
            encoded_bytes: self.counters.encoded_bytes(),
            busy_ms: load(&self.counters.busy_ns) as f64 / 1e6,
        };
        self.report.ram.zero_pages = self.report.codec.zero;
        self.report.ram.sent_pages = self.counters.pages();
        self.report.ram.sent_logical_bytes = self.counters.pages() * PAGE_SIZE as u64;
        self.report.precopy.sends_saved = self.writes.saved.clone();
        self.report.ebpf = self.machine.probing.report();
        if let Some(connection) = &self.connection {
            let statistics = connection.stats();
            self.report.wire_bytes = self.past_wire_bytes + statistics.udp_tx.bytes;
            self.report.link.rtt_ms = ms(statistics.path.rtt);
            self.report.link.lost_packets = statistics.path.lost_packets;
            self.report.link.congestion_events = statistics.path.congestion_events;
            self.report.link.mtu_bytes = statistics.path.current_mtu.into();
            self.report.link.rate_bytes_per_second = congestion::estimate(connection).rate as u64;
            let socket = self.socket.as_ref().expect("known with the connection");
            self.report.link.limits = limits::of_connection(connection, socket);
        }
    }
}

impl Ended {
    /// The outcome and the report of it.
    pub fn summary(&self) -> (Outcome, &crate::control::types::Report) {
        match self {
            Self::Moved(report) => (Outcome::Moved, report),
            Self::AtSource(outcome, report) => (*outcome, report),
            Self::Paused(_, report) => (Outcome::FailedAfterHandover, report),
        }
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
