//! The two ends of a connection: one sends as much as the path takes and answers requests, the other
//! counts and asks, as a destination asks for pages.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use me2_user::{
    identity::Credentials,
    transport::{
        endpoint::{self, Listener},
        pace::Pacer,
        window::{SendWindow, Waiting},
    },
};
use quinn::{Connection, RecvStream, SendStream};
use serde::{Deserialize, Serialize};

/// A request and its answer, as a fault's: a page that zstd leaves as it is.
const REQUEST_BYTES: usize = 100;
const ANSWER_BYTES: usize = 4096;
/// Requests under way at once.
const ASKERS: usize = 4;
/// Bulk streams, and how much is written to one at once.
const BULK_STREAMS: usize = 2;
const WRITE_BYTES: usize = 64 << 10;
const PRIORITY_BULK: i32 = -1;
/// What is delivered is counted by this time.
pub(crate) const BIN: Duration = Duration::from_millis(100);

/// What the destination says when it can be connected to, and when the first byte is there.
pub(super) const READY: &str = "ready";
pub(super) const BEGUN: &str = "begun";

/// What the destination saw.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Bytes of each connection, bin by bin from the first byte of any on.
    pub(crate) flows: Vec<Vec<u64>>,
    /// Of a connection by TCP.
    pub(crate) tcp: Vec<u64>,
    /// How long requests took, in microseconds: the shortest, and so on by thousandths of them.
    pub(crate) requests_us: Vec<u64>,
}

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    Destination,
    Source,
    TcpSource,
}

/// `me2-bench transport-end`: what the experiment starts in its namespaces.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct EndArgs {
    role: Role,
    #[arg(long)]
    address: SocketAddr,
    #[arg(long)]
    config_dir: PathBuf,
    /// From the first byte on
    #[arg(long)]
    seconds: f64,
    /// When requests begin
    #[arg(long, default_value_t = f64::INFINITY)]
    requests_at: f64,
}

/// Plays an end.
pub(crate) fn play(args: &EndArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    match args.role {
        Role::Destination => runtime.block_on(destination(args)),
        Role::Source => runtime.block_on(source(args)),
        Role::TcpSource => tcp_source(args),
    }
}

/// Bytes by bins, counted from a moment that all flows share.
#[derive(Clone, Default)]
struct Counts(Arc<Mutex<(Option<Instant>, Seen)>>);

impl Counts {
    fn add(&self, flow: Option<usize>, bytes: usize) {
        let mut counts = self.0.lock().expect("no panics under this lock");
        let begun = counts.0.get_or_insert_with(|| {
            println!("{BEGUN}");
            Instant::now()
        });
        let bin = begun.elapsed();
        let bin = (bin.as_secs_f64() / BIN.as_secs_f64()) as usize;
        let bins = match flow {
            Some(flow) => {
                let flows = &mut counts.1.flows;
                flows.resize_with(flows.len().max(flow + 1), Vec::new);
                &mut flows[flow]
            }
            None => &mut counts.1.tcp,
        };
        bins.resize(bins.len().max(bin + 1), 0);
        bins[bin] += bytes as u64;
    }

    fn begun(&self) -> Option<Instant> {
        self.0.lock().expect("no panics under this lock").0
    }

    fn answered(&self, took: Duration) {
        let mut counts = self.0.lock().expect("no panics under this lock");
        counts.1.requests_us.push(took.as_micros() as u64);
    }
}

async fn destination(args: &EndArgs) -> Result<()> {
    let credentials = Arc::new(Credentials::load(&args.config_dir)?);
    let mut listener = Listener::bind(args.address, credentials)?;
    let counts = Counts::default();
    let tcp = TcpListener::bind(args.address)?;
    let tcp_counts = counts.clone();
    thread::spawn(move || count_tcp(&tcp, &tcp_counts));
    println!("{READY}");
    let mut flow = 0;
    loop {
        let ends_at = counts.begun().map(|begun| {
            let ends = begun + Duration::from_secs_f64(args.seconds);
            tokio::time::sleep_until(ends.into())
        });
        tokio::select! {
            peer = listener.next_peer() => {
                let peer = peer.context("the endpoint ended")?;
                peer.admit();
                let connection = peer.connection;
                let requests_at = if flow == 0 { args.requests_at } else { f64::INFINITY };
                tokio::spawn(receive(connection, flow, counts.clone(), requests_at));
                flow += 1;
            }
            () = async { ends_at.expect("asked before").await }, if ends_at.is_some() => break,
            () = tokio::time::sleep(BIN), if ends_at.is_none() => {}
        }
    }
    let mut counts = counts.0.lock().expect("no panics under this lock");
    counts.1.requests_us = thousandths(std::mem::take(&mut counts.1.requests_us));
    println!("{}", serde_json::to_string(&counts.1)?);
    Ok(())
}

/// 1001 of these values, from the least to the most; none of none.
fn thousandths(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    let last = values.len().saturating_sub(1);
    (0..=1000)
        .filter_map(|at| values.get(last * at / 1000).copied())
        .collect()
}

async fn receive(connection: Connection, flow: usize, counts: Counts, requests_at: f64) {
    while let Ok(mut stream) = connection.accept_uni().await {
        if counts.begun().is_none() && requests_at.is_finite() {
            for _ in 0..ASKERS {
                let asking = ask(connection.clone(), counts.clone(), requests_at);
                tokio::spawn(async move {
                    if let Err(error) = asking.await {
                        eprintln!("a request failed: {error:#}");
                    }
                });
            }
        }
        let counts = counts.clone();
        counts.add(Some(flow), 0);
        tokio::spawn(async move {
            while let Ok(Some(chunk)) = stream.read_chunk(WRITE_BYTES, true).await {
                counts.add(Some(flow), chunk.bytes.len());
            }
        });
    }
}

/// Asks for one answer after the other, over a stream each, as faults do.
async fn ask(connection: Connection, counts: Counts, requests_at: f64) -> Result<()> {
    tokio::time::sleep(Duration::from_secs_f64(requests_at)).await;
    let mut answer = vec![0; ANSWER_BYTES];
    loop {
        let asked = Instant::now();
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(&[1; REQUEST_BYTES]).await?;
        send.finish()?;
        receive.read_exact(&mut answer).await?;
        counts.answered(asked.elapsed());
    }
}

fn count_tcp(listener: &TcpListener, counts: &Counts) {
    let mut buffer = vec![0; WRITE_BYTES];
    if let Ok((mut stream, _)) = listener.accept() {
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            counts.add(None, length);
        }
    }
}

async fn source(args: &EndArgs) -> Result<()> {
    let credentials = Credentials::load(&args.config_dir)?;
    let (identity, trust) = (credentials.identity(), credentials.trust());
    let (_endpoint, peer) = endpoint::connect(args.address, &identity, trust).await?;
    let connection = peer.connection;
    let window = SendWindow::new(connection.clone(), Arc::new(Pacer::unlimited()));
    tokio::spawn(window.clone().follow(Waiting::Guest));
    for _ in 0..BULK_STREAMS {
        let stream = connection.open_uni().await?;
        stream.set_priority(PRIORITY_BULK)?;
        tokio::spawn(send_bulk(stream));
    }
    let answering = connection.clone();
    tokio::spawn(async move {
        while let Ok((send, receive)) = answering.accept_bi().await {
            tokio::spawn(answer(send, receive, window.clone()));
        }
    });
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let stats = connection.stats();
    eprintln!(
        "lost {} of {} packets",
        stats.path.lost_packets, stats.path.sent_packets
    );
    Ok(())
}

async fn send_bulk(mut stream: SendStream) {
    let bytes = vec![0x5a; WRITE_BYTES];
    while stream.write_all(&bytes).await.is_ok() {}
}

async fn answer(mut send: SendStream, mut receive: RecvStream, window: SendWindow) -> Result<()> {
    let mut request = [0; REQUEST_BYTES];
    receive.read_exact(&mut request).await?;
    window.write(&mut send, &[2; ANSWER_BYTES]).await?;
    Ok(send.finish()?)
}

fn tcp_source(args: &EndArgs) -> Result<()> {
    let mut stream = TcpStream::connect(args.address)?;
    let bytes = vec![0x5a; WRITE_BYTES];
    let until = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < until {
        if stream.write_all(&bytes).is_err() {
            break;
        }
    }
    Ok(())
}
