//! me2's congestion control, where quinn expects one of its own.

use std::{any::Any, sync::Arc, time::Instant};

use me2_engine::congestion::Congestion;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;

/// What may be under way before anything was acknowledged: rather more than a
/// web page's first flight, as there is always much to send. 100 Mbit/s over
/// 50 ms are filled two round trips sooner than from the usual ten packets.
const INITIAL_WINDOW_BYTES: u64 = 64 << 10;

/// Makes a controller for each path.
pub struct PathControl;

impl ControllerFactory for PathControl {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let packet = u64::from(current_mtu);
        Box::new(PathController(Congestion::new(
            INITIAL_WINDOW_BYTES,
            packet,
            now,
        )))
    }
}

#[derive(Clone)]
struct PathController(Congestion);

impl Controller for PathController {
    fn on_ack(
        &mut self,
        _now: Instant,
        sent: Instant,
        bytes: u64,
        _app_limited: bool,
        _rtt: &RttEstimator,
    ) {
        self.0.acked(sent, bytes);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        _largest_packet_num_acked: Option<u64>,
    ) {
        self.0.batch_ended(now, in_flight, app_limited);
    }

    fn on_congestion_event(
        &mut self,
        _now: Instant,
        _sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        match lost_bytes {
            0 => self.0.marked(),
            _ => self.0.lost(lost_bytes, is_persistent_congestion),
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.set_packet(u64::from(new_mtu));
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window();
        metrics.pacing_rate = Some((self.0.estimate().rate * 8.0) as u64);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
