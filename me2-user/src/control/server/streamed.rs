//! Answers that a task writes piece by piece, until its client goes away or there is no more.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::mpsc;

/// Pieces between who writes and the socket.
const PIECES_MAX: usize = 4;

/// An answer of this type, and where its pieces go.
pub(super) fn response(content_type: &'static str) -> (mpsc::Sender<Bytes>, Response) {
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let response = (
        [(header::CONTENT_TYPE, content_type)],
        Body::new(Pieces(body)),
    );
    (pieces, response.into_response())
}

struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
