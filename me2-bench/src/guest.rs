//! The guests that are moved.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A guest, as every scheme starts it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) memory_bytes: u64,
    pub(crate) cpus: u8,
    pub(crate) cmdline: String,
    /// Contents of its memory: the boot module.
    #[serde(skip)]
    pub(crate) module: Option<PathBuf>,
    /// What it fills of its memory before it begins; 0: not known.
    #[serde(default)]
    pub(crate) filled_bytes: u64,
    /// What it rewrites over and over, bytes: for rivals that are to be told.
    pub(crate) hot_bytes: u64,
    /// Part of its memory that must hold contents, percent; 0: any.
    pub(crate) filled_percent_min: u64,
}
