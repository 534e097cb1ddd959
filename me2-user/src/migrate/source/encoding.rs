//! From claimed pages to a frame: one snapshot of each page, which is then compared with what the
//! destination has, encoded, and compressed as far as it pays.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use me2_engine::{
    compression::{Chooser, EncodedChunk},
    source::SourcePages,
};
use me2_wire::{
    PAGE_SIZE, PageIndex, Version, ZERO_PAGE_HASH, is_zero_page,
    page::{Base, ChunkCounts, ChunkWriter, CodecSet, Compression, PerCodec, Source},
    page_hash, page_identity,
};
use rustix::time::{ClockId, clock_gettime};

use super::{
    super::{CHUNK_PAGES, Machine},
    asked::Asked,
    sent::SentPages,
};
use crate::{
    control::types::{CodecChoice, MigrateRequest, Part},
    report::Codec,
    transport::congestion::Usage,
};

/// From this level of zstd on, a larger chunk becomes smaller by more than 1% of its pages.
const LEVEL_OF_LARGE_CHUNKS: i32 = 6;
const LARGE_CHUNK_PAGES: usize = 8 * CHUNK_PAGES;
/// If less than this level is best, pages wait for the processor, not for the link: then no time is
/// spent on copies of pages that hardly change.
const LEVEL_WITH_TIME_TO_SPARE: i32 = 3;
/// Contents that an encoder remembers within a pass, to find duplicates.
const IDENTITIES_MAX: usize = 1 << 18;

/// What was sent, over all streams.
#[derive(Debug, Default)]
pub struct SendCounters {
    /// Pages by their encoding; those in compressed chunks that have no better one as `zstd`.
    pages: ByCodec,
    /// Their part of the frames: by what their records have before compression, rounded down.
    bytes: ByCodec,
    /// Frames, as they travel.
    pub encoded_bytes: AtomicU64,
    /// Before compression.
    pub plain_bytes: AtomicU64,
    /// Time of all encoders together.
    pub busy_ns: AtomicU64,
}

/// Counted for each way to encode a page.
#[derive(Debug, Default)]
struct ByCodec {
    zero: AtomicU64,
    rle: AtomicU64,
    delta: AtomicU64,
    reference: AtomicU64,
    zstd: AtomicU64,
    raw: AtomicU64,
}

impl ByCodec {
    fn add(&self, counts: &PerCodec, is_compressed: bool) {
        let add = |counter: &AtomicU64, value| _ = counter.fetch_add(value, Ordering::Relaxed);
        add(&self.zero, counts.zero);
        add(&self.delta, counts.delta);
        add(&self.reference, counts.reference);
        if is_compressed {
            add(&self.zstd, counts.rle + counts.raw);
        } else {
            add(&self.rle, counts.rle);
            add(&self.raw, counts.raw);
        }
    }

    fn so_far(&self) -> Codec {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Codec {
            zero: load(&self.zero),
            rle: load(&self.rle),
            delta: load(&self.delta),
            reference: load(&self.reference),
            zstd: load(&self.zstd),
            raw: load(&self.raw),
        }
    }
}

impl SendCounters {
    /// Page records so far.
    pub fn pages(&self) -> u64 {
        self.pages_by_codec().sum()
    }

    /// The same, by codec.
    pub fn pages_by_codec(&self) -> Codec {
        self.pages.so_far()
    }

    /// What the frames so far have of each codec, in bytes.
    pub fn bytes_by_codec(&self) -> Codec {
        self.bytes.so_far()
    }

    /// Bytes of frames so far.
    pub fn encoded_bytes(&self) -> u64 {
        self.encoded_bytes.load(Ordering::Relaxed)
    }

    fn count(&self, counts: &ChunkCounts, frame: &EncodedFrame) {
        let add = |counter: &AtomicU64, value| _ = counter.fetch_add(value, Ordering::Relaxed);
        let (sent, all) = (frame.bytes.len() as u64, counts.bytes.sum().max(1));
        // A chunk has some hundred KiB.
        let parts = counts.bytes.map(|bytes| bytes * sent / all);
        self.pages.add(&counts.pages, frame.is_compressed);
        self.bytes.add(&parts, frame.is_compressed);
        add(&self.encoded_bytes, frame.bytes.len() as u64);
        add(&self.plain_bytes, frame.plain_bytes);
        add(&self.busy_ns, frame.effort.busy.as_nanos() as u64);
    }
}

/// Which parts of the encoding are on: all, but for comparisons.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    codecs: CodecSet,
    delta: bool,
    duplicates: bool,
    compression: Option<Compression>,
}

impl Parts {
    /// By what a request asks for.
    pub fn of(request: &MigrateRequest) -> Self {
        let has = |part| !request.without.contains(&part);
        let fixed = |level| Some(Compression::Zstd { level });
        let is_raw = request.codec == CodecChoice::Raw;
        Self {
            codecs: CodecSet {
                zero: has(Part::Zero) && !is_raw,
                rle: has(Part::Rle) && !is_raw,
            },
            delta: has(Part::Delta) && !is_raw,
            duplicates: has(Part::Duplicates) && !is_raw,
            compression: match request.codec {
                _ if !has(Part::Zstd) => Some(Compression::None),
                CodecChoice::Auto if has(Part::Adaptive) => None,
                CodecChoice::Auto => fixed(1),
                CodecChoice::Zstd(level) => fixed(level),
                CodecChoice::Rle | CodecChoice::Raw => Some(Compression::None),
            },
        }
    }
}

/// What encoders share.
#[derive(Clone)]
pub struct Encoding {
    pub machine: Arc<Machine>,
    pub pages: Arc<Mutex<SourcePages>>,
    pub sent: Arc<SentPages>,
    pub counters: Arc<SendCounters>,
    pub chooser: Arc<Mutex<Chooser>>,
    pub asked: Arc<Asked>,
    pub parts: Parts,
    /// The moment that the chooser counts from.
    pub begun: Instant,
    /// The connection that it encodes for.
    pub generation: u64,
    /// What goes over it.
    pub usage: Arc<Usage>,
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

    /// Notes how long the link made an encoder wait for a frame to be taken: so the effort that
    /// pays is found.
    pub fn took(&self, frame: &FrameCost, waiting: Duration) {
        let chunk = EncodedChunk {
            compression: frame.compression,
            plain_bytes: frame.plain_bytes,
            wire_bytes: frame.wire_bytes,
            preparing: frame.effort.preparing,
            compressing: frame.effort.compressing,
            busy: frame.effort.busy,
            waiting,
            link_use: self.usage.so_far(),
        };
        self.lock_chooser().encoded(&chunk, self.begun.elapsed());
    }

    /// How many pages the next chunk of a pass had better have. Where much effort pays, chunks are
    /// larger: they compress better, and nobody waits for a pass.
    pub fn pass_chunk_pages(&self) -> usize {
        let compression = self.parts.compression;
        match compression.unwrap_or_else(|| self.lock_chooser().best()) {
            Compression::Zstd { level } if level >= LEVEL_OF_LARGE_CHUNKS => LARGE_CHUNK_PAGES,
            _ => CHUNK_PAGES,
        }
    }

    fn compression(&self, purpose: Purpose) -> Compression {
        match (self.parts.compression, purpose) {
            (Some(fixed), _) => fixed,
            (None, Purpose::Pass | Purpose::Push) => self.lock_chooser().choose(),
            (None, Purpose::Urgent) => self.lock_chooser().best(),
        }
    }

    /// Whether work pays that saves bytes only perhaps.
    fn has_time_to_spare(&self) -> bool {
        let best = self.lock_chooser().best();
        matches!(best, Compression::Zstd { level } if level >= LEVEL_WITH_TIME_TO_SPARE)
    }

    fn lock_chooser(&self) -> std::sync::MutexGuard<'_, Chooser> {
        self.chooser.lock().expect("no panics under this lock")
    }
}

/// Why pages are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A pass while the VM runs here: there may be a next version of the page.
    Pass,
    /// Missing pages after the handover, on a bulk stream.
    Push,
    /// What somebody waits for: the handover, and answers to faults.
    Urgent,
}

/// A frame, ready for a stream.
pub struct EncodedFrame {
    pub bytes: Vec<u8>,
    pub is_compressed: bool,
    compression: Compression,
    plain_bytes: u64,
    effort: Effort,
}

/// Time that went into a frame: an encoder's processor time, and all of it.
#[derive(Clone, Copy)]
struct Effort {
    preparing: Duration,
    compressing: Duration,
    busy: Duration,
}

/// What a frame cost, kept when its bytes have gone.
pub struct FrameCost {
    compression: Compression,
    plain_bytes: u64,
    wire_bytes: u64,
    effort: Effort,
}

impl EncodedFrame {
    /// What it cost.
    pub fn cost(&self) -> FrameCost {
        FrameCost {
            compression: self.compression,
            plain_bytes: self.plain_bytes,
            wire_bytes: self.bytes.len() as u64,
            effort: self.effort,
        }
    }
}

/// Encodes for one stream, or for several that nothing is expected to be in order on.
pub struct Encoder {
    encoding: Encoding,
    writer: ChunkWriter,
    /// Contents sent in this pass on this stream, which the destination will have read by the
    /// time that it reads what is encoded now.
    known: HashMap<u128, Source>,
    snapshot: Box<[u8; PAGE_SIZE]>,
    base: Box<[u8; PAGE_SIZE]>,
    /// Whether pages are kept that are not known to change.
    keeps_all: bool,
}

impl Encoder {
    /// An encoder with buffers of its own.
    pub fn new(encoding: Encoding) -> Self {
        Self {
            writer: ChunkWriter::with_codecs(encoding.parts.codecs),
            encoding,
            known: HashMap::new(),
            snapshot: Box::new([0; PAGE_SIZE]),
            base: Box::new([0; PAGE_SIZE]),
            keeps_all: false,
        }
    }

    /// What it shares with others.
    pub fn shared(&self) -> &Encoding {
        &self.encoding
    }

    /// A pass begins: contents of the one before are known no more, since newer versions replace
    /// them.
    pub fn begin_pass(&mut self) {
        self.known.clear();
    }

    /// Reads and encodes claimed pages, at most a chunk of them and at least one. Each page is
    /// copied out once, then hashed and encoded: the guest may be writing it.
    pub fn encode(&mut self, claimed: &[(PageIndex, Version)], purpose: Purpose) -> EncodedFrame {
        let (begun, at_first) = (Instant::now(), processor_time());
        let compression = self.encoding.compression(purpose);
        if purpose != Purpose::Pass {
            // Only what is in the same chunk is sure to be there when it is read.
            self.known.clear();
        }
        self.keeps_all = self.encoding.has_time_to_spare();
        let mut hashes = Vec::with_capacity(claimed.len());
        for (page, version) in claimed {
            hashes.push(self.push(*page, *version, purpose));
        }
        let counts = self.writer.counts();
        let prepared = processor_time();
        let chunk = self.writer.take_frame(compression);
        let effort = Effort {
            preparing: prepared.saturating_sub(at_first),
            compressing: processor_time().saturating_sub(prepared),
            busy: begun.elapsed(),
        };
        let frame = EncodedFrame {
            bytes: chunk.bytes,
            is_compressed: chunk.is_compressed,
            compression,
            plain_bytes: chunk.plain_bytes as u64,
            effort,
        };
        self.encoding.counters.count(&counts, &frame);
        let mut pages = self
            .encoding
            .pages
            .lock()
            .expect("no panics under this lock");
        for ((page, _), hash) in claimed.iter().zip(hashes) {
            pages.sent(*page, hash);
        }
        frame
    }

    /// What pages would take if they were sent now, in bytes a page: as differences where there is
    /// something to differ from. Nothing is sent or noted.
    pub fn measure(&mut self, pages: &[PageIndex]) -> f64 {
        for page in pages {
            let memory = self.encoding.machine.vm.memory();
            memory.read_page(*page, &mut self.snapshot);
            let base_version = match self.encoding.parts.delta {
                true => self.encoding.sent.read(*page, &mut self.base),
                false => None,
            };
            let base = base_version.map(|version| Base {
                version,
                content: &self.base,
            });
            let next = base_version.unwrap_or_default() + 1;
            self.writer
                .push_hashed(*page, next, &self.snapshot, base, page_hash(&self.snapshot));
        }
        let compression = self.encoding.compression(Purpose::Urgent);
        let bytes = self.writer.take_frame(compression).bytes.len();
        bytes as f64 / pages.len().max(1) as f64
    }

    /// Encodes one page; gives its hash.
    fn push(&mut self, page: PageIndex, version: Version, purpose: Purpose) -> u64 {
        let machine = &self.encoding.machine;
        machine.vm.memory().read_page(page, &mut self.snapshot);
        let parts = self.encoding.parts;
        let is_zero = parts.codecs.zero && is_zero_page(&self.snapshot);
        let hash = match parts.duplicates && !is_zero {
            true => page_identity(&self.snapshot),
            false if is_zero => u128::from(ZERO_PAGE_HASH),
            false => u128::from(page_hash(&self.snapshot)),
        };
        let identity = (parts.duplicates && !is_zero).then_some(hash);
        // The lower half of an identity is the page's hash.
        let hash = hash as u64;
        let itself = Source { page, version };
        match identity.and_then(|identity| self.find_duplicate(identity, itself, purpose)) {
            Some(source) => {
                self.writer.push_reference(page, version, source, hash);
            }
            None => {
                let base_version = match parts.delta && !is_zero {
                    true => self.encoding.sent.read(page, &mut self.base),
                    false => None,
                };
                let base = base_version.map(|version| Base {
                    version,
                    content: &self.base,
                });
                self.writer
                    .push_hashed(page, version, &self.snapshot, base, hash);
            }
        }
        if parts.delta && purpose == Purpose::Pass {
            self.keep(page, version, is_zero);
        }
        hash
    }

    /// Another page with the same content that this stream has carried. If there is none, `page`
    /// is the one that later pages may refer to.
    fn find_duplicate(&mut self, identity: u128, page: Source, purpose: Purpose) -> Option<Source> {
        if let Some(source) = self.known.get(&identity) {
            return Some(*source);
        }
        // After the handover an answer to a fault may overtake a difference, which is then skipped
        // unread: nothing must refer to it.
        let may_be_skipped = purpose != Purpose::Pass && self.encoding.sent.has(page.page);
        if self.known.len() < IDENTITIES_MAX && !may_be_skipped {
            self.known.insert(identity, page);
        }
        None
    }

    /// Keeps what is sent of a page, for the time that it will have changed.
    fn keep(&mut self, page: PageIndex, version: Version, is_zero: bool) {
        let sent = &self.encoding.sent;
        let machine = &self.encoding.machine;
        let changes = || {
            let layout = machine.vm.memory().layout();
            version > FIRST_VERSION || machine.probing.is_recently_written(layout, page)
        };
        match is_zero {
            true => sent.forget(page),
            false => sent.keep(page, version, &self.snapshot, self.keeps_all, changes),
        }
    }
}

/// Processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).expect("processor time is not negative")
}

/// The version of the first pass: whatever is sent in a later one has changed meanwhile.
const FIRST_VERSION: Version = 1;
