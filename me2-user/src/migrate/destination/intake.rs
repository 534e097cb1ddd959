//! Decodes arriving page records, on threads of their own: one for what was asked for, one for
//! what is pushed, so that a vCPU never waits behind the push.

use std::sync::{Arc, Mutex};

use anyhow::Context;
use me2_wire::{
    PAGE_SIZE,
    page::{ChunkReader, Codec, RECORDS_MAX},
};
use tokio::sync::mpsc;

use super::pager::{ArrivedPage, Origin, Pager};

/// Frames that wait for the decoder: what a peer can make this side keep.
const FRAMES_QUEUED: usize = 8;

/// Queues to the decoder threads.
pub struct Intake {
    bulk: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Sender<Vec<u8>>,
    shared: Arc<Shared>,
    failures: Mutex<mpsc::Receiver<anyhow::Error>>,
}

struct Shared {
    pager: Arc<Pager>,
}

impl Intake {
    /// Starts the threads; they end when the result is dropped.
    pub fn start(pager: Arc<Pager>) -> Self {
        let shared = Arc::new(Shared { pager });
        let (failed, failures) = mpsc::channel(2);
        let start = |name: &str, origin| {
            let (sender, receiver) = mpsc::channel(FRAMES_QUEUED);
            let (shared, failed) = (shared.clone(), failed.clone());
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || decode_all(&shared, origin, receiver, &failed))
                .expect("a thread can be started");
            sender
        };
        let (bulk, answers) = (
            start("decode", Origin::Bulk),
            start("decode-answer", Origin::Answer),
        );
        Self {
            bulk,
            answers,
            shared,
            failures: Mutex::new(failures),
        }
    }

    /// The queue for frames of this origin.
    pub fn queue(&self, origin: Origin) -> mpsc::Sender<Vec<u8>> {
        match origin {
            Origin::Bulk => self.bulk.clone(),
            Origin::Answer => self.answers.clone(),
        }
    }

    /// Decodes a frame here and now.
    pub fn take(&self, payload: &[u8]) -> anyhow::Result<()> {
        self.shared
            .decode(Origin::Bulk, payload, &mut Batch::default())
    }

    /// What the decoders could not use, if anything: the connection it came over is no good.
    pub fn failure(&self) -> Option<anyhow::Error> {
        self.failures
            .lock()
            .expect("no panics under this lock")
            .try_recv()
            .ok()
    }
}

/// Buffers that are used again from frame to frame.
#[derive(Default)]
struct Batch {
    pages: Vec<ArrivedPage>,
    contents: Vec<u8>,
}

fn decode_all(
    shared: &Shared,
    origin: Origin,
    mut frames: mpsc::Receiver<Vec<u8>>,
    failed: &mpsc::Sender<anyhow::Error>,
) {
    let mut batch = Batch::default();
    while let Some(payload) = frames.blocking_recv() {
        if let Err(error) = shared.decode(origin, &payload, &mut batch) {
            // Full means that a failure is known already.
            let _ = failed.try_send(error);
            shared.pager.poke();
        }
    }
}

impl Shared {
    fn decode(&self, origin: Origin, payload: &[u8], batch: &mut Batch) -> anyhow::Result<()> {
        batch.pages.clear();
        batch.contents.clear();
        let reader = ChunkReader::new(payload, self.pager.page_count());
        for record in reader {
            let record = record.context("the peer sent a malformed page record")?;
            anyhow::ensure!(
                batch.pages.len() < RECORDS_MAX,
                "the peer sent too many pages in a frame"
            );
            let start = batch.contents.len();
            batch.contents.resize(start + PAGE_SIZE, 0);
            let page = batch.contents[start..]
                .as_mut_array::<PAGE_SIZE>()
                .expect("one page");
            // Checks the hash of what it decoded.
            record
                .decode(page)
                .with_context(|| format!("page {} arrived damaged", record.index))?;
            batch.pages.push(ArrivedPage {
                page: record.index,
                version: record.version,
                hash: record.hash,
                is_zero: record.codec == Codec::Zero,
            });
        }
        self.pager.arrive(origin, &batch.pages, &batch.contents)?;
        Ok(())
    }
}
