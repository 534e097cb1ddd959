//! The stream of events: one JSON document a line.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use tokio::sync::{mpsc, watch};

use super::Shared;
use super::answer::ApiError;
use super::streamed;
use crate::control::events::Subscription;
use crate::control::types::{ErrorBody, Event};

/// The events of the current or last migration, a JSON document a line, from its beginning until its
/// end. Who reads slowly skips progress, and nothing else.
#[utoipa::path(
    get,
    path = "/v1/migration/events",
    params(("from" = Option<String>, Query, description = "`next`: the next migration that begins; who is about to ask for one follows first")),
    responses(
        (status = 200, description = "Each line is an event", body = Event, content_type = "application/jsonl"),
        (status = 400, description = "The query makes no sense", body = ErrorBody),
        (status = 503, description = "Too many follow already", body = ErrorBody),
    ),
)]
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
    let place = shared.follower()?;
    let (lines, response) = streamed::response("application/jsonl");
    let is_closing = shared.is_closing.clone();
    tokio::spawn(async move {
        feed(subscription, lines, is_closing).await;
        drop(place);
    });
    Ok(response)
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
        let (lines, mut delivered) = mpsc::channel(4);
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
