//! Results to make a page of: those of the project, a sweep that nobody measured, a folder that cannot
//! be shown.

use std::{fs, os::unix::fs::symlink, path::Path};

use serde_json::{Value, json};

/// Fills an empty folder.
pub(crate) fn gather(folder: &Path) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench-results");
    for entry in fs::read_dir(own).expect("the project has results") {
        let path = entry.expect("a folder").path();
        if path.is_dir() {
            symlink(&path, folder.join(path.file_name().expect("a name"))).expect("a link");
        }
    }
    let broken = folder.join("broken");
    fs::create_dir(&broken).expect("a folder");
    fs::write(broken.join("manifest.json"), "{").expect("a file");
    sweep(&folder.join("2026-12-01-wan"));
}

/// Hybrid me2 and a rival over a whole sweep; on one link the rival does not converge.
fn sweep(folder: &Path) {
    let mut samples = String::new();
    let mut order = 0;
    for rtt in [1, 20, 50, 100, 200] {
        for rate in [50, 200, 1000] {
            for loss in ["loss0", "loss0.1", "loss1", "bursts1"] {
                for (scheme, factor) in [("me2-hybrid", 1.0), ("qemu-postcopy-preempt", 3.0)] {
                    order += 1;
                    let link = format!("rtt{rtt}-rate{rate}-{loss}");
                    let seconds = factor * (4000.0 / f64::from(rate) + f64::from(rtt) / 20.0);
                    let is_moved = factor < 2.0 || link != "rtt200-rate50-bursts1";
                    let sample = sample(&link, scheme, order, seconds, is_moved);
                    samples.push_str(&format!("{sample}\n"));
                }
            }
        }
    }
    let scheme = |name: &str| json!({ "name": name, "arguments": "" });
    let manifest = json!({
        "schema_version": 1, "experiment": "wan", "started": "2026-12-01T00:00:00Z",
        "command": "cargo xtask bench wan --made-up",
        "me2": { "commit": "0", "dirty": true, "profile": "release" },
        "host": { "kernel": "", "cpu": "", "cpus": 2, "memory_bytes": 0, "kvm": "", "congestion_control": "" },
        "rivals": [], "links": {}, "guests": {}, "schemes": [scheme("me2-hybrid"), scheme("qemu-postcopy-preempt")],
        "runs": 1, "seed": 1, "notes": "", "left_out": ["me2-precopy kv: A, B"],
    });
    fs::create_dir(folder).expect("a folder");
    fs::write(folder.join("manifest.json"), manifest.to_string()).expect("a file");
    fs::write(folder.join("samples.jsonl"), samples).expect("a file");
}

fn sample(link: &str, scheme: &str, order: u32, seconds: f64, is_moved: bool) -> Value {
    // Reports tell of bytes by codec and of all faults, or, older ones, of three.
    let by_codec = match order.is_multiple_of(3) {
        true => {
            json!({ "zero": 30, "reference": 0, "delta": 20_000, "rle": 0, "zstd": 968_000, "raw": 1_970 })
        }
        false => Value::Null,
    };
    let buckets = match order.is_multiple_of(3) {
        true => json!([[100_000, 2], [140_000, 5], [210_000, 1]]),
        false => json!([]),
    };
    let speeds: Vec<_> = (-10..(seconds * 10.0) as i32)
        .map(|at| json!([f64::from(at) / 10.0, 1000.0]))
        .collect();
    json!({
        "schema_version": 1, "link": link, "guest": "mixed", "scheme": scheme, "run": 1, "order": order,
        "exit_code": i32::from(!is_moved), "came": if is_moved { "moved" } else { "did_not_converge" }, "error": null,
        "total_time_ms": seconds * 1e3, "link_bytes": { "forth": 1_000_000, "back": 1000, "queue_drops": 0 },
        "fill_pages": 65536, "reported_downtime_ms": 1.0, "downtime_ms": 10.0 * seconds,
        "guest_silence_ms_max": 10.0 * seconds, "recovered_90_percent_s": 0.2, "rate_before": 1000.0, "speed_during": 0.99,
        "speed_until_stop": 0.99, "stop_s": seconds * 0.9, "speeds": speeds,
        "operations": { "from_s": seconds * 0.9 - 0.3, "bin_ms": 10.0, "completed": vec![10; 100] },
        "report": {
            "setup_time_ms": 200.0,
            "encoding": { "plain_bytes": 1_500_000, "encoded_bytes": 990_000, "by_codec": by_codec },
            "codec": { "zero": 10, "reference": 0, "delta": 5, "rle": 5, "zstd": 80, "raw": 1 },
            "postcopy": { "faults": 3, "fault_latency_us": { "p50": 100_000, "p99": 150_000, "max": 210_000, "buckets": buckets } },
            "verify": { "mismatched_pages": 0 },
        },
    })
}
