//! How hard to compress: whatever gets the memory across soonest, by what encoders and link are
//! seen to do.
//!
//! ```text
//! time of a byte by a choice = max(encoder time / encoders, wire bytes / link rate)
//! ```
//!
//! How the choices compare among each other is taken from a table, since that hardly depends on
//! machine and contents. What does is measured all the time, chunk by chunk: how much slower than in
//! the table a byte is encoded, and how much larger it stays. So one chunk says something about
//! every choice.
//!
//! The link's rate is known only while the encoders wait for it. While they do not, it is taken to
//! be higher from window to window, so that ever lighter choices get their turn, until it is the
//! link that is waited for.
//!
//! A fast link is often no more than the cores that are left to drive it, and encoders take these
//! away. So above some rate a whole window is sent without compression now and then, to see what
//! the link takes then.

use std::time::Duration;

use me2_wire::page::Compression;

/// What a byte costs.
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
    (Compression::None, cost(0.7, 1.0)),
    (zstd(-5), cost(2.4, 0.465)),
    (zstd(-1), cost(2.8, 0.35)),
    (zstd(1), cost(3.3, 0.33)),
    (zstd(3), cost(4.0, 0.317)),
    (zstd(6), cost(10.5, 0.295)),
    (zstd(9), cost(19.0, 0.288)),
];
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
const START: Duration = Duration::from_millis(75);
/// From this share of waiting on, what went through is what the link takes.
const WAITING_MUCH: f64 = 0.15;
/// Below this share of waiting the link takes more than it gets.
const WAITING_LITTLE: f64 = 0.03;
/// In between, it is taken to take a little more than it gets.
const RATE_MARGIN: f64 = 1.1;
/// How much more it is taken to take with little waiting, from window to window: while its rate was never seen
/// (the most), just after it was seen, and how the latter grows into the former again.
const GROWTH_MAX: f64 = 2.0;
const GROWTH_MIN: f64 = 1.01;
const GROWTH_OF_GROWTH: f64 = 1.06;
/// Where nothing is compressed, one in so many chunks is, so that it stays known what it would gain.
const TRY_EVERY_CHUNKS: u64 = 256;
const TRY: Compression = zstd(-5);
/// From this rate on, in bytes a second, the link may be limited by the cores that drive it: then one
/// window in so many is sent without compression, beginning with an early one.
const RATE_OF_CORES: f64 = 80e6;
const TRY_EVERY_WINDOWS: u64 = 40;
const TRY_FIRST_WINDOW: u64 = 4;
/// How long such a window is: as short as can be told apart from chance.
const TRY_WINDOW: Duration = Duration::from_millis(8);
/// What another choice must gain to be taken, as a part of the time.
const GAIN_MIN: f64 = 0.04;

/// Chooses how to compress the next chunk.
pub struct Chooser {
    encoders: f64,
    best: Compression,
    /// Encoder time, and wire bytes of compression, by those of the table.
    slower: f64,
    larger: f64,
    link: Link,
    /// When the first window ended.
    begun: Option<Duration>,
    chunks: u64,
    windows: u64,
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
    /// Sent without compression, to see what the link takes.
    is_trial: bool,
    chunks: u32,
    wire_bytes: u64,
    busy: Duration,
    waiting: Duration,
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
    /// Time that it took to encode.
    pub busy: Duration,
    /// Time that the encoder waited until the link took it.
    pub waiting: Duration,
}

impl Chooser {
    /// Knows nothing yet. So many encoders work side by side.
    pub fn new(encoders: usize) -> Self {
        Self {
            encoders: encoders.max(1) as f64,
            best: FIRST,
            slower: 1.0,
            larger: 1.0,
            link: Link {
                rate: LINK_RATE_FIRST,
                is_seen: false,
                growth: GROWTH_MAX,
            },
            begun: None,
            chunks: 0,
            windows: 0,
            window: Window::new(Duration::ZERO, false),
        }
    }

    /// How to compress the next chunk.
    pub fn choose(&self) -> Compression {
        if self.window.is_trial {
            return Compression::None;
        }
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
        let length = match self.window.is_trial {
            true => TRY_WINDOW,
            false => WINDOW,
        };
        if elapsed >= length && self.window.chunks >= WINDOW_CHUNKS_MIN {
            if now - *self.begun.get_or_insert(now) >= START {
                self.link.judge(&self.window, elapsed);
            }
            self.windows += 1;
            self.window = Window::new(now, self.is_trial_due());
        }
        self.best = self.soonest();
    }

    fn is_trial_due(&self) -> bool {
        self.windows % TRY_EVERY_WINDOWS == TRY_FIRST_WINDOW
            && self.best != Compression::None
            && self.link.rate > RATE_OF_CORES
    }

    fn measure(&mut self, chunk: &EncodedChunk) {
        let Some(typical) = table(chunk.compression) else {
            return;
        };
        let plain_bytes = chunk.plain_bytes as f64;
        let nanoseconds = chunk.busy.as_nanos() as f64 / plain_bytes;
        mix(&mut self.slower, nanoseconds / typical.nanoseconds);
        if chunk.compression != Compression::None {
            let wire_bytes = (chunk.wire_bytes as f64 / plain_bytes).min(1.0);
            mix(&mut self.larger, wire_bytes / typical.wire_bytes);
        }
    }

    fn soonest(&self) -> Compression {
        let time = |typical: &Cost| {
            let nanoseconds = self.slower * typical.nanoseconds;
            // What is not compressed stays as large, and nothing gets larger than that.
            let wire_bytes = match typical.wire_bytes < 1.0 {
                true => (self.larger * typical.wire_bytes).min(1.0),
                false => 1.0,
            };
            (nanoseconds / 1e9 / self.encoders).max(wire_bytes / self.link.rate)
        };
        let current = table(self.best).map_or(f64::INFINITY, |typical| time(&typical));
        CHOICES
            .iter()
            .map(|(choice, typical)| (*choice, time(typical)))
            .filter(|(_, time)| *time < current * (1.0 - GAIN_MIN))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(self.best, |(choice, _)| choice)
    }
}

impl Link {
    fn judge(&mut self, window: &Window, elapsed: Duration) {
        let rate = window.wire_bytes as f64 / elapsed.as_secs_f64();
        let (busy, waiting) = (window.busy.as_secs_f64(), window.waiting.as_secs_f64());
        let share = waiting / (busy + waiting).max(f64::MIN_POSITIVE);
        if share >= WAITING_MUCH {
            // What had only been supposed counts for nothing beside it.
            match self.is_seen && !window.is_trial {
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
            mix_by(&mut self.rate, RATE_MARGIN * rate, NEW_WINDOW);
        }
    }
}

impl Window {
    fn new(begun: Duration, is_trial: bool) -> Self {
        Self {
            begun,
            is_trial,
            chunks: 0,
            wire_bytes: 0,
            busy: Duration::ZERO,
            waiting: Duration::ZERO,
        }
    }

    fn add(&mut self, chunk: &EncodedChunk) {
        self.chunks += 1;
        self.wire_bytes += chunk.wire_bytes;
        self.busy += chunk.busy;
        self.waiting += chunk.waiting;
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
                nanoseconds: typical.nanoseconds * self.slowness,
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
                let took = self.time(compression) * CHUNK;
                now += took;
                chunks += 1.0;
                let chunk = EncodedChunk {
                    compression,
                    plain_bytes: CHUNK as u64,
                    wire_bytes: (cost.wire_bytes * CHUNK) as u64,
                    busy: Duration::from_secs_f64(busy),
                    // Two encoders share the time that a chunk takes.
                    waiting: Duration::from_secs_f64((took * 2.0 - busy).max(0.0)),
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
    fn small_chunks_say_nothing_about_speed() {
        let mut chooser = Chooser::new(2);
        for second in 0..1000 {
            let chunk = EncodedChunk {
                compression: FIRST,
                plain_bytes: 100,
                wire_bytes: 100,
                busy: Duration::from_millis(1),
                waiting: Duration::from_millis(100),
            };
            chooser.encoded(&chunk, Duration::from_secs(second));
        }
        assert_eq!((chooser.slower, chooser.larger), (1.0, 1.0));
    }
}
