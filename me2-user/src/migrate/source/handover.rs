//! Stop and handover: what was written last goes ahead, then one flight with the state and what is
//! final, twice over, since one lost packet would cost a round trip in which the VM runs nowhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use me2_engine::phase::Phase;
use me2_vmm::{clock, dirty::Collect};
use me2_wire::{
    PageIndex, Version,
    blob::StateBlob,
    frame::{HANDOVER_COPY_BYTES_MAX, Preface, StreamKind},
    message::{self, RANGES_PER_MESSAGE_MAX, ToDestination},
    range::RangeList,
};
use tokio::{sync::mpsc, task::block_in_place};

use super::{
    super::{CHUNK_PAGES, PRIORITY_FINAL_SET, PRIORITY_HANDOVER_COPY, bulk_streams},
    Attempt, Failure,
    encoding::{Encoder, Encoding, Purpose},
    link::Link,
};
use crate::{
    control::types::Part,
    transport::frames::{FrameSender, LinkError, message_frame},
};

/// How long vCPUs may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the guest is observed right before it is stopped, so many times.
const LAST_WRITES: Duration = Duration::from_millis(10);
const LAST_LOOKS: u32 = 2;
/// Page tables that go with the handover if pre-copy was cut short: looking for them takes time in
/// which the VM stands still.
const TABLE_PAGES_AHEAD_MAX: usize = 256;
/// Streams of the final set: one lost packet holds up only its stream.
const FINAL_SET_STREAMS: usize = 4;
/// Pages of one frame of it: few, so that the first leave while others are encoded.
const FINAL_SET_CHUNK_PAGES: usize = 16;
/// A link that takes less than this in the time that the guest may stand still gets none.
const FINAL_SET_BYTES_MIN: usize = 32 << 10;
/// The largest final set that is sent twice where packets get lost.
const FINAL_SET_COPY_BYTES_MAX: usize = 1 << 20;

/// What is known once the VM stands still.
pub(super) struct Stopped {
    pub(super) at: Instant,
    pub(super) requested_ns: u64,
    pub(super) stopped_ns: u64,
    pub(super) saved_ns: u64,
    pub(super) state: Vec<StateBlob>,
    pub(super) state_pages: Vec<PageIndex>,
}

/// Streams that are open before the VM stops: nothing of the handover waits for one.
pub(super) struct Ahead {
    final_set: Vec<FrameSender>,
    /// For what was sent on them, once more.
    final_set_copy: FrameSender,
    handover_copy: FrameSender,
}

impl Link {
    /// Opens the streams of the handover.
    pub(super) async fn open_ahead(&mut self) -> Result<(), LinkError> {
        let mut final_set = Vec::new();
        for _ in 0..FINAL_SET_STREAMS {
            final_set.push(self.open(StreamKind::Bulk, PRIORITY_FINAL_SET).await?);
        }
        self.ahead = Some(Ahead {
            final_set,
            final_set_copy: self.open(StreamKind::Bulk, PRIORITY_HANDOVER_COPY).await?,
            handover_copy: self
                .open(StreamKind::HandoverCopy, PRIORITY_HANDOVER_COPY)
                .await?,
        });
        Ok(())
    }

    async fn open(&self, kind: StreamKind, priority: i32) -> Result<FrameSender, LinkError> {
        let preface = Preface {
            kind,
            ..self.preface
        };
        let stream = FrameSender::answering(self.connection.open_uni().await?);
        let mut stream = stream.urgent(self.window.clone(), priority);
        stream.bytes(&preface.encode()).await?;
        Ok(stream)
    }
}

impl Attempt {
    /// Where more has changed than can go with the handover: looks at the dirty log twice more, moments
    /// before the stop, so that what the guest is at, and where it goes, is told from what it wrote a
    /// while ago. A guest that writes much looks the same in every look that has long passed since the
    /// one before.
    pub(super) async fn watch_last_writes(&mut self, link: &Link) -> Result<(), Failure> {
        let budget = self.link_rate(link) * self.final_set_limit(link).as_secs_f64();
        // 0: not known.
        let bytes_per_page = self.report.switch.bytes_per_page;
        let pending_bytes = self.pending.count() as f64 * bytes_per_page;
        let fits = bytes_per_page > 0.0 && pending_bytes <= budget;
        if fits || !self.uses(Part::Heat) {
            return Ok(());
        }
        for _ in 0..LAST_LOOKS {
            self.look_at_writes()?;
            // Not waiting for anything: this is how long the guest is observed.
            tokio::time::sleep(LAST_WRITES).await;
        }
        Ok(())
    }

    /// Stop: the vCPUs stand still, then the devices, between two requests; state is saved, *then* the dirty log is read for the last
    /// time, since saving may write guest memory.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        self.observer.enter(&mut self.log, Phase::Stop);
        let vm = &self.machine.vm;
        let (at, requested_ns) = (Instant::now(), clock::monotonic_ns());
        let (stopped, dirty) = block_in_place(|| {
            vm.request_stop();
            let stopped_ns = vm
                .wait_stopped(Some(at + STOP_TIMEOUT))
                .context("the vCPUs or the devices did not stop in time")?;
            anyhow::ensure!(!vm.vcpus().has_ended(), "the guest has ended by itself");
            let state = vm.save().context("cannot save the VM's state")?;
            let saved_ns = clock::monotonic_ns();
            let state_pages = vm
                .state_pages()
                .context("cannot find the pages of the CPU state")?;
            let dirty = vm
                .collect_dirty(Collect::Last)
                .context("cannot read the dirty log")?;
            let stopped = Stopped {
                at,
                requested_ns,
                stopped_ns,
                saved_ns,
                state,
                state_pages,
            };
            anyhow::Ok((stopped, dirty))
        })?;
        self.note_writes(dirty);
        self.stop = Some(stopped);
        Ok(())
    }

    /// What the guest has written reaches its disks while it runs: little is left for the stop.
    pub(super) fn flush_disks(&self) -> Result<(), Failure> {
        let flushed = block_in_place(|| self.machine.vm.flush_disks());
        Ok(flushed.context("what the guest wrote does not reach its disk")?)
    }

    /// The last thing that may fail freely: from here on the destination may use the disks.
    pub(super) fn let_go_of_disks(&self) -> Result<(), Failure> {
        let let_go = block_in_place(|| self.machine.vm.let_go_of_disks());
        Ok(let_go.context("what the guest wrote does not reach its disk")?)
    }

    /// Handover: what was written last, and one flight with the state, the pages that it refers to,
    /// and which versions are final. The VM has left this process when the first byte is written.
    pub(super) async fn hand_over(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let epoch = self
            .lock_ownership()
            .handover_sending()
            .expect("the destination is ready");
        self.observer.enter(&mut self.log, Phase::Handover);
        let (version, ranges) = self.lock_pages().begin_version(&self.pending);
        let mut ahead = link.ahead.take();
        // Before anything else claims them: these must be in when the state is restored.
        let mut flight = self.encode_state_pages(version);
        let mut final_set = Vec::new();
        if let Some(ahead) = &mut ahead {
            final_set = self.send_final_set(link, ahead).await?;
        }
        let mut parts: Vec<_> = ranges.split(RANGES_PER_MESSAGE_MAX).collect();
        let last = parts.pop().unwrap_or(RangeList::EMPTY);
        for pages in parts {
            flight.extend_from_slice(&message_frame(&ToDestination::Announce { version, pages }));
        }
        let stop = self.stop.as_mut().expect("stopped before the handover");
        flight.extend_from_slice(&message_frame(&ToDestination::Handover(Box::new(
            message::Handover {
                epoch,
                version,
                pages: last,
                state: std::mem::take(&mut stop.state),
                stopped_ns: stop.stopped_ns,
                since_save_ns: clock::monotonic_ns() - stop.saved_ns,
                verify_full: self.request.verify_full,
            },
        ))));
        self.report.handover.bytes = flight.len() as u64;
        self.pacer.book(flight.len());
        link.control.bytes(&flight).await?;
        match ahead {
            Some(ahead) => self.send_again(ahead, &flight, &final_set).await,
            None => Ok(()),
        }
    }

    /// The pages that the state refers to, as frames.
    fn encode_state_pages(&self, version: Version) -> Vec<u8> {
        let stop = self.stop.as_ref().expect("stopped before the handover");
        let claimed: Vec<_> = {
            let mut pages = self.lock_pages();
            let wanted = stop.state_pages.iter().copied();
            wanted
                .filter(|page| pages.claim(*page))
                .map(|page| (page, version))
                .collect()
        };
        let mut frames = Vec::new();
        block_in_place(|| {
            let mut encoder = Encoder::new(self.encoding());
            for chunk in claimed.chunks(CHUNK_PAGES) {
                frames.extend_from_slice(&encoder.encode(chunk, Purpose::Urgent).bytes);
            }
        });
        frames
    }

    /// Sends what was written last, as much as the guest may stand still for, hottest first. Gives
    /// the frames if they had better be sent twice.
    async fn send_final_set(
        &mut self,
        link: &Link,
        ahead: &mut Ahead,
    ) -> Result<Vec<u8>, LinkError> {
        let (limit, rate) = (self.final_set_limit(link), self.link_rate(link));
        let until = Instant::now() + limit;
        let bytes_max = (rate * limit.as_secs_f64()) as usize;
        let loses_packets = link.connection.stats().path.lost_packets > 0;
        let tables = match self.was_cut {
            true => self.table_pages(TABLE_PAGES_AHEAD_MAX),
            false => Vec::new(),
        };
        let order = block_in_place(|| self.wanted_first(&tables, self.pending.iter()));
        // On a link of which little is known yet, the handover itself fills what may be under way.
        let is_full = Arc::new(AtomicBool::new(bytes_max < FINAL_SET_BYTES_MIN));
        let mut frames = encode_side_by_side(&self.encoding(), order, &is_full);
        let (mut kept, mut sent_bytes) = (Vec::new(), 0);
        let streams = ahead.final_set.len();
        for number in 0.. {
            // What has been encoded when it is full is claimed: it goes all the same.
            let Some((pages, frame)) = frames.recv().await else {
                break;
            };
            self.pacer.book(frame.len());
            ahead.final_set[number % streams].bytes(&frame).await?;
            sent_bytes += frame.len();
            self.report.handover.final_set_pages += pages as u64;
            if loses_packets && sent_bytes <= FINAL_SET_COPY_BYTES_MAX {
                kept.extend_from_slice(&frame);
            }
            if sent_bytes >= bytes_max || Instant::now() >= until {
                is_full.store(true, Ordering::Relaxed);
            }
        }
        self.report.handover.final_set_bytes = sent_bytes as u64;
        self.report.handover.final_set_ms = sent_bytes as f64 / rate * 1e3;
        kept.truncate(if kept.len() == sent_bytes {
            sent_bytes
        } else {
            0
        });
        Ok(kept)
    }

    /// Sends it all once more: whichever copy is whole first counts.
    async fn send_again(
        &mut self,
        mut ahead: Ahead,
        flight: &[u8],
        final_set: &[u8],
    ) -> Result<(), LinkError> {
        if flight.len() <= HANDOVER_COPY_BYTES_MAX {
            self.pacer.book(flight.len() + final_set.len());
            ahead.handover_copy.bytes(flight).await?;
            ahead.final_set_copy.bytes(final_set).await?;
            self.report.handover.doubled = true;
        }
        ahead.final_set.into_iter().for_each(FrameSender::finish);
        ahead.handover_copy.finish();
        ahead.final_set_copy.finish();
        Ok(())
    }
}

/// Claims and encodes pages in about this order until there are no more, or `is_full`: frames, with
/// the number of pages in each.
fn encode_side_by_side(
    encoding: &Encoding,
    order: Vec<PageIndex>,
    is_full: &Arc<AtomicBool>,
) -> mpsc::UnboundedReceiver<(usize, Vec<u8>)> {
    let (encoded, frames) = mpsc::unbounded_channel();
    let share = Share {
        encoding: encoding.clone(),
        next: Arc::new((AtomicUsize::new(0), order)),
        is_full: is_full.clone(),
        encoded,
    };
    // Of their own: the runtime's may all be taken, and the VM stands still.
    let started = (0..bulk_streams()).filter(|_| {
        let share = share.clone();
        let thread = std::thread::Builder::new().name("encode-final".into());
        thread.spawn(move || share.encode()).is_ok()
    });
    match started.count() {
        0 => block_in_place(|| share.encode()),
        _ => drop(share),
    }
    frames
}

/// What is encoded side by side, for each who takes part.
#[derive(Clone)]
struct Share {
    encoding: Encoding,
    /// The next chunk of these pages.
    next: Arc<(AtomicUsize, Vec<PageIndex>)>,
    is_full: Arc<AtomicBool>,
    encoded: mpsc::UnboundedSender<(usize, Vec<u8>)>,
}

impl Share {
    fn encode(self) {
        let mut encoder = Encoder::new(self.encoding.clone());
        while !self.is_full.load(Ordering::Relaxed) {
            let number = self.next.0.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = self.next.1.chunks(FINAL_SET_CHUNK_PAGES).nth(number) else {
                return;
            };
            let claimed = self.encoding.claim(|pages| {
                let unclaimed = chunk.iter().copied();
                unclaimed.filter(|page| pages.claim(*page)).collect()
            });
            if claimed.is_empty() {
                continue;
            }
            let frame = encoder.encode(&claimed, Purpose::Urgent).bytes;
            // Nobody receives it once the link has failed.
            let _ = self.encoded.send((claimed.len(), frame));
        }
    }
}
