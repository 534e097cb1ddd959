//! Decodes arriving page records, on threads of their own: one for what was asked for, one for
//! what is pushed, so that a vCPU never waits behind the push.

use std::{
    io,
    sync::{Arc, Mutex},
};

use anyhow::Context;
use me2_wire::{
    PAGE_SIZE,
    page::{ChunkDecoder, Codec, Record, Source},
};
use tokio::sync::mpsc;

use super::pager::{ArrivedPage, Origin, Pager};

/// Frames that wait for the decoder: what a peer can make this side keep.
const FRAMES_QUEUED: usize = 8;

/// Queues to the decoder threads.
pub struct Intake {
    bulk: mpsc::Sender<Vec<u8>>,
    answers: mpsc::Sender<Vec<u8>>,
    /// For frames that are decoded at once.
    here: Mutex<FrameDecoder>,
    failures: Mutex<mpsc::Receiver<anyhow::Error>>,
}

impl Intake {
    /// Starts the threads; they end when the result is dropped.
    pub fn start(pager: Arc<Pager>) -> io::Result<Self> {
        let (failed, failures) = mpsc::channel(2);
        let start = |name: &str, origin| {
            let (sender, receiver) = mpsc::channel(FRAMES_QUEUED);
            let (decoder, failed) = (FrameDecoder::new(pager.clone()), failed.clone());
            let span = tracing::Span::current();
            std::thread::Builder::new()
                .name(name.into())
                .spawn(move || span.in_scope(|| decode_all(decoder, origin, receiver, &failed)))?;
            Ok::<_, io::Error>(sender)
        };
        Ok(Self {
            bulk: start("decode", Origin::Bulk)?,
            answers: start("decode-answer", Origin::Answer)?,
            here: Mutex::new(FrameDecoder::new(pager.clone())),
            failures: Mutex::new(failures),
        })
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
        self.here
            .lock()
            .expect("no panics under this lock")
            .decode(Origin::Bulk, payload)
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

fn decode_all(
    mut decoder: FrameDecoder,
    origin: Origin,
    mut frames: mpsc::Receiver<Vec<u8>>,
    failed: &mpsc::Sender<anyhow::Error>,
) {
    while let Some(payload) = frames.blocking_recv() {
        if let Err(error) = decoder.decode(origin, &payload) {
            // Full means that a failure is known already.
            let _ = failed.try_send(error);
            decoder.pager.poke();
        }
    }
}

/// Decodes frames one after the other, with buffers that are used again.
struct FrameDecoder {
    pager: Arc<Pager>,
    chunks: ChunkDecoder,
    batch: Batch,
    source: Box<[u8; PAGE_SIZE]>,
}

/// The pages of a frame, decoded.
#[derive(Default)]
struct Batch {
    pages: Vec<ArrivedPage>,
    contents: Vec<u8>,
}

impl FrameDecoder {
    fn new(pager: Arc<Pager>) -> Self {
        Self {
            chunks: ChunkDecoder::new(pager.page_count()),
            pager,
            batch: Batch::default(),
            source: Box::new([0; PAGE_SIZE]),
        }
    }

    /// Decodes a frame and hands its pages on.
    fn decode(&mut self, origin: Origin, payload: &[u8]) -> anyhow::Result<()> {
        let Self {
            pager,
            chunks,
            batch,
            source,
        } = self;
        batch.clear();
        for record in chunks
            .open(payload)
            .context("the peer sent a malformed chunk of pages")?
        {
            let found = match record.source() {
                None => None,
                Some(wanted) if find(pager, batch, wanted, source) => Some(&**source),
                // What it builds on went when a newer version came, as an answer to a fault.
                Some(_) if pager.is_superseded(record.index, record.version) => continue,
                Some(wanted) => anyhow::bail!(
                    "page {} builds on version {} of page {}, which is not here",
                    record.index,
                    wanted.version,
                    wanted.page
                ),
            };
            batch
                .push(&record, found)
                .with_context(|| pager.name(record.index))?;
        }
        pager.arrive(origin, &batch.pages, &batch.contents)?;
        Ok(())
    }
}

/// Finds a version of a page that a record builds on: in the same frame, or as it arrived before.
fn find(pager: &Pager, batch: &Batch, wanted: Source, content: &mut [u8; PAGE_SIZE]) -> bool {
    match batch.content_of(wanted) {
        Some(found) => {
            content.copy_from_slice(found);
            true
        }
        None => pager.read_arrived(wanted.page, wanted.version, content),
    }
}

impl Batch {
    fn clear(&mut self) {
        self.pages.clear();
        self.contents.clear();
    }

    /// Decodes a record, which checks the hash of what comes out.
    fn push(
        &mut self,
        record: &Record<'_>,
        source: Option<&[u8; PAGE_SIZE]>,
    ) -> anyhow::Result<()> {
        let start = self.contents.len();
        self.contents.resize(start + PAGE_SIZE, 0);
        let page = self.contents[start..]
            .as_mut_array::<PAGE_SIZE>()
            .expect("one page");
        record.decode(source, page).context("it arrived damaged")?;
        self.pages.push(ArrivedPage {
            page: record.index,
            version: record.version,
            hash: record.hash,
            is_zero: record.codec == Codec::Zero,
        });
        Ok(())
    }

    fn content_of(&self, wanted: Source) -> Option<&[u8; PAGE_SIZE]> {
        let is_wanted =
            |page: &ArrivedPage| page.page == wanted.page && page.version == wanted.version;
        let number = self.pages.iter().position(is_wanted)?;
        self.contents.as_chunks().0.get(number)
    }
}
