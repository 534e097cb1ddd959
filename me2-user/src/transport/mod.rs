//! QUIC: endpoints with mutual TLS, congestion control, frames on streams, the bandwidth cap,
//! a record of what QUIC did.

pub mod congestion;
pub mod endpoint;
pub mod frames;
pub mod limits;
pub mod pace;
pub mod qlog;
pub mod tls;
pub mod window;
