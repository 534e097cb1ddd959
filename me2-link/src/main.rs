//! `me2-link`: sets up an emulated link and holds it.

#![forbid(unsafe_code)]

fn main() {}
