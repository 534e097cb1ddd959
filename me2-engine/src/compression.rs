//! How hard to compress: whatever gets the memory across soonest, by what encoders and link are
//! seen to do.
//!
//! For each choice two numbers are kept: encoder time and wire bytes, both per byte before
//! compression. With the rate of the link they give the time that a byte takes by this choice:
//!
//! ```text
//! time(choice) = max(encoder time / encoders, wire bytes / link rate)
//! ```
//!
//! The link's rate is known only while the encoders wait for it. While they do not, it is taken to
//! be higher from window to window, so that ever lighter choices get their turn, until it is the
//! link that waits. A choice that was never made is estimated from its neighbour and the table
//! below; from time to time a neighbour of the best is tried, since contents change.

use std::time::Duration;

use me2_wire::page::Compression;

/// One way to compress.
struct Choice {
    compression: Compression,
    /// Typical encoder time per byte in nanoseconds, and wire bytes per byte: only how they
    /// compare among each other matters.
    typical: Cost,
    measured: Option<Measured>,
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    nanoseconds: f64,
    wire_bytes: f64,
}

struct Measured {
    cost: Cost,
    /// The chunk by which it was last measured.
    chunk: u64,
}

/// Where the choice begins, while nothing is known: the middle.
const FIRST: usize = 3;
/// Rate that a link is taken to have while nothing is known, in bytes a second.
const LINK_RATE_FIRST: f64 = 250e6;
/// Weight of a new measurement.
const NEW: f64 = 0.2;
/// A chunk with less in it says nothing about speed.
const CHUNK_BYTES_MIN: u64 = 64 << 10;
/// The link is judged over at least this time, and so many chunks.
const WINDOW: Duration = Duration::from_millis(25);
const WINDOW_CHUNKS_MIN: u32 = 4;
/// From this share of waiting on, what went through is what the link takes.
const WAITING_MUCH: f64 = 0.15;
/// Below this share of waiting the link takes more than it gets.
const WAITING_LITTLE: f64 = 0.03;
/// How much more it is taken to take then, from window to window: while its rate was never seen
/// (the most), just after it was seen, and how the latter grows into the former again.
const GROWTH_MAX: f64 = 2.0;
const GROWTH_MIN: f64 = 1.02;
const GROWTH_OF_GROWTH: f64 = 1.15;
/// A neighbour of the best is tried in one of so many chunks, unless it was measured lately.
const TRY_EVERY_CHUNKS: u64 = 48;
const MEASURED_LATELY_CHUNKS: u64 = 256;
/// What another choice must gain to be taken, as a part of the time.
const GAIN_MIN: f64 = 0.03;

/// Chooses how to compress the next chunk.
pub struct Chooser {
    choices: Vec<Choice>,
    encoders: f64,
    best: usize,
    /// Bytes a second.
    link_rate: f64,
    growth: f64,
    chunks: u64,
    window: Window,
}

/// What was seen since the link was judged last.
struct Window {
    begun: Duration,
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
        let choice = |compression, nanoseconds, wire_bytes| Choice {
            compression,
            typical: Cost {
                nanoseconds,
                wire_bytes,
            },
            measured: None,
        };
        let zstd = |level| Compression::Zstd { level };
        Self {
            choices: vec![
                choice(Compression::None, 0.3, 1.0),
                choice(zstd(-5), 1.2, 0.56),
                choice(zstd(-2), 1.6, 0.50),
                choice(zstd(1), 2.6, 0.42),
                choice(zstd(3), 4.5, 0.39),
                choice(zstd(5), 9.0, 0.375),
                choice(zstd(7), 14.0, 0.365),
                choice(zstd(9), 22.0, 0.36),
            ],
            encoders: encoders.max(1) as f64,
            best: FIRST,
            link_rate: LINK_RATE_FIRST,
            growth: GROWTH_MAX,
            chunks: 0,
            window: Window::new(Duration::ZERO),
        }
    }

    /// How to compress the next chunk.
    pub fn choose(&self) -> Compression {
        self.choices[self.candidate()].compression
    }

    /// The best known choice, for what must not be slowed down by a trial.
    pub fn best(&self) -> Compression {
        self.choices[self.best].compression
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
            self.judge_link(elapsed);
            self.window = Window::new(now);
        }
        self.best = self.soonest();
    }

    fn candidate(&self) -> usize {
        if !self.chunks.is_multiple_of(TRY_EVERY_CHUNKS) || self.chunks == 0 {
            return self.best;
        }
        let is_stale = |choice: &Choice| {
            choice
                .measured
                .as_ref()
                .is_none_or(|measured| self.chunks - measured.chunk > MEASURED_LATELY_CHUNKS)
        };
        // The heavier neighbour and the lighter one in turn.
        let heavier = (self.chunks / TRY_EVERY_CHUNKS).is_multiple_of(2);
        let neighbour = match heavier {
            true => (self.best + 1).min(self.choices.len() - 1),
            false => self.best.saturating_sub(1),
        };
        match is_stale(&self.choices[neighbour]) {
            true => neighbour,
            false => self.best,
        }
    }

    fn measure(&mut self, chunk: &EncodedChunk) {
        let chunks = self.chunks;
        let Some(choice) = self
            .choices
            .iter_mut()
            .find(|choice| choice.compression == chunk.compression)
        else {
            return;
        };
        let plain_bytes = chunk.plain_bytes as f64;
        let seen = Cost {
            nanoseconds: chunk.busy.as_nanos() as f64 / plain_bytes,
            wire_bytes: chunk.wire_bytes as f64 / plain_bytes,
        };
        let cost = match &choice.measured {
            None => seen,
            Some(before) => Cost {
                nanoseconds: mix(before.cost.nanoseconds, seen.nanoseconds),
                wire_bytes: mix(before.cost.wire_bytes, seen.wire_bytes),
            },
        };
        choice.measured = Some(Measured {
            cost,
            chunk: chunks,
        });
    }

    fn judge_link(&mut self, elapsed: Duration) {
        let rate = self.window.wire_bytes as f64 / elapsed.as_secs_f64();
        let (busy, waiting) = (
            self.window.busy.as_secs_f64(),
            self.window.waiting.as_secs_f64(),
        );
        let share = waiting / (busy + waiting).max(f64::MIN_POSITIVE);
        if share >= WAITING_MUCH {
            self.link_rate = (self.link_rate + rate) / 2.0;
            self.growth = GROWTH_MIN;
        } else if share <= WAITING_LITTLE {
            self.link_rate = self.link_rate.max(rate) * self.growth;
            self.growth = (1.0 + (self.growth - 1.0) * GROWTH_OF_GROWTH).min(GROWTH_MAX);
        } else {
            self.link_rate = self.link_rate.max(rate);
        }
    }

    fn soonest(&self) -> usize {
        let time = |index: usize| {
            let cost = self.cost(index);
            (cost.nanoseconds / 1e9 / self.encoders).max(cost.wire_bytes / self.link_rate)
        };
        let current = time(self.best);
        (0..self.choices.len())
            .filter(|index| time(*index) < current * (1.0 - GAIN_MIN))
            .min_by(|a, b| time(*a).total_cmp(&time(*b)))
            .unwrap_or(self.best)
    }

    /// What a choice costs: measured, or by the table from the nearest that was.
    fn cost(&self, index: usize) -> Cost {
        let choice = &self.choices[index];
        if let Some(measured) = &choice.measured {
            return measured.cost;
        }
        let known = (0..self.choices.len())
            .filter_map(|other| Some((other, self.choices[other].measured.as_ref()?)))
            .min_by_key(|(other, _)| other.abs_diff(index));
        match known {
            None => choice.typical,
            Some((other, measured)) => {
                let typical = self.choices[other].typical;
                Cost {
                    nanoseconds: measured.cost.nanoseconds * choice.typical.nanoseconds
                        / typical.nanoseconds,
                    // Contents that do not compress at all are not made smaller by more effort.
                    wire_bytes: (measured.cost.wire_bytes * choice.typical.wire_bytes
                        / typical.wire_bytes)
                        .min(1.0),
                }
            }
        }
    }
}

impl Window {
    fn new(begun: Duration) -> Self {
        Self {
            begun,
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

fn mix(before: f64, seen: f64) -> f64 {
    before + NEW * (seen - before)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine on which zstd takes so many times what the table says, and a link.
    struct World {
        slowness: f64,
        compresses: bool,
        link_rate: f64,
    }

    impl World {
        fn cost(&self, chooser: &Chooser, compression: Compression) -> Cost {
            let typical = chooser
                .choices
                .iter()
                .find(|choice| choice.compression == compression)
                .unwrap()
                .typical;
            Cost {
                nanoseconds: typical.nanoseconds * self.slowness,
                wire_bytes: match self.compresses {
                    true => typical.wire_bytes,
                    false => 1.0,
                },
            }
        }

        /// Seconds that a byte takes by this choice, two encoders at work.
        fn time(&self, chooser: &Chooser, compression: Compression) -> f64 {
            let cost = self.cost(chooser, compression);
            (cost.nanoseconds / 2e9).max(cost.wire_bytes / self.link_rate)
        }

        /// Sends chunks of 256 KiB; the time that they take together.
        fn run(&self, chooser: &mut Chooser, chunks: usize, mut now: f64) -> f64 {
            const PLAIN: f64 = 262_144.0;
            let begun = now;
            for _ in 0..chunks {
                let compression = chooser.choose();
                let cost = self.cost(chooser, compression);
                let busy = cost.nanoseconds * PLAIN / 1e9;
                let took = self.time(chooser, compression) * PLAIN;
                now += took;
                chooser.encoded(
                    &EncodedChunk {
                        compression,
                        plain_bytes: PLAIN as u64,
                        wire_bytes: (cost.wire_bytes * PLAIN) as u64,
                        busy: Duration::from_secs_f64(busy),
                        // Two encoders share the time that a chunk takes.
                        waiting: Duration::from_secs_f64((took * 2.0 - busy).max(0.0)),
                    },
                    Duration::from_secs_f64(now),
                );
            }
            now - begun
        }

        fn best_fixed(&self, chooser: &Chooser, chunks: usize) -> f64 {
            let times = chooser
                .choices
                .iter()
                .map(|choice| self.time(chooser, choice.compression));
            times.fold(f64::INFINITY, f64::min) * 262_144.0 * chunks as f64
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
                    let mut chooser = Chooser::new(2);
                    // Two seconds' worth: it takes some windows to know the link.
                    let chunks = (2.0 / world.best_fixed(&chooser, 1)).max(100.0) as usize;
                    let took = world.run(&mut chooser, chunks, 0.0);
                    let best = world.best_fixed(&chooser, chunks);
                    assert!(
                        took < best / 0.93,
                        "{compresses} {slowness} {link_rate}: {took} s, best {best} s"
                    );
                }
            }
        }
    }

    #[test]
    fn it_follows_a_link_that_changes() {
        let mut world = World {
            slowness: 1.0,
            compresses: true,
            link_rate: 12e6,
        };
        let mut chooser = Chooser::new(2);
        let mut now = world.run(&mut chooser, 400, 0.0);
        world.link_rate = 1e10;
        now += world.run(&mut chooser, 2000, now);
        let took = world.run(&mut chooser, 1000, now);
        assert!(took < world.best_fixed(&chooser, 1000) / 0.9);
        now += took;
        world.link_rate = 12e6;
        now += world.run(&mut chooser, 200, now);
        let took = world.run(&mut chooser, 400, now);
        assert!(took < world.best_fixed(&chooser, 400) / 0.9);
    }

    #[test]
    fn small_chunks_say_nothing_about_speed() {
        let mut chooser = Chooser::new(2);
        for second in 0..1000 {
            let chunk = EncodedChunk {
                compression: chooser.choose(),
                plain_bytes: 100,
                wire_bytes: 100,
                busy: Duration::from_millis(1),
                waiting: Duration::from_millis(100),
            };
            chooser.encoded(&chunk, Duration::from_secs(second));
        }
        assert!(
            chooser
                .choices
                .iter()
                .all(|choice| choice.measured.is_none())
        );
    }
}
