//! The destination's side of a migration.
//!
//! [`Incoming`] owns everything about it but the connection: the VM, the page table, the staging
//! area, the threads that place pages. Before the handover it can be thrown away at any moment;
//! once the VM runs here, a broken link stops only those vCPUs that need a missing page.

mod intake;
mod knock;
pub mod pager;
mod reception;
mod requests;
mod serving;
mod streams;

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    thread::Builder,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use me2_engine::ownership::{self, DestinationAction, DestinationMessage, SourceMessage};
use me2_vmm::{
    clock,
    devices::connections::Connections,
    layout::PAGE_SIZE,
    machine::MachineDocument,
    paging::Paging,
    state::Elapsed,
    vcpu::EndHandler,
    vm::{Host, Vm},
};
use me2_wire::{
    message::{DestinationStatistics, FirstSecond, Handover, PeerOwnership, ResumeTiming},
    page_hash,
};
use tokio::{sync::mpsc, task::block_in_place};

use super::{Machine, risk::RiskWatch, tempo::Tempo};
use crate::{
    control::{
        channel::Refusal,
        types::{MigrationStatus, Phase},
    },
    explore::Probing,
    identity::Fingerprint,
    process::{host_memory, monitor::GuestMonitor, note::Note, published},
};
use intake::Intake;
pub use knock::{Knock, knock};
use pager::{Pager, Wanted};
pub use reception::{Parting, Received, Reception};

/// Part of the free memory that must remain after a VM was admitted: an eighth.
const MEMORY_RESERVE_DIVISOR: u64 = 8;
/// Why a VM cannot be taken.
const NO_THREAD: &str = "cannot start a thread";
/// What the guest touches within this time of its resume is what it needed.
const FIRST_SECOND: Duration = Duration::from_secs(1);

/// A VM on its way here, or here with pages missing.
pub struct Incoming {
    machine: Arc<Machine>,
    /// Whose VM it was: the only one who goes on with it.
    peer: Fingerprint,
    migration: [u8; 16],
    epoch: u64,
    ownership: Mutex<ownership::Destination>,
    pager: Arc<Pager>,
    intake: Intake,
    /// Pages to ask for, from the fault service.
    wanted: tokio::sync::Mutex<mpsc::UnboundedReceiver<Wanted>>,
    resumed: Mutex<Option<(Instant, ResumeTiming)>>,
    same_host: bool,
    requests: AtomicU64,
    first_second: Mutex<Option<FirstSecond>>,
    begun: Instant,
    /// In the runtime folder; goes when the migration is settled or refused.
    note: Mutex<Option<Note>>,
    /// From when the VM runs here.
    risk: Mutex<Option<RiskWatch>>,
    tempo: Mutex<Tempo>,
    received: Mutex<ReceivedBytes>,
}

/// What has come, connection after connection.
#[derive(Default)]
struct ReceivedBytes {
    past: u64,
    current: u64,
    connection: Option<usize>,
}

impl Incoming {
    /// Builds the machine of a document, with all of its memory missing. No memory is populated.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a different thing of the process"
    )]
    pub fn prepare(
        host: &Host,
        document: MachineDocument,
        connections: Connections,
        monitor: GuestMonitor,
        probing: Arc<Probing>,
        ended: EndHandler,
        peer: Fingerprint,
        note: Option<Note>,
        migration: [u8; 16],
        epoch: u64,
        same_host: bool,
    ) -> anyhow::Result<Self> {
        admit(document.memory_bytes)?;
        let vm = Vm::build_with(host, document, connections, monitor.console(), ended)?;
        let paging = Paging::new(host.userfault().clone(), vm.memory().clone())?;
        paging.register()?;
        let machine = Arc::new(Machine {
            vm,
            monitor,
            probing,
        });
        let (want, wanted) = mpsc::unbounded_channel();
        let pager = Arc::new(Pager::new(machine.clone(), paging, want)?);
        let mut ownership = ownership::Destination::new();
        ownership.on_peer(SourceMessage::Prepare { epoch })?;
        let intake = Intake::start(pager.clone()).context(NO_THREAD)?;
        pager.start().context(NO_THREAD)?;
        Ok(Self {
            machine,
            peer,
            migration,
            epoch,
            ownership: Mutex::new(ownership),
            intake,
            pager,
            wanted: tokio::sync::Mutex::new(wanted),
            resumed: Mutex::new(None),
            same_host,
            requests: AtomicU64::new(0),
            first_second: Mutex::default(),
            begun: Instant::now(),
            note: Mutex::new(note),
            risk: Mutex::default(),
            tempo: Mutex::default(),
            received: Mutex::default(),
        })
    }

    /// The machine.
    pub fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Whether the VM has run here.
    pub fn has_resumed(&self) -> bool {
        self.resumed
            .lock()
            .expect("no panics under this lock")
            .is_some()
    }

    /// Whether this is the migration that a source wants to recover.
    pub fn is(&self, migration: &[u8; 16], epoch: u64) -> bool {
        self.migration == *migration && self.epoch == epoch
    }

    /// How far it is, as this side sees it.
    fn describe(&self, status: &mut MigrationStatus, connection: Option<&quinn::Connection>) {
        let at_stake = self.pager.at_stake();
        if self.has_resumed() {
            status.phase = Phase::Postcopy;
            status.pages_total = at_stake.useful;
            let mut risk = self.risk.lock().expect("no panics under this lock");
            let risk =
                risk.get_or_insert_with(|| RiskWatch::begin(at_stake.missing, at_stake.useful));
            status.risk = risk.observe(at_stake.missing, Some(at_stake.waiting));
        } else {
            status.phase = Phase::Precopy;
            status.pages_total = u64::from(self.pager.page_count());
        }
        status.pages_remaining = at_stake.missing;
        status.faults = self.requests.load(Ordering::Relaxed);
        let elapsed_ms = self.begun.elapsed().as_millis() as u64;
        let bytes = self.received_bytes(connection);
        let span_ms = elapsed_ms.saturating_sub(status.elapsed_ms).max(1);
        status.bandwidth_bytes_per_second =
            bytes.saturating_sub(status.sent_bytes) * 1000 / span_ms;
        status.sent_bytes = bytes;
        status.elapsed_ms = elapsed_ms;
        let mut tempo = self.tempo.lock().expect("no panics under this lock");
        tempo.observe(status, self.begun.elapsed());
    }

    /// By all connections up to now, of which this is the last.
    fn received_bytes(&self, connection: Option<&quinn::Connection>) -> u64 {
        let mut received = self.received.lock().expect("no panics under this lock");
        if let Some(connection) = connection {
            let (id, bytes) = (connection.stable_id(), connection.stats().udp_rx.bytes);
            if received.connection != Some(id) {
                received.past += std::mem::take(&mut received.current);
                received.connection = Some(id);
            }
            received.current = bytes;
        }
        received.past + received.current
    }

    /// Takes the handover: freezes the page table and starts serving faults. Gives the number of
    /// missing pages.
    fn accept(&self, handover: &Handover) -> anyhow::Result<u64> {
        if handover.epoch != self.epoch {
            bail!("the handover is of another attempt");
        }
        let whole = false;
        let accepted = self.lock_ownership().on_peer(SourceMessage::Handover {
            epoch: handover.epoch,
            whole,
        })?;
        if !matches!(accepted, DestinationAction::Restore { .. }) {
            bail!("this attempt was given up");
        }
        Ok(self.pager.hand_over(handover.version, &handover.pages)?)
    }

    /// Restores the state and lets the vCPUs run. The pages that the state refers to may still
    /// be missing: the fault service is up.
    fn resume(
        &self,
        handover: &Handover,
        received_ns: u64,
        missing_pages: u64,
        half_round_trip: Duration,
    ) -> anyhow::Result<ResumeTiming> {
        let elapsed = if self.same_host {
            Elapsed::SameHost
        } else {
            Elapsed::Nanoseconds(
                handover
                    .since_save_ns
                    .saturating_add(half_round_trip.as_nanos() as u64)
                    .saturating_add(clock::monotonic_ns() - received_ns),
            )
        };
        // Beside each other: a disk may take longer than the VM had better stand still.
        let vm = &self.machine.vm;
        let take_over = || (self.note_accepted(), vm.acquire_disks());
        let (restored, (noted, acquired)) = std::thread::scope(|scope| {
            let beside = Builder::new().spawn_scoped(scope, take_over);
            let restored = vm.restore(&handover.state, elapsed);
            let taken_over = match beside {
                Ok(beside) => beside.join().expect("this panics nowhere"),
                Err(_no_thread) => take_over(),
            };
            (restored, taken_over)
        });
        restored.context("cannot restore the VM's state")?;
        noted.context("cannot note that the VM is taken over")?;
        acquired.context("cannot take over the VM's disks")?;
        let restored_ns = clock::monotonic_ns();
        self.machine.monitor.expect_progress();
        self.lock_ownership().resume()?;
        vm.resume(true).expect(
            "the disks are held already, and only an attempt that may not run gives them up",
        );
        let started_ns = vm.vcpus().wait_started();
        let timing = ResumeTiming {
            received_ns,
            restored_ns,
            started_ns,
            missing_pages,
            half_round_trip_ns: half_round_trip.as_nanos() as u64,
        };
        *self.resumed.lock().expect("no panics under this lock") =
            Some((Instant::now(), timing.clone()));
        if !handover.verify_full {
            self.pager.start_placing();
        }
        Ok(timing)
    }

    /// Notes, on disk, that the VM is this process's: whoever finds it dead must know.
    fn note_accepted(&self) -> std::io::Result<()> {
        let mut note = self.note.lock().expect("no panics under this lock");
        note.as_mut().map_or(Ok(()), Note::accept)
    }

    /// What is lost if the source is, in words.
    fn risk_told(&self) -> String {
        let missing = self.pager.at_stake().missing;
        let risk = self.risk.lock().expect("no panics under this lock");
        risk.as_ref().map_or_else(
            || format!("{missing} pages exist only at the source"),
            |risk| risk.told(missing),
        )
    }

    /// The hash tree over the memory itself; every page must be in place.
    fn hash_memory(&self) -> Vec<u64> {
        let mut page = [0u8; PAGE_SIZE];
        let hashes: Vec<u64> = (0..self.machine.vm.memory().layout().page_count())
            .map(|index| {
                if self.pager.is_hole(index) {
                    return 0;
                }
                self.machine.vm.memory().read_page(index, &mut page);
                page_hash(&page)
            })
            .collect();
        me2_engine::tree::leaves(&hashes)
    }

    /// This side of the ownership, for a source that reconnects.
    fn ownership_for_recovery(&self) -> Result<PeerOwnership, ownership::Violation> {
        let action = self
            .lock_ownership()
            .on_peer(SourceMessage::RecoverAsk { epoch: self.epoch })?;
        Ok(match action {
            DestinationAction::Send(DestinationMessage::PeerState { state, .. })
            | DestinationAction::DiscardAndSend(DestinationMessage::PeerState { state, .. }) => {
                published::peer_ownership(state)
            }
            _ => PeerOwnership::Unknown,
        })
    }

    /// By an operator's word the source is dead, and it does not answer: a VM that has all its pages is
    /// this side's.
    fn own_without_source(&self) -> Result<(), Refusal> {
        let refused = |error: String| Refusal::conflict(error, "me2 status tells what is missing");
        let missing = self.pager.at_stake().missing;
        if missing > 0 || !self.pager.is_complete() {
            return Err(refused(format!(
                "{missing} pages exist only at the source: without it they are lost"
            )));
        }
        let disputed = self.pager.disputes();
        if disputed > 0 {
            return Err(refused(format!("{disputed} pages differ from the source")));
        }
        let mut ownership = self.lock_ownership();
        let owned = ownership
            .all_pages_in()
            .and_then(|_complete| ownership.operator_asserts_peer_fenced(false));
        drop(ownership);
        owned.map_err(|violation| refused(violation.to_string()))?;
        tracing::warn!(
            "by an operator's word the source is dead: the VM is here for good; all its pages are here, \
             each as its hash says, but they were not compared with the source at the end"
        );
        self.settle()
            .map_err(|error| Refusal::internal(format!("{error:#}"), "see the log"))
    }

    /// The VM has not run here, and never will in this epoch: from now on that is a promise.
    fn abandon(&self) {
        let mut ownership = self.lock_ownership();
        ownership.link_lost();
        // Accepted but not resumed: given up too. In any other state it is refused already.
        let _ = ownership.refuse();
        assert!(!ownership.may_run(), "a VM that may run is not abandoned");
        drop(ownership);
        // Before the source hears of it: it takes them back.
        self.machine.vm.give_up_disks();
        // Now, and not when the last task has let go of this: the next attempt leaves one too.
        *self.note.lock().expect("no panics under this lock") = None;
        block_in_place(|| self.pager.give_up_missing());
    }

    fn lock_ownership(&self) -> MutexGuard<'_, ownership::Destination> {
        self.ownership.lock().expect("no panics under this lock")
    }

    /// Notes what the guest has touched, once it has run for a second or `now`.
    fn note_first_second(&self, now: bool) {
        let resumed = self.resumed.lock().expect("no panics under this lock");
        let is_over = resumed
            .as_ref()
            .is_some_and(|(at, _)| now || at.elapsed() >= FIRST_SECOND);
        let mut noted = self.first_second.lock().expect("no panics under this lock");
        if is_over && noted.is_none() {
            let probes = self.machine.probing.report();
            *noted = probes.attached.then(|| FirstSecond {
                touched_pages: probes.touched_pages,
                missed_pages: self.requests.load(Ordering::Relaxed),
            });
        }
    }

    fn statistics(&self) -> DestinationStatistics {
        self.note_first_second(true);
        let resumed = self
            .resumed
            .lock()
            .expect("no panics under this lock")
            .clone();
        let (waits, arrived) = (self.pager.waits(), self.pager.arrived());
        let first_progress_us = resumed.as_ref().and_then(|(_, timing)| {
            let progress_ns = self.machine.monitor.progress_ns()?;
            Some(progress_ns.saturating_sub(timing.started_ns) / 1000)
        });
        DestinationStatistics {
            faults: waits.count(),
            local_faults: self.pager.local_faults(),
            demand_pages: arrived.demanded,
            pushed_pages: arrived.pushed,
            duplicate_pages: arrived.duplicates,
            fault_latency_p50_us: waits.quantile(0.5),
            fault_latency_p99_us: waits.quantile(0.99),
            fault_latency_max_us: waits.max(),
            vcpu_blocktime_us: waits.sum(),
            first_progress_us,
            first_second: self
                .first_second
                .lock()
                .expect("no panics under this lock")
                .clone(),
            guest_rate: resumed.and_then(|(at, _)| self.machine.monitor.rate(at, Instant::now())),
        }
    }

    /// Everything is here and acknowledged: the machinery of the migration goes away, the VM
    /// stays.
    fn settle(&self) -> anyhow::Result<()> {
        *self.note.lock().expect("no panics under this lock") = None;
        block_in_place(|| self.pager.settle())
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.pager.shut_down();
    }
}

/// The largest VM that is taken where so much memory is available.
pub fn admissible_bytes(available: u64) -> u64 {
    available - available / MEMORY_RESERVE_DIVISOR
}

/// Refuses a VM for which there is not enough free memory now.
pub fn admit(memory_bytes: u64) -> anyhow::Result<()> {
    let available_kib = host_memory::kib("MemAvailable")?;
    let available = available_kib * 1024;
    if memory_bytes > admissible_bytes(available) {
        bail!(
            "not enough memory: the VM has {} MiB, this host {} MiB available",
            memory_bytes >> 20,
            available >> 20
        );
    }
    Ok(())
}
