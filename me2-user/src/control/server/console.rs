//! The guest's console: what it writes, and what is typed.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use utoipa::IntoParams;

use super::Shared;
use super::answer::{ApiError, accepted};
use super::streamed;
use crate::control::channel::Command;
use crate::control::console::{ConsoleReader, SCROLLBACK_BYTES_MAX};
use crate::control::types::{ErrorBody, Typed};

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Scrollback {
    /// Bytes of what was written before that are told first, 65536 at most and if nothing is said.
    scrollback: Option<usize>,
}

/// What the guest writes to its console, as bytes: first what is kept of before, then as it comes. Ends
/// with the VM's process. Who reads too slowly misses some, and is told where.
#[utoipa::path(
    get,
    path = "/v1/console",
    params(Scrollback),
    responses(
        (status = 200, description = "The console's output", body = String, content_type = "application/octet-stream"),
        (status = 400, description = "The query makes no sense", body = ErrorBody),
        (status = 503, description = "Too many follow already", body = ErrorBody),
    ),
)]
pub(super) async fn read(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Scrollback>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|rejection| {
        ApiError::bad_request(rejection.body_text(), "known is: ?scrollback=BYTES")
    })?;
    let place = shared.follower()?;
    let scrollback = query.scrollback.unwrap_or(SCROLLBACK_BYTES_MAX);
    let reader = shared.handle.console.reader(scrollback);
    let (pieces, response) = streamed::response("application/octet-stream");
    let is_closing = shared.is_closing.clone();
    tokio::spawn(async move {
        feed(reader, pieces, is_closing).await;
        drop(place);
    });
    Ok(response)
}

async fn feed(
    mut reader: ConsoleReader,
    pieces: mpsc::Sender<Bytes>,
    mut is_closing: watch::Receiver<bool>,
) {
    loop {
        let piece = tokio::select! {
            biased;
            piece = reader.next() => piece,
            () = pieces.closed() => return,
            _ = is_closing.wait_for(|closing| *closing) => break,
        };
        if pieces.send(piece.into()).await.is_err() {
            return;
        }
    }
}

/// Types at the guest's console, as far as its serial port has room: at most 64 bytes wait in it.
#[utoipa::path(
    post,
    path = "/v1/console",
    request_body(content = String, content_type = "application/octet-stream", description = "What is typed"),
    responses(
        (status = 202, description = "How much of it was taken", body = Typed),
        (status = 409, description = "The VM does not run here", body = ErrorBody),
        (status = 413, description = "Larger than 64 KiB", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn write(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let bytes = body
        .map_err(|rejection| ApiError::unreadable(&rejection))?
        .to_vec();
    let typed = shared.ask(|reply| Command::Type { bytes, reply }).await?;
    Ok(accepted(&typed))
}
