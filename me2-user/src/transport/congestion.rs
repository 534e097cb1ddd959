//! me2's congestion control, where quinn expects one of its own.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use me2_engine::{
    compression::LinkUse,
    congestion::{Congestion, PathEstimate},
};
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

use super::pace::Pacer;

/// What may be under way before anything was acknowledged: rather more than a
/// web page's first flight, as there is always much to send. 100 Mbit/s over
/// 50 ms are filled two round trips sooner than from the usual ten packets.
const INITIAL_WINDOW_BYTES: u64 = 64 << 10;

/// How much later than after a round trip acknowledgements may come: they are kept back for 5 ms,
/// packets for a slice of the cap, and threads are late.
const CAPPED_LATE: Duration = Duration::from_millis(25);

/// From this part on, a window is full.
const FULL_PART: f64 = 0.9;

/// A window that lets nothing go. QUIC divides by it.
const WINDOW_BYTES_NONE: u64 = 1;

/// Makes a controller for each path.
pub struct PathControl {
    pacer: Arc<Pacer>,
}

impl PathControl {
    /// Controllers that know when it is the cap, and not the link, that packets wait for.
    pub fn new(pacer: Arc<Pacer>) -> Self {
        Self { pacer }
    }
}

/// What a connection knows of its path, as of now.
pub fn estimate(connection: &quinn::Connection) -> PathEstimate {
    controller(connection).congestion.estimate()
}

/// The congestion window of a connection, in bytes, whether or not the cap lets it be used.
pub fn window(connection: &quinn::Connection) -> u64 {
    controller(connection).usual_window()
}

/// Counts what a connection's link is used for, from now on too.
pub fn usage(connection: &quinn::Connection) -> Arc<Usage> {
    controller(connection).usage.clone()
}

/// Bytes that went over a link, and how many of them while it was full.
#[derive(Debug, Default)]
pub struct Usage {
    acknowledged: AtomicU64,
    while_full: AtomicU64,
}

impl Usage {
    /// Until now.
    pub fn so_far(&self) -> LinkUse {
        LinkUse {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            while_full: self.while_full.load(Ordering::Relaxed),
        }
    }

    fn add(&self, acknowledged: u64, is_full: bool) {
        self.acknowledged.fetch_add(acknowledged, Ordering::Relaxed);
        if is_full {
            self.while_full.fetch_add(acknowledged, Ordering::Relaxed);
        }
    }
}

fn controller(connection: &quinn::Connection) -> Box<PathController> {
    let controller = connection.congestion_state().into_any();
    controller.downcast().expect("every connection has it")
}

impl ControllerFactory for PathControl {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let packet = u64::from(current_mtu);
        Box::new(PathController {
            congestion: Congestion::new(INITIAL_WINDOW_BYTES, packet, now),
            pacer: self.pacer.clone(),
            usage: Arc::default(),
            round_trip: Duration::ZERO,
            acked: 0,
        })
    }
}

#[derive(Clone)]
struct PathController {
    congestion: Congestion,
    pacer: Arc<Pacer>,
    usage: Arc<Usage>,
    /// The least that was seen.
    round_trip: Duration,
    /// In the present batch, in bytes.
    acked: u64,
}

impl PathController {
    /// The window while the cap is not used up.
    fn usual_window(&self) -> u64 {
        self.congestion.window().max(self.capped_window())
    }

    /// What the cap lets through until acknowledgements come, while it is the cap that limits. The
    /// model of the path knows less then: it would see packets in slices, and acknowledgements that
    /// come late because they are few, and take it for a queue. So it learns nothing meanwhile, and
    /// is as it was when the link becomes the limit.
    fn capped_window(&self) -> u64 {
        match self.pacer.bytes_in(self.round_trip + CAPPED_LATE) {
            Some(bytes) if self.pacer.is_limit() => bytes,
            _ => 0,
        }
    }
}

impl Controller for PathController {
    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        round_trip: &RttEstimator,
    ) {
        self.round_trip = round_trip.min();
        self.acked += bytes;
        if !self.pacer.is_limit() {
            self.congestion.acked(sent, bytes);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        let acked = std::mem::take(&mut self.acked);
        let in_flight_before = in_flight + acked;
        let is_full = in_flight_before as f64 >= FULL_PART * self.usual_window() as f64;
        self.pacer.note_link(is_full);
        let is_capped = self.pacer.is_limit();
        self.usage.add(acked, is_full || is_capped);
        if !is_capped {
            self.congestion.batch_ended(now, in_flight, app_limited);
        }
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        match lost_bytes {
            0 => self.congestion.marked(),
            _ => self.congestion.lost(lost_bytes, is_persistent_congestion),
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.congestion.set_packet(u64::from(new_mtu));
    }

    fn window(&self) -> u64 {
        if self.pacer.is_used_up() {
            return WINDOW_BYTES_NONE;
        }
        self.usual_window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.usual_window();
        metrics.pacing_rate = Some((self.congestion.estimate().rate * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.congestion.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
