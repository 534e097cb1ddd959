//! The server's end of the control socket.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/status` | 200, [`VmStatus`](super::types::VmStatus) |
//! | `POST /v1/migrate`, a [`MigrateRequest`] | 202, [`Accepted`](super::types::Accepted) |
//! | `POST /v1/recover`, a [`RecoverRequest`] or nothing | 202, [`Accepted`](super::types::Accepted) |
//! | `POST /v1/cancel`, `/v1/switch-now`, `/v1/pause`, `/v1/resume`, `/v1/stop` | 202, `{}` |
//! | `GET /v1/migration/events` | 200, lines of [`Event`](super::types::Event), of the current or last migration |
//! | `GET /v1/migration/events?from=next` | the same, of the next migration that begins |
//!
//! Everything else is an [`ErrorBody`](super::types::ErrorBody) with a status of 400 or more.

mod answer;
mod follow;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, oneshot, watch};

use super::channel::{Command, ControlHandle, Reply};
use super::socket::ControlSocket;
use super::types::{MigrateRequest, RecoverRequest};
use answer::{ApiError, accepted, json};

/// The largest request body, in bytes; a real one has some hundred.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a request may take, its body included; events stream on.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long followers have to read the end, once the process wants to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Clients that follow events at once.
const FOLLOWERS_MAX: usize = 64;

/// Serves the control interface until `shutdown`, then until every follower
/// has read the end, or two seconds.
///
/// Write the end of a migration's events before `shutdown` is resolved: what
/// is written later reaches nobody. The socket's file goes away with it.
pub async fn serve(
    socket: ControlSocket,
    handle: ControlHandle,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (listener, _file) = socket.into_parts()?;
    let (closing, is_closing) = watch::channel(false);
    let mut announced = is_closing.clone();
    let router = router(handle, is_closing);
    let graceful = async move {
        shutdown.await;
        closing.send_replace(true);
    };
    let drained = async move {
        // Gone is announced too: the sender lives until then.
        let _ = announced.wait_for(|closing| *closing).await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        served = axum::serve(listener, router).with_graceful_shutdown(graceful).into_future() => served,
        () = drained => Ok(()),
    }
}

/// What all requests share.
struct Shared {
    handle: ControlHandle,
    followers: Arc<Semaphore>,
    is_closing: watch::Receiver<bool>,
}

fn router(handle: ControlHandle, is_closing: watch::Receiver<bool>) -> Router {
    let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
    let shared = Arc::new(Shared {
        handle,
        followers,
        is_closing,
    });
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/migrate", post(migrate))
        .route("/v1/migration/events", get(follow::events))
        .route("/v1/cancel", post(cancel))
        .route("/v1/switch-now", post(switch_now))
        .route("/v1/recover", post(recover))
        .route("/v1/pause", post(pause))
        .route("/v1/resume", post(resume))
        .route("/v1/stop", post(stop))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(in_time))
        .with_state(shared)
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    json(StatusCode::OK, &*shared.handle.status.borrow())
}

async fn migrate(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let mend = "see: me2 hybrid-migrate --help";
    let body = body.map_err(|rejection| ApiError::unreadable(&rejection))?;
    let request: MigrateRequest = serde_json::from_slice(&body).map_err(|error| {
        ApiError::bad_request(format!("not a migration request: {error}"), mend)
    })?;
    request
        .check()
        .map_err(|reason| ApiError::bad_request(reason, mend))?;
    let id = shared
        .ask(|reply| Command::Migrate { request, reply })
        .await?;
    Ok(accepted(&id))
}

async fn recover(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let mend = "see: me2 recover --help";
    let body = body.map_err(|rejection| ApiError::unreadable(&rejection))?;
    let request: RecoverRequest = match body.is_empty() {
        true => RecoverRequest::default(),
        false => serde_json::from_slice(&body).map_err(|error| {
            ApiError::bad_request(format!("not a request to recover: {error}"), mend)
        })?,
    };
    request
        .check()
        .map_err(|reason| ApiError::bad_request(reason, mend))?;
    let id = shared
        .ask(|reply| Command::Recover { request, reply })
        .await?;
    Ok(accepted(&id))
}

async fn cancel(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Cancel { reply }).await
}

async fn switch_now(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::SwitchNow { reply }).await
}

async fn pause(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Pause { reply }).await
}

async fn resume(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Resume { reply }).await
}

async fn stop(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Stop { reply }).await
}

async fn unknown(uri: Uri) -> ApiError {
    ApiError::unknown_path(uri.path())
}

async fn wrong_method() -> ApiError {
    ApiError::wrong_method()
}

async fn in_time(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => ApiError::no_reply_in_time().into_response(),
    }
}

impl Shared {
    /// Has the VM process carry out a command, and waits for its reply.
    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.handle.commands.send(command(reply)).await;
        sent.map_err(|_closed| ApiError::ending())?;
        let answer = answer.await.map_err(|_dropped| ApiError::ending())?;
        answer.map_err(ApiError::from)
    }

    async fn order(
        &self,
        command: impl FnOnce(Reply<()>) -> Command,
    ) -> Result<Response, ApiError> {
        self.ask(command).await?;
        Ok(accepted(&serde_json::json!({})))
    }
}
