//! A peer between two others, with the identity of both: it passes everything on, but can change what
//! the destination says of the pages' hashes, or what the source says that its machine needs.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use me2_user::{
    identity::Credentials,
    transport::{
        endpoint::{self, Listener},
        frames::{Frame, FrameReceiver, message_frame},
    },
};
use me2_wire::{
    frame::PREFACE_BYTES,
    message::{self, ToDestination, ToSource},
};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use serde_json::Value;
use tokio::sync::oneshot;

/// Bytes passed on at a time.
const CHUNK_BYTES_MAX: usize = 64 << 10;

/// It stands between a source and a destination until it is dropped.
pub struct Middle {
    address: SocketAddr,
    lies: Arc<Lies>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A feature that KVM offers to no guest: DTES64, bit 2 of CPUID.1:ECX.
const DTES64: u64 = 1 << 2;

/// What it says about one page of the first leaf, and about the machine.
struct Lies {
    /// The machine needs a feature that no host has.
    demands: bool,
    /// So many comparisons find a page that differs.
    left: AtomicU32,
    told: AtomicU32,
}

impl Middle {
    /// Before a destination, with the identity in this folder. Of the first `lies` times that the
    /// destination tells its hashes, one is wrong, always of the same page.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn to(target: SocketAddr, config: &Path, lies: u32) -> Self {
        Self::with(target, config, false, lies)
    }

    /// The same, and it does not lie about pages: the machine that comes needs a feature of processors
    /// that no host offers, `CPUID.1:ECX bit 2`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn demanding(target: SocketAddr, config: &Path) -> Self {
        Self::with(target, config, true, 0)
    }

    fn with(target: SocketAddr, config: &Path, demands: bool, lies: u32) -> Self {
        let credentials = Credentials::load(config).expect("the bench has an identity");
        let credentials = Arc::new(credentials);
        let lies = Arc::new(Lies {
            demands,
            left: AtomicU32::new(lies),
            told: AtomicU32::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let of_thread = Arc::clone(&lies);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let pass_on = async {
                let local = SocketAddr::from(([127, 0, 0, 1], 0));
                let mut listener = Listener::bind(local, credentials.clone()).expect("a free port");
                let address = listener.local_addr().expect("it is bound");
                tell.send(address).expect("it is waited for");
                while let Some(source) = listener.next_peer().await {
                    let (identity, trust) = (credentials.identity(), credentials.trust());
                    let connected = endpoint::connect(target, &identity, trust).await;
                    let (endpoint, destination) = connected.expect("the destination is there");
                    let both = (source.connection, destination.connection);
                    tokio::spawn(join(both, endpoint, Arc::clone(&of_thread)));
                }
            };
            runtime.expect("a runtime").block_on(async {
                tokio::select! {
                    () = pass_on => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address: told.recv().expect("it listens"),
            lies,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Where it waits for a source.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it has made the two sides differ.
    pub fn told(&self) -> u32 {
        self.lies.told.load(Relaxed)
    }
}

impl Drop for Middle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Passes the streams of two connections on, and their end.
async fn join(
    (source, destination): (Connection, Connection),
    _endpoint: quinn::Endpoint,
    lies: Arc<Lies>,
) {
    let ends = async {
        tokio::select! {
            end = source.closed() => pass_end(&end, &destination),
            end = destination.closed() => pass_end(&end, &source),
        }
    };
    tokio::join!(
        control_of(&source, &destination, &lies),
        one_way(&source, &destination),
        requests(&destination, &source),
        ends
    );
}

fn pass_end(end: &ConnectionError, to: &Connection) {
    match end {
        ConnectionError::ApplicationClosed(close) => to.close(close.error_code, &close.reason),
        _ => to.close(1u8.into(), b"the other side is gone"),
    }
}

async fn control_of(source: &Connection, destination: &Connection, lies: &Arc<Lies>) {
    let Ok((to_source, from_source)) = source.accept_bi().await else {
        return;
    };
    let Ok((to_destination, from_destination)) = destination.open_bi().await else {
        return;
    };
    let forth = async {
        match lies.demands {
            true => pass_demanding(from_source, to_destination).await,
            false => pass(from_source, to_destination).await,
        }
    };
    tokio::join!(forth, pass_changed(from_destination, to_source, lies));
}

async fn one_way(from: &Connection, to: &Connection) {
    while let Ok(receive) = from.accept_uni().await {
        let Ok(send) = to.open_uni().await else {
            return;
        };
        tokio::spawn(pass(receive, send));
    }
}

async fn requests(from: &Connection, to: &Connection) {
    while let Ok((answer, request)) = from.accept_bi().await {
        let Ok((send, receive)) = to.open_bi().await else {
            return;
        };
        tokio::spawn(pass(request, send));
        tokio::spawn(pass(receive, answer));
    }
}

/// Until either side ends it.
async fn pass(mut from: RecvStream, mut to: SendStream) {
    while let Ok(Some(chunk)) = from.read_chunk(CHUNK_BYTES_MAX, true).await {
        if to.write_chunk(chunk.bytes).await.is_err() {
            return;
        }
    }
    let _ = to.finish();
}

async fn pass_changed(from: RecvStream, mut to: SendStream, lies: &Lies) {
    let mut from = FrameReceiver::answering(from);
    let mut is_lying = false;
    while let Ok(Some(Frame::Message(payload))) = from.next().await {
        let mut message: ToSource = message::decode(&payload).expect("it speaks the protocol");
        match &mut message {
            ToSource::Complete { leaves, .. } => {
                let took = |left: u32| left.checked_sub(1);
                is_lying = lies.left.fetch_update(Relaxed, Relaxed, took).is_ok();
                if is_lying {
                    lies.told.fetch_add(1, Relaxed);
                    leaves[0] ^= 1;
                }
            }
            ToSource::LeafHashes { leaf: 0, hashes } if is_lying => {
                // Holes have none.
                let hash = hashes.iter_mut().find(|hash| **hash != 0);
                *hash.expect("the guest uses its first pages") ^= 1;
            }
            _ => {}
        }
        if to.write_all(&message_frame(&message)).await.is_err() {
            return;
        }
    }
    let _ = to.finish();
}

/// Up to the machine, which is all that is said if it is refused.
async fn pass_demanding(mut from: RecvStream, mut to: SendStream) {
    let mut preface = [0; PREFACE_BYTES];
    let is_read = from.read_exact(&mut preface).await.is_ok();
    if !is_read || to.write_all(&preface).await.is_err() {
        return;
    }
    let mut from = FrameReceiver::answering(from);
    while let Ok(Some(Frame::Message(payload))) = from.next().await {
        let mut message = message::decode(&payload).expect("it speaks the protocol");
        if let ToDestination::Machine { document, .. } = &mut message {
            demand(document);
        }
        if to.write_all(&message_frame(&message)).await.is_err() {
            return;
        }
    }
    let _ = to.finish();
}

fn demand(document: &mut Vec<u8>) {
    let mut machine: Value = serde_json::from_slice(document).expect("a machine document");
    let leaves = machine["cpuid"].as_array_mut().expect("a list");
    let leaf = leaves.iter_mut().find(|leaf| leaf["function"] == 1);
    let ecx = &mut leaf.expect("every processor has it")["ecx"];
    *ecx = (ecx.as_u64().expect("a register") | DTES64).into();
    *document = serde_json::to_vec(&machine).expect("it was read");
}
