//! A link between two processes: a UDP relay that cuts, loses, delays, counts and changes addresses.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
        mpsc::{self, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Larger than any datagram.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Datagrams on their way in one direction; what comes on top is dropped, as by a router.
const QUEUED_DATAGRAMS_MAX: usize = 8192;

/// How soon the threads notice that the link has gone.
const WAKE_INTERVAL: Duration = Duration::from_millis(50);

/// A relay on loopback to one target: whoever sends to [`Link::address`] speaks to the target, by a
/// socket of the relay's own for each sender.
pub struct Link {
    address: SocketAddr,
    state: Arc<State>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    has_ended: AtomicBool,
    is_cut: AtomicBool,
    /// The same for one direction.
    is_cut_this_way: [AtomicBool; 2],
    /// Cut once so many bytes were delivered in this direction; 0: not by that.
    cut_after: [AtomicU64; 2],
    delay_us: AtomicU64,
    /// One datagram in so many is lost, in each direction; 0: none.
    lost_one_in: AtomicU64,
    delivered_bytes: [AtomicU64; 2],
    dropped: AtomicU64,
    /// How often the near ends' addresses have changed, as the target sees them.
    addresses: AtomicU32,
    /// How often the near ends known by then were forgotten.
    forgettings: AtomicU32,
    readers: Mutex<Vec<JoinHandle<()>>>,
    /// Where new near ends are led.
    target: Mutex<Option<SocketAddr>>,
}

/// A direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the target.
    Forth,
    /// From the target.
    Back,
}

impl Link {
    /// A link to this address, with nothing in its way.
    ///
    /// # Panics
    /// If there is no socket to be had.
    pub fn to(target: SocketAddr) -> Self {
        let socket = bind();
        let address = socket.local_addr().expect("it is bound");
        let state = Arc::<State>::default();
        *state.target.lock().expect("no panics under this lock") = Some(target);
        let of_listener = Arc::clone(&state);
        let listener = thread::spawn(move || listen(&of_listener, &Arc::new(socket)));
        Self {
            address,
            state,
            listener: Some(listener),
        }
    }

    /// Where its near end is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops everything from now on, and what is on its way.
    pub fn cut(&self) {
        self.state.is_cut.store(true, Relaxed);
    }

    /// Drops everything that goes this way from now on, and what is on its way.
    pub fn cut_way(&self, way: Way) {
        self.state.is_cut_this_way[way as usize].store(true, Relaxed);
    }

    /// Cuts itself once so many bytes (at least 1) were delivered this way in all: what comes next is
    /// dropped already, both ways.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        self.state.cut_after[way as usize].store(bytes.max(1), Relaxed);
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.state.is_cut.load(Relaxed)
    }

    /// Drops nothing more.
    pub fn mend(&self) {
        for limit in &self.state.cut_after {
            limit.store(0, Relaxed);
        }
        for is_cut in &self.state.is_cut_this_way {
            is_cut.store(false, Relaxed);
        }
        self.state.is_cut.store(false, Relaxed);
    }

    /// The near ends have another address from now on, as the target sees them: nothing comes from the
    /// one before any more, and what is sent there is lost.
    pub fn change_address(&self) {
        self.state.addresses.fetch_add(1, Relaxed);
    }

    /// Drops everything from and to the near ends that are known by now, as a NAT that has lost its
    /// table. Others get through.
    pub fn forget(&self) {
        self.state.forgettings.fetch_add(1, Relaxed);
    }

    /// Leads near ends that are new from now on to another target.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.state.target.lock().expect("no panics under this lock") = Some(target);
    }

    /// How long a datagram takes from now on, in each direction.
    pub fn set_delay(&self, delay: Duration) {
        self.state.delay_us.store(delay.as_micros() as u64, Relaxed);
    }

    /// Drops one datagram in so many from now on, in each direction.
    pub fn lose_one_in(&self, datagrams: u64) {
        self.state.lost_one_in.store(datagrams, Relaxed);
    }

    /// Bytes delivered this way.
    pub fn delivered_bytes(&self, way: Way) -> u64 {
        self.state.delivered_bytes[way as usize].load(Relaxed)
    }

    /// Datagrams dropped: while it was cut, or as one in so many.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
        let readers = std::mem::take(
            &mut *self
                .state
                .readers
                .lock()
                .expect("no panics under this lock"),
        );
        for reader in readers {
            let _ = reader.join();
        }
    }
}

impl State {
    fn is_cut(&self, way: Way) -> bool {
        self.is_cut.load(Relaxed) || self.is_cut_this_way[way as usize].load(Relaxed)
    }

    fn check_limit(&self, way: Way) {
        let limit = self.cut_after[way as usize].load(Relaxed);
        if limit > 0 && self.delivered_bytes[way as usize].load(Relaxed) >= limit {
            self.is_cut.store(true, Relaxed);
        }
    }
}

/// One direction of one sender's traffic: keeps order, whatever happens to the delay meanwhile.
struct Direction {
    state: Arc<State>,
    queue: SyncSender<(Instant, Vec<u8>)>,
}

impl Direction {
    /// `deliver` gives the number of bytes delivered.
    fn new(
        state: &Arc<State>,
        way: Way,
        deliver: impl Fn(&[u8]) -> io::Result<usize> + Send + 'static,
    ) -> Self {
        let (queue, queued) = mpsc::sync_channel::<(Instant, Vec<u8>)>(QUEUED_DATAGRAMS_MAX);
        let of_thread = Arc::clone(state);
        // Ends when the sending end is dropped.
        thread::spawn(move || {
            for (number, (due, datagram)) in (1u64..).zip(queued) {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                of_thread.check_limit(way);
                let one_in = of_thread.lost_one_in.load(Relaxed);
                let is_lost = one_in > 0 && number.is_multiple_of(one_in);
                if is_lost || of_thread.is_cut(way) {
                    of_thread.dropped.fetch_add(1, Relaxed);
                    continue;
                }
                // Nobody there, or no room: a datagram lost.
                let delivered = deliver(&datagram).unwrap_or(0);
                of_thread.delivered_bytes[way as usize].fetch_add(delivered as u64, Relaxed);
            }
        });
        Self {
            state: Arc::clone(state),
            queue,
        }
    }

    fn send(&self, datagram: &[u8]) {
        let delay = Duration::from_micros(self.state.delay_us.load(Relaxed));
        // A full queue drops, as a router's.
        let _ = self
            .queue
            .try_send((Instant::now() + delay, datagram.to_vec()));
    }
}

/// Reads the near end until the link goes away.
fn listen(state: &Arc<State>, near: &Arc<UdpSocket>) {
    let mut senders: HashMap<SocketAddr, (Epoch, Direction)> = HashMap::new();
    receive(state, near, |datagram, sender| {
        let now = state.epoch();
        let (opened, direction) = senders
            .entry(sender)
            .or_insert_with(|| (now, open(state, near, sender, now)));
        if opened.forgettings != now.forgettings {
            state.dropped.fetch_add(1, Relaxed);
            return;
        }
        if *opened != now {
            (*opened, *direction) = (now, open(state, near, sender, now));
        }
        direction.send(datagram);
    });
}

/// When a way was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Epoch {
    addresses: u32,
    forgettings: u32,
}

impl State {
    fn epoch(&self) -> Epoch {
        Epoch {
            addresses: self.addresses.load(Relaxed),
            forgettings: self.forgettings.load(Relaxed),
        }
    }
}

/// A way to the target, and back, for a sender that is new.
fn open(state: &Arc<State>, near: &Arc<UdpSocket>, sender: SocketAddr, opened: Epoch) -> Direction {
    let far = Arc::new(bind_to(Ipv4Addr::from(
        u32::from(Ipv4Addr::LOCALHOST) + opened.addresses % 200,
    )));
    let target = *state.target.lock().expect("no panics under this lock");
    let target = target.expect("a link leads somewhere");
    far.connect(target).expect("loopback is there");
    let to_sender = Arc::clone(near);
    let back = Direction::new(state, Way::Back, move |datagram| {
        to_sender.send_to(datagram, sender)
    });
    let (of_reader, from_target) = (Arc::clone(state), Arc::clone(&far));
    let reader = thread::spawn(move || {
        receive(&of_reader, &from_target, |datagram, _| {
            if of_reader.epoch() == opened {
                back.send(datagram);
            }
        });
    });
    state
        .readers
        .lock()
        .expect("no panics under this lock")
        .push(reader);
    Direction::new(state, Way::Forth, move |datagram| far.send(datagram))
}

fn receive(state: &State, socket: &UdpSocket, mut take: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !state.has_ended.load(Relaxed) {
        // Errors are time-outs, or news of an end that is not there: of no concern to a link.
        if let Ok((length, sender)) = socket.recv_from(&mut buffer) {
            take(&buffer[..length], sender);
        }
    }
}

fn bind() -> UdpSocket {
    bind_to(Ipv4Addr::LOCALHOST)
}

/// All of 127.0.0.0/8 is this host.
fn bind_to(address: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).expect("a free port");
    socket
        .set_read_timeout(Some(WAKE_INTERVAL))
        .expect("not zero");
    socket
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that sends everything back.
    fn echo() -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = socket.local_addr().expect("it is bound");
        thread::spawn(move || {
            let mut buffer = [0; 100];
            while let Ok((length, sender)) = socket.recv_from(&mut buffer) {
                let is_sent = socket.send_to(&buffer[..length], sender).is_ok();
                if !is_sent || length == 0 {
                    return;
                }
            }
        });
        address
    }

    fn ask(socket: &UdpSocket, link: &Link, text: &[u8]) -> Option<Vec<u8>> {
        socket.send_to(text, link.address()).expect("loopback");
        let mut buffer = [0; 100];
        let (length, _) = socket.recv_from(&mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    }

    #[test]
    fn it_cuts_itself_after_so_many_bytes() {
        let link = Link::to(echo());
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        link.cut_after(Way::Back, 5);
        assert_eq!(ask(&client, &link, b"one"), Some(b"one".to_vec()));
        assert_eq!(ask(&client, &link, b"two"), Some(b"two".to_vec()));
        assert!(!link.is_cut(), "nothing came after the sixth byte");
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("not zero");
        assert_eq!(ask(&client, &link, b"three"), None);
        assert!(link.is_cut());
        link.mend();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        assert_eq!(ask(&client, &link, b"four"), Some(b"four".to_vec()));
    }

    #[test]
    fn it_carries_cuts_mends_delays_and_counts() {
        let link = Link::to(echo());
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        assert_eq!(ask(&client, &link, b"one"), Some(b"one".to_vec()));
        // Counted just after it was delivered.
        crate::wait_until("count", || {
            let delivered = [Way::Forth, Way::Back].map(|way| link.delivered_bytes(way));
            (delivered == [3, 3]).then_some(())
        });

        let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        other
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        assert_eq!(ask(&other, &link, b"other"), Some(b"other".to_vec()));

        link.cut();
        client
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("not zero");
        assert_eq!(ask(&client, &link, b"two"), None);
        crate::wait_until("dropped datagram", || (link.dropped() == 1).then_some(()));

        link.mend();
        link.cut_way(Way::Back);
        assert_eq!(ask(&client, &link, b"way"), None);
        crate::wait_until("datagram that came back", || {
            (link.dropped() == 2).then_some(())
        });
        crate::wait_until("datagram the other way", || {
            (link.delivered_bytes(Way::Forth) == 11).then_some(())
        });
        link.mend();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        link.change_address();
        assert_eq!(ask(&client, &link, b"moved"), Some(b"moved".to_vec()));
        link.forget();
        other
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("not zero");
        assert_eq!(ask(&other, &link, b"lost"), None);
        let third = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        assert_eq!(ask(&third, &link, b"third"), Some(b"third".to_vec()));
        let client = third;
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("not zero");
        link.set_delay(Duration::from_millis(30));
        let begun = Instant::now();
        assert_eq!(ask(&client, &link, b"three"), Some(b"three".to_vec()));
        assert!(begun.elapsed() >= Duration::from_millis(60));
    }
}
