//! The stream of events: one JSON document a line.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::answer::ApiError;
use crate::control::events::Subscription;

/// Lines between the subscription and the socket. A client that is slower skips progress.
const LINES_MAX: usize = 4;

pub(super) async fn events(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let subscription = match uri.query() {
        None => shared.handle.events.subscribe(),
        Some("from=next") => shared.handle.events.subscribe_next(),
        Some(_) => {
            return Err(ApiError::bad_request(
                "unknown query",
                "known is: ?from=next",
            ));
        }
    };
    let permit = Arc::clone(&shared.followers).try_acquire_owned();
    let permit = permit.map_err(|_| ApiError::too_many_followers())?;
    let (lines, body) = mpsc::channel(LINES_MAX);
    let is_closing = shared.is_closing.clone();
    tokio::spawn(async move {
        feed(subscription, lines, is_closing).await;
        drop(permit);
    });
    let content_type = [(header::CONTENT_TYPE, "application/jsonl")];
    Ok((content_type, Body::new(Lines(body))).into_response())
}

/// Ends after the end event, when the client is gone, or when nothing more can come.
async fn feed(
    mut subscription: Subscription,
    lines: mpsc::Sender<Bytes>,
    mut is_closing: watch::Receiver<bool>,
) {
    loop {
        // In this order: what is written already is delivered even when closing.
        let event = tokio::select! {
            biased;
            event = subscription.next() => event,
            () = lines.closed() => None,
            _ = is_closing.wait_for(|closing| *closing) => None,
        };
        let Some(event) = event else { return };
        let mut line = serde_json::to_vec(&event).expect("our types are all plain data");
        line.push(b'\n');
        if lines.send(line.into()).await.is_err() {
            return;
        }
    }
}

/// A body of the lines that a task writes.
struct Lines(mpsc::Receiver<Bytes>);

impl HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(cx)
            .map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::EventHub;
    use crate::control::types::{Event, Outcome, Phase, Report};

    #[tokio::test]
    async fn what_is_written_before_the_closing_is_delivered() {
        let hub = EventHub::default();
        let subscription = hub.subscribe();
        let events = hub.begin(1);
        for pass in 0..20 {
            events.phase(Phase::Precopy, pass, 0);
        }
        events.end(Outcome::Moved, Report::default());
        let (_closing, is_closing) = watch::channel(true);
        let (lines, mut delivered) = mpsc::channel(LINES_MAX);
        tokio::spawn(feed(subscription, lines, is_closing));
        let mut count = 0;
        let mut last = Bytes::new();
        while let Some(line) = delivered.recv().await {
            count += 1;
            last = line;
        }
        assert_eq!(count, 21);
        let last: Event = serde_json::from_slice(&last).unwrap();
        assert!(matches!(last, Event::End { .. }), "{last:?}");
    }
}
