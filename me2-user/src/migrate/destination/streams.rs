//! One-way streams of a connection: pages of a pass, of the final set and of the push; and the
//! handover's copy.

use me2_wire::frame::{
    HANDOVER_COPY_BYTES_MAX, HEADER_BYTES, PAGES_BYTES_MAX, Preface, StreamKind,
};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::transport::frames::{Frame, FrameReceiver, LinkError};

/// Takes the streams of a connection until it breaks: pages go to `pages`, a copy of the handover,
/// whole, to `copies`, and to `failures` the reason why one was none that a source opens.
pub async fn accept_streams(
    connection: quinn::Connection,
    expected: Preface,
    pages: mpsc::Sender<Vec<u8>>,
    copies: mpsc::Sender<Vec<Frame>>,
    failures: mpsc::Sender<LinkError>,
) {
    while let Ok(stream) = connection.accept_uni().await {
        let (pages, copies, failures) = (pages.clone(), copies.clone(), failures.clone());
        tokio::spawn(
            async move {
                match read(stream, expected, pages, copies).await {
                    Ok(()) => {}
                    // What a link that breaks leaves behind, or a stream that the source has given up.
                    Err(LinkError::Read(error)) => tracing::debug!("a stream ended: {error}"),
                    // One is enough.
                    Err(error) => _ = failures.try_send(error),
                }
            }
            .in_current_span(),
        );
    }
}

async fn read(
    stream: quinn::RecvStream,
    expected: Preface,
    pages: mpsc::Sender<Vec<u8>>,
    copies: mpsc::Sender<Vec<Frame>>,
) -> Result<(), LinkError> {
    let (frames, preface) = FrameReceiver::begin_any(stream).await?;
    if preface.migration != expected.migration || preface.epoch != expected.epoch {
        return Err(LinkError::Unexpected("a stream of another migration"));
    }
    match preface.kind {
        StreamKind::Bulk => read_pages(frames, pages).await,
        StreamKind::HandoverCopy => {
            let copy = read_copy(frames).await?;
            // One is as good as another: a second one has no room.
            let _ = copies.try_send(copy);
            Ok(())
        }
        StreamKind::Control | StreamKind::FaultAnswer => {
            Err(LinkError::Unexpected("a stream of two ways"))
        }
    }
}

async fn read_pages(
    mut frames: FrameReceiver,
    pages: mpsc::Sender<Vec<u8>>,
) -> Result<(), LinkError> {
    while let Some(payload) = frames.next_pages(PAGES_BYTES_MAX).await? {
        if pages.send(payload).await.is_err() {
            break;
        }
    }
    Ok(())
}

async fn read_copy(mut frames: FrameReceiver) -> Result<Vec<Frame>, LinkError> {
    let (mut copy, mut bytes) = (Vec::new(), 0);
    while let Some(frame) = frames.next_within(HANDOVER_COPY_BYTES_MAX as u32).await? {
        bytes += HEADER_BYTES + frame.bytes();
        if bytes > HANDOVER_COPY_BYTES_MAX {
            return Err(LinkError::Unexpected("a long copy of the handover"));
        }
        copy.push(frame);
    }
    Ok(copy)
}
