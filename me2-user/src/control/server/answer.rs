//! Answers in JSON, errors above all: each says what to do.

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::control::channel::{Refusal, RefusalKind};
use crate::control::types::ErrorBody;

/// An answer of 400 or more.
#[derive(Debug)]
pub(super) struct ApiError(StatusCode, ErrorBody);

pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_vec(body).expect("our types are all plain data with string keys");
    (
        status,
        [(header::CONTENT_TYPE, "application/json")],
        Body::from(text),
    )
        .into_response()
}

pub(super) fn accepted(body: &impl Serialize) -> Response {
    json(StatusCode::ACCEPTED, body)
}

impl ApiError {
    fn new(status: StatusCode, error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self(
            status,
            ErrorBody {
                error: error.into(),
                mend: mend.into(),
            },
        )
    }

    pub(super) fn bad_request(error: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error, mend)
    }

    pub(super) fn unreadable(rejection: &BytesRejection) -> Self {
        Self::new(
            rejection.status(),
            rejection.body_text(),
            "send a smaller body, and all of it",
        )
    }

    pub(super) fn unknown_path(path: &str) -> Self {
        let shown: String = path.chars().take(80).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            format!("nothing at {shown}"),
            "see: me2 --help",
        )
    }

    pub(super) fn wrong_method() -> Self {
        let mend = "GET asks for status and events, POST gives commands";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method", mend)
    }

    pub(super) fn no_reply_in_time() -> Self {
        let mend = "it may still be carried out: ask for the status";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "no reply in time", mend)
    }

    pub(super) fn ending() -> Self {
        let mend = "look at the log of the VM process, and at the destination";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the VM process is ending",
            mend,
        )
    }

    pub(super) fn too_many_followers() -> Self {
        let mend = "end one of the clients that follow the migration";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many clients follow events",
            mend,
        )
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, refusal.error, refusal.mend)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        json(self.0, &self.1)
    }
}
