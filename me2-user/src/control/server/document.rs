//! The OpenAPI document: made from the handlers and from the types that they take and give.

use utoipa::OpenApi;

/// What the document says of the whole; paths and schemas come with the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "me2: the API of a VM process",
        description = "JSON over HTTP/1.1 on the VM's Unix socket, `NAME.sock` in the runtime folder. \
            A migration goes on when its client goes away.",
    ),
    components(schemas(crate::control::types::Event))
)]
struct Head;

pub(super) fn head() -> utoipa::openapi::OpenApi {
    Head::openapi()
}

/// The OpenAPI document of the control interface, in JSON.
pub fn document() -> String {
    let (_, document) = super::routes().split_for_parts();
    document
        .to_pretty_json()
        .expect("a document is plain data with string keys")
}
