//! What QUIC is told about the links and the load: one place for every number.

use std::sync::Arc;
use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use crate::transport::{congestion::PathControl, pace::Pacer, qlog::Qlog};

/// The largest UDP payload sent or accepted, in bytes: Ethernet's 1500 less the
/// IPv6 and UDP headers.
///
/// Not more, though loopback and jumbo frames would take it: with 8952 a burst
/// that overflows a socket's buffer looks to QUIC like a black hole for large
/// packets, which throws it back to 1200: over loopback 1452 was faster each time.
pub const UDP_PAYLOAD_BYTES_MAX: u16 = 1452;

/// How soon larger packets are tried again after such a black hole. On a lossy
/// link most of these are false: quinn's minute would be spent at 1200.
const MTU_RETRY: Duration = Duration::from_secs(1);

/// Keeps NAT bindings and the round-trip estimate fresh while nothing is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// A link that is silent for so long is broken. Several keep-alives may be
/// lost before, and a routing change of some seconds is survived.
const IDLE_TIMEOUT_MS: u32 = 15_000;

/// What one stream may have under way: 1 Gbit/s × 250 ms, so that a single
/// bulk stream can fill the longest link that is meant.
pub const STREAM_RECEIVE_WINDOW_BYTES: u32 = 32 << 20;

/// All streams together, in bytes: twice one stream's, so that a bulk stream whose
/// reader is slow never takes the credit that faults and control need. Also
/// what a trusted but hostile peer can make this process hold.
pub const RECEIVE_WINDOW: VarInt = VarInt::from_u32(64 << 20);

/// The same before a peer is the one that a receiver is busy with: room for a hello and a machine
/// document.
pub const RECEIVE_WINDOW_BEFORE: VarInt = VarInt::from_u32(512 << 10);

/// Sent and not yet acknowledged, all streams together, in bytes: as one
/// stream may have under way. More would only queue up in front of a fault.
const SEND_WINDOW_BYTES: u64 = 32 << 20;

/// Two-way streams open at once: control, and one a fault answer, many in flight.
const TWO_WAY_STREAMS_MAX: u32 = 4096;

/// One-way streams open at once: bulk, and those of the handover. Each can make the receiver hold a
/// frame.
const ONE_WAY_STREAMS_MAX: u32 = 32;

/// One acknowledgement for so many packets: each is a packet of its own, and costs both ends and the
/// link about what a packet of data costs. Packets out of order are told of at once.
const PACKETS_PER_ACKNOWLEDGEMENT: u32 = 10;

/// Nor is one kept back for longer than this.
const ACKNOWLEDGEMENT_DELAY: Duration = Duration::from_millis(5);

/// The parameters of every connection, at both ends alike but for the cap, for what the other end
/// may have under way, and for where it is recorded.
pub fn transport_config(
    pacer: &Arc<Pacer>,
    receive_window: VarInt,
    qlog: &Qlog,
) -> Arc<TransportConfig> {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_BYTES_MAX)
        .black_hole_cooldown(MTU_RETRY);

    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements
        .ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACKNOWLEDGEMENT))
        .max_ack_delay(Some(ACKNOWLEDGEMENT_DELAY));

    let mut config = TransportConfig::default();
    config
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_WINDOW_BYTES))
        .receive_window(receive_window)
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(TWO_WAY_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(ONE_WAY_STREAMS_MAX))
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(PathControl::new(pacer.clone())))
        .ack_frequency_config(Some(acknowledgements))
        .mtu_discovery_config(Some(mtu))
        .qlog_stream(qlog.stream());
    Arc::new(config)
}
