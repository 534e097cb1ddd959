//! The bulk streams: encoder threads that read guest memory, and tasks that write what they
//! encoded. Bounded queues between them: the link's pace is the encoders' pace.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc as thread_mpsc,
    },
    thread::JoinHandle,
};

use me2_engine::source::SourcePages;
use me2_wire::{
    PAGE_SIZE, PageIndex, Version,
    frame::{Preface, StreamKind},
    page::{ChunkWriter, Codec},
};
use tokio::sync::{mpsc, oneshot};

use super::super::{BULK_STREAMS, CHUNK_PAGES, Machine, PRIORITY_BULK, REGION_PAGES};
use crate::transport::{
    frames::{FrameSender, LinkError},
    pace::Pacer,
};

/// Encoded frames that wait for the stream: together with what QUIC buffers, the backlog that a
/// pass may have.
const FRAMES_QUEUED: usize = 2;

/// What was sent, over all streams.
#[derive(Debug, Default)]
pub struct SendCounters {
    pub zero: AtomicU64,
    pub rle: AtomicU64,
    pub raw: AtomicU64,
    pub encoded_bytes: AtomicU64,
}

impl SendCounters {
    /// Page records so far.
    pub fn pages(&self) -> u64 {
        [&self.zero, &self.rle, &self.raw]
            .iter()
            .map(|count| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Bytes of encoded records so far.
    pub fn encoded_bytes(&self) -> u64 {
        self.encoded_bytes.load(Ordering::Relaxed)
    }

    fn count(&self, codec: Codec) {
        let counter = match codec {
            Codec::Zero => &self.zero,
            Codec::Rle => &self.rle,
            Codec::Raw => &self.raw,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What encoders share.
#[derive(Clone)]
pub struct Encoding {
    pub machine: Arc<Machine>,
    pub pages: Arc<Mutex<SourcePages>>,
    pub counters: Arc<SendCounters>,
    /// The connection that it encodes for.
    pub generation: u64,
}

impl Encoding {
    /// Claims pages by `claim`; none once the connection has been replaced.
    pub fn claim(
        &self,
        claim: impl FnOnce(&mut SourcePages) -> Vec<PageIndex>,
    ) -> Vec<(PageIndex, Version)> {
        let mut pages = self.pages.lock().expect("no panics under this lock");
        if pages.generation() != self.generation {
            return Vec::new();
        }
        let claimed = claim(&mut pages);
        claimed
            .into_iter()
            .map(|page| (page, pages.version_of(page)))
            .collect()
    }

    /// Reads and encodes claimed pages into one frame. Each page is copied out once, then hashed
    /// and encoded: the guest may be writing it.
    pub fn encode(&self, writer: &mut ChunkWriter, claimed: &[(PageIndex, Version)]) -> Vec<u8> {
        let mut snapshot = [0u8; PAGE_SIZE];
        let mut hashes = Vec::with_capacity(claimed.len());
        for (page, version) in claimed {
            self.machine.vm.memory().read_page(*page, &mut snapshot);
            let pushed = writer.push(*page, *version, &snapshot);
            self.counters.count(pushed.codec);
            hashes.push(pushed.hash);
        }
        let frame = writer.take_frame();
        self.counters
            .encoded_bytes
            .fetch_add(frame.len() as u64, Ordering::Relaxed);
        let mut pages = self.pages.lock().expect("no panics under this lock");
        for ((page, _), hash) in claimed.iter().zip(hashes) {
            pages.sent(*page, hash);
        }
        frame
    }
}

enum Job {
    /// Sends these pages, those that are unclaimed.
    Pass {
        pages: Vec<PageIndex>,
        done: oneshot::Sender<()>,
    },
    /// Sends what is unclaimed in push order, until nothing is left.
    Push,
}

/// Open bulk streams. Dropped, they stop after the frame at hand.
pub struct Bulk {
    jobs: Vec<thread_mpsc::Sender<Job>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    failure: mpsc::Receiver<LinkError>,
}

impl Bulk {
    /// Opens the streams of a connection.
    pub async fn open(
        connection: &quinn::Connection,
        preface: Preface,
        encoding: &Encoding,
        pacer: &Arc<Pacer>,
    ) -> Result<Self, LinkError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (failed, failure) = mpsc::channel(BULK_STREAMS);
        let (mut jobs, mut threads) = (Vec::new(), Vec::new());
        for number in 0..BULK_STREAMS {
            let preface = Preface {
                kind: StreamKind::Bulk,
                ..preface
            };
            let stream = FrameSender::begin(connection.open_uni().await?, &preface).await?;
            stream.set_priority(PRIORITY_BULK);
            let (frames, queue) = mpsc::channel(FRAMES_QUEUED);
            tokio::spawn(write_frames(stream, queue, pacer.clone(), failed.clone()));
            let (job_sender, job_receiver) = thread_mpsc::channel();
            let (encoding, stop) = (encoding.clone(), stop.clone());
            let thread = std::thread::Builder::new()
                .name(format!("encode{number}"))
                .spawn(move || encode_jobs(&encoding, &job_receiver, &frames, &stop))
                .expect("a thread can be started");
            jobs.push(job_sender);
            threads.push(thread);
        }
        Ok(Self {
            jobs,
            stop,
            threads,
            failure,
        })
    }

    /// Sends these pages, in this order within each stream. Returns when all are encoded and
    /// queued, or when the link fails.
    pub async fn pass(&mut self, order: Vec<PageIndex>) -> Result<(), LinkError> {
        let mut shares = vec![Vec::new(); self.jobs.len()];
        for page in order {
            shares[(page / REGION_PAGES) as usize % self.jobs.len()].push(page);
        }
        let mut done = Vec::new();
        for (job, pages) in self.jobs.iter().zip(shares) {
            let (sender, receiver) = oneshot::channel();
            // A worker that is gone has told why through `failure`.
            let _ = job.send(Job::Pass {
                pages,
                done: sender,
            });
            done.push(receiver);
        }
        for receiver in done {
            if receiver.await.is_err() {
                return Err(self.failed().await);
            }
        }
        Ok(())
    }

    /// Starts pushing what is unclaimed, until nothing is left.
    pub fn push(&self) {
        for job in &self.jobs {
            let _ = job.send(Job::Push);
        }
    }

    /// Waits until a stream fails, and says why. Cancel-safe.
    pub async fn failed(&mut self) -> LinkError {
        self.failure.recv().await.unwrap_or(LinkError::Ended)
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs.clear();
        // The threads end by themselves: an encoder never waits for more than its queue, whose
        // other end goes away with the stream.
        self.threads.clear();
    }
}

fn encode_jobs(
    encoding: &Encoding,
    jobs: &thread_mpsc::Receiver<Job>,
    frames: &mpsc::Sender<Vec<u8>>,
    stop: &AtomicBool,
) {
    let mut writer = ChunkWriter::new();
    let mut send = |claimed: &[(PageIndex, Version)]| {
        claimed.is_empty()
            || frames
                .blocking_send(encoding.encode(&mut writer, claimed))
                .is_ok()
    };
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Pass { pages, done } => {
                for chunk in pages.chunks(CHUNK_PAGES) {
                    let claimed = encoding.claim(|pages| {
                        chunk
                            .iter()
                            .copied()
                            .filter(|page| pages.claim(*page))
                            .collect()
                    });
                    if stop.load(Ordering::Relaxed) || !send(&claimed) {
                        return;
                    }
                }
                let _ = done.send(());
            }
            Job::Push => loop {
                let claimed = encoding.claim(|pages| pages.claim_push(CHUNK_PAGES));
                if claimed.is_empty() {
                    break;
                }
                if stop.load(Ordering::Relaxed) || !send(&claimed) {
                    return;
                }
            },
        }
    }
}

async fn write_frames(
    mut stream: FrameSender,
    mut queue: mpsc::Receiver<Vec<u8>>,
    pacer: Arc<Pacer>,
    failed: mpsc::Sender<LinkError>,
) {
    while let Some(frame) = queue.recv().await {
        pacer.admit(frame.len()).await;
        if let Err(error) = stream.bytes(&frame).await {
            // Full means that the other stream has told already.
            let _ = failed.try_send(error);
            return;
        }
    }
    stream.finish();
}
