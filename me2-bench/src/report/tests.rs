use std::{fs, path::Path};

use serde_json::json;

use super::*;

fn write(folder: &Path, manifest: &str, samples: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("manifest.json"), manifest).unwrap();
    fs::write(folder.join("samples.jsonl"), samples).unwrap();
}

/// The page of what `fill` makes, and how many folders it cannot show.
fn made(fill: impl Fn(&Path)) -> (String, usize) {
    let results = tempfile::tempdir().unwrap();
    fill(results.path());
    let kept = Kept::read(results.path()).unwrap();
    (page::page(&kept).into_string(), kept.problems.len())
}

#[test]
fn folders_that_cannot_be_shown_have_a_line_each() {
    let (page, problems) = made(|results| {
        fs::create_dir(results.join("empty")).unwrap();
        write(&results.join("broken"), "{", "");
        write(
            &results.join("newer"),
            r#"{"schema_version":2,"experiment":"wan"}"#,
            "",
        );
        write(
            &results.join("other"),
            r#"{"schema_version":1,"experiment":"<b>xen</b>"}"#,
            "",
        );
        write(
            &results.join("no-rate"),
            r#"{"schema_version":1,"experiment":"transport"}"#,
            r#"{"case":"A","run":1,"figures":[],"seen":{"flows":[],"tcp":[],"requests_us":[]}}"#,
        );
        write(
            &results.join("no-time"),
            r#"{"schema_version":1,"experiment":"codec"}"#,
            r#"{"schema_version":1,"population":"p","codec":"c","run":1,"pages":1,"seconds":0,"memcpy_seconds":1,"encoded_bytes":0}"#,
        );
        write(
            &results.join("bad-line"),
            &json!({"schema_version": 1, "experiment": "paging", "limit": "", "cases": []})
                .to_string(),
            "{}\nnot json",
        );
        fs::write(results.join("README.md"), "no folder").unwrap();
    });
    assert_eq!(problems, 7);
    for wanted in [
        "<strong>empty</strong>: no manifest.json",
        "schema version 2 is not known here",
        "an experiment called &quot;&lt;b&gt;xen",
        "no rate of the link of case A",
        "without pages or time",
        "samples.jsonl, line 1",
    ] {
        assert!(page.contains(wanted), "no {wanted} in {page}");
    }
    assert!(!page.contains("<b>xen"), "names are text, not markup");
}

#[test]
fn without_results_every_experiment_says_how_to_get_them() {
    let (page, problems) = made(|_| ());
    assert_eq!(problems, 0);
    for command in [
        "bench wan",
        "bench me2 --ablation",
        "bench transport",
        "bench qemu",
    ] {
        assert!(page.contains(command), "no {command}");
    }
    assert!(!page.contains("<svg") && !page.contains("NaN"), "{page}");
}

#[test]
fn hits_and_misses_are_both_told() {
    let manifest = json!({
        "schema_version": 1, "experiment": "paging", "started": "2026-01-01T00:00:00Z", "runs": 2, "limit": "the machine",
        "cases": [{ "name": "random", "what": "far apart", "targets": [["fault_p50_us", 120.0], ["page_us", 1.0]] }],
    });
    let sample = |run, p50, page| json!({ "schema_version": 1, "case": "random", "run": run, "figures": [["fault_p50_us", p50], ["page_us", page]] });
    let samples = format!("{}\n{}\n", sample(1, 60.0, 4.0), sample(2, 80.0, 5.0));
    let (page, _) = made(|results| {
        write(
            &results.join("2026-01-01-paging"),
            &manifest.to_string(),
            &samples,
        )
    });
    for wanted in [
        "1 met, 1 missed",
        "70.0 (60.0–80.0)",
        "random: page, µs",
        "✗ missed",
        "✓ met",
        "2 runs of each cell: median (smallest–largest)",
    ] {
        assert!(page.contains(wanted), "no {wanted} in {page}");
    }
}

#[test]
fn nothing_in_the_page_asks_for_anything_outside() {
    let (page, problems) = made(|_| ());
    assert_eq!(problems, 0);
    for outside in ["http:", "https:", "<script", "@import", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}
