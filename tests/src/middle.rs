//! A peer between two others, with the identity of both: it passes everything on, but can change what
//! the destination says of the pages' hashes.

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
    identity::{Identity, TrustStore},
    transport::{
        endpoint::{self, Listener},
        frames::{Frame, FrameReceiver, message_frame},
    },
};
use me2_wire::message::{self, ToSource};
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
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

/// What it says about one page of the first leaf.
struct Lies {
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
        let identity = Identity::load(config).expect("the bench has an identity");
        let trust = TrustStore::load(config).expect("and trusts it");
        let lies = Arc::new(Lies {
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
                let mut listener = Listener::bind(local, &identity, &trust).expect("a free port");
                let address = listener.local_addr().expect("it is bound");
                tell.send(address).expect("it is waited for");
                while let Some(source) = listener.next_peer().await {
                    let (endpoint, destination) = endpoint::connect(target, &identity, &trust)
                        .await
                        .expect("the destination is there");
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
    tokio::join!(
        pass(from_source, to_destination),
        pass_changed(from_destination, to_source, lies)
    );
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
