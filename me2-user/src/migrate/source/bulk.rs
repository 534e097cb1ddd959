//! The bulk streams: encoder threads that read guest memory, and tasks that write what they
//! encoded. Bounded queues between them: the link's pace is the encoders' pace.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc as thread_mpsc,
    },
    thread::JoinHandle,
    time::Instant,
};

use anyhow::Context;
use me2_wire::{
    PageIndex, Version,
    frame::{Preface, StreamKind},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    super::{BULK_STREAMS_MAX, PRIORITY_BULK, REGION_PAGES, bulk_streams},
    Failure,
    encoding::{Encoder, Encoding, Purpose},
};
use crate::transport::frames::{FrameSender, LinkError};

/// Encoded frames that wait for the stream: together with what QUIC buffers, the backlog that a
/// pass may have.
const FRAMES_QUEUED: usize = 2;
/// Pages of a frame while a guest may wait for any of them: those of a frame are there when all of it
/// is, and other frames are under way beside it.
const PUSH_PAGES: usize = 32;

enum Job {
    /// Sends these pages, those that are unclaimed.
    Pass {
        pages: Vec<PageIndex>,
        cut: Arc<AtomicBool>,
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
    ) -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (failed, failure) = mpsc::channel(BULK_STREAMS_MAX);
        let (mut jobs, mut threads) = (Vec::new(), Vec::new());
        for number in 0..bulk_streams() {
            let preface = Preface {
                kind: StreamKind::Bulk,
                ..preface
            };
            let stream = FrameSender::begin(
                connection.open_uni().await.map_err(LinkError::from)?,
                &preface,
            )
            .await?;
            stream.set_priority(PRIORITY_BULK);
            let (frames, queue) = mpsc::channel(FRAMES_QUEUED);
            tokio::spawn(write_frames(stream, queue, failed.clone()));
            let (job_sender, job_receiver) = thread_mpsc::channel();
            let (encoding, stop) = (encoding.clone(), stop.clone());
            let span = tracing::Span::current();
            let thread = std::thread::Builder::new()
                .name(format!("encode{number}"))
                .spawn(move || {
                    span.in_scope(|| encode_jobs(&encoding, &job_receiver, &frames, &stop))
                })
                .context("cannot start a thread")?;
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

    /// Begins to send these pages, in this order within each stream.
    pub fn begin_pass(&mut self, order: Vec<PageIndex>) -> PassUnderWay {
        let mut shares = vec![Vec::new(); self.jobs.len()];
        for page in order {
            shares[(page / REGION_PAGES) as usize % self.jobs.len()].push(page);
        }
        let cut = Arc::new(AtomicBool::new(false));
        let mut under_way = Vec::new();
        for (job, pages) in self.jobs.iter().zip(shares) {
            let (done, receiver) = oneshot::channel();
            // A worker that is gone has told why through `failure`.
            let _ = job.send(Job::Pass {
                pages,
                cut: cut.clone(),
                done,
            });
            under_way.push(receiver);
        }
        PassUnderWay { under_way, cut }
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

/// A pass that is being read and encoded.
pub struct PassUnderWay {
    under_way: Vec<oneshot::Receiver<()>>,
    cut: Arc<AtomicBool>,
}

impl PassUnderWay {
    /// Waits until all of it is encoded and queued, or what was at hand when it was cut. False: the
    /// link failed. Cancel-safe.
    pub async fn done(&mut self) -> bool {
        while let Some(receiver) = self.under_way.last_mut() {
            if receiver.await.is_err() {
                return false;
            }
            self.under_way.pop();
        }
        true
    }

    /// Ends it early: what nobody has claimed yet stays unsent.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Whether it was ended early.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
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
    leave_cores_to_vcpus();
    let mut encoder = Encoder::new(encoding.clone());
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Pass { pages, cut, done } => {
                encoder.begin_pass();
                let mut rest = &pages[..];
                while !rest.is_empty() && !cut.load(Ordering::Relaxed) {
                    let count = encoding.pass_chunk_pages().min(rest.len());
                    let chunk = rest.split_off(..count).expect("no more than there are");
                    let claimed = encoding.claim(|pages| {
                        let mut chunk = chunk.to_vec();
                        chunk.retain(|page| pages.claim(*page));
                        chunk
                    });
                    if !send(&mut encoder, &claimed, Purpose::Pass, frames, stop) {
                        return;
                    }
                }
                let _ = done.send(());
            }
            Job::Push => loop {
                encoding.asked.wait_for_answers();
                let claimed = encoding.claim(|pages| pages.claim_push(PUSH_PAGES));
                if claimed.is_empty() {
                    break;
                }
                if !send(&mut encoder, &claimed, Purpose::Push, frames, stop) {
                    return;
                }
            },
        }
    }
}

/// Where there are not enough cores, a vCPU that has work gets three times what an encoder gets.
fn leave_cores_to_vcpus() {
    const NICENESS: i32 = 5;
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!("encoders compete with vCPUs: {error}");
    }
}

/// Encodes and queues a chunk, if there is anything in it. False: this stream is over.
fn send(
    encoder: &mut Encoder,
    claimed: &[(PageIndex, Version)],
    purpose: Purpose,
    frames: &mpsc::Sender<Vec<u8>>,
    stop: &AtomicBool,
) -> bool {
    if claimed.is_empty() {
        return true;
    }
    let frame = encoder.encode(claimed, purpose);
    if stop.load(Ordering::Relaxed) {
        return false;
    }
    let (cost, queued) = (frame.cost(), Instant::now());
    if frames.blocking_send(frame.bytes).is_err() {
        return false;
    }
    encoder.shared().took(&cost, queued.elapsed());
    true
}

async fn write_frames(
    mut stream: FrameSender,
    mut queue: mpsc::Receiver<Vec<u8>>,
    failed: mpsc::Sender<LinkError>,
) {
    while let Some(frame) = queue.recv().await {
        if let Err(error) = stream.bytes(&frame).await {
            // Full means that the other stream has told already.
            let _ = failed.try_send(error);
            return;
        }
    }
    stream.finish();
}
