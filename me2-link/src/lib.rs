//! A link to measure on: two network namespaces joined by an emulated wide-area link.

#![forbid(unsafe_code)]
