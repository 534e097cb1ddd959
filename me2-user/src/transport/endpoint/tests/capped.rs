//! The cap, by what leaves. That no more leaves holds however busy the machine is. That it is
//! reached does not: threads that run late look like a slow link. So that is asked for once.

use std::time::Instant;

use tokio::task::JoinSet;

use super::*;

/// For so long connections run before anything is measured: their beginning is a burst.
const RUN_IN: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_secs(2);
/// What the cap is kept to, from above.
const EXACT: f64 = 1.02;
/// What must be reached of it, in one of so many attempts.
const REACHED: f64 = 0.9;
const ATTEMPTS_MAX: usize = 5;
/// A frame of answers, and how often one is sent.
const ANSWER_BYTES: usize = 16 << 10;
const ANSWER_INTERVAL: Duration = Duration::from_millis(20);

/// A connection that is kept busy.
struct Busy {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
    _tasks: JoinSet<()>,
}

impl Busy {
    async fn begin(host: &Host, pacer: Pacer, has_urgent: bool) -> Self {
        let target = swallow(host.listen());
        let pacer = Arc::new(pacer);
        let trust = host.trust();
        let (identity, off) = (&host.identity, Qlog::default());
        let connected = connect_paced(target, identity, &trust, &pacer, &off).await;
        let (endpoint, peer) = connected.unwrap();
        let connection = peer.connection;
        let window = SendWindow::new(connection.clone(), pacer.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(window.clone().follow(Waiting::Nobody));
        for _ in 0..2 {
            tasks.spawn(bulk(connection.clone()));
        }
        if has_urgent {
            tasks.spawn(answers(connection.clone(), window, pacer));
        }
        Self {
            connection,
            _endpoint: endpoint,
            _tasks: tasks,
        }
    }

    /// What it has sent up to now, IP and UDP headers included.
    fn bytes_on_link(&self) -> u64 {
        let sent = self.connection.stats().udp_tx;
        sent.bytes + 28 * sent.datagrams
    }
}

async fn bulk(connection: quinn::Connection) {
    let mut stream = connection.open_uni().await.unwrap();
    while stream.write_all(&[7; 256 << 10]).await.is_ok() {}
}

async fn answers(connection: quinn::Connection, window: SendWindow, pacer: Arc<Pacer>) {
    let mut interval = tokio::time::interval(ANSWER_INTERVAL);
    loop {
        interval.tick().await;
        let mut stream = connection.open_uni().await.unwrap();
        stream.set_priority(10).unwrap();
        pacer.admit_urgent(ANSWER_BYTES).await;
        let answer = [9; ANSWER_BYTES];
        if window.write(&mut stream, &answer).await.is_err() {
            return;
        }
    }
}

/// Takes in everything that one peer sends.
fn swallow(mut listener: Listener) -> SocketAddr {
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let peer = listener.next_peer().await.unwrap();
        peer.admit();
        while let Ok(mut stream) = peer.connection.accept_uni().await {
            tokio::spawn(async move {
                while let Ok(Some(_)) = stream.read_chunk(1 << 20, true).await {}
            });
        }
    });
    address
}

/// Shares of the cap that connections send.
async fn shares(busy: &[Busy], cap: u64) -> Vec<f64> {
    tokio::time::sleep(RUN_IN).await;
    // All of what is counted left between the two times, though this thread may be late.
    let begun = Instant::now();
    let before: Vec<u64> = busy.iter().map(Busy::bytes_on_link).collect();
    tokio::time::sleep(MEASURED).await;
    let after: Vec<u64> = busy.iter().map(Busy::bytes_on_link).collect();
    let whole = begun.elapsed().as_secs_f64() * cap as f64;
    let sent = after.iter().zip(before);
    sent.map(|(after, before)| (after - before) as f64 / whole)
        .collect()
}

async fn assert_exact(cap: u64, begin: impl AsyncFn() -> Vec<Busy>) {
    for _ in 0..ATTEMPTS_MAX {
        let shares = shares(&begin().await, cap).await;
        let sum: f64 = shares.iter().sum();
        println!("shares of the cap {shares:.4?}, together {sum:.4}");
        assert!(sum <= EXACT, "{sum}");
        if sum >= REACHED {
            return;
        }
    }
    panic!("the cap was never reached");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_keeps_to_the_cap() {
    for cap in [250_000, 1_250_000, 12_500_000] {
        let pacer = || Pacer::new(Some(cap));
        assert_exact(cap, async || {
            vec![Busy::begin(&Host::new(), pacer(), false).await]
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_and_what_is_urgent_keep_to_the_cap() {
    let cap = 5_000_000;
    let pacer = || Pacer::new(Some(cap));
    assert_exact(cap, async || {
        vec![Busy::begin(&Host::new(), pacer(), true).await]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_migrations_keep_to_one_cap() {
    let folder = tempfile::tempdir().unwrap();
    let cap = 12_500_000;
    let pacer = || Pacer::shared(Some(cap), Some(folder.path()));
    assert_exact(cap, async || {
        let host = Host::new();
        let bulk = Busy::begin(&host, pacer(), false).await;
        vec![bulk, Busy::begin(&host, pacer(), true).await]
    })
    .await;
}
