//! The server's end of the control socket: [`routes`] has every path, from which the OpenAPI document
//! is made too.
//!
//! What is not a success is an [`ErrorBody`](super::types::ErrorBody) with a status of 400 or more.

mod answer;
mod console;
mod document;
mod follow;
mod handlers;
mod streamed;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::Uri;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::channel::ControlHandle;
use super::socket::ControlSocket;
use answer::ApiError;

pub use document::document;

/// The largest request body, in bytes; a real one has some hundred.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// How long a request may take, its body included; events stream on.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long followers have to read the end, once the process wants to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Clients that follow events or the console at once.
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

/// Serves `/metrics`, and nothing else, to whoever reaches this address; until it is dropped.
pub async fn serve_metrics(listener: TcpListener, handle: ControlHandle) -> io::Result<()> {
    let (_closing, is_closing) = watch::channel(false);
    let router = Router::new()
        .route("/metrics", get(handlers::metrics))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(in_time))
        .with_state(Shared::new(handle, is_closing));
    axum::serve(listener, router).await
}

/// What all requests share.
struct Shared {
    handle: ControlHandle,
    followers: Arc<Semaphore>,
    is_closing: watch::Receiver<bool>,
}

impl Shared {
    fn new(handle: ControlHandle, is_closing: watch::Receiver<bool>) -> Arc<Self> {
        Arc::new(Self {
            handle,
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            is_closing,
        })
    }

    /// A place for one who follows; kept as long as it does.
    fn follower(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.followers).try_acquire_owned();
        place.map_err(|_| ApiError::too_many_followers())
    }
}

/// Every path with its handler, and what is said of it in the OpenAPI document.
fn routes() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::with_openapi(document::head())
        .routes(routes!(handlers::status))
        .routes(routes!(handlers::machine))
        .routes(routes!(handlers::migrate))
        .routes(routes!(follow::events))
        .routes(routes!(handlers::cancel))
        .routes(routes!(handlers::switch_now))
        .routes(routes!(handlers::recover))
        .routes(routes!(handlers::pause))
        .routes(routes!(handlers::resume))
        .routes(routes!(handlers::stop))
        .routes(routes!(console::read, console::write))
        .routes(routes!(handlers::metrics))
        .routes(routes!(handlers::openapi))
}

fn router(handle: ControlHandle, is_closing: watch::Receiver<bool>) -> Router {
    let (router, _document) = routes().split_for_parts();
    router
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(in_time))
        .with_state(Shared::new(handle, is_closing))
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
