use super::*;
use crate::{
    experiments::{ALL, AUTO, HYBRID, PLAIN, USEFUL},
    network::LinkName,
    results::{Build, Host, SCHEMA_VERSION, SchemeOfManifest},
};

fn manifest(experiment: Experiment, samples: &[Sample]) -> Manifest {
    let scheme = |sample: &Sample| SchemeOfManifest {
        name: sample.scheme.clone(),
        arguments: String::new(),
    };
    let mut schemes: Vec<_> = samples.iter().map(scheme).collect();
    schemes.dedup();
    Manifest {
        schema_version: SCHEMA_VERSION,
        experiment,
        started: "2026-12-01T00:00:00Z".into(),
        command: String::new(),
        me2: Build {
            commit: String::new(),
            dirty: false,
            profile: "release".into(),
        },
        host: Host::of_this_machine(),
        rivals: vec![],
        links: Default::default(),
        guests: Default::default(),
        schemes,
        runs: 1,
        seed: 1,
        notes: String::new(),
        left_out: vec![],
    }
}

fn summary(experiment: Experiment, samples: &[Sample]) -> Summary {
    of(&manifest(experiment, samples), samples)
}

fn near(value: &Value, expected: f64) -> bool {
    value
        .as_f64()
        .is_some_and(|value| (value - expected).abs() < 1e-6)
}

#[test]
fn reductions_are_geometric_means_and_the_worst_cell_is_named() {
    let sample =
        |link, scheme: &str, seconds, bytes| Sample::of(link, "kv", scheme, seconds, bytes);
    let samples = [
        sample(LinkName::A, ALL, 10.0, 1000),
        sample(LinkName::A, USEFUL, 8.0, 800),
        sample(LinkName::A, HYBRID, 1.0, 100),
        sample(LinkName::B, ALL, 10.0, 1000),
        sample(LinkName::B, USEFUL, 8.0, 800),
        sample(LinkName::B, HYBRID, 4.0, 900),
    ];
    let Summary {
        document, problems, ..
    } = summary(Experiment::Me2, &samples);
    assert_eq!(problems, [""; 0]);
    // √(0.1 × 0.4) = 0.2; √(0.1 × 0.9) = 0.3
    assert!(
        near(&document["average"]["total_time_reduction_percent"], 80.0),
        "{document:#}"
    );
    assert!(
        near(&document["average"]["data_reduction_percent"], 70.0),
        "{document:#}"
    );
    assert!(near(
        &document["cells"][0]["all"]["data_reduction_percent"],
        90.0
    ));
    assert_eq!(document["worst"][0]["cell"]["link"], "B");
    assert_eq!(
        document["worse_than_precopy"][0],
        "B kv against me2-precopy-useful"
    );
    assert_eq!(document["paper"]["downtime_reduction_percent"], 47.6);
}

#[test]
fn a_baseline_that_is_far_from_qemus_is_a_problem() {
    let with = |seconds| {
        let samples = [
            Sample::of(LinkName::A, "calm", PLAIN, seconds, 1000),
            Sample::of(LinkName::A, "calm", "qemu-precopy", 10.0, 1000),
        ];
        summary(Experiment::Me2, &samples)
    };
    assert!(with(10.9).problems.is_empty());
    assert!(with(9.1).problems.is_empty());
    for bad in [11.5, 8.0] {
        let problems = with(bad).problems;
        assert!(problems[0].contains("A calm"), "{problems:?}");
    }
}

#[test]
fn failures_are_problems_and_have_no_ratio() {
    let mut samples = [
        Sample::of(LinkName::A, "kv", ALL, 10.0, 1000),
        Sample::of(LinkName::A, "kv", HYBRID, 1.0, 100),
    ];
    samples[1].came = Came::Failed;
    samples[1].error = Some("the guest is not well".into());
    let Summary {
        document, problems, ..
    } = summary(Experiment::Me2, &samples);
    assert!(problems[0].contains("not well"), "{problems:?}");
    assert!(problems[1].contains("no ratio"), "{problems:?}");
    assert_eq!(document["average"]["data_reduction_percent"], Value::Null);
}

#[test]
fn only_modes_that_converge_are_rivals() {
    let mut samples = vec![
        Sample::of(LinkName::B, "mixed", HYBRID, 10.0, 800),
        Sample::of(LinkName::B, "mixed", "qemu-precopy", 5.0, 100),
        Sample::of(LinkName::B, "mixed", "qemu-xbzrle", 20.0, 4000),
        Sample::of(LinkName::B, "mixed", "qemu-postcopy", 40.0, 1000),
    ];
    samples[1].came = Came::DidNotConverge;
    let document = summary(Experiment::Qemu, &samples).document;
    let cell = &document["cells"][0];
    assert_eq!(cell["data"]["best"], "qemu-postcopy");
    assert!(near(&cell["data"]["ratio"], 0.8));
    assert_eq!(cell["total_time"]["best"], "qemu-xbzrle");
    assert!(near(&cell["total_time"]["ratio"], 0.5));
}

#[test]
fn wan_compares_with_the_rival_and_tells_targets_and_what_was_left_out() {
    let other: LinkName = "rtt20-rate50-loss0".parse().unwrap();
    let samples = [
        Sample::of(LinkName::B, "mixed", HYBRID, 2.0, 100),
        Sample::of(LinkName::B, "mixed", "me2-precopy", 1.0, 100),
        Sample::of(LinkName::B, "mixed", "qemu-postcopy", 4.0, 400),
        Sample::of(other, "mixed", HYBRID, 4.0, 100),
        Sample::of(other, "mixed", "qemu-postcopy", 32.0, 100),
        // Without the other there is no ratio.
        Sample::of(LinkName::C, "mixed", HYBRID, 4.0, 100),
    ];
    let mut manifest = manifest(Experiment::Wan, &samples);
    manifest.left_out = vec!["me2-precopy kv: A".into()];
    let Summary {
        document,
        human,
        problems,
    } = of(&manifest, &samples);
    assert_eq!(problems, [""; 0]);
    assert_eq!(document["rival"], "qemu-postcopy");
    assert_eq!(document["cells"].as_array().map(Vec::len), Some(2));
    assert!(
        near(&document["average"]["total_time_ratio"], 0.25),
        "{document:#}"
    );
    let targets = document["targets"].as_array().unwrap();
    assert_eq!(targets.len(), 3);
    assert_eq!(targets[0]["link"], "B");
    assert_eq!(targets[0]["longest_gap_ms"]["is_met"], false);
    assert!(near(&targets[0]["longest_gap_ms"]["value"], 40.0));
    assert_eq!(document["worst"][0]["link"], "B");
    assert_eq!(document["worst"][0]["ratio"], 0.5);
    assert!(
        human.contains("worst total_time_ratio: 0.50 on B mixed"),
        "{human}"
    );
    assert!(human.contains("longest_gap_ms 0/2"), "{human}");
    assert!(human.contains("40.0 > 35.0"), "{human}");
    assert_eq!(document["left_out"][0], "me2-precopy kv: A");
    assert!(human.contains("me2-precopy kv: A"), "{human}");
}

#[test]
fn parts_and_codecs_are_ratios() {
    let samples = [
        Sample::of(LinkName::A, "kv", HYBRID, 2.0, 100),
        Sample::of(LinkName::A, "kv", "me2-hybrid-without-zstd", 3.0, 250),
    ];
    let document = summary(Experiment::Ablation, &samples).document;
    assert!(near(&document["parts"][0]["total_time_ratio"], 1.5));
    assert!(near(&document["parts"][0]["data_ratio"], 2.5));
    let samples = [
        Sample::of(LinkName::A, "kv", AUTO, 2.0, 100),
        Sample::of(LinkName::A, "kv", "me2-hybrid-codec-raw", 3.0, 250),
        Sample::of(LinkName::A, "kv", "me2-hybrid-codec-rle", 1.9, 250),
    ];
    let document = summary(Experiment::Codecs, &samples).document;
    assert_eq!(document["cells"][0]["best_fixed"], "rle");
    assert!(near(&document["speed_of_auto_to_best_fixed_min"], 0.95));
}
