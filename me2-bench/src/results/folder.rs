//! A folder with the results of one experiment.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Manifest, SCHEMA_VERSION, Sample};

/// Folders of one day and experiment.
const NUMBER_MAX: u32 = 100;
/// What is read of files that may have come from anywhere.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;
const SAMPLES_BYTES_MAX: u64 = 256 << 20;

/// Where manifest, samples and plots of one experiment are.
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the one that was asked for, or one of today in `bench-results`, named after the
    /// experiment. It must be new, or empty.
    pub(crate) fn create(asked: Option<&Path>, experiment: &str) -> anyhow::Result<Self> {
        let path = match asked {
            Some(path) => path.to_owned(),
            None => of_today(experiment).context("too many folders of today in bench-results")?,
        };
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let is_empty = fs::read_dir(&path)?.next().is_none();
        ensure!(
            is_empty,
            "{} has something in it: results are never overwritten",
            path.display()
        );
        Ok(Self { path })
    }

    /// One that is there.
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Of which experiment it is, also of one whose manifest has another shape.
    pub(crate) fn experiment(&self) -> anyhow::Result<String> {
        let manifest: Value = self.manifest()?;
        let experiment = manifest["experiment"].as_str();
        Ok(experiment
            .context("manifest.json has no experiment")?
            .into())
    }

    /// `manifest.json`, checked to be of the version that is known here.
    pub(crate) fn manifest<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        let manifest = self.bytes("manifest.json", MANIFEST_BYTES_MAX)?;
        let manifest: Value = serde_json::from_slice(&manifest).context("manifest.json")?;
        let version = manifest["schema_version"].as_u64();
        let version = version.context("manifest.json has no schema_version")?;
        ensure!(
            version == u64::from(SCHEMA_VERSION),
            "schema version {version} is not known here"
        );
        serde_json::from_value(manifest).context("manifest.json")
    }

    /// The lines of `samples.jsonl`.
    pub(crate) fn samples<T: DeserializeOwned>(&self) -> anyhow::Result<Vec<T>> {
        let text = self.bytes("samples.jsonl", SAMPLES_BYTES_MAX)?;
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty());
        let samples = lines.map(|(index, line)| {
            let sample = serde_json::from_slice(line);
            sample.with_context(|| format!("samples.jsonl, line {}", index + 1))
        });
        samples.collect()
    }

    /// A file of it, if it is not longer than it may be.
    fn bytes(&self, name: &str, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
        let missing = || format!("no {name} in {}", self.path.display());
        let mut bytes = Vec::new();
        let path = self.file(name);
        ensure!(path.is_file(), missing());
        let file = File::open(path).with_context(missing)?;
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
        ensure!(
            bytes.len() as u64 <= bytes_max,
            "{name} has more than {} MiB",
            bytes_max >> 20
        );
        Ok(bytes)
    }

    /// Opens one that is there; gives what is in it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<(Self, Manifest, Vec<Sample>)> {
        let folder = Self::at(path);
        let (manifest, samples) = (folder.manifest()?, folder.samples()?);
        Ok((folder, manifest, samples))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a document, for people too.
    pub(crate) fn write(&self, name: &str, document: &impl Serialize) -> anyhow::Result<()> {
        let mut text = serde_json::to_string_pretty(document)?;
        text.push('\n');
        fs::write(self.file(name), text).with_context(|| format!("cannot write {name}"))
    }

    /// Adds a sample: an experiment that is interrupted keeps what it has.
    pub(crate) fn add(&self, sample: &Sample) -> anyhow::Result<()> {
        let mut line = serde_json::to_string(sample)?;
        line.push('\n');
        let path = self.file("samples.jsonl");
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(file.write_all(line.as_bytes())?)
    }
}

/// The present moment: UTC, ISO 8601, whole seconds.
pub(crate) fn timestamp() -> String {
    let now = time::OffsetDateTime::now_utc();
    let (hour, minute, second) = now.to_hms();
    format!("{}T{hour:02}:{minute:02}:{second:02}Z", now.date())
}

/// The root of the project, if this program still is where it was built; else the current folder.
pub(crate) fn root() -> &'static Path {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    built
        .filter(|root| root.join("bench-results").is_dir())
        .unwrap_or(Path::new("."))
}

/// A name that is not taken yet.
fn of_today(experiment: &str) -> Option<PathBuf> {
    let today = time::OffsetDateTime::now_utc().date();
    let parent = root().join("bench-results");
    let name = format!("{today}-{experiment}");
    let numbered = (2..NUMBER_MAX).map(|number| format!("{name}-{number}"));
    let mut paths = std::iter::once(name.clone())
        .chain(numbered)
        .map(|name| parent.join(name));
    paths.find(|path| !path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let made = Folder::create(Some(&path), "me2").unwrap();
        assert!(Folder::create(Some(&path), "me2").is_ok(), "empty");
        made.write("a.json", &1).unwrap();
        assert!(Folder::create(Some(&path), "me2").is_err());
    }
}
