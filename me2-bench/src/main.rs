//! Experiments: me2 against plain pre-copy and against QEMU, and its codecs by themselves.

#![forbid(unsafe_code)]

fn main() {}
