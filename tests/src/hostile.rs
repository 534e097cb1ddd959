//! A peer that is trusted, completes TLS, and then does as its script says.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use me2_user::{
    identity::Credentials,
    transport::{
        endpoint::{self, Listener, Peer},
        frames::{Frame, FrameReceiver, message_frame},
    },
};
use me2_wire::{
    PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
    frame::{FrameKind, Header, Preface, StreamKind},
    message::{self, Handover, Hello, PageRequest, Purpose, Scheme, ToDestination, ToSource},
    page::{ChunkWriter, Compression},
};
use quinn::{RecvStream, SendStream};

/// The migration that a hostile source speaks of.
pub const MIGRATION: [u8; 16] = *b"a hostile source";
/// How long the other side may take to be done with the peer: longer than its silences.
const PATIENCE: Duration = Duration::from_secs(60);

/// Something that the peer does.
#[derive(Clone)]
pub enum Step {
    /// Opens the control stream with this preface.
    Open(Preface),
    /// Opens it with other bytes than a preface.
    OpenWith(Vec<u8>),
    /// Says something as a source, on the control stream.
    Say(ToDestination),
    /// Says something as a destination.
    Answer(ToSource),
    /// Writes bytes to the control stream.
    Write(Vec<u8>),
    /// Reads until the other side says this, or something else that ends the waiting.
    Await(fn(&[u8]) -> bool),
    /// Writes these bytes to so many one-way streams, one after the other, as a whole each.
    Streams(usize, Vec<u8>),
    /// Writes a beginning to a one-way stream, then the same bytes so many times; the stream stays open.
    Endless(Vec<u8>, usize, Vec<u8>),
    /// Asks for pages on so many streams at once, and reads nothing from them.
    Ask(usize, PageRequest),
    /// Ends the control stream.
    End,
    /// Closes the connection.
    Close,
}

/// Who plays a script.
pub struct Actor(Arc<Credentials>);

/// One connection of a script.
struct Stage {
    peer: Peer,
    control: Option<(SendStream, FrameReceiver)>,
    /// Of a source.
    preface: Option<Preface>,
    kept: Vec<(SendStream, RecvStream)>,
    open: Vec<SendStream>,
}

impl Actor {
    /// With the identity of this folder, to whom it listens, and who trusts it.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(config: &Path) -> Self {
        Self(Arc::new(Credentials::load(config).expect("made before")))
    }

    /// Connects to a receiver, plays, and waits until the receiver is done with it.
    pub async fn attack(&self, target: SocketAddr, script: &[Step]) {
        let connected = endpoint::connect(target, &self.0.identity(), self.0.trust()).await;
        let (endpoint, peer) = connected.expect("a trusted peer is let in");
        Stage::new(peer).play(script).await;
        endpoint.wait_idle().await;
    }

    /// A destination that listens; play with [`Trap::spring`].
    pub fn listen(&self) -> Trap {
        let any = ([127, 0, 0, 1], 0).into();
        Trap(Listener::bind(any, self.0.clone()).expect("a free port"))
    }
}

/// A hostile destination.
pub struct Trap(Listener);

impl Trap {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    /// Waits for a source, plays, and waits until the source is done with it.
    pub async fn spring(mut self, script: &[Step]) {
        let peer = self.0.next_peer().await.expect("a source comes");
        peer.admit();
        let mut stage = Stage::new(peer);
        // The listener goes on, or handshakes would not be confirmed.
        let listening = tokio::spawn(async move { while self.0.next_peer().await.is_some() {} });
        if !script.is_empty() {
            stage.accept().await;
        }
        stage.play(script).await;
        listening.abort();
    }

    /// Takes the machine document of a source, and, if it `takes_handover`, what it hands over.
    pub async fn capture(self, takes_handover: bool) -> (Vec<u8>, Option<Box<Handover>>) {
        let mut listener = self.0;
        let peer = listener.next_peer().await.expect("a source comes");
        let mut stage = Stage::new(peer);
        stage.accept().await;
        let hello = ToSource::Hello {
            version: PROTOCOL_VERSION_MAX,
            boot_id: [0; 16],
        };
        stage.write(&message_frame(&hello)).await;
        let (_, receiver) = stage.control.as_mut().expect("accepted");
        let document = loop {
            if let ToDestination::Machine { document, .. } = receiver
                .message()
                .await
                .expect("a source describes its machine")
            {
                break document;
            }
        };
        if !takes_handover {
            return (document, None);
        }
        stage.write(&message_frame(&ToSource::Ready)).await;
        let (_, receiver) = stage.control.as_mut().expect("accepted");
        loop {
            let frame = receiver.next().await.expect("a source hands over");
            if let Frame::Message(payload) = frame.expect("a source hands over")
                && let Ok(ToDestination::Handover(handover)) = message::decode(&payload)
            {
                return (document, Some(handover));
            }
        }
    }
}

impl Stage {
    fn new(peer: Peer) -> Self {
        Self {
            peer,
            control: None,
            preface: None,
            kept: Vec::new(),
            open: Vec::new(),
        }
    }

    async fn accept(&mut self) {
        let accepted = self.peer.connection.accept_bi().await;
        let (send, receive) = accepted.expect("a source opens the control stream");
        let begun = FrameReceiver::begin(receive, StreamKind::Control).await;
        let (receiver, preface) = begun.expect("a preface");
        self.control = Some((send, receiver));
        self.preface = Some(preface);
    }

    async fn play(&mut self, script: &[Step]) {
        for step in script {
            if self.peer.connection.close_reason().is_some() {
                return;
            }
            self.step(step).await;
        }
        // The other side says its last words, and lets go.
        let done = tokio::time::timeout(PATIENCE, async {
            if let Some((_, receiver)) = &mut self.control {
                while let Ok(Some(_)) = receiver.next().await {}
            }
        });
        done.await.expect("the other side is done with the peer");
        self.peer.connection.close(0u8.into(), b"");
    }

    /// What the other side does not take any more is its own business: errors are passed over.
    async fn step(&mut self, step: &Step) {
        let connection = self.peer.connection.clone();
        match step {
            Step::OpenWith(bytes) => {
                let Ok((send, receive)) = connection.open_bi().await else {
                    return;
                };
                self.control = Some((send, FrameReceiver::answering(receive)));
                self.write(bytes).await;
            }
            Step::Open(preface) => {
                Box::pin(self.step(&Step::OpenWith(preface.encode().to_vec()))).await;
            }
            Step::Say(message) => self.write(&message_frame(message)).await,
            Step::Answer(message) => self.write(&message_frame(message)).await,
            Step::Write(bytes) => self.write(bytes).await,
            Step::Await(is_it) => {
                let (_, receiver) = self.control.as_mut().expect("opened");
                while let Ok(Some(frame)) = receiver.next().await {
                    if matches!(frame, Frame::Message(payload) if is_it(&payload)) {
                        return;
                    }
                }
            }
            Step::Streams(count, bytes) => {
                for _ in 0..*count {
                    let Ok(mut stream) = connection.open_uni().await else {
                        return;
                    };
                    let _ = stream.write_all(bytes).await;
                    let _ = stream.finish();
                }
            }
            Step::Endless(start, times, bytes) => {
                let Ok(mut stream) = connection.open_uni().await else {
                    return;
                };
                let mut written = stream.write_all(start).await;
                for _ in 0..*times {
                    if written.is_err() {
                        return;
                    }
                    written = stream.write_all(bytes).await;
                }
                self.open.push(stream);
            }
            Step::Ask(count, pages) => {
                let preface = self.preface.expect("a source opened the control stream");
                let bytes = request(preface, pages);
                for _ in 0..*count {
                    let Ok((mut send, receive)) = connection.open_bi().await else {
                        return;
                    };
                    let _ = send.write_all(&bytes).await;
                    let _ = send.finish();
                    self.kept.push((send, receive));
                }
            }
            Step::End => {
                if let Some((send, _)) = &mut self.control {
                    let _ = send.finish();
                }
            }
            Step::Close => connection.close(7u8.into(), b"enough"),
        }
    }

    async fn write(&mut self, bytes: &[u8]) {
        if let Some((send, _)) = &mut self.control {
            let _ = send.write_all(bytes).await;
        }
    }
}

/// The preface of a hostile source's streams.
pub fn preface(kind: StreamKind) -> Preface {
    Preface {
        kind,
        migration: MIGRATION,
        epoch: 1,
    }
}

/// An honest hello.
pub fn hello() -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        migration: MIGRATION,
        epoch: 1,
        purpose: Purpose::Migrate,
        boot_id: [0; 16],
    }
}

/// The machine that comes.
pub fn machine(document: &[u8]) -> ToDestination {
    ToDestination::Machine {
        document: document.to_vec(),
        scheme: Scheme::Hybrid,
    }
}

/// A pages frame with these pages, of noise, in these versions.
pub fn pages(records: &[(u32, u32)]) -> Vec<u8> {
    let mut writer = ChunkWriter::new();
    for (page, version) in records {
        writer.push(
            *page,
            *version,
            &[*page as u8 | 1; me2_wire::PAGE_SIZE],
            None,
        );
    }
    writer.take_frame(Compression::None).bytes
}

/// A frame with any payload.
pub fn frame(kind: FrameKind, payload: &[u8]) -> Vec<u8> {
    let header = Header::new(kind, payload.len()).expect("within the cap");
    [&header.encode()[..], payload].concat()
}

/// A bulk stream's bytes.
pub fn bulk(frames: &[u8]) -> Vec<u8> {
    [&preface(StreamKind::Bulk).encode()[..], frames].concat()
}

/// Whether a source says that all of a pass is on its way, or hands over.
pub fn is_handover(payload: &[u8]) -> bool {
    matches!(message::decode(payload), Ok(ToDestination::Handover(_)))
}

/// Whether a source describes its machine.
pub fn is_machine(payload: &[u8]) -> bool {
    matches!(message::decode(payload), Ok(ToDestination::Machine { .. }))
}

/// Whether a destination has all of a pass.
pub fn is_pass_received(payload: &[u8]) -> bool {
    matches!(message::decode(payload), Ok(ToSource::PassReceived { .. }))
}

/// Whether a destination is ready.
pub fn is_ready(payload: &[u8]) -> bool {
    matches!(message::decode(payload), Ok(ToSource::Ready))
}

/// A request stream's bytes, for the migration of a preface.
fn request(preface: Preface, request: &PageRequest) -> Vec<u8> {
    let preface = Preface {
        kind: StreamKind::FaultAnswer,
        ..preface
    };
    [&preface.encode()[..], &message_frame(request)].concat()
}
