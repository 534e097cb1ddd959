//! Real links between real network namespaces, measured from outside with plain sockets: is it
//! what was asked for? Needs root and TUN devices; without them, says so and checks nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use me2_link::{Backend, End, Link, LinkError, LinkSpec, Loss, Queue};

/// An end that had to wait for a processor says nothing about the link: then it is tried again.
const ATTEMPTS: usize = 6;
const PORT: u16 = 7777;

/// A link, and the right to be the only one that is measured.
fn link(spec: LinkSpec) -> Option<(Link, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    match Link::start(LinkSpec {
        backend: Backend::Emulator,
        ..spec
    }) {
        Ok(link) => Some((link, guard)),
        Err(reason @ (LinkError::NotRoot | LinkError::Tun(_) | LinkError::Program { .. })) => {
            eprintln!("SKIPPED, nothing was checked: {reason}");
            None
        }
        Err(error) => panic!("{error:?}"),
    }
}

/// A socket at an end, connected to its counterpart at the other end.
fn socket(link: &Link, end: End) -> UdpSocket {
    let bind = || {
        let socket = UdpSocket::bind((end.address(), PORT))?;
        socket.connect((end.other().address(), PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        std::io::Result::Ok(socket)
    };
    link.within(end, bind).unwrap().unwrap()
}

/// A number, and what else was received, until nothing comes for 0.3 s.
fn receive(socket: &UdpSocket) -> Vec<(u32, Duration)> {
    let mut received = Vec::new();
    let mut datagram = [0; 2000];
    while let Ok(bytes) = socket.recv(&mut datagram) {
        let now = clock();
        assert!(bytes >= 20);
        let number = u32::from_le_bytes(datagram[..4].try_into().unwrap());
        let sent = u128::from_le_bytes(datagram[4..20].try_into().unwrap());
        received.push((
            number,
            now.saturating_sub(Duration::from_nanos(sent as u64)),
        ));
    }
    received
}

/// Sends a datagram with its number and the time.
fn send(socket: &UdpSocket, number: u32, bytes: usize) {
    let mut datagram = vec![0; bytes];
    datagram[..4].copy_from_slice(&number.to_le_bytes());
    datagram[4..20].copy_from_slice(&clock().as_nanos().to_le_bytes());
    socket.send(&datagram).unwrap();
}

fn clock() -> Duration {
    static EPOCH: Mutex<Option<Instant>> = Mutex::new(None);
    EPOCH
        .lock()
        .unwrap()
        .get_or_insert_with(Instant::now)
        .elapsed()
}

/// What packets take that a busy machine does not hold up.
fn lower_quartile(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 4]
}

#[test]
fn the_rate_is_as_asked_for() {
    const RATE: f64 = 100e6;
    /// Of a full packet of 1500 bytes, with TCP time stamps.
    const PAYLOAD: f64 = 1448.0;
    let spec = LinkSpec {
        rate_bits_per_second: RATE as u64,
        delay: Duration::from_millis(5),
        queue: Queue::Milliseconds(50.0),
        ..LinkSpec::default()
    };
    let Some((link, _one)) = link(spec) else {
        return;
    };
    let expected = RATE * PAYLOAD / 1500.0;
    let rates: Vec<f64> = (0..ATTEMPTS)
        .map_while({
            let mut found = false;
            let link = &link;
            move |_| {
                let rate = (!found).then(|| tcp_rate(link))?;
                found = (rate / expected - 1.0).abs() < 0.03;
                Some(rate)
            }
        })
        .collect();
    let last = rates.last().unwrap() / expected;
    assert!(
        (0.97..1.03).contains(&last),
        "of what was asked for: {rates:?}"
    );

    let carried = link.stats().a_to_b;
    assert!(carried.queue_bytes_max <= 625_000, "{carried:?}");
    let history = link.history();
    assert!(history.len() > 10 && history.is_sorted_by_key(|sample| sample.stats.a_to_b.bytes));
    assert!(link.cpu_time() > Duration::ZERO);
}

/// Payload bits per second of a TCP stream from A to B, in a second after its start-up.
fn tcp_rate(link: &Link) -> f64 {
    let address = SocketAddr::new(link.address(End::B), PORT);
    let listener = link
        .within(End::B, || TcpListener::bind(address))
        .unwrap()
        .unwrap();
    let mut sender = link
        .within(End::A, || TcpStream::connect(address))
        .unwrap()
        .unwrap();
    let (mut receiver, _) = listener.accept().unwrap();
    let sending = std::thread::spawn(move || while sender.write_all(&[1; 1 << 16]).is_ok() {});
    let mut data = vec![0; 1 << 16];
    let mut read_for = |time: Duration| {
        let started = Instant::now();
        let mut bytes = 0;
        while started.elapsed() < time {
            bytes += receiver.read(&mut data).unwrap();
        }
        bytes as f64 * 8.0 / started.elapsed().as_secs_f64()
    };
    read_for(Duration::from_millis(400));
    let rate = read_for(Duration::from_secs(1));
    drop(receiver);
    sending.join().unwrap();
    rate
}

#[test]
fn the_delay_is_as_asked_for() {
    for delay in [Duration::from_micros(500), Duration::from_millis(20)] {
        let spec = LinkSpec {
            rate_bits_per_second: 1_000_000_000,
            delay,
            ..LinkSpec::default()
        };
        let Some((link, _one)) = link(spec) else {
            return;
        };
        let (a, b) = (socket(&link, End::A), socket(&link, End::B));
        for (from, to) in [(&a, &b), (&b, &a)] {
            let mut quartiles = Vec::new();
            let tolerance = (delay / 40).max(Duration::from_micros(300));
            let exact = (0..ATTEMPTS).any(|_| {
                let received = std::thread::scope(|scope| {
                    let receiving = scope.spawn(|| receive(to));
                    for number in 0..150 {
                        send(from, number, 100);
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    receiving.join().unwrap()
                });
                assert_eq!(received.len(), 150);
                let delays: Vec<_> = received.into_iter().map(|(_, delay)| delay).collect();
                // A packet by itself may be early by as much as the emulator naps.
                let early =
                    (delay / 50).clamp(Duration::from_micros(100), Duration::from_micros(400));
                let least = delays.iter().min().unwrap();
                assert!(*least >= delay - early, "{least:?} of {delay:?}");
                quartiles.push(lower_quartile(delays));
                quartiles.last().unwrap().abs_diff(delay) < tolerance
            });
            assert!(exact, "asked for {delay:?}, got {quartiles:?}");
        }
    }
}

#[test]
fn losses_are_as_many_as_asked_for() {
    const PACKETS: u32 = 4000;
    let spec = LinkSpec {
        rate_bits_per_second: 100_000_000,
        delay: Duration::from_millis(2),
        loss: Loss::Random { probability: 0.05 },
        ..LinkSpec::default()
    };
    let Some((link, _one)) = link(spec) else {
        return;
    };
    let (a, b) = (socket(&link, End::A), socket(&link, End::B));
    let received = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&b));
        for number in 0..PACKETS {
            send(&a, number, 100);
            // Small bursts, which the receiver's buffer holds should it come late.
            if number % 40 == 39 {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        receiving.join().unwrap().len() as u64
    });
    let stats = link.stats().a_to_b;
    assert_eq!(stats.packets, u64::from(PACKETS));
    assert_eq!(
        stats.bytes,
        u64::from(PACKETS) * 128,
        "with the headers of IP and UDP"
    );
    assert_eq!(received, stats.delivered_packets);
    assert_eq!(stats.delivered_packets + stats.loss_drops, stats.packets);
    // 200 expected, with a standard deviation of 14.
    assert!((130..270).contains(&stats.loss_drops), "{stats:?}");
}

#[test]
fn the_queue_is_bounded() {
    const QUEUE: u64 = 64 << 10;
    let spec = LinkSpec {
        rate_bits_per_second: 10_000_000,
        delay: Duration::from_millis(1),
        queue: Queue::Bytes(QUEUE),
        ..LinkSpec::default()
    };
    let Some((link, _one)) = link(spec) else {
        return;
    };
    let (a, b) = (socket(&link, End::A), socket(&link, End::B));
    let received = std::thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&b));
        (0..500).for_each(|number| send(&a, number, 1400));
        receiving.join().unwrap()
    });
    let stats = link.stats().a_to_b;
    assert!(
        (QUEUE - 1428..=QUEUE).contains(&stats.queue_bytes_max),
        "{stats:?}"
    );
    assert_eq!(stats.packets + stats.queue_drops, 500);
    assert_eq!(stats.queue_bytes, 0);
    assert_eq!(received.len() as u64, stats.packets);
    assert!(stats.queue_drops > 300, "{stats:?}");
    assert_eq!(link.device_drops().unwrap(), 0);
    // A full queue takes 52 ms.
    let longest = received.iter().map(|(_, delay)| *delay).max().unwrap();
    assert!((45..100).contains(&longest.as_millis()), "{longest:?}");
}

#[test]
fn a_cut_cuts_and_a_mended_link_carries() {
    let spec = LinkSpec {
        delay: Duration::from_millis(5),
        ..LinkSpec::default()
    };
    let Some((link, _one)) = link(spec) else {
        return;
    };
    let (a, b) = (socket(&link, End::A), socket(&link, End::B));
    let burst = || {
        (0..20).for_each(|number| send(&a, number, 100));
        receive(&b).len()
    };
    assert_eq!(burst(), 20);
    link.cut().unwrap();
    assert_eq!(burst(), 0);
    link.mend().unwrap();
    assert_eq!(burst(), 20);
    let stats = link.stats().a_to_b;
    assert_eq!(
        (stats.packets, stats.cut_drops, stats.delivered_packets),
        (40, 20, 40)
    );
}

#[test]
fn nothing_is_left_behind() {
    let mut child = Command::new("true").spawn().unwrap();
    let left = format!("me2-{}-a", child.id());
    child.wait().unwrap();
    let exists = |name: &str| std::path::Path::new("/run/netns").join(name).exists();

    let Some((link, _one)) = link(LinkSpec::a()) else {
        return;
    };
    assert!(
        Command::new("ip")
            .args(["netns", "add", &left])
            .status()
            .unwrap()
            .success()
    );
    assert!(exists(&left));
    let names = [End::A, End::B].map(|end| link.namespace(end).to_owned());
    assert!(names.iter().all(|name| exists(name)));
    let inside = link
        .command(End::B, "ip")
        .args(["-br", "address"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&inside.stdout).contains("10.77.0.2/30"));

    let second = Link::start(LinkSpec {
        backend: Backend::Emulator,
        ..LinkSpec::a()
    })
    .unwrap();
    assert!(!exists(&left), "of a process that is no more");
    assert!(names.iter().all(|name| exists(name)), "of this process");
    drop((second, link));
    assert!(!names.iter().any(|name| exists(name)));
}

#[test]
fn nonsense_is_refused() {
    let spec = LinkSpec {
        reorder: 1.5,
        ..LinkSpec::a()
    };
    assert!(matches!(Link::start(spec), Err(LinkError::Spec(_))));
    let spec = LinkSpec {
        jitter: Duration::from_secs(1),
        ..LinkSpec::a()
    };
    assert!(matches!(Link::start(spec), Err(LinkError::Spec(_))));
}
