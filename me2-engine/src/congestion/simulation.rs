//! Congestion control against paths that are made up, in virtual time: a link with a queue, random
//! loss, and threads that look at the network only now and then.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::Congestion;

const PACKET: u64 = 1452;
const TICK: Duration = Duration::from_micros(100);

/// What a sender asks about its window. Also kept by a flow like TCP's, to compete with.
trait Control {
    fn window(&self) -> u64;
    fn acked(&mut self, sent: Instant, bytes: u64);
    fn lost(&mut self, now: Instant, sent: Instant, bytes: u64);
    fn batch_ended(&mut self, now: Instant, in_flight: u64, app_limited: bool);
}

impl Control for Congestion {
    fn window(&self) -> u64 {
        self.window()
    }
    fn acked(&mut self, sent: Instant, bytes: u64) {
        self.acked(sent, bytes);
    }
    fn lost(&mut self, _now: Instant, _sent: Instant, bytes: u64) {
        self.lost(bytes, false);
    }
    fn batch_ended(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        self.batch_ended(now, in_flight, app_limited);
    }
}

/// TCP's Reno: doubles, then one packet a round trip; half at each loss.
struct Reno {
    window: f64,
    threshold: f64,
    halved: Instant,
}

impl Control for Reno {
    fn window(&self) -> u64 {
        self.window as u64
    }
    fn acked(&mut self, _sent: Instant, bytes: u64) {
        let bytes = bytes as f64;
        self.window += match self.window < self.threshold {
            true => bytes,
            false => bytes * PACKET as f64 / self.window,
        };
    }
    fn lost(&mut self, now: Instant, sent: Instant, _bytes: u64) {
        if sent > self.halved {
            self.window = (self.window / 2.0).max(2.0 * PACKET as f64);
            self.threshold = self.window;
            self.halved = now;
        }
    }
    fn batch_ended(&mut self, _now: Instant, _in_flight: u64, _app_limited: bool) {}
}

/// A path.
#[derive(Clone)]
struct World {
    /// Bytes a second, from so many seconds on.
    rates: Vec<(f64, f64)>,
    round_trip: Duration,
    queue_bytes: u64,
    /// Share of packets.
    loss: f64,
    /// The threads at both ends look only so often, at random up to twice.
    wakes_every: Duration,
}

const MBIT: f64 = 1e6 / 8.0;

fn link_a() -> World {
    World {
        rates: vec![(0.0, 1000.0 * MBIT)],
        round_trip: Duration::from_millis(1),
        queue_bytes: 256 << 10,
        loss: 0.0,
        wakes_every: Duration::from_micros(300),
    }
}

fn link_b() -> World {
    World {
        rates: vec![(0.0, 100.0 * MBIT)],
        round_trip: Duration::from_millis(50),
        queue_bytes: 625_000,
        loss: 0.0,
        wakes_every: Duration::from_micros(500),
    }
}

fn link_c(loss: f64) -> World {
    World {
        rates: vec![(0.0, 200.0 * MBIT)],
        round_trip: Duration::from_millis(100),
        queue_bytes: 2_500_000,
        loss,
        wakes_every: Duration::from_micros(500),
    }
}

#[derive(Clone, Copy)]
struct Packet {
    flow: usize,
    number: u64,
    sent: Duration,
}

struct Flow {
    control: Box<dyn Control>,
    begins: Duration,
    next: u64,
    outstanding: VecDeque<Packet>,
    tokens: f64,
    smoothed: f64,
    arriving: VecDeque<(Duration, Packet)>,
    woke_at: Duration,
    wakes_at: Duration,
    /// Delivered by tenths of seconds.
    delivered: Vec<u64>,
}

/// What came of it.
struct Outcome {
    /// Bytes delivered by tenths of seconds, of each flow.
    delivered: Vec<Vec<u64>>,
    /// How long packets waited in the queue, in milliseconds, from the third second on.
    waits_ms: Vec<f64>,
    sent: u64,
    dropped: u64,
}

impl Outcome {
    /// Bytes a second from one moment to another, in seconds.
    fn rate(&self, flow: usize, from: f64, until: f64) -> f64 {
        let (first, last) = ((from * 10.0) as usize, (until * 10.0) as usize);
        self.delivered[flow][first..last].iter().sum::<u64>() as f64 / (until - from)
    }

    fn wait_ms(&self, quantile: f64) -> f64 {
        let mut sorted = self.waits_ms.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[((sorted.len() - 1) as f64 * quantile) as usize]
    }

    fn dropped(&self) -> f64 {
        self.dropped as f64 / self.sent as f64
    }
}

struct Simulation {
    world: World,
    epoch: Instant,
    now: Duration,
    random: u64,
    flows: Vec<Flow>,
    queue: VecDeque<(Duration, Packet)>,
    credit: f64,
    /// From one moment to another, in seconds, threads wake only so often.
    late: Option<(f64, f64, Duration)>,
    outcome: Outcome,
}

impl Simulation {
    fn new(world: World, seed: u64) -> Self {
        Self {
            world,
            epoch: Instant::now(),
            now: Duration::ZERO,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            flows: Vec::new(),
            queue: VecDeque::new(),
            credit: 0.0,
            late: None,
            outcome: Outcome {
                delivered: Vec::new(),
                waits_ms: Vec::new(),
                sent: 0,
                dropped: 0,
            },
        }
    }

    fn ours(mut self, begins_s: f64) -> Self {
        let control = Congestion::new(64 << 10, PACKET, self.epoch);
        self.add(Box::new(control), begins_s);
        self
    }

    fn reno(mut self, begins_s: f64) -> Self {
        let control = Reno {
            window: 10.0 * PACKET as f64,
            threshold: f64::INFINITY,
            halved: self.epoch,
        };
        self.add(Box::new(control), begins_s);
        self
    }

    fn add(&mut self, control: Box<dyn Control>, begins_s: f64) {
        self.flows.push(Flow {
            control,
            begins: Duration::from_secs_f64(begins_s),
            next: 0,
            outstanding: VecDeque::new(),
            tokens: 0.0,
            smoothed: self.world.round_trip.as_secs_f64(),
            arriving: VecDeque::new(),
            woke_at: Duration::ZERO,
            wakes_at: Duration::ZERO,
            delivered: Vec::new(),
        });
    }

    fn run(mut self, seconds: f64) -> Outcome {
        let end = Duration::from_secs_f64(seconds);
        while self.now < end {
            self.now += TICK;
            self.transmit();
            for flow in 0..self.flows.len() {
                if self.now >= self.flows[flow].begins && self.now >= self.flows[flow].wakes_at {
                    self.wake(flow);
                }
            }
        }
        for flow in &mut self.flows {
            flow.delivered.resize((seconds * 10.0) as usize + 1, 0);
            self.outcome
                .delivered
                .push(std::mem::take(&mut flow.delivered));
        }
        self.outcome
    }

    fn random(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    fn rate(&self) -> f64 {
        let now = self.now.as_secs_f64();
        let begun = self.world.rates.iter().rev().find(|(from, _)| *from <= now);
        begun.expect("from the beginning on").1
    }

    fn wakes_every(&self) -> Duration {
        let now = self.now.as_secs_f64();
        match self.late {
            Some((from, until, late)) if (from..until).contains(&now) => late,
            _ => self.world.wakes_every,
        }
    }

    /// The link carries what a tick takes.
    fn transmit(&mut self) {
        let takes = self.rate() * TICK.as_secs_f64();
        self.credit = (self.credit + takes).min(takes + PACKET as f64);
        while self.credit >= PACKET as f64 {
            let Some((queued, packet)) = self.queue.pop_front() else {
                break;
            };
            self.credit -= PACKET as f64;
            if self.now > Duration::from_secs(3) {
                let wait = self.now.saturating_sub(queued);
                self.outcome.waits_ms.push(wait.as_secs_f64() * 1e3);
            }
            if self.random() >= self.world.loss {
                let arrives = self.now + self.world.round_trip;
                self.flows[packet.flow]
                    .arriving
                    .push_back((arrives, packet));
                let tenth = (self.now.as_secs_f64() * 10.0) as usize;
                let delivered = &mut self.flows[packet.flow].delivered;
                delivered.resize(delivered.len().max(tenth + 1), 0);
                delivered[tenth] += PACKET;
            }
        }
    }

    /// A sender's thread runs: it takes acknowledgements, and sends.
    fn wake(&mut self, number: usize) {
        let slept = self.wakes_every().as_secs_f64() * 2.0 * self.random();
        let (now, at) = (self.now, self.epoch + self.now);
        let flow = &mut self.flows[number];
        let elapsed = (now - flow.woke_at).as_secs_f64();
        flow.woke_at = now;
        flow.wakes_at = now + Duration::from_secs_f64(slept);
        let mut largest = None;
        while flow.arriving.front().is_some_and(|(when, _)| *when <= now) {
            let (_, packet) = flow.arriving.pop_front().expect("looked at");
            if let Some(place) = flow
                .outstanding
                .iter()
                .position(|sent| sent.number == packet.number)
            {
                flow.outstanding.remove(place);
                flow.control.acked(self.epoch + packet.sent, PACKET);
                largest = Some(packet.number);
                let round_trip = (now - packet.sent).as_secs_f64();
                flow.smoothed += (round_trip - flow.smoothed) / 8.0;
            }
        }
        if let Some(largest) = largest {
            let in_flight = flow.outstanding.len() as u64 * PACKET;
            flow.control.batch_ended(at, in_flight, false);
            while let Some(first) = flow.outstanding.front().copied()
                && first.number + 3 <= largest
            {
                flow.outstanding.pop_front();
                flow.control.lost(at, self.epoch + first.sent, PACKET);
            }
        }
        self.send(number, elapsed);
    }

    fn send(&mut self, number: usize, elapsed: f64) {
        let now = self.now;
        let flow = &mut self.flows[number];
        let window = flow.control.window() as f64;
        let pace = 1.25 * window / flow.smoothed;
        let burst =
            (window * 0.002 / flow.smoothed).clamp(10.0 * PACKET as f64, 256.0 * PACKET as f64);
        flow.tokens = (flow.tokens + pace * elapsed).min(burst);
        while flow.tokens >= PACKET as f64
            && ((flow.outstanding.len() + 1) as u64 * PACKET) as f64 <= window
        {
            flow.tokens -= PACKET as f64;
            let packet = Packet {
                flow: number,
                number: flow.next,
                sent: now,
            };
            flow.next += 1;
            flow.outstanding.push_back(packet);
            self.outcome.sent += 1;
            if (self.queue.len() as u64 + 1) * PACKET > self.world.queue_bytes {
                self.outcome.dropped += 1;
            } else {
                self.queue.push_back((now, packet));
            }
        }
    }
}

const SEEDS: [u64; 3] = [1, 2, 3];

fn check(name: &str, world: &World, share_min: f64, waits_max: (f64, f64), dropped_max: f64) {
    for seed in SEEDS {
        let outcome = Simulation::new(world.clone(), seed).ours(0.0).run(12.0);
        let share = outcome.rate(0, 2.0, 12.0) / world.rates[0].1;
        let (p50, p99) = (outcome.wait_ms(0.5), outcome.wait_ms(0.99));
        let dropped = outcome.dropped();
        println!(
            "{name}: {share:.3} of the link, queue {p50:.1} / {p99:.1} ms, {dropped:.4} dropped"
        );
        assert!(share >= share_min * (1.0 - world.loss), "{name}: {share}");
        assert!(
            p50 <= waits_max.0 && p99 <= waits_max.1,
            "{name}: {p50} / {p99} ms"
        );
        assert!(dropped <= dropped_max, "{name}: {dropped} dropped");
    }
}

#[test]
fn a_clean_link_is_filled_without_a_queue() {
    check("A", &link_a(), 0.95, (2.2, 2.3), 0.02);
    check("B", &link_b(), 0.965, (3.0, 12.0), 0.01);
}

#[test]
fn random_loss_is_not_congestion() {
    check("C", &link_c(0.001), 0.965, (3.0, 25.0), 0.01);
    check("C 1%", &link_c(0.01), 0.965, (3.0, 25.0), 0.01);
    check("C 3%", &link_c(0.03), 0.6, (3.0, 25.0), 0.01);
}

#[test]
fn a_rate_that_changes_is_followed() {
    for seed in SEEDS {
        let mut world = link_c(0.0);
        world.rates = vec![
            (0.0, 200.0 * MBIT),
            (6.0, 80.0 * MBIT),
            (14.0, 200.0 * MBIT),
        ];
        let outcome = Simulation::new(world, seed).ours(0.0).run(20.0);
        let lower = outcome.rate(0, 7.0, 13.0) / (80.0 * MBIT);
        let back = outcome.rate(0, 16.0, 20.0) / (200.0 * MBIT);
        println!(
            "lower {lower:.3}, back {back:.3}, {:.4} dropped",
            outcome.dropped()
        );
        assert!(lower > 0.9 && back > 0.9, "{lower} {back}");
    }
}

#[test]
fn two_flows_share_fairly() {
    for seed in SEEDS {
        let outcome = Simulation::new(link_b(), seed)
            .ours(0.0)
            .ours(3.0)
            .run(40.0);
        let shares = [0, 1].map(|flow| outcome.rate(flow, 15.0, 40.0) / (100.0 * MBIT));
        println!(
            "shares {shares:.3?}, queue p50 {:.1} ms",
            outcome.wait_ms(0.5)
        );
        assert!(shares[0].min(shares[1]) > 0.3, "{shares:?}");
        assert!(shares[0] + shares[1] > 0.9, "{shares:?}");
    }
}

#[test]
fn beside_tcp_neither_starves() {
    for seed in SEEDS {
        let outcome = Simulation::new(link_b(), seed)
            .ours(0.0)
            .reno(3.0)
            .run(40.0);
        let shares = [0, 1].map(|flow| outcome.rate(flow, 15.0, 40.0) / (100.0 * MBIT));
        println!(
            "ours and TCP's {shares:.3?}, queue p50 {:.1} ms",
            outcome.wait_ms(0.5)
        );
        assert!(shares[1] > 0.15, "TCP's {shares:?}");
        assert!(shares[0] > 0.15, "ours {shares:?}");
    }
}

/// Threads that run late for some seconds, since others have the processor. Meanwhile the pacer is the
/// limit: it lets go what two milliseconds take, however late it is asked. But what is seen then says
/// nothing about the link.
#[test]
fn late_threads_do_not_starve_it() {
    let loopback = World {
        rates: vec![(0.0, 4000.0 * MBIT)],
        round_trip: Duration::from_micros(200),
        queue_bytes: 4 << 20,
        loss: 0.0,
        wakes_every: Duration::from_micros(100),
    };
    for (name, world, late_ms, share_min) in [
        ("A", link_a(), 2, 0.6),
        ("A", link_a(), 10, 0.01),
        ("loopback", loopback.clone(), 2, 0.25),
        ("loopback", loopback.clone(), 10, 0.005),
        ("B", link_b(), 10, 0.12),
        ("C 1%", link_c(0.01), 10, 0.12),
        ("C 1%", link_c(0.01), 30, 0.04),
    ] {
        for seed in SEEDS {
            let mut simulation = Simulation::new(world.clone(), seed).ours(0.0);
            simulation.late = Some((3.0, 8.0, Duration::from_millis(late_ms)));
            let outcome = simulation.run(14.0);
            let share = |from, until| outcome.rate(0, from, until) / world.rates[0].1;
            let (late, after) = (share(4.0, 8.0), share(10.0, 14.0));
            println!("{name}, {late_ms} ms late: {late:.3} of the link, then {after:.3}");
            assert!(late >= share_min, "{name}, {late_ms} ms late: {late}");
            assert!(after >= 0.95, "{name}, {late_ms} ms late: then {after}");
        }
    }
}
