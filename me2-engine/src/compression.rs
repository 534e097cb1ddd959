//! How hard to compress: whatever gets the memory across soonest, by what encoders and link are
//! seen to do.
//!
//! ```text
//! time of a byte by a choice = max(processor time / encoders, wire bytes / link rate)
//! processor time = preparing + compressing + driving the link * wire bytes
//! ```
//!
//! How the choices compare among each other is taken from a table, since that hardly depends on
//! machine and contents. What does is measured all the time, chunk by chunk: what a byte costs
//! before it is compressed, how much slower than in the table it is compressed, and how much larger
//! it stays. So one chunk says something about every choice. Encoders share their cores with what
//! drives the link: what they are kept from working, by the bytes that travel meanwhile, is what a
//! byte costs there. Where the destination is on the same host, decompression takes from them too.
//!
//! The link's rate is known only while the encoders wait for it. While they do not, it is taken to
//! be higher from window to window, so that ever lighter choices get their turn, until it is the
//! link that is waited for. Where processors are short, encoders wait for what drives a link that
//! could take more: that is its cost, and not the link's rate. The transport knows whether the link
//! is full.

use std::time::Duration;

use me2_wire::page::Compression;

/// What compressing a byte costs.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Of an encoder's time.
    nanoseconds: f64,
    /// On the wire.
    wire_bytes: f64,
}

/// What is worth its time, with what it costs in memory of compilers, Python, programs and the
/// built-in guest (`bench codec`; chunks of 64 pages, from level 6 on of 256).
const CHOICES: [(Compression, Cost); 7] = [
    (Compression::None, cost(0.0, 1.0)),
    (zstd(-5), cost(1.8, 0.465)),
    (zstd(-1), cost(2.2, 0.36)),
    (zstd(1), cost(2.6, 0.33)),
    (zstd(3), cost(4.1, 0.31)),
    (zstd(6), cost(9.8, 0.295)),
    (zstd(9), cost(18.3, 0.288)),
];
/// What a byte costs before it is compressed, while nothing is known, in nanoseconds.
const PREPARING_FIRST: f64 = 0.7;
/// Where the choice begins, while nothing is known.
const FIRST: Compression = zstd(1);
/// Rate that a link is taken to have while nothing is known, in bytes a second.
const LINK_RATE_FIRST: f64 = 250e6;
/// Weight of a new measurement.
const NEW: f64 = 0.1;
/// Weight of a new window beside what is known of the link: its rate goes up and down with the
/// congestion window, and no choice should follow that.
const NEW_WINDOW: f64 = 0.2;
/// A chunk with less in it says nothing about speed.
const CHUNK_BYTES_MIN: u64 = 64 << 10;
/// The link is judged over at least this time, and so many chunks.
const WINDOW: Duration = Duration::from_millis(25);
const WINDOW_CHUNKS_MIN: u32 = 4;
/// For so long after the first window nothing is said about the link: its transport is just starting.
const START: Duration = Duration::from_millis(125);
/// From this share of waiting on, what went through is what the link takes.
const WAITING_MUCH: f64 = 0.15;
/// Below this share of waiting the link takes more than it gets.
const WAITING_LITTLE: f64 = 0.03;
/// From this share of their time on that encoders had work and no processor, processors are short.
const STARVED: f64 = 0.25;
/// From this share of what was acknowledged on that left a full link, the link is what is waited for.
const FULL_MUCH: f64 = 0.5;
/// In between, it is taken to take a little more than it gets.
const RATE_MARGIN: f64 = 1.1;
/// How much more it is taken to take with little waiting, from window to window: while its rate was never seen
/// (the most), just after it was seen, and how the latter grows into the former again.
const GROWTH_MAX: f64 = 2.0;
const GROWTH_MIN: f64 = 1.05;
const GROWTH_OF_GROWTH: f64 = 1.15;
/// Where nothing is compressed, one in so many chunks is, so that it stays known what it would gain.
const TRY_EVERY_CHUNKS: u64 = 256;
const TRY: Compression = zstd(-5);
/// What it takes to decompress a byte, in nanoseconds, by any choice.
const DECOMPRESSING: f64 = 1.2;
/// What a byte of a page costs at the destination however it travels, in nanoseconds: its hash, its
/// place, its first touch.
const PLACING: f64 = 3.0;
/// What another choice must gain to be taken, as a part of the time.
const GAIN_MIN: f64 = 0.04;
/// What a choice with fewer bytes on the wire may cost, as a part of the time.
const COST_MAX: f64 = 0.03;

/// Chooses how to compress the next chunk.
pub struct Chooser {
    encoders: f64,
    /// What a compressed byte takes from the encoders at the other end, in nanoseconds, and what any
    /// byte does.
    decompressing: f64,
    placing: f64,
    best: Compression,
    /// What a byte costs before it is compressed, in nanoseconds.
    preparing: f64,
    /// Time and wire bytes of compression, by those of the table.
    slower: f64,
    larger: f64,
    /// What a byte on the wire takes from the encoders, in nanoseconds.
    driving: f64,
    link: Link,
    /// When the first window ended.
    begun: Option<Duration>,
    chunks: u64,
    window: Window,
}

/// What is known of the link.
struct Link {
    /// Bytes a second.
    rate: f64,
    /// Whether the encoders waited for it in the latest window that told.
    is_seen: bool,
    growth: f64,
}

/// What was seen since the link was judged last.
struct Window {
    begun: Duration,
    chunks: u32,
    plain_bytes: u64,
    wire_bytes: u64,
    processor: Duration,
    busy: Duration,
    waiting: Duration,
    /// The link's use when it began, and now.
    use_before: LinkUse,
    link_use: LinkUse,
}

/// What went over a link since it is there, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct LinkUse {
    /// Acknowledged by the other end.
    pub acknowledged: u64,
    /// The part of it that was acknowledged while all was under way that may be.
    pub while_full: u64,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy)]
pub struct EncodedChunk {
    /// How it was compressed.
    pub compression: Compression,
    /// Bytes before compression.
    pub plain_bytes: u64,
    /// Bytes that travel.
    pub wire_bytes: u64,
    /// Processor time until it could be compressed.
    pub preparing: Duration,
    /// Processor time of compressing it.
    pub compressing: Duration,
    /// Time that it took to encode, that in which others had the encoder's core included.
    pub busy: Duration,
    /// Time that the encoder waited until the link took it.
    pub waiting: Duration,
    /// The link's use by then.
    pub link_use: LinkUse,
}

impl Chooser {
    /// Knows nothing yet. So many encoders work side by side.
    pub fn new(encoders: usize) -> Self {
        Self {
            encoders: encoders.max(1) as f64,
            decompressing: 0.0,
            placing: 0.0,
            best: FIRST,
            preparing: PREPARING_FIRST,
            slower: 1.0,
            larger: 1.0,
            driving: 0.0,
            link: Link {
                rate: LINK_RATE_FIRST,
                is_seen: false,
                growth: GROWTH_MAX,
            },
            begun: None,
            chunks: 0,
            window: Window::new(Duration::ZERO, LinkUse::default()),
        }
    }

    /// The destination is on this host: what is done there takes from the same cores.
    pub fn share_cores_with_destination(&mut self) {
        self.decompressing = DECOMPRESSING;
        self.placing = PLACING;
    }

    /// How to compress the next chunk.
    pub fn choose(&self) -> Compression {
        let is_trial = self.chunks > 0 && self.chunks.is_multiple_of(TRY_EVERY_CHUNKS);
        match self.best {
            Compression::None if is_trial => TRY,
            best => best,
        }
    }

    /// The best known choice, for what must not be slowed down by a trial.
    pub fn best(&self) -> Compression {
        self.best
    }

    /// Notes what became of a chunk. `now` counts from any fixed moment.
    pub fn encoded(&mut self, chunk: &EncodedChunk, now: Duration) {
        self.chunks += 1;
        if chunk.plain_bytes >= CHUNK_BYTES_MIN {
            self.measure(chunk);
        }
        self.window.add(chunk);
        let elapsed = now.saturating_sub(self.window.begun);
        if elapsed >= WINDOW && self.window.chunks >= WINDOW_CHUNKS_MIN {
            if now - *self.begun.get_or_insert(now) >= START {
                self.learn(elapsed);
            }
            self.window = Window::new(now, chunk.link_use);
        }
        self.best = self.soonest();
    }

    fn learn(&mut self, elapsed: Duration) {
        let window = &self.window;
        let mut kept_from_working = window.kept_from_working();
        if window.is_link_waited_for() {
            self.link.judge(window, window.waiting, elapsed);
        } else {
            self.link.judge(window, Duration::ZERO, elapsed);
            kept_from_working += window.waiting;
        }
        // No choice changes what becomes of a page at the destination.
        let kept_from_working = kept_from_working.as_nanos() as f64;
        let by_wire_bytes = kept_from_working - self.placing * window.plain_bytes as f64;
        let driving = by_wire_bytes.max(0.0) / (window.wire_bytes as f64).max(1.0);
        mix_by(&mut self.driving, driving, NEW_WINDOW);
    }

    fn measure(&mut self, chunk: &EncodedChunk) {
        let plain_bytes = chunk.plain_bytes as f64;
        let by_byte = |time: Duration| time.as_nanos() as f64 / plain_bytes;
        mix(&mut self.preparing, by_byte(chunk.preparing));
        match table(chunk.compression) {
            Some(typical) if chunk.compression != Compression::None => {
                mix(
                    &mut self.slower,
                    by_byte(chunk.compressing) / typical.nanoseconds,
                );
                let wire_bytes = (chunk.wire_bytes as f64 / plain_bytes).min(1.0);
                mix(&mut self.larger, wire_bytes / typical.wire_bytes);
            }
            _ => {}
        }
    }

    /// The choice with the fewest bytes on the wire among those that are about the fastest.
    fn soonest(&self) -> Compression {
        let times = CHOICES.map(|(choice, typical)| (choice, self.time(&typical)));
        let least = times
            .iter()
            .map(|(_, time)| *time)
            .fold(f64::INFINITY, f64::min);
        let fewest_bytes = times
            .iter()
            .rposition(|(_, time)| *time <= least * (1.0 + COST_MAX))
            .expect("the fastest is one of them");
        let current = times.iter().position(|(choice, _)| *choice == self.best);
        let stays = current.is_some_and(|current| {
            current >= fewest_bytes && times[current].1 <= least * (1.0 + COST_MAX + GAIN_MIN)
        });
        if stays {
            self.best
        } else {
            times[fewest_bytes].0
        }
    }

    /// Nanoseconds that a byte takes.
    fn time(&self, typical: &Cost) -> f64 {
        // What is not compressed stays as large, and nothing gets larger than that.
        let wire_bytes = match typical.wire_bytes < 1.0 {
            true => (self.larger * typical.wire_bytes).min(1.0),
            false => 1.0,
        };
        let mut processor = self.preparing + self.driving * wire_bytes;
        if typical.nanoseconds > 0.0 {
            processor += self.slower * typical.nanoseconds + self.decompressing;
        }
        (processor / self.encoders).max(1e9 * wire_bytes / self.link.rate)
    }
}

impl Link {
    /// By what went through it in the window, and the time that was spent on waiting for it.
    fn judge(&mut self, window: &Window, waiting: Duration, elapsed: Duration) {
        let rate = window.wire_bytes as f64 / elapsed.as_secs_f64();
        let (busy, waiting) = (window.busy.as_secs_f64(), waiting.as_secs_f64());
        let share = waiting / (busy + waiting).max(f64::MIN_POSITIVE);
        if share >= WAITING_MUCH {
            // What had only been supposed counts for nothing beside it.
            match self.is_seen {
                true => mix_by(&mut self.rate, rate, NEW_WINDOW),
                false => self.rate = rate,
            }
            self.is_seen = true;
            self.growth = GROWTH_MIN;
        } else if share <= WAITING_LITTLE {
            self.rate = self.rate.max(rate) * self.growth;
            self.is_seen = false;
            self.growth = (1.0 + (self.growth - 1.0) * GROWTH_OF_GROWTH).min(GROWTH_MAX);
        } else {
            self.rate = self.rate.max(RATE_MARGIN * rate);
        }
    }
}

impl Window {
    fn new(begun: Duration, use_before: LinkUse) -> Self {
        Self {
            begun,
            chunks: 0,
            plain_bytes: 0,
            wire_bytes: 0,
            processor: Duration::ZERO,
            busy: Duration::ZERO,
            waiting: Duration::ZERO,
            use_before,
            link_use: use_before,
        }
    }

    fn add(&mut self, chunk: &EncodedChunk) {
        self.chunks += 1;
        self.plain_bytes += chunk.plain_bytes;
        self.wire_bytes += chunk.wire_bytes;
        self.processor += chunk.preparing + chunk.compressing;
        self.busy += chunk.busy;
        self.waiting += chunk.waiting;
        self.link_use = chunk.link_use;
    }

    /// How long encoders had work, and no processor.
    fn kept_from_working(&self) -> Duration {
        self.busy.saturating_sub(self.processor)
    }

    /// Whether it is the link that encoders waited for, and not the processors.
    fn is_link_waited_for(&self) -> bool {
        let since = |now: u64, before: u64| now.saturating_sub(before) as f64;
        let (now, before) = (self.link_use, self.use_before);
        let acknowledged = since(now.acknowledged, before.acknowledged);
        let while_full = since(now.while_full, before.while_full);
        let is_full = while_full >= FULL_MUCH * acknowledged;
        let kept = self.kept_from_working().as_secs_f64();
        is_full || kept < STARVED * self.busy.as_secs_f64()
    }
}

const fn cost(nanoseconds: f64, wire_bytes: f64) -> Cost {
    Cost {
        nanoseconds,
        wire_bytes,
    }
}

const fn zstd(level: i32) -> Compression {
    Compression::Zstd { level }
}

/// What a choice costs by the table.
fn table(compression: Compression) -> Option<Cost> {
    CHOICES
        .iter()
        .find(|(choice, _)| *choice == compression)
        .map(|(_, cost)| *cost)
}

fn mix(known: &mut f64, seen: f64) {
    mix_by(known, seen, NEW);
}

fn mix_by(known: &mut f64, seen: f64, weight: f64) {
    *known += weight * (seen - *known);
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: f64 = 262_144.0;

    /// A machine on which zstd takes so many times what the table says, and a link.
    #[derive(Clone, Copy)]
    struct World {
        slowness: f64,
        compresses: bool,
        link_rate: f64,
    }

    impl World {
        fn cost(&self, compression: Compression) -> Cost {
            let typical = table(compression).unwrap();
            Cost {
                nanoseconds: (PREPARING_FIRST + typical.nanoseconds) * self.slowness,
                wire_bytes: match self.compresses {
                    true => typical.wire_bytes,
                    false => 1.0,
                },
            }
        }

        /// Seconds that a byte takes by this choice, two encoders at work.
        fn time(&self, compression: Compression) -> f64 {
            let cost = self.cost(compression);
            (cost.nanoseconds / 2e9).max(cost.wire_bytes / self.link_rate)
        }

        /// Sends chunks until the given moment; the time that the best fixed choice would have
        /// needed for as many, by the time that it took.
        fn run(&self, chooser: &mut Chooser, from: f64, until: f64) -> f64 {
            let (mut now, mut chunks) = (from, 0.0);
            while now < until {
                let compression = chooser.choose();
                let cost = self.cost(compression);
                let busy = cost.nanoseconds * CHUNK / 1e9;
                let preparing = PREPARING_FIRST * self.slowness * CHUNK / 1e9;
                let preparing = Duration::from_secs_f64(preparing);
                let took = self.time(compression) * CHUNK;
                now += took;
                chunks += 1.0;
                let chunk = EncodedChunk {
                    compression,
                    plain_bytes: CHUNK as u64,
                    wire_bytes: (cost.wire_bytes * CHUNK) as u64,
                    preparing,
                    compressing: Duration::from_secs_f64(busy).saturating_sub(preparing),
                    busy: Duration::from_secs_f64(busy),
                    // Two encoders share the time that a chunk takes.
                    waiting: Duration::from_secs_f64((took * 2.0 - busy).max(0.0)),
                    link_use: LinkUse::default(),
                };
                chooser.encoded(&chunk, Duration::from_secs_f64(now));
            }
            let best = CHOICES
                .iter()
                .map(|(choice, _)| self.time(*choice))
                .fold(f64::INFINITY, f64::min);
            best * CHUNK * chunks / (now - from)
        }
    }

    #[test]
    fn it_comes_close_to_the_best_fixed_choice_on_every_link() {
        for compresses in [true, false] {
            for slowness in [0.5, 1.0, 4.0] {
                for link_rate in [1e6, 12e6, 120e6, 500e6, 1e10] {
                    let world = World {
                        slowness,
                        compresses,
                        link_rate,
                    };
                    let share = world.run(&mut Chooser::new(2), 0.0, 10.0);
                    assert!(share > 0.95, "{compresses} {slowness} {link_rate}: {share}");
                }
            }
        }
    }

    #[test]
    fn it_follows_a_link_that_changes() {
        let slow = World {
            slowness: 1.0,
            compresses: true,
            link_rate: 12e6,
        };
        let fast = World {
            link_rate: 1e10,
            ..slow
        };
        let mut chooser = Chooser::new(2);
        assert!(slow.run(&mut chooser, 0.0, 5.0) > 0.95);
        fast.run(&mut chooser, 5.0, 8.0);
        assert!(fast.run(&mut chooser, 8.0, 10.0) > 0.9);
        slow.run(&mut chooser, 10.0, 11.0);
        assert!(slow.run(&mut chooser, 11.0, 14.0) > 0.95);
    }

    #[test]
    fn who_waits_for_processors_does_not_wait_for_the_link() {
        const WIRE_BYTES: u64 = 100_000;
        // A chunk a millisecond; half of their time the encoders have work and no processor.
        let rate_seen = |is_full: bool| {
            let mut chooser = Chooser::new(2);
            for chunks in 1..1000 {
                let chunk = EncodedChunk {
                    compression: FIRST,
                    plain_bytes: CHUNK as u64,
                    wire_bytes: WIRE_BYTES,
                    preparing: Duration::from_micros(100),
                    compressing: Duration::from_micros(500),
                    busy: Duration::from_micros(1200),
                    waiting: Duration::from_micros(400),
                    link_use: LinkUse {
                        acknowledged: chunks * WIRE_BYTES,
                        while_full: u64::from(is_full) * chunks * WIRE_BYTES,
                    },
                };
                chooser.encoded(&chunk, Duration::from_millis(chunks));
            }
            chooser.link.is_seen.then_some(chooser.link.rate)
        };
        let rate = rate_seen(true).expect("the link is full");
        assert!((rate / 100e6 - 1.0).abs() < 0.05, "{rate}");
        assert_eq!(rate_seen(false), None);
    }

    #[test]
    fn small_chunks_say_nothing_about_speed() {
        let mut chooser = Chooser::new(2);
        for second in 0..1000 {
            let chunk = EncodedChunk {
                compression: FIRST,
                plain_bytes: 100,
                wire_bytes: 100,
                preparing: Duration::ZERO,
                compressing: Duration::from_millis(1),
                busy: Duration::from_millis(1),
                waiting: Duration::from_millis(100),
                link_use: LinkUse::default(),
            };
            chooser.encoded(&chunk, Duration::from_secs(second));
        }
        assert_eq!((chooser.slower, chooser.larger), (1.0, 1.0));
    }
}
