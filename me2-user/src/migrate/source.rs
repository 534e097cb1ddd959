//! The source's side of a migration.
//!
//! [`Attempt`] owns everything about it but the connection. Before the handover every failure
//! leaves the VM running here; afterwards the VM never runs here again unless the destination says
//! that it refused it, and the memory stays until the destination's completion is acknowledged.

mod answers;
mod asked;
mod bulk;
mod compare;
mod encoding;
mod finish;
mod handover;
mod link;
mod passes;
mod progress;
mod recovery;
mod sent;
mod silence;
mod working_set;
mod writes;

use std::{
    net::SocketAddr,
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
use me2_vmm::pagemap;
use me2_wire::{
    PAGE_SIZE, PageIndex,
    message::{self, ToDestination, ToSource},
};
use tokio::{sync::watch, task::block_in_place};

use super::{
    Machine, bulk_streams,
    observer::{AbortOnDrop, Observer},
    risk::RiskWatch,
};
use crate::{
    control::types::{MigrateRequest, Mode, Outcome, Part, Report},
    identity::{Credentials, Fingerprint, Identity, TrustStore},
    process::{host_memory, published},
    report::{Explore, Ram, Status},
    transport::{
        congestion, frames::LinkError, limits::SocketGrant, pace::Pacer, qlog::Qlog,
        window::Waiting,
    },
};
use answers::Answerer;
use asked::Asked;
use bulk::Bulk;
use encoding::{Encoding, Parts, SendCounters};
use handover::Stopped;
use link::Link;
use sent::SentPages;
use writes::Writes;

/// How long the explorer watches which pages are being written, to send these last.
const EXPLORE_WINDOW: Duration = Duration::from_millis(20);
/// How far back the guest's rate before the migration is taken.
const RATE_BEFORE: Duration = Duration::from_secs(2);
/// Why an attempt failed before the handover. The VM runs on here, if it runs at all.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An operator ended it.
    #[error("cancelled")]
    Cancelled,
    /// There is nothing left to move.
    #[error("the guest ended by itself before it was handed over")]
    GuestEnded,
    /// It took longer than the request allows.
    #[error("it took longer than {0} s")]
    TimedOut(u64),
    /// The destination does not take this VM.
    #[error("the destination refused: {0}")]
    Refused(String),
    /// An operator has said that the destination, which had the VM, is dead.
    #[error(
        "taken back, by an operator's word that the destination is dead: it goes on as it was when it stopped, \
         {rolled_back_s:.1} s ago, and what it did since is lost"
    )]
    TakenBack {
        /// For so long it had been away.
        rolled_back_s: f64,
    },
    /// The link failed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// This side failed.
    #[error(transparent)]
    Local(#[from] anyhow::Error),
}

/// What an operator wants of a migration under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// That it goes on as it sees fit.
    GoOn,
    /// That it hands over as soon as it can, whatever is left to send.
    SwitchNow,
    /// That it is given up.
    Cancel,
    /// The same, since the VM has ended.
    Bury,
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

/// One attempt to move a VM.
pub struct Attempt {
    machine: Arc<Machine>,
    /// Who this host is to the destination, from the beginning to the end.
    identity: Arc<Identity>,
    trust: TrustStore,
    request: MigrateRequest,
    migration: [u8; 16],
    /// Who the destination is, once that is known.
    peer: Option<Fingerprint>,
    strategy: Strategy,
    ownership: Arc<Mutex<ownership::Source>>,
    epoch: u64,
    pages: Arc<Mutex<SourcePages>>,
    sent: Arc<SentPages>,
    counters: Arc<SendCounters>,
    chooser: Arc<Mutex<Chooser>>,
    asked: Arc<Asked>,
    pacer: Arc<Pacer>,
    qlog: Qlog,
    observer: Observer,
    log: PhaseLog,
    started: Instant,
    report: Report,
    /// Pages whose latest version the destination has not been sent.
    pending: Bitmap,
    writes: Writes,
    /// What the guest was seen to use, in the order of first use.
    working_set: Vec<PageIndex>,
    /// What the operator wants of it.
    wish: watch::Receiver<Wish>,
    precopy_begun: Instant,
    /// Pages that were pending before the pass at hand; none before the first.
    pending_before: Option<u64>,
    /// Whether the last pass ended before all of it was sent.
    was_cut: bool,
    stop: Option<Stopped>,
    /// The latest connection, for its statistics.
    connection: Option<quinn::Connection>,
    /// What its socket was granted.
    socket: Option<SocketGrant>,
    /// Traffic of connections before it.
    past_wire_bytes: u64,
    /// Where the destination was last reached.
    target: Option<SocketAddr>,
    /// When it last said how many pages it misses, and how many that were.
    heard: Option<Instant>,
    missing_pages: u64,
    /// From when the VM runs there.
    risk: Option<RiskWatch>,
    /// Comparisons of all pages that found some that differ.
    comparisons: u32,
    /// What made it stop may pass.
    may_pass: bool,
}

impl Attempt {
    /// An attempt that has not begun. What becomes `wish` is done as long as it can be.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different thing of the process"
    )]
    pub fn new(
        machine: Arc<Machine>,
        credentials: &Credentials,
        request: MigrateRequest,
        migration: [u8; 16],
        ownership: Arc<Mutex<ownership::Source>>,
        observer: Observer,
        pacer: Pacer,
        qlog: Qlog,
        wish: watch::Receiver<Wish>,
    ) -> Self {
        let page_count = machine.vm.memory().layout().page_count();
        let slowdown_max = request.guest_slowdown_max();
        let report = Report {
            mode: request.mode,
            ..Report::default()
        };
        Self {
            strategy: published::strategy(request.mode),
            machine,
            identity: credentials.identity(),
            trust: credentials.trust().clone(),
            request,
            migration,
            peer: None,
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
            asked: Arc::default(),
            pacer: Arc::new(pacer),
            qlog,
            started: observer.started(),
            observer,
            log: PhaseLog::begin(),
            report,
            pending: Bitmap::new(page_count),
            writes: Writes::new(page_count, slowdown_max),
            working_set: Vec::new(),
            wish,
            precopy_begun: Instant::now(),
            pending_before: None,
            was_cut: false,
            stop: None,
            connection: None,
            socket: None,
            past_wire_bytes: 0,
            target: None,
            heard: None,
            missing_pages: u64::MAX,
            risk: None,
            comparisons: 0,
            may_pass: false,
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
    pub async fn migrate(mut self) -> Ended {
        let mut wish = self.wish.clone();
        let before = self
            .started
            .checked_sub(RATE_BEFORE)
            .unwrap_or(self.started);
        self.report.guest.rate_before = self.machine.monitor.rate(before, self.started);
        let timeout = self.request.timeout_s.map(Duration::from_secs);
        let given_up = wish.wait_for(|wish| matches!(wish, Wish::Cancel | Wish::Bury));
        let prepared = tokio::select! {
            result = self.until_stopped() => result,
            Ok(wish) = given_up => Err(match *wish {
                Wish::Bury => Failure::GuestEnded,
                _ => Failure::Cancelled,
            }),
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
        let _silence = link.listen_for_silence(&self.pacer);
        let _window = AbortOnDrop(tokio::spawn(link.window.clone().follow(Waiting::Nobody)));
        if link.same_host {
            let mut chooser = self.chooser.lock().expect("no panics under this lock");
            chooser.share_cores_with_destination();
        }
        self.observer.enter(&mut self.log, Phase::Explore);
        self.observe_working_set(&link).await;
        self.explore(watched_since).await?;
        let mut bulk = Bulk::open(&link.connection, link.preface, &self.encoding()).await?;
        if self.strategy.copies_before() {
            self.precopy(&mut link, &mut bulk).await?;
        }
        // What is needed behind the handover had better be missed before it.
        let answerer = Answerer::start(self.encoding());
        link.answerer = Some(answerer.context("cannot start a thread")?);
        if self.strategy.copies_after() {
            link.open_ahead().await?;
            self.watch_last_writes(&link).await?;
        }
        self.flush_disks()?;
        self.stop()?;
        if !self.strategy.copies_after() {
            let sending = self.send_pending(&mut link, &mut bulk).await?;
            self.wait_received(&mut link, &mut bulk, sending.version)
                .await?;
        }
        self.let_go_of_disks()?;
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
        let machine = ToDestination::Machine {
            document: self.machine.vm.document().to_json(),
            scheme: published::scheme(self.request.mode),
        };
        let purpose = message::Purpose::Migrate;
        let mut link = self.connect(purpose, Some(machine)).await?;
        self.target = Some(link.connection.remote_address());
        self.connection = Some(link.connection.clone());
        self.peer = Some(link.fingerprint);
        self.socket = Some(link.socket);
        match link.reply().await? {
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
        self.writes.begin();
        let layout = self.machine.vm.memory().layout();
        self.machine.probing.forget_recent_writes(layout);
        self.report.explore.time_ms = begun.elapsed().as_secs_f64() * 1e3;
        Ok(Instant::now())
    }

    /// Explore: finds the pages that hold anything at all, and those that are being written.
    async fn explore(&mut self, watched_since: Instant) -> Result<(), Failure> {
        let begun = Instant::now();
        let layout = self.machine.vm.memory().layout().clone();
        if self.strategy == Strategy::Hybrid && self.writes.may_look() {
            // Not waiting for anything: this is how long the guest is observed.
            let watched = (watched_since + EXPLORE_WINDOW).into();
            tokio::time::sleep_until(watched).await;
            self.explore_writes()?;
        }
        let populated = block_in_place(|| pagemap::populated_pages(self.machine.vm.memory()))
            .context("cannot read which pages are populated")?;
        let populated = Bitmap::from_words(populated, layout.page_count());
        let time_ms = self.report.explore.time_ms + begun.elapsed().as_secs_f64() * 1e3;
        self.report.explore = Explore {
            time_ms,
            working_set: self.report.explore.working_set.take(),
            guest_cost: std::mem::take(&mut self.report.explore.guest_cost),
            ..self.compare_with_probes(&populated)
        };
        let mut free = Bitmap::new(layout.page_count());
        self.pending = match self.uses(Part::Holes) {
            true => {
                let mut reported = self.machine.vm.memory().reported_free();
                reported.resize(free.words().len(), 0);
                free = Bitmap::from_words(reported, layout.page_count());
                free.subtract(&populated);
                populated
            }
            false => Bitmap::full(layout.page_count()),
        };
        let (useful_pages, free_pages) = (self.pending.count(), free.count());
        self.report.ram = Ram {
            page_size_bytes: PAGE_SIZE as u64,
            total_pages: u64::from(layout.page_count()),
            useful_pages,
            untouched_pages: u64::from(layout.page_count()) - useful_pages - free_pages,
            free_pages,
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
        // The destination has none of its disks: it never took them, or let go of them before it refused.
        let resumed = vm.resume(false);
        if let Err(error) = &resumed {
            tracing::error!("the VM stays paused: {error}; end whoever uses it, then `me2 resume`");
        }
        if let Err(error) = block_in_place(|| vm.stop_dirty_log()) {
            tracing::error!("the dirty log stays on: {:#}", anyhow::Error::from(error));
        }
        let outcome = match failure {
            Failure::Refused(_) => Outcome::Refused,
            Failure::TimedOut(_) => Outcome::TimedOut,
            Failure::TakenBack { .. } => Outcome::TakenBack,
            _ => Outcome::FailedAtSource,
        };
        self.report.status = if matches!(failure, Failure::Cancelled) {
            Status::Cancelled
        } else {
            Status::Failed
        };
        let now = match resumed {
            _ if matches!(failure, Failure::GuestEnded) => String::new(),
            Ok(()) => "; the VM runs on at the source".to_owned(),
            Err(error) => format!("; the VM is paused at the source: {error}"),
        };
        self.report.error = Some(format!("{:#}{now}", anyhow::Error::from(failure)));
        self.fill_report();
        if let Some(connection) = &self.connection {
            connection.close(1u8.into(), b"the attempt is over");
        }
        Ended::AtSource(outcome, self.report)
    }

    fn encoding(&self) -> Encoding {
        let usage = self.connection.as_ref().map(congestion::usage);
        Encoding {
            machine: self.machine.clone(),
            pages: self.pages.clone(),
            sent: self.sent.clone(),
            counters: self.counters.clone(),
            chooser: self.chooser.clone(),
            asked: self.asked.clone(),
            parts: Parts::of(&self.request),
            begun: self.started,
            generation: self.lock_pages().generation(),
            usage: usage.unwrap_or_default(),
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
}

async fn expire(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}
