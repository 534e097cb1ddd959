//! QUIC: endpoints with mutual TLS, frames on streams, the bandwidth cap.

pub mod endpoint;
pub mod frames;
pub mod pace;
pub mod tls;
