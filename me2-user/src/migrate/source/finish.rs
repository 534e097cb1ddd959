//! From the handover to the end: serving what is missing, and letting go.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::anyhow;
use me2_engine::{
    ownership::{DestinationMessage, SourceAction, SourceState},
    phase::Phase,
    tree,
};
use me2_vmm::clock;
use me2_wire::{
    PAGE_SIZE,
    message::{
        self, DestinationStatistics, FAULT_WAITS_MAX, ResumeTiming, ToDestination, ToSource,
    },
};
use tokio::{task::block_in_place, time::timeout};
use tracing::Instrument;

use super::{
    Attempt, Ended, Failure,
    answers::{self, Answerer},
    bulk::Bulk,
    link::{Link, within},
    recovery::Reconnected,
};
use crate::{
    control::types::Outcome,
    migrate::{observer::AbortOnDrop, risk::RiskWatch},
    report::{self, Downtime, DowntimeSource, FaultLatency, Postcopy, Status, TouchedFirstSecond},
    transport::{congestion, frames::LinkError, limits, window::Waiting},
};

/// How long the destination may take to say that it knows of the acknowledgement: longer than a
/// connection lives that is silent.
const UNDERSTOOD_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the last packets may take to leave.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// With this code a connection is closed whose migration is complete.
const COMPLETE: quinn::VarInt = quinn::VarInt::from_u32(0);
/// Page tables of the guest that are pushed first: those of 4 GiB in pages of 4 KiB.
const TABLE_PAGES_MAX: usize = 2100;
/// How often it is looked at whether post-copy takes too long.
const RISK_INTERVAL: Duration = Duration::from_millis(500);
/// How often the acknowledgement is tried again over a new connection.
const ACKNOWLEDGE_ATTEMPTS_MAX: usize = 5;

/// How serving ended.
pub(super) enum Served {
    /// Complete and acknowledged.
    Complete,
    /// The destination refused the handover before any vCPU ran.
    Refused(String),
}

/// Why serving stopped short: the memory stays, and a recovery can go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Interrupted {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(
        "{0} pages differ between source and destination, after they were sent once more; the first at frames {1:x?}"
    )]
    Mismatch(u64, Vec<u64>),
    #[error("cannot start a thread")]
    NoThread(#[source] std::io::Error),
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

    pub(super) async fn conclude(
        mut self,
        mut link: Link,
        result: Result<Served, Interrupted>,
    ) -> Ended {
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
            Ok(Served::Refused(reason)) => self.end_refused(link, reason),
            Err(interrupted) => {
                link.bulk = None;
                self.fill_report();
                self.past_wire_bytes = self.report.wire_bytes;
                link.connection.close(1u8.into(), b"interrupted");
                let may_pass = match &interrupted {
                    Interrupted::Link(error) => error.is_of_link(),
                    Interrupted::NoThread(_) => true,
                    Interrupted::Mismatch(..) | Interrupted::Rules(_) => false,
                };
                self.pause(format!("{:#}", anyhow!(interrupted)), may_pass)
            }
        }
    }

    /// The destination never ran the VM and never will: it goes on here.
    pub(super) fn end_refused(mut self, link: Link, reason: String) -> Ended {
        self.fill_report();
        drop(link);
        self.stay(Failure::Refused(reason))
    }

    /// The destination has everything, and ends its side of the control stream when it knows that this
    /// side knows. If the link breaks just then, it is told again: this side has nothing to lose any
    /// more.
    async fn deliver_acknowledgement(&mut self, mut link: Link) {
        for _ in 0..ACKNOWLEDGE_ATTEMPTS_MAX {
            let _progress = self.tell_progress(&link);
            let _silence = link.listen_for_silence(&self.pacer);
            let understood = timeout(UNDERSTOOD_TIMEOUT, link.is_understood()).await;
            if understood.unwrap_or(false) {
                link.connection.close(COMPLETE, b"complete");
                let _ = timeout(CLOSE_TIMEOUT, link.endpoint.wait_idle()).await;
                return;
            }
            link.connection.close(1u8.into(), b"interrupted");
            tracing::warn!("the acknowledgement may not have arrived; connecting again");
            let Ok(Reconnected::Serves(again)) = self.reconnect().await else {
                continue;
            };
            link = again;
            let _ = self.serve(&mut link).await;
        }
        tracing::warn!("the destination has every page, but may not know that this side knows");
    }

    /// Pushes and answers until the destination is complete.
    pub(super) async fn serve(&mut self, link: &mut Link) -> Result<Served, Interrupted> {
        let _progress = self.tell_progress(link);
        let mut silence = link.listen_for_silence(&self.pacer);
        self.observer.link_is_up();
        let answerer = match link.answerer.take() {
            Some(answerer) => answerer,
            None => Answerer::start(self.encoding()).map_err(Interrupted::NoThread)?,
        };
        let answering = answers::serve(
            link.connection.clone(),
            link.window.clone(),
            link.preface,
            answerer,
            self.pacer.clone(),
        );
        let _answering = AbortOnDrop(tokio::spawn(
            async move {
                let reason = answering.await;
                tracing::debug!("no more page requests: {reason}");
            }
            .in_current_span(),
        ));
        let mut bulk = link.bulk.take().expect("opened with the link");
        let _window = AbortOnDrop(tokio::spawn(link.window.clone().follow(Waiting::Guest)));
        self.start_push(&bulk);
        let mut tick = tokio::time::interval(RISK_INTERVAL);
        let verify_full = self.request.verify_full;
        loop {
            let message = {
                // Not begun anew when something else happens: what was read of a message would be lost.
                let reply = async {
                    match verify_full {
                        // It hashes its memory meanwhile, and says nothing.
                        true => link.replies.message().await,
                        false => within(link.replies.message()).await,
                    }
                };
                tokio::pin!(reply);
                loop {
                    tokio::select! {
                        message = &mut reply => break message?,
                        failure = bulk.failed() => return Err(failure.into()),
                        _ = tick.tick() => self.watch_risk(),
                        Ok(()) = &mut silence.is_long, if self.may_drop_link() => {
                            return Err(LinkError::Silent.into());
                        }
                    }
                }
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
                } => {
                    self.observer.update(|status| status.faults = faults);
                    self.note_missing(missing_pages);
                }
                ToSource::Refused { epoch, reason } => {
                    if self
                        .lock_ownership()
                        .on_peer(DestinationMessage::Refused { epoch })?
                        == SourceAction::ResumeVm
                    {
                        return Ok(Served::Refused(message::clean_text(&reason)));
                    }
                }
                ToSource::FaultWaits { buckets } => self.note_waits(buckets)?,
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

    /// Whether a link that is silent had better be made anew. Once the VM runs at the destination
    /// that costs nothing; before, it would end the attempt.
    fn may_drop_link(&self) -> bool {
        let state = self.lock_ownership().state();
        matches!(state, SourceState::Released { .. }) && self.recover_limit() > Duration::ZERO
    }

    fn start_push(&self, bulk: &Bulk) {
        let tables = self.table_pages(TABLE_PAGES_MAX);
        let order = block_in_place(|| self.wanted_first(&tables, self.pending.iter()));
        self.lock_pages().set_push_order(order);
        bulk.push();
    }

    /// The VM runs at the destination.
    fn resumed(&mut self, link: &Link, timing: &ResumeTiming) {
        if self.risk.is_none() {
            let useful_pages = self.lock_pages().used_count();
            self.risk = Some(RiskWatch::begin(timing.missing_pages, useful_pages));
            self.note_missing(timing.missing_pages);
        }
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
            self.observer
                .switched_over(self.report.downtime_ms, timing.missing_pages);
            self.observer.enter(&mut self.log, Phase::Postcopy);
        }
    }

    /// Keeps them for the report; the last word of the destination counts.
    fn note_waits(&mut self, buckets: Vec<[u64; 2]>) -> Result<(), LinkError> {
        let ascends = buckets.is_sorted_by(|[one, _], [next, _]| one < next);
        if !ascends || buckets.len() > FAULT_WAITS_MAX {
            return Err(LinkError::Unexpected("a distribution that is none"));
        }
        self.report.postcopy.fault_latency_us.buckets = buckets;
        Ok(())
    }

    pub(super) fn note_statistics(&mut self, statistics: &DestinationStatistics) {
        self.report.postcopy = Postcopy {
            faults: statistics.faults,
            demand_pages: statistics.demand_pages,
            pushed_pages: statistics.pushed_pages,
            duplicate_pages: statistics.duplicate_pages,
            fault_latency_us: FaultLatency {
                buckets: std::mem::take(&mut self.report.postcopy.fault_latency_us.buckets),
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
        self.report.codec = self.counters.pages_by_codec();
        self.report.encoding = report::Encoding {
            plain_bytes: load(&self.counters.plain_bytes),
            encoded_bytes: self.counters.encoded_bytes(),
            by_codec: self.counters.bytes_by_codec(),
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

impl Link {
    /// Waits for the destination's last word: it knows that this side knows. False: the link broke.
    async fn is_understood(&mut self) -> bool {
        loop {
            match self.replies.next().await {
                Ok(None) => return true,
                // Of its progress, from before.
                Ok(Some(_)) => {}
                Err(_) => {
                    let reason = self.connection.close_reason();
                    return matches!(reason, Some(quinn::ConnectionError::ApplicationClosed(close)) if close.error_code == COMPLETE);
                }
            }
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

pub(super) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
