//! The link made by the kernel: a veth pair, with the netem queueing discipline at both ends.
//!
//! What is different from the emulator is told at [`Backend::Netem`](crate::Backend::Netem).

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::LinkError;
use crate::counters::{Counters, LinkStats};
use crate::loss::Loss;
use crate::namespace::Namespace;
use crate::spec::{Action, Change, DirectionSpec, End, LinkSpec, MTU};
use crate::tun::DEVICE;

/// What netem counts beyond the IP packet.
const ETHERNET_HEADER_BYTES: u64 = 14;
/// Packets that netem may hold where the rate has no limit.
const UNLIMITED_PACKETS: u64 = 100_000;

/// A link by netem. The device at each end bears the same name as with the emulator.
#[derive(Debug)]
pub(crate) struct Netem {
    inner: Arc<Inner>,
    /// Closed to stop the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    namespaces: Arc<[Namespace; 2]>,
    round_trip: Duration,
    /// As they are now.
    directions: [Mutex<Now>; 2],
}

#[derive(Debug)]
struct Now {
    spec: DirectionSpec,
    first_rate: u64,
    cut: bool,
}

/// Whether this kernel has netem, tried on the loopback of a namespace.
pub(crate) fn is_available(namespace: &Namespace) -> bool {
    let available = namespace.tc("qdisc add dev lo root netem").is_ok();
    if available {
        // An empty netem changes nothing, should it stay.
        let _ = namespace.tc("qdisc delete dev lo root");
    }
    available
}

impl Netem {
    pub(crate) fn start(
        spec: &LinkSpec,
        namespaces: &Arc<[Namespace; 2]>,
        started: Instant,
    ) -> Result<Self, LinkError> {
        if !is_available(&namespaces[0]) {
            return Err(LinkError::NoNetem);
        }
        join(namespaces)?;
        let now = |end| {
            let spec = spec.direction(end);
            Mutex::new(Now {
                first_rate: spec.rate_bits_per_second,
                spec,
                cut: false,
            })
        };
        let inner = Arc::new(Inner {
            namespaces: Arc::clone(namespaces),
            round_trip: spec.round_trip(),
            directions: [now(End::A), now(End::B)],
        });
        for end in [End::A, End::B] {
            inner.set(end, "add")?;
        }
        let (stop, stopped) = channel::<()>();
        let schedule = schedule(spec);
        let work = {
            let inner = Arc::clone(&inner);
            move || {
                for (end, Change { at, action }) in schedule {
                    let wait = (started + at).saturating_duration_since(Instant::now());
                    if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                    if let Err(error) = inner.apply(end, action) {
                        eprintln!("the link's schedule: {error}");
                    }
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("link schedule".into())
            .spawn(work)
            .map_err(LinkError::system("cannot start a thread"))?;
        Ok(Self {
            inner,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    pub(crate) fn stats(&self) -> LinkStats {
        LinkStats {
            a_to_b: self.inner.counters(End::A),
            b_to_a: self.inner.counters(End::B),
        }
    }

    pub(crate) fn apply(&self, from: End, action: Action) -> Result<(), LinkError> {
        self.inner.apply(from, action)
    }
}

impl Drop for Netem {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has already been printed.
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn apply(&self, from: End, action: Action) -> Result<(), LinkError> {
        {
            let mut now = self.now(from);
            match action {
                Action::Cut => now.cut = true,
                Action::Mend => now.cut = false,
                Action::Rate { bits_per_second } => now.spec.rate_bits_per_second = bits_per_second,
            }
        }
        self.set(from, "change")
    }

    fn set(&self, from: End, verb: &str) -> Result<(), LinkError> {
        let arguments = arguments(&self.now(from), self.round_trip);
        self.at(from)
            .tc(&format!("qdisc {verb} dev {DEVICE} root {arguments}"))
            .map(drop)
    }

    /// Zeros if `tc` fails, which it did not when the link was made.
    fn counters(&self, from: End) -> Counters {
        let shown = self
            .at(from)
            .tc(&format!("-s -j qdisc show dev {DEVICE} root"));
        shown.map(|shown| counters(&shown)).unwrap_or_default()
    }

    fn now(&self, from: End) -> std::sync::MutexGuard<'_, Now> {
        self.directions[from as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, end: End) -> &Namespace {
        &self.namespaces[end as usize]
    }
}

/// Joins the namespaces by a veth pair, up and with addresses. Neighbours are fixed, so that
/// nothing but IP travels, and segments are not bundled, so that netem sees single packets.
fn join(namespaces: &[Namespace; 2]) -> Result<(), LinkError> {
    let [a, b] = namespaces;
    a.ip(&[&format!(
        "link add {DEVICE} type veth peer name {DEVICE} netns {}",
        b.name()
    )])?;
    for (namespace, end) in [(a, End::A), (b, End::B)] {
        let hardware = |end: End| format!("02:00:00:00:77:0{}", end as usize + 1);
        let (own, other) = (end.address(), end.other().address());
        namespace.ip(&[
            &format!(
                "link set dev {DEVICE} address {} mtu {MTU} gso_max_segs 1",
                hardware(end)
            ),
            &format!("link set dev {DEVICE} addrgenmode none"),
            &format!("address add {own}/30 dev {DEVICE}"),
            &format!("link set dev {DEVICE} up"),
            &format!(
                "neighbour replace {other} lladdr {} dev {DEVICE} nud permanent",
                hardware(end.other())
            ),
        ])?;
    }
    Ok(())
}

fn schedule(spec: &LinkSpec) -> Vec<(End, Change)> {
    let of = |end| {
        spec.direction(end)
            .schedule
            .into_iter()
            .map(move |change| (end, change))
    };
    let mut schedule: Vec<_> = of(End::A).chain(of(End::B)).collect();
    schedule.sort_by_key(|(_, change)| change.at);
    schedule
}

/// The description of a direction for `tc`.
fn arguments(now: &Now, round_trip: Duration) -> String {
    let spec = &now.spec;
    let rate = spec.rate_bits_per_second;
    let percent = |share: f64| format!("{:.6}%", share * 100.0);
    let mut arguments = format!("netem limit {}", limit_packets(now, round_trip));
    if !spec.delay.is_zero() {
        let microseconds = |time: Duration| format!("{}us", time.as_micros());
        arguments += &format!(" delay {}", microseconds(spec.delay));
        if !spec.jitter.is_zero() {
            arguments += &format!(" {}", microseconds(spec.jitter));
        }
        if spec.reorder > 0.0 {
            arguments += &format!(" reorder {}", percent(spec.reorder));
        }
    }
    match spec.loss {
        _ if now.cut => arguments += " loss 100%",
        Loss::None => {}
        Loss::Random { probability } => arguments += &format!(" loss {}", percent(probability)),
        Loss::Bursts {
            begin,
            end,
            within,
            between,
        } => {
            let [begin, end, within, between] = [begin, end, within, between].map(percent);
            arguments += &format!(" loss gemodel {begin} {end} {within} {between}");
        }
    }
    if rate != 0 {
        // Bytes beyond the IP packet take no time.
        arguments += &format!(" rate {rate}bit -{ETHERNET_HEADER_BYTES}");
    }
    arguments
}

/// netem counts what waits for transmission and what is on its way, in packets.
fn limit_packets(now: &Now, round_trip: Duration) -> u64 {
    let rate = now.spec.rate_bits_per_second;
    if rate == 0 {
        return UNLIMITED_PACKETS;
    }
    let queue_rate = match now.spec.queue {
        crate::Queue::BandwidthDelay(_) => now.first_rate,
        _ => rate,
    };
    let queue = now.spec.queue.limit_bytes(queue_rate, round_trip);
    let on_its_way = (rate as f64 / 8.0 * now.spec.delay.as_secs_f64()) as u64;
    queue
        .saturating_add(on_its_way)
        .div_ceil(u64::from(MTU))
        .clamp(1, u64::from(u32::MAX))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Shown {
    kind: String,
    bytes: u64,
    packets: u64,
    drops: u64,
    backlog: u64,
    qlen: u64,
}

fn counters(shown: &[u8]) -> Counters {
    let disciplines: Vec<Shown> = serde_json::from_slice(shown).unwrap_or_default();
    let netem = disciplines
        .into_iter()
        .find(|one| one.kind == "netem")
        .unwrap_or_default();
    let of_ip = |bytes: u64, packets: u64| bytes.saturating_sub(ETHERNET_HEADER_BYTES * packets);
    let bytes = of_ip(netem.bytes, netem.packets);
    Counters {
        packets: netem.packets,
        bytes,
        delivered_packets: netem.packets,
        delivered_bytes: bytes,
        queue_drops: netem.drops,
        queue_bytes: of_ip(netem.backlog, netem.qlen),
        ..Counters::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_for_tc() {
        let spec = LinkSpec {
            jitter: Duration::from_millis(2),
            ..LinkSpec::c()
        };
        let mut now = Now {
            spec: spec.direction(End::A),
            first_rate: spec.rate_bits_per_second,
            cut: false,
        };
        assert_eq!(
            arguments(&now, spec.round_trip()),
            "netem limit 2500 delay 50000us 2000us loss 0.100000% rate 200000000bit -14"
        );
        now.cut = true;
        now.spec.rate_bits_per_second = 0;
        assert_eq!(
            arguments(&now, spec.round_trip()),
            "netem limit 100000 delay 50000us 2000us loss 100%"
        );
    }

    #[test]
    fn what_tc_shows() {
        let shown = br#"[{"kind":"netem","handle":"1:","root":true,"options":{"limit":1000},
            "bytes":15140,"packets":10,"drops":3,"overlimits":0,"requeues":0,
            "backlog":3028,"qlen":2}]"#;
        let counters = counters(shown);
        assert_eq!((counters.packets, counters.bytes), (10, 15_000));
        assert_eq!((counters.queue_drops, counters.queue_bytes), (3, 3000));
    }
}
