//! What is kept of an experiment, by the schema of `bench-results/README.md`.

mod folder;
mod host;
mod manifest;
mod sample;

/// The version of the shape of manifest and samples.
pub(crate) const SCHEMA_VERSION: u32 = 1;

pub(crate) use folder::{Folder, root, timestamp};
pub(crate) use host::{Build, Host};
pub(crate) use manifest::{Experiment, GuestOfManifest, Manifest, Rival, SchemeOfManifest};
pub(crate) use sample::{Came, Sample};
