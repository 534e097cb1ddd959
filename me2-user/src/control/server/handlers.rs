//! What each request does: most of them have the VM process carry out a command.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::Shared;
use super::answer::{ApiError, accepted, json};
use super::document::document;
use crate::control::channel::{Command, Reply};
use crate::control::metrics;
use crate::control::types::{Accepted, ErrorBody, MigrateRequest, RecoverRequest, Taken, VmStatus};

/// What the VM does, and how far its migration is.
#[utoipa::path(
    get,
    path = "/v1/status",
    responses((status = 200, description = "As it is now", body = VmStatus)),
)]
pub(super) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    json(StatusCode::OK, &*shared.handle.status.borrow())
}

/// The machine document: what a destination would be told of the VM.
#[utoipa::path(
    get,
    path = "/v1/machine",
    responses(
        (status = 200, description = "As it was built", body = Object),
        (status = 409, description = "There is no VM here yet", body = ErrorBody),
        (status = "5XX", description = "The process is ending", body = ErrorBody),
    ),
)]
pub(super) async fn machine(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    let document = shared.ask(|reply| Command::Describe { reply }).await?;
    Ok(json(StatusCode::OK, &document))
}

/// Moves the VM. The answer comes when the migration has begun; its events tell what becomes of it.
#[utoipa::path(
    post,
    path = "/v1/migrate",
    request_body = MigrateRequest,
    responses(
        (status = 202, description = "It has begun", body = Accepted),
        (status = 400, description = "The request makes no sense", body = ErrorBody),
        (status = 409, description = "Not now: one is under way, or the VM is paused", body = ErrorBody),
        (status = 413, description = "Larger than 64 KiB", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn migrate(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let mend = "see: me2 hybrid-migrate --help";
    let body = body.map_err(|rejection| ApiError::unreadable(&rejection))?;
    let request: MigrateRequest = parse(&body, "not a migration request", mend)?;
    request
        .check()
        .map_err(|reason| ApiError::bad_request(reason, mend))?;
    let id = shared
        .ask(|reply| Command::Migrate { request, reply })
        .await?;
    Ok(accepted(&id))
}

/// Connects again after a link that broke behind the handover, or takes the VM back.
#[utoipa::path(
    post,
    path = "/v1/recover",
    request_body(content = Option<RecoverRequest>, description = "None: connect again"),
    responses(
        (status = 202, description = "It goes on", body = Accepted),
        (status = 400, description = "The request makes no sense", body = ErrorBody),
        (status = 409, description = "There is nothing to recover, or the destination answers", body = ErrorBody),
        (status = 413, description = "Larger than 64 KiB", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn recover(
    State(shared): State<Arc<Shared>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let mend = "see: me2 recover --help";
    let body = body.map_err(|rejection| ApiError::unreadable(&rejection))?;
    let request: RecoverRequest = match body.is_empty() {
        true => RecoverRequest::default(),
        false => parse(&body, "not a request to recover", mend)?,
    };
    request
        .check()
        .map_err(|reason| ApiError::bad_request(reason, mend))?;
    let id = shared
        .ask(|reply| Command::Recover { request, reply })
        .await?;
    Ok(accepted(&id))
}

/// Gives up the migration, which is possible until the handover.
#[utoipa::path(
    post,
    path = "/v1/cancel",
    responses(
        (status = 202, description = "Taken; the events tell what came of it", body = Taken),
        (status = 409, description = "None is under way, or the VM has left", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn cancel(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Cancel { reply }).await
}

/// Ends pre-copy: the VM is handed over as soon as possible.
#[utoipa::path(
    post,
    path = "/v1/switch-now",
    responses(
        (status = 202, description = "Taken", body = Taken),
        (status = 409, description = "None is under way, or the VM has left", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn switch_now(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::SwitchNow { reply }).await
}

/// Stops the vCPUs.
#[utoipa::path(
    post,
    path = "/v1/pause",
    responses(
        (status = 202, description = "Taken", body = Taken),
        (status = 409, description = "Not now: a migration is under way", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn pause(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Pause { reply }).await
}

/// Lets the vCPUs run on.
#[utoipa::path(
    post,
    path = "/v1/resume",
    responses(
        (status = 202, description = "Taken", body = Taken),
        (status = 409, description = "Not now: a migration is under way", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn resume(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Resume { reply }).await
}

/// Ends the VM, as if its power were cut, and its process.
#[utoipa::path(
    post,
    path = "/v1/stop",
    responses(
        (status = 202, description = "Taken", body = Taken),
        (status = 409, description = "Not now: a migration is under way", body = ErrorBody),
        (status = "5XX", description = "The process is ending, or could not", body = ErrorBody),
    ),
)]
pub(super) async fn stop(State(shared): State<Arc<Shared>>) -> Result<Response, ApiError> {
    shared.order(|reply| Command::Stop { reply }).await
}

/// What is counted and measured, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    responses((
        status = 200,
        description = "The text of OpenMetrics 1.0",
        body = String,
        content_type = "application/openmetrics-text",
    )),
)]
pub(super) async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let text = shared.handle.metrics.text();
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response()
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
pub(super) async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document()).into_response()
}

fn parse<T: DeserializeOwned>(body: &[u8], what: &str, mend: &str) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("{what}: {error}"), mend))
}

impl Shared {
    /// Has the VM process carry out a command, and waits for its reply.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> Result<T, ApiError> {
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
        Ok(accepted(&Taken {}))
    }
}
