//! Frames over QUIC streams: the one place where bytes of a peer become frames.

use me2_wire::{
    frame::{
        FrameKind, HEADER_BYTES, Header, MESSAGE_BYTES_MAX, PREFACE_BYTES, Preface, StreamKind,
    },
    message,
};
use quinn::{RecvStream, SendStream};
use serde::{Serialize, de::DeserializeOwned};

use super::window::SendWindow;

/// The link, or what came over it, failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The connection is gone.
    #[error("the connection broke")]
    Connection(#[from] quinn::ConnectionError),
    /// A stream could not be written.
    #[error("the peer stopped reading")]
    Write(#[from] quinn::WriteError),
    /// A stream ended too early, or could not be read.
    #[error("the peer stopped sending")]
    Read(#[from] quinn::ReadExactError),
    /// A stream ended where a message was expected.
    #[error("the peer ended a stream in the middle of the migration")]
    Ended,
    /// Nothing came for long.
    #[error("nothing comes from the peer")]
    Silent,
    /// The bytes are no frame.
    #[error("the peer sent a malformed frame")]
    Frame(#[from] me2_wire::frame::FrameError),
    /// The frame is no message.
    #[error("the peer sent a malformed message")]
    Message(#[from] message::MalformedMessage),
    /// The connection lives, and the peer said nothing for longer than an honest one does.
    #[error("the peer is connected, but has said nothing for {} s", SILENCE_MAX.as_secs())]
    Mute,
    /// The frame or message does not belong here.
    #[error("the peer sent {0} where it does not belong")]
    Unexpected(&'static str),
}

impl LinkError {
    /// How the connection ended, if that is what went wrong.
    pub fn into_connection_error(self) -> Result<quinn::ConnectionError, Self> {
        match self {
            Self::Connection(error)
            | Self::Read(quinn::ReadExactError::ReadError(quinn::ReadError::ConnectionLost(
                error,
            )))
            | Self::Write(quinn::WriteError::ConnectionLost(error)) => Ok(error),
            other => Err(other),
        }
    }

    /// Whether it is the link, which may be mended, and not what the peer said.
    pub fn is_of_link(&self) -> bool {
        matches!(
            self,
            Self::Connection(_)
                | Self::Write(_)
                | Self::Read(_)
                | Self::Ended
                | Self::Silent
                | Self::Mute
        )
    }
}

/// How long a peer whose connection lives may say nothing where it has something to say: longer than
/// anything that an honest one does meanwhile.
pub const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// How long last words may take to arrive.
const FLUSH_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Writes frames to a stream.
#[derive(Debug)]
pub struct FrameSender {
    stream: SendStream,
    /// Where it does not wait for room behind bulk.
    window: Option<SendWindow>,
}

/// Reads frames from a stream.
#[derive(Debug)]
pub struct FrameReceiver {
    stream: RecvStream,
}

/// A frame's payload.
#[derive(Debug)]
pub enum Frame {
    /// A control message, still encoded.
    Message(Vec<u8>),
    /// Page records.
    Pages(Vec<u8>),
}

impl FrameSender {
    /// Begins a stream: its preface goes first.
    pub async fn begin(mut stream: SendStream, preface: &Preface) -> Result<Self, LinkError> {
        stream.write_all(&preface.encode()).await?;
        Ok(Self::answering(stream))
    }

    /// Goes on with a stream whose preface the other side wrote.
    pub fn answering(stream: SendStream) -> Self {
        Self {
            stream,
            window: None,
        }
    }

    /// Makes it urgent: what it sends does not wait for room behind bulk.
    pub fn urgent(self, window: SendWindow, priority: i32) -> Self {
        self.set_priority(priority);
        Self {
            window: Some(window),
            ..self
        }
    }

    /// Sends a message.
    pub async fn message<T: Serialize>(&mut self, message: &T) -> Result<(), LinkError> {
        self.bytes(&message_frame(message)).await
    }

    /// Sends bytes that are whole frames already.
    pub async fn bytes(&mut self, frames: &[u8]) -> Result<(), LinkError> {
        match &self.window {
            Some(window) => window.write(&mut self.stream, frames).await?,
            None => self.stream.write_all(frames).await?,
        }
        Ok(())
    }

    /// Ends the stream and waits, a bounded time, until the peer has all of it. For last words.
    pub async fn flush(&mut self) {
        self.end();
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.delivered()).await;
    }

    /// Ends the stream, and goes on delivering what was sent.
    pub fn end(&mut self) {
        // It fails only for a stream that is closed already.
        let _ = self.stream.finish();
    }

    /// Waits until the peer has all of a stream that was ended, or will never have it.
    pub async fn delivered(&self) {
        let _ = self.stream.stopped().await;
    }

    /// Sets how urgent this stream is; larger goes first, 0 is usual.
    pub fn set_priority(&self, priority: i32) {
        // It fails only for a stream that is closed already.
        let _ = self.stream.set_priority(priority);
    }

    /// Ends the stream.
    pub fn finish(mut self) {
        self.end();
    }
}

/// A message as a whole frame.
pub fn message_frame<T: Serialize>(message: &T) -> Vec<u8> {
    let payload = message::encode(message);
    let mut frame = Header::new(FrameKind::Message, payload.len())
        .expect("messages of this side are bounded")
        .encode()
        .to_vec();
    frame.extend_from_slice(&payload);
    frame
}

impl Frame {
    /// Length of its payload in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Message(payload) | Self::Pages(payload) => payload.len(),
        }
    }
}

impl FrameReceiver {
    /// Reads the preface that opens a stream, and checks its kind.
    pub async fn begin(stream: RecvStream, kind: StreamKind) -> Result<(Self, Preface), LinkError> {
        let (receiver, preface) = Self::begin_any(stream).await?;
        if preface.kind != kind {
            return Err(LinkError::Unexpected("a stream"));
        }
        Ok((receiver, preface))
    }

    /// Reads the preface that opens a stream, of whatever kind.
    pub async fn begin_any(mut stream: RecvStream) -> Result<(Self, Preface), LinkError> {
        let mut bytes = [0; PREFACE_BYTES];
        stream.read_exact(&mut bytes).await?;
        Ok((Self { stream }, Preface::decode(&bytes)?))
    }

    /// Reads the answer on a stream that this side opened.
    pub fn answering(stream: RecvStream) -> Self {
        Self { stream }
    }

    /// The next frame, or `None` where the peer ended the stream.
    pub async fn next(&mut self) -> Result<Option<Frame>, LinkError> {
        self.next_if(|_| Ok(())).await
    }

    /// The next frame, if it is one of pages, of at most so many bytes besides the cap of its kind.
    pub async fn next_pages(&mut self, bytes_max: u32) -> Result<Option<Vec<u8>>, LinkError> {
        let pages_only = |header: Header| match header.kind {
            FrameKind::Pages if header.length > bytes_max => {
                Err(LinkError::Unexpected("a long frame"))
            }
            FrameKind::Pages => Ok(()),
            FrameKind::Message => Err(LinkError::Unexpected("a message among pages")),
        };
        Ok(match self.next_if(pages_only).await? {
            Some(Frame::Pages(payload) | Frame::Message(payload)) => Some(payload),
            None => None,
        })
    }

    /// The next frame, of at most so many bytes besides the cap of its kind.
    pub async fn next_within(&mut self, bytes_max: u32) -> Result<Option<Frame>, LinkError> {
        self.next_if(|header| match header.length > bytes_max {
            true => Err(LinkError::Unexpected("a long frame")),
            false => Ok(()),
        })
        .await
    }

    /// The next frame, if its header will do: nothing is allocated before.
    async fn next_if(
        &mut self,
        check: impl FnOnce(Header) -> Result<(), LinkError>,
    ) -> Result<Option<Frame>, LinkError> {
        let mut header = [0; HEADER_BYTES];
        match self.stream.read_exact(&mut header).await {
            Ok(()) => {}
            Err(quinn::ReadExactError::FinishedEarly(0)) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        // The length is capped by kind before anything is allocated.
        let header = Header::decode(&header)?;
        check(header)?;
        let mut payload = vec![0; header.length as usize];
        self.stream.read_exact(&mut payload).await?;
        Ok(Some(match header.kind {
            FrameKind::Message => Frame::Message(payload),
            FrameKind::Pages => Frame::Pages(payload),
        }))
    }

    /// The next frame, which must be a message of this type.
    pub async fn message<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        self.message_within(MESSAGE_BYTES_MAX).await
    }

    /// The same, of at most so many bytes.
    pub async fn message_within<T: DeserializeOwned>(
        &mut self,
        bytes_max: u32,
    ) -> Result<T, LinkError> {
        match self.next_within(bytes_max).await? {
            Some(Frame::Message(payload)) => Ok(message::decode(&payload)?),
            Some(Frame::Pages(_)) => Err(LinkError::Unexpected("pages")),
            None => Err(LinkError::Ended),
        }
    }
}
