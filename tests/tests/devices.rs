//! A VM with a disk: it moves in the middle of reads and writes, and none of them is lost, doubled or
//! done in two places.
//!
//! The guest numbers what it writes, reads it back and checks it, and tells up to which number its
//! writes were acknowledged. From outside, the file says which write each block holds.

use std::{
    fs,
    path::{Path, PathBuf},
};

use me2_tests::{Bench, Guest, Vm, require_kvm};

const BLOCK_BYTES: usize = 4096;
/// Of the disk that the guest works on.
const BLOCKS: u64 = 256;
/// Slow enough that pages are missing for seconds, and that a pass takes as long.
const SLOWLY: [&str; 2] = ["--max-bandwidth", "40M"];
const DISK_BYTES: usize = 2 << 20;

fn disk(bench: &Bench, name: &str) -> PathBuf {
    let path = bench.folder().join(name);
    fs::write(&path, vec![0; DISK_BYTES]).expect("a file can be written");
    path
}

fn guest(disk: &Path) -> Guest {
    let option = format!("path={}", disk.display());
    Guest::new("96M", "workload=kv rate=0 fill=24M hot=4M disk=1M").options(&["--disk", &option])
}

/// Writes that the guest was told of as done, so far in this process.
fn acknowledged(console: &str) -> u64 {
    let lines = console.lines().rev();
    let told = lines
        .filter_map(|line| line.split_once("disk written="))
        .find_map(|(_, rest)| rest.split_once(' ')?.0.parse().ok());
    told.unwrap_or(0)
}

/// Waits until more than so many writes were acknowledged in this process; gives how many.
fn writes_beyond(vm: &Vm, before: u64) -> u64 {
    let after = vm.wait_console("more writes", |console| {
        assert!(!console.contains("me2-guest ERROR"), "{console}");
        Some(acknowledged(console)).filter(|now| *now > before)
    });
    vm.works();
    after
}

/// Every acknowledged write is in the file, or a later one of the same block; and every block is whole.
fn check(disk: &Path, acknowledged: u64) {
    let bytes = fs::read(disk).expect("the disk can be read");
    assert!(acknowledged > BLOCKS, "each block has been written");
    for (number, block) in bytes.chunks(BLOCK_BYTES).take(BLOCKS as usize).enumerate() {
        let word = |place: usize| {
            let bytes = block[8 * place..][..8].try_into().expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let (number, write) = (number as u64, word(1));
        assert_eq!(write % BLOCKS, number, "write {write} in block {number}");
        let last = acknowledged - (acknowledged - number) % BLOCKS;
        assert!(
            write >= last,
            "block {number}: write {last} is lost, {write} is there"
        );
        for place in 2..BLOCK_BYTES / 8 {
            let wanted = scatter(write * (BLOCK_BYTES as u64 / 8) + place as u64);
            assert_eq!(word(place), wanted, "word {place} of block {number}");
        }
    }
    assert!(
        bytes[BLOCKS as usize * BLOCK_BYTES..]
            .iter()
            .all(|byte| *byte == 0),
        "the rest of the disk was not written"
    );
}

/// As the guest does it: the finaliser of SplitMix64.
fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Moves a VM whose guest is at its disk, and checks it before and after.
fn moves(options: &[&str]) {
    let bench = Bench::new();
    let disk = disk(&bench, "disk.raw");
    let (vm, to) = (bench.start(&guest(&disk)), bench.receive());
    vm.wait_ready();
    writes_beyond(&vm, 2 * BLOCKS);
    let before = vm.works();
    let migration = bench.migrate(&vm, to.address(), options);
    let report = migration.end().completed();
    assert_eq!(report.count("verify.mismatched_pages"), 0, "{report}");
    let written = acknowledged(&vm.console());
    vm.moved_to(&to, before);
    let written = writes_beyond(&to, written + BLOCKS);
    // It may be moved on: the disk is the new process's.
    let third = bench.receive();
    let migration = bench.migrate(&to, third.address(), options);
    migration.end().completed();
    let before = written;
    let written = writes_beyond(&third, before + BLOCKS);
    third.stop();
    check(&disk, written);
}

#[test]
fn a_hybrid_loses_no_write() {
    require_kvm!();
    moves(&[]);
}

#[test]
fn post_copy_loses_no_write() {
    require_kvm!();
    moves(&["--mode", "postcopy", SLOWLY[0], SLOWLY[1]]);
}

#[test]
fn all_of_memory_is_the_same_with_what_the_disk_has_written_to_it() {
    require_kvm!();
    moves(&["--verify", "full"]);
    moves(&["--mode", "precopy"]);
}

#[test]
fn a_disk_that_is_not_there_or_in_use_is_refused_before_the_handover() {
    require_kvm!();
    let bench = Bench::new();
    let (mine, other) = (disk(&bench, "mine.raw"), disk(&bench, "other.raw"));
    let vm = bench.start(&guest(&mine));
    vm.wait_ready();
    writes_beyond(&vm, BLOCKS);
    // Two VMs with one disk: the second is not even started.
    let option = format!("path={}", mine.display());
    let second = bench.run(&["run", "--name", "second", "--disk", &option]);
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is in use"), "{stderr}");

    let small = bench.folder().join("small.raw");
    fs::write(&small, [0; 512]).expect("a file can be written");
    let user = bench.start(&guest(&other));
    user.wait_ready();
    for (path, reason) in [
        (bench.folder().join("nothing.raw"), "cannot be opened"),
        (small, "has 512 bytes"),
        (other, "is in use"),
    ] {
        let mapping = format!("disk0={}", path.display());
        let to = bench.receive_with(&["--disk", &mapping]);
        let before = acknowledged(&vm.console());
        let report = bench.migrate(&vm, to.address(), &[]).end();
        let report = report.failed(3, "failed");
        assert!(report.text("error").contains(reason), "{report}");
        writes_beyond(&vm, before);
    }
    user.stop();
    let to = bench.receive_with(&["--disk", "root=/dev/vda"]);
    let report = bench.migrate(&vm, to.address(), &[]).end();
    let report = report.failed(3, "failed");
    assert!(report.text("error").contains("no device root"), "{report}");

    // And nothing of all this was to its harm.
    let (before, to) = (vm.works(), bench.receive());
    bench.migrate(&vm, to.address(), &[]).end().completed();
    let written = acknowledged(&vm.console());
    vm.moved_to(&to, before);
    let written = writes_beyond(&to, written);
    to.stop();
    check(&mine, written);
}

#[test]
fn a_disk_that_is_taken_before_the_handover_sends_the_vm_back_to_its_own() {
    require_kvm!();
    let bench = Bench::new();
    let (mine, copy) = (disk(&bench, "mine.raw"), disk(&bench, "copy.raw"));
    let vm = bench.start(&guest(&mine));
    vm.wait_ready();
    writes_beyond(&vm, BLOCKS);
    let mapping = format!("disk0={}", copy.display());
    let to = bench.receive_with(&["--disk", &mapping]);
    let options = ["--mode", "precopy", "--max-bandwidth", "20M"];
    let migration = bench.migrate(&vm, to.address(), &options);
    vm.wait_phase("precopy");
    // It was free when the destination looked.
    let thief = bench.start(&guest(&copy));
    thief.wait_ready();
    vm.order("/v1/switch-now");
    let report = migration.end();
    let report = report.failed(3, "failed");
    assert!(report.text("error").contains("is in use"), "{report}");
    assert!(report.text("error").contains("runs on"), "{report}");
    let before = acknowledged(&vm.console());
    let written = writes_beyond(&vm, before + BLOCKS);
    // It has the lock again.
    let option = format!("path={}", mine.display());
    let second = bench.run(&["run", "--name", "second", "--disk", &option]);
    assert_eq!(second.status.code(), Some(1));
    vm.stop();
    check(&mine, written);
}

#[test]
fn a_receiver_that_dies_before_the_handover_leaves_the_disk_to_the_source() {
    require_kvm!();
    let bench = Bench::new();
    let mine = disk(&bench, "mine.raw");
    let vm = bench.start(&guest(&mine));
    vm.wait_ready();
    writes_beyond(&vm, BLOCKS);
    let mut to = bench.receive();
    let options = ["--mode", "precopy", "--max-bandwidth", "20M"];
    let migration = bench.migrate(&vm, to.address(), &options);
    vm.wait_phase("precopy");
    to.kill();
    migration.end().failed(1, "failed");
    let before = acknowledged(&vm.console());
    writes_beyond(&vm, before + BLOCKS);
    let option = format!("path={}", mine.display());
    let second = bench.run(&["run", "--name", "second", "--disk", &option]);
    assert_eq!(second.status.code(), Some(1));

    let (before, to) = (vm.works(), bench.receive());
    bench.migrate(&vm, to.address(), &[]).end().completed();
    let written = acknowledged(&vm.console());
    vm.moved_to(&to, before);
    let written = writes_beyond(&to, written);
    to.stop();
    check(&mine, written);
}
