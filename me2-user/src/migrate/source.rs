//! The source's side of a migration.
//!
//! [`Attempt`] owns everything about it but the connection. Before the handover every failure
//! leaves the VM running here; afterwards the VM never runs here again unless the destination says
//! that it refused it, and the memory stays until the destination's completion is acknowledged.

mod answers;
mod bulk;
mod encoding;
mod finish;
mod link;
mod passes;
mod sent;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::Context;
use me2_engine::{
    bitmap::Bitmap,
    compression::Chooser,
    ownership::{self, DestinationMessage},
    phase::{Phase, PhaseLog},
    source::SourcePages,
    switch::Strategy,
};
use me2_vmm::{clock, dirty::Collect, pagemap};
use me2_wire::{
    PAGE_SIZE, PageIndex,
    blob::StateBlob,
    message::{self, RANGES_PER_MESSAGE_MAX, ToDestination, ToSource},
    range::RangeList,
};
use tokio::{sync::watch, task::block_in_place};

use super::{
    CHUNK_PAGES, Machine, bulk_streams,
    observer::{AbortOnDrop, Observer, PROGRESS_INTERVAL},
};
use crate::{
    control::types::{MigrateRequest, Mode, Outcome, Part, Report},
    identity::{Identity, TrustStore},
    process::{host_memory, published},
    report::{Explore, Ram, Status},
    transport::{
        frames::{LinkError, message_frame},
        limits::SocketGrant,
        pace::Pacer,
    },
};
use bulk::Bulk;
use encoding::{Encoder, Encoding, Parts, Purpose, SendCounters};
use link::Link;
use sent::SentPages;

/// How long vCPUs may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the explorer watches which pages are being written, to send these last.
const EXPLORE_WINDOW: Duration = Duration::from_millis(20);
/// How far back the guest's rate before the migration is taken.
const RATE_BEFORE: Duration = Duration::from_secs(2);
/// Page records in the handover besides those that the CPU state refers to: bytes before
/// encoding, by the rate of the last pass, so that they add about a millisecond.
const HANDOVER_EXTRA: Duration = Duration::from_millis(1);
const HANDOVER_EXTRA_PAGES_MAX: usize = CHUNK_PAGES;

/// Why an attempt failed before the handover. The VM runs on here.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An operator ended it.
    #[error("cancelled")]
    Cancelled,
    /// It took longer than the request allows.
    #[error("it took longer than {0} s")]
    TimedOut(u64),
    /// The destination does not take this VM.
    #[error("the destination refused: {0}")]
    Refused(String),
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// This side failed.
    #[error(transparent)]
    Local(#[from] anyhow::Error),
}

/// How an attempt ended.
pub enum Ended {
    /// The VM runs at the destination; everything has been let go.
    Moved(Report),
    /// The VM runs here.
    AtSource(Outcome, Report),
    /// The link broke after the handover: both sides wait for [`Attempt::recover`].
    Paused(Box<Attempt>, Report),
}

/// Who this process is towards its peers.
pub struct Credentials {
    /// Its identity.
    pub identity: Identity,
    /// Whom it trusts.
    pub trust: TrustStore,
}

/// One attempt to move a VM.
pub struct Attempt {
    machine: Arc<Machine>,
    credentials: Arc<Credentials>,
    request: MigrateRequest,
    migration: [u8; 16],
    strategy: Strategy,
    ownership: Arc<Mutex<ownership::Source>>,
    epoch: u64,
    pages: Arc<Mutex<SourcePages>>,
    sent: Arc<SentPages>,
    counters: Arc<SendCounters>,
    chooser: Arc<Mutex<Chooser>>,
    pacer: Arc<Pacer>,
    observer: Observer,
    log: PhaseLog,
    started: Instant,
    report: Report,
    /// Pages whose latest version the destination has not been sent.
    pending: Bitmap,
    /// Bytes a second of the last pass, before encoding.
    rate: f64,
    stop: Option<Stopped>,
    /// The latest connection, for its statistics.
    connection: Option<quinn::Connection>,
    /// What its socket was granted.
    socket: Option<SocketGrant>,
    /// Traffic of connections before it.
    past_wire_bytes: u64,
}

/// What is known once the VM stands still.
struct Stopped {
    at: Instant,
    requested_ns: u64,
    stopped_ns: u64,
    saved_ns: u64,
    handed_over_ns: u64,
    state: Vec<StateBlob>,
    state_pages: Vec<PageIndex>,
}

impl Attempt {
    /// An attempt that has not begun.
    pub fn new(
        machine: Arc<Machine>,
        credentials: Arc<Credentials>,
        request: MigrateRequest,
        migration: [u8; 16],
        ownership: Arc<Mutex<ownership::Source>>,
        observer: Observer,
        pacer: Pacer,
    ) -> Self {
        let page_count = machine.vm.memory().layout().page_count();
        let report = Report {
            mode: request.mode,
            ..Report::default()
        };
        Self {
            strategy: published::strategy(request.mode),
            machine,
            credentials,
            request,
            migration,
            ownership,
            epoch: 0,
            pages: Arc::new(Mutex::new(SourcePages::new(page_count))),
            sent: Arc::new(SentPages::new(
                page_count,
                host_memory::available_pages(),
                bulk_streams(),
            )),
            counters: Arc::default(),
            chooser: Arc::new(Mutex::new(Chooser::new(bulk_streams()))),
            pacer: Arc::new(pacer),
            started: observer.started(),
            observer,
            log: PhaseLog::begin(),
            report,
            pending: Bitmap::new(page_count),
            rate: 0.0,
            stop: None,
            connection: None,
            socket: None,
            past_wire_bytes: 0,
        }
    }

    /// How the memory travels.
    pub fn mode(&self) -> Mode {
        self.request.mode
    }

    /// When it was asked for.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Moves the VM. It runs here before, and afterwards as [`Ended`] says.
    pub async fn migrate(mut self, mut cancel: watch::Receiver<bool>) -> Ended {
        let before = self
            .started
            .checked_sub(RATE_BEFORE)
            .unwrap_or(self.started);
        self.report.guest.rate_before = self.machine.monitor.rate(before, self.started);
        let timeout = self.request.timeout_s.map(Duration::from_secs);
        let prepared = tokio::select! {
            result = self.until_stopped() => result,
            _ = cancel.wait_for(|cancelled| *cancelled) => Err(Failure::Cancelled),
            () = expire(timeout) => Err(Failure::TimedOut(timeout.unwrap_or_default().as_secs())),
        };
        match prepared {
            Err(failure) => self.stay(failure),
            // From here on nothing is cancelled: the handover is leaving.
            Ok(link) => self.hand_over_and_finish(link).await,
        }
    }

    /// Everything that may fail freely, in order.
    async fn until_stopped(&mut self) -> Result<Link, Failure> {
        // Watched while the link is set up: nothing waits for it on a long one.
        let watched_since = self.watch_writes()?;
        let mut link = self.setup().await?;
        let _progress = self.tell_progress(&link);
        let _window = AbortOnDrop(tokio::spawn(link.window.clone().follow()));
        if link.same_host {
            let mut chooser = self.chooser.lock().expect("no panics under this lock");
            chooser.share_cores_with_destination();
        }
        self.explore(watched_since).await?;
        let mut bulk = Bulk::open(&link.connection, link.preface, &self.encoding()).await?;
        if self.strategy.copies_before() {
            self.precopy(&mut link, &mut bulk).await?;
        }
        self.stop()?;
        if !self.strategy.copies_after() {
            let sending = self.send_pending(&mut link, &mut bulk).await?;
            self.wait_received(&mut link, &mut bulk, sending.version)
                .await?;
            self.measure_rate(&sending);
        }
        link.bulk = Some(bulk);
        Ok(link)
    }

    /// Setup: the destination is ready when this returns.
    async fn setup(&mut self) -> Result<Link, Failure> {
        let prepare = self
            .lock_ownership()
            .prepare()
            .context("cannot begin an attempt")?;
        self.epoch = prepare.epoch();
        let mut link = self.connect(message::Purpose::Migrate).await?;
        self.connection = Some(link.connection.clone());
        self.socket = Some(link.socket);
        link.control
            .message(&ToDestination::Machine {
                document: self.machine.vm.document().to_json(),
                scheme: published::scheme(self.request.mode),
            })
            .await?;
        match link.replies.message().await? {
            ToSource::Ready => {
                let prepared = DestinationMessage::Prepared { epoch: self.epoch };
                self.lock_ownership()
                    .on_peer(prepared)
                    .context("the peer broke the rules")?;
                Ok(link)
            }
            ToSource::Refused { reason, .. } => Err(Failure::Refused(message::clean_text(&reason))),
            _ => Err(LinkError::Unexpected("a message before Ready").into()),
        }
    }

    /// Starts the dirty log; from now on the probes tell which pages are being written.
    fn watch_writes(&mut self) -> Result<Instant, Failure> {
        let begun = Instant::now();
        block_in_place(|| self.machine.vm.start_dirty_log()).context("cannot log writes")?;
        let layout = self.machine.vm.memory().layout();
        self.machine.probing.forget_recent_writes(layout);
        self.report.explore.time_ms = begun.elapsed().as_secs_f64() * 1e3;
        Ok(Instant::now())
    }

    /// Explore: finds the pages that hold anything at all, and those that are being written.
    async fn explore(&mut self, watched_since: Instant) -> Result<(), Failure> {
        self.observer.enter(&mut self.log, Phase::Explore);
        let begun = Instant::now();
        let layout = self.machine.vm.memory().layout().clone();
        if self.strategy == Strategy::Hybrid {
            // Not waiting for anything: this is how long the guest is observed.
            let watched = (watched_since + EXPLORE_WINDOW).into();
            tokio::time::sleep_until(watched).await;
        }
        let populated = block_in_place(|| pagemap::populated_pages(self.machine.vm.memory()))
            .context("cannot read which pages are populated")?;
        let populated = Bitmap::from_words(populated, layout.page_count());
        let time_ms = self.report.explore.time_ms + begun.elapsed().as_secs_f64() * 1e3;
        self.report.explore = Explore {
            time_ms,
            ..self.compare_with_probes(&populated)
        };
        self.pending = match self.uses(Part::Holes) {
            true => populated,
            false => Bitmap::full(layout.page_count()),
        };
        let useful_pages = self.pending.count();
        self.report.ram = Ram {
            page_size_bytes: PAGE_SIZE as u64,
            total_pages: u64::from(layout.page_count()),
            useful_pages,
            untouched_pages: u64::from(layout.page_count()) - useful_pages,
            ..Ram::default()
        };
        self.observer.update(|status| {
            status.pages_total = useful_pages;
            status.pages_remaining = useful_pages;
        });
        Ok(())
    }

    /// What the touch map of the probes is worth, beside the host's page tables.
    fn compare_with_probes(&self, populated: &Bitmap) -> Explore {
        let mut explore = Explore {
            populated_pages: populated.count(),
            ..Explore::default()
        };
        let layout = self.machine.vm.memory().layout();
        self.machine
            .probing
            .for_each_touched(layout, |page| match populated.contains(page) {
                true => explore.populated_touched_pages += 1,
                false => explore.touched_hole_pages += 1,
            });
        explore.populated_untouched_pages =
            explore.populated_pages - explore.populated_touched_pages;
        explore
    }

    /// Stop: the vCPUs stand still, state is saved, *then* the dirty log is read for the last
    /// time, since saving may write guest memory.
    fn stop(&mut self) -> Result<(), Failure> {
        self.observer.enter(&mut self.log, Phase::Stop);
        let vm = &self.machine.vm;
        let (at, requested_ns) = (Instant::now(), clock::monotonic_ns());
        block_in_place(|| {
            vm.vcpus().request_stop();
            let stopped_ns = vm
                .vcpus()
                .wait_stopped(Some(at + STOP_TIMEOUT))
                .context("the vCPUs did not stop in time")?;
            anyhow::ensure!(!vm.vcpus().has_ended(), "the guest has ended by itself");
            let state = vm.save().context("cannot save the VM's state")?;
            let saved_ns = clock::monotonic_ns();
            let state_pages = vm
                .state_pages()
                .context("cannot find the pages of the CPU state")?;
            let dirty = vm
                .collect_dirty(Collect::Last)
                .context("cannot read the dirty log")?;
            self.pending
                .union(&Bitmap::from_words(dirty, self.pending.len()));
            self.stop = Some(Stopped {
                at,
                requested_ns,
                stopped_ns,
                saved_ns,
                handed_over_ns: 0,
                state,
                state_pages,
            });
            anyhow::Ok(())
        })?;
        Ok(())
    }

    /// Handover: one flight with the last versions, the state, and the pages that it refers to.
    /// The VM has left this process when the first byte is written.
    async fn hand_over(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let epoch = self
            .lock_ownership()
            .handover_sending()
            .expect("the destination is ready");
        self.observer.enter(&mut self.log, Phase::Handover);
        let encoding = self.encoding();
        let stop = self.stop.as_mut().expect("stopped before the handover");
        let (version, ranges) = {
            let mut pages = self.pages.lock().expect("no panics under this lock");
            pages.begin_version(&self.pending)
        };
        let extra = (self.rate * HANDOVER_EXTRA.as_secs_f64() / PAGE_SIZE as f64) as usize;
        let extra = extra.min(HANDOVER_EXTRA_PAGES_MAX);
        let claimed: Vec<_> = {
            let mut pages = self.pages.lock().expect("no panics under this lock");
            let state_pages = stop.state_pages.iter().copied();
            let wanted: Vec<PageIndex> = state_pages
                .chain(self.pending.iter().take(extra))
                .filter(|page| pages.claim(*page))
                .collect();
            wanted.into_iter().map(|page| (page, version)).collect()
        };
        let mut flight = Vec::new();
        block_in_place(|| {
            let mut encoder = Encoder::new(encoding);
            for chunk in claimed.chunks(CHUNK_PAGES) {
                flight.extend_from_slice(&encoder.encode(chunk, Purpose::Urgent).bytes);
            }
        });
        let mut parts: Vec<_> = ranges.split(RANGES_PER_MESSAGE_MAX).collect();
        let last = parts.pop().unwrap_or(RangeList::EMPTY);
        for pages in parts {
            flight.extend_from_slice(&message_frame(&ToDestination::Announce { version, pages }));
        }
        let handed_over_ns = clock::monotonic_ns();
        flight.extend_from_slice(&message_frame(&ToDestination::Handover(Box::new(
            message::Handover {
                epoch,
                version,
                pages: last,
                state: std::mem::take(&mut stop.state),
                stopped_ns: stop.stopped_ns,
                since_save_ns: handed_over_ns - stop.saved_ns,
                verify_full: self.request.verify_full,
            },
        ))));
        stop.handed_over_ns = handed_over_ns;
        self.report.handover.bytes = flight.len() as u64;
        self.pacer.book(flight.len());
        link.control.bytes(&flight).await
    }

    /// The attempt failed before the handover: the VM runs on here, as before.
    fn stay(mut self, failure: Failure) -> Ended {
        let vm = &self.machine.vm;
        {
            let mut ownership = self.lock_ownership();
            // Refused after the handover, it is the owner's already.
            let _ = ownership.abort();
            assert!(
                ownership.may_run(),
                "only the owner runs the VM: {:?}",
                ownership.state()
            );
        }
        vm.vcpus().resume();
        if let Err(error) = block_in_place(|| vm.stop_dirty_log()) {
            tracing::error!("the dirty log stays on: {:#}", anyhow::Error::from(error));
        }
        let outcome = match failure {
            Failure::Refused(_) => Outcome::Refused,
            Failure::TimedOut(_) => Outcome::TimedOut,
            _ => Outcome::FailedAtSource,
        };
        self.report.status = if matches!(failure, Failure::Cancelled) {
            Status::Cancelled
        } else {
            Status::Failed
        };
        self.report.error = Some(format!(
            "{:#}; the VM runs on at the source",
            anyhow::Error::from(failure)
        ));
        self.fill_report();
        if let Some(connection) = &self.connection {
            connection.close(1u8.into(), b"the attempt is over");
        }
        Ended::AtSource(outcome, self.report)
    }

    fn encoding(&self) -> Encoding {
        Encoding {
            machine: self.machine.clone(),
            pages: self.pages.clone(),
            sent: self.sent.clone(),
            counters: self.counters.clone(),
            chooser: self.chooser.clone(),
            parts: Parts::of(&self.request),
            begun: self.started,
            generation: self.lock_pages().generation(),
        }
    }

    /// Whether a part of exploration or encoding is on.
    fn uses(&self, part: Part) -> bool {
        !self.request.without.contains(&part)
    }

    fn lock_ownership(&self) -> std::sync::MutexGuard<'_, ownership::Source> {
        self.ownership.lock().expect("no panics under this lock")
    }

    fn lock_pages(&self) -> std::sync::MutexGuard<'_, SourcePages> {
        self.pages.lock().expect("no panics under this lock")
    }

    /// Tells progress while the result lives.
    fn tell_progress(&self, link: &Link) -> AbortOnDrop {
        let (observer, connection) = (self.observer.clone(), link.connection.clone());
        let past = self.past_wire_bytes;
        AbortOnDrop(tokio::spawn(async move {
            let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
            loop {
                interval.tick().await;
                observer.tick(past + connection.stats().udp_tx.bytes);
            }
        }))
    }
}

async fn expire(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}
