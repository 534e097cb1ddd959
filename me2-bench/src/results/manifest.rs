//! What was run, on what, and how to run it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::host::{Build, Host};
use crate::{contents::Contents, guest::Guest, network::LinkName};

/// `manifest.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    pub(crate) experiment: Experiment,
    /// UTC, ISO 8601.
    pub(crate) started: String,
    pub(crate) command: String,
    pub(crate) me2: Build,
    pub(crate) host: Host,
    pub(crate) rivals: Vec<Rival>,
    /// What was configured.
    pub(crate) links: BTreeMap<LinkName, Value>,
    pub(crate) guests: BTreeMap<String, GuestOfManifest>,
    /// In the order in which they are shown, with their arguments.
    pub(crate) schemes: Vec<SchemeOfManifest>,
    pub(crate) runs: u32,
    /// Of the orders in which schemes follow each other.
    pub(crate) seed: u64,
    pub(crate) notes: String,
    /// What there was no time for.
    #[serde(default)]
    pub(crate) left_out: Vec<String>,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Experiment {
    /// me2 against plain pre-copy by me2.
    Me2,
    /// me2 against QEMU.
    Qemu,
    /// me2 with each part switched off in turn.
    Ablation,
    /// me2's own choice of codecs against fixed ones.
    Codecs,
    /// me2 and one rival over long links of all kinds.
    Wan,
}

impl Experiment {
    pub(crate) const ALL: [Self; 5] = [
        Self::Me2,
        Self::Qemu,
        Self::Ablation,
        Self::Codecs,
        Self::Wan,
    ];

    /// Whether there is one with this name.
    pub(crate) fn is_known(name: &str) -> bool {
        Self::ALL.iter().any(|known| known.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Me2 => "me2",
            Self::Qemu => "qemu",
            Self::Ablation => "ablation",
            Self::Codecs => "codecs",
            Self::Wan => "wan",
        }
    }
}

/// A rival and how it was called.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rival {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) arguments: String,
}

/// A scheme and how it was called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SchemeOfManifest {
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// A guest, and what is in its memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct GuestOfManifest {
    #[serde(flatten)]
    pub(crate) guest: Guest,
    pub(crate) contents: Option<Contents>,
}

impl Manifest {
    /// Names of the schemes in the order in which they are shown.
    pub(crate) fn scheme_names(&self) -> impl Iterator<Item = &str> {
        self.schemes.iter().map(|scheme| scheme.name.as_str())
    }
}
