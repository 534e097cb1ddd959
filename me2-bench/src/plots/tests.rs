use std::fs;

use super::*;
use crate::{
    network::LinkName,
    results::{Build, Came, Experiment, Host, SCHEMA_VERSION, SchemeOfManifest},
};

fn manifest(experiment: Experiment, schemes: &[&str]) -> Manifest {
    let scheme = |name: &&str| SchemeOfManifest {
        name: (*name).into(),
        arguments: String::new(),
    };
    Manifest {
        schema_version: SCHEMA_VERSION,
        experiment,
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
        schemes: schemes.iter().map(scheme).collect(),
        runs: 1,
        seed: 1,
        notes: String::new(),
        left_out: vec![],
    }
}

#[test]
fn every_experiment_has_its_plots() {
    let mut samples = vec![
        Sample::of(LinkName::A, "kv", "me2-hybrid", 1.0, 100),
        Sample::of(LinkName::A, "kv", "qemu-precopy", 2.0, 200),
    ];
    samples[0].fared.rate_before = Some(100.0);
    samples[0].fared.speeds = vec![(-1.0, 100.0), (0.0, 50.0)];
    samples[1].came = Came::DidNotConverge;
    let manifest = manifest(Experiment::Qemu, &["me2-hybrid", "qemu-precopy"]);
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

#[test]
fn a_sweep_is_drawn_over_round_trips_and_links_looked_at_closely_around_the_stop() {
    let sweep = ["A", "C", "rtt20-rate200-loss0.1", "rtt20-rate50-bursts1"];
    let others = ["rtt1-rate50-loss0", "rtt1-rate200-loss0"];
    let mut samples = Vec::new();
    for link in sweep.iter().chain(&others) {
        let link: LinkName = link.parse().unwrap();
        for scheme in ["me2-hybrid", "qemu-postcopy"] {
            let mut sample = Sample::of(link, "mixed", scheme, 2.0, 100);
            sample.fared.rate_before = Some(1000.0);
            sample.fared.stop_s = Some(0.5);
            sample.fared.speeds = vec![(0.0, 1000.0)];
            sample.fared.operations.from_s = -0.1;
            sample.fared.operations.bin_ms = 10.0;
            sample.fared.operations.completed = vec![10; 100];
            samples.push(sample);
        }
    }
    samples[1].came = Came::DidNotConverge;
    let manifest = manifest(Experiment::Wan, &["me2-hybrid", "qemu-postcopy"]);
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::create(Some(parent.path()), "wan").unwrap();
    draw(&folder, &manifest, &samples).unwrap();
    let read = |name: &str| fs::read_to_string(folder.file(name));
    for name in [
        "total-time-over-round-trip.svg",
        "longest-gap-over-round-trip.svg",
    ] {
        let plot = read(name).unwrap();
        for wanted in [
            "1% lost in bursts",
            "200 Mbit/s",
            "round trip, ms",
            "no loss",
        ] {
            assert!(plot.contains(wanted), "no {wanted} in {name}");
        }
    }
    let stop = read("stop-C-mixed.svg").unwrap();
    assert!(stop.contains("<polygon"), "{stop}");
    assert!(read("stop-rtt1-rate50-loss0-mixed.svg").is_err());
    draw(&folder, &manifest, &[]).unwrap();
}
