//! The command line as a whole.

mod arguments;
mod commands;
mod packaged;
