use std::fs;

use super::*;
use crate::{
    network::LinkName,
    results::{Build, Came, Experiment, Host, SCHEMA_VERSION, SchemeOfManifest},
};

#[test]
fn every_experiment_has_its_plots() {
    let mut samples = vec![
        Sample::of(LinkName::A, "kv", "me2-hybrid", 1.0, 100),
        Sample::of(LinkName::A, "kv", "qemu-precopy", 2.0, 200),
    ];
    samples[0].fared.rate_before = Some(100.0);
    samples[0].fared.speeds = vec![(-1.0, 100.0), (0.0, 50.0)];
    samples[1].came = Came::DidNotConverge;
    let scheme = |name: &str| SchemeOfManifest {
        name: name.into(),
        arguments: String::new(),
    };
    let manifest = Manifest {
        schema_version: SCHEMA_VERSION,
        experiment: Experiment::Qemu,
        started: String::new(),
        command: String::new(),
        me2: Build {
            commit: String::new(),
            dirty: false,
            profile: String::new(),
        },
        host: Host::of_this_machine(),
        rivals: vec![],
        links: Default::default(),
        guests: Default::default(),
        schemes: vec![scheme("me2-hybrid"), scheme("qemu-precopy")],
        runs: 1,
        seed: 1,
        notes: String::new(),
    };
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::create(Some(parent.path()), "qemu").unwrap();
    draw(&folder, &manifest, &samples).unwrap();
    let bars = fs::read_to_string(folder.file("total-time.svg")).unwrap();
    for wanted in [
        "me2-hybrid",
        "did not converge",
        "link A, guest kv",
        "seconds",
    ] {
        assert!(bars.contains(wanted), "no {wanted} in {bars}");
    }
    let speed = fs::read_to_string(folder.file("speed-A-kv.svg")).unwrap();
    assert!(speed.contains("<polygon"), "{speed}");
    // Nothing to draw is no reason to fail.
    draw(&folder, &manifest, &[]).unwrap();
}
