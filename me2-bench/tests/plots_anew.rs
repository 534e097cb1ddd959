//! `bench plot` makes summary and plots of every kept experiment anew.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

/// Their summaries have nothing that has changed since they were kept.
const SAME_SUMMARY: [&str; 2] = ["paging", "probes"];

fn json(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

#[test]
fn every_kept_experiment_can_be_plotted() {
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-results");
    let mut plotted = 0;
    for entry in fs::read_dir(results).expect("the project has results") {
        let kept = entry.expect("a folder").path();
        if !kept.is_dir() {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["manifest.json", "samples.jsonl"] {
            fs::copy(kept.join(name), folder.path().join(name)).expect("a copy");
        }
        let output = Command::new(env!("CARGO_BIN_EXE_me2-bench"))
            .args(["plot", "--output", "json"])
            .arg(folder.path())
            .output()
            .expect("me2-bench starts");
        let told = String::from_utf8_lossy(&output.stderr);
        // 1: a target is missed, or something cannot be relied on; then it is told.
        let is_told = output.status.code() == Some(1) && !told.is_empty();
        assert!(
            output.status.success() || is_told,
            "{}: {told}",
            kept.display()
        );
        assert!(!told.contains("error:"), "{}: {told}", kept.display());
        let summary = json(&folder.path().join("summary.json"));
        let experiment = json(&kept.join("manifest.json"))["experiment"].clone();
        if SAME_SUMMARY.iter().any(|name| experiment == *name) {
            assert_eq!(
                summary,
                json(&kept.join("summary.json")),
                "{}",
                kept.display()
            );
        }
        let files = fs::read_dir(folder.path()).expect("a folder");
        let names = files.map(|file| file.expect("a file").path());
        let plots = names.filter(|path| path.extension().is_some_and(|end| end == "svg"));
        assert!(plots.count() > 0, "no plot of {}", kept.display());
        plotted += 1;
    }
    assert!(plotted > 0, "there is nothing to plot");
}
