//! What a VM's process leaves to others of its host: no privilege to be had, no file that they can
//! read, and nothing that is in the way of the next.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::Path,
    time::Duration,
};

use me2_tests::{Bench, Guest, Link, Report, Vm, require_kvm, say};

/// A user that is neither root nor anybody here.
const NOBODY: u32 = 65_534;

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=16M rate=20000").cpus(2)
}

/// Privileges are given up once; the VM moves as often as one likes all the same, with its probes
/// and the look at its working set.
#[test]
fn a_vm_without_privileges_moves_and_moves_on() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest());
    vm.wait_ready();
    check_confined(&vm, "vcpu1");
    let (report, vm) = moved(&bench, vm, "hybrid");
    let had_probes = *report.field("ebpf.attached") == true;
    if !had_probes {
        say(&format!("no probes: {}", report.text("ebpf.reason")));
    }

    let (report, vm) = moved(&bench, vm, "postcopy");
    assert_eq!(*report.field("ebpf.attached"), had_probes, "{report}");
    if had_probes {
        assert_eq!(report.count("ebpf.lost"), 0, "{report}");
        assert!(report.count("explore.working_set.pages") > 0, "{report}");
    }
    let (report, vm) = moved(&bench, vm, "hybrid");
    assert_eq!(*report.field("ebpf.attached"), had_probes, "{report}");
    vm.stop();
}

/// Over a link on which a look at the working set pays.
fn moved(bench: &Bench, mut vm: Vm, mode: &str) -> (Report, Vm) {
    let to = bench.receive();
    check_confined(&to, "tokio-rt-worker");
    let link = Link::to(to.address());
    link.set_delay(Duration::from_millis(5));
    let before = vm.works();
    let migration = bench.migrate(&vm, link.address(), &["--mode", mode]);
    let report = migration.end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.works_beyond(before);
    to.wait_log("the VM is here, all of it");
    check_confined(&to, "vcpu1");
    (report, to)
}

/// No thread of the process can do more than all of them may, among them the one of this name.
fn check_confined(vm: &Vm, thread: &str) {
    vm.wait_log("sandboxed: no capabilities, system calls filtered");
    let threads = vm.confinement();
    assert!(
        threads.iter().any(|(name, _)| name.starts_with(thread)),
        "no {thread}: {threads:#?}"
    );
    for (name, confinement) in threads {
        assert!(confinement.is_complete(), "{name}: {confinement:#x?}");
    }
}

/// What the command line names may be anywhere: it is opened before. What is needed again later must
/// be this user's own, and that is told at once.
#[test]
fn root_without_capabilities_is_a_user_like_others() {
    require_kvm!();
    let bench = Bench::new();
    let foreign = bench.folder().join("foreign");
    fs::create_dir(&foreign).expect("it is ours");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o700)).expect("it is ours");
    if let Err(error) = chown(&foreign, Some(NOBODY), None) {
        say(&format!(
            "SKIPPED: only root can give folders away: {error}"
        ));
        return;
    }
    let mut vm = bench.start(&guest());
    vm.wait_ready();
    let console = foreign.join("console.log");
    let to = bench.receive_with(&["--serial", &format!("file:{}", console.display())]);
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    assert_eq!(vm.wait_exit().code(), Some(0), "the source");
    to.works_beyond(before);
    to.stop();
    let console = fs::read_to_string(console).expect("root can read it");
    assert!(console.contains("me2-guest"), "{console}");

    let foreign = foreign.to_str().expect("plain text");
    let refused = bench.run(&["run", "--name", "vm", "--runtime-dir", foreign]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    for word in [foreign, "--runtime-dir", "--no-sandbox"] {
        assert!(stderr.contains(word), "{stderr}");
    }
}

#[test]
fn without_the_sandbox_a_line_says_so() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest().options(&["--no-sandbox"]));
    vm.wait_ready();
    let log = vm.log();
    let lines = log.lines().filter(|line| line.contains("--no-sandbox"));
    assert_eq!(
        lines.filter(|line| line.contains("WARN")).count(),
        1,
        "{log}"
    );
    let unfiltered = |(_, confinement): &(_, me2_tests::Confinement)| !confinement.is_filtered;
    assert!(vm.confinement().iter().all(unfiltered));
    vm.stop();
}

#[test]
fn what_is_left_behind_is_private_and_cleared_away() {
    require_kvm!();
    let bench = Bench::new();
    let generous = ["sh", "-c", "umask 0; exec \"$@\"", "sh"];
    let mut killed = bench.start_by_way_of(&generous, &guest());
    killed.wait_ready();
    check_private(&bench.runtime());
    let socket = format!("{}.sock", killed.name());
    assert_eq!(bench.sockets(), [socket.as_str()]);
    killed.kill();
    killed.wait_exit();
    assert_eq!(bench.sockets(), [socket.as_str()], "nobody could remove it");

    let next = bench.start(&guest());
    next.wait_ready();
    assert_eq!(bench.sockets(), [format!("{}.sock", next.name())]);
    next.stop();
    assert!(bench.sockets().is_empty());
}

/// A folder for its owner alone, and so is all that is in it.
fn check_private(folder: &Path) {
    let mode = |path: &Path| {
        let metadata = fs::symlink_metadata(path).expect("it is there");
        (metadata.permissions().mode() & 0o777, metadata.file_type())
    };
    assert_eq!(mode(folder).0, 0o700, "{}", folder.display());
    for entry in fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        let (mode, kind) = mode(&path);
        assert!(kind.is_socket() || kind.is_file(), "{}", path.display());
        assert_eq!(mode, 0o600, "{}", path.display());
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let bench = Bench::new();
    let key = bench.folder().join("config/identity.key");
    let mode = fs::metadata(&key).expect("it is made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("it is ours");
    for command in [&["run"][..], &["receive", "--listen", "127.0.0.1:0"]] {
        let output = bench.run(command);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        let mend = format!("mend: chmod 600 {}", key.display());
        assert!(stderr.contains(&mend), "{stderr}");
    }
}

#[test]
fn a_runtime_folder_in_which_others_can_write_is_refused() {
    let bench = Bench::new();
    fs::create_dir(bench.runtime()).expect("it is ours");
    fs::set_permissions(bench.runtime(), fs::Permissions::from_mode(0o777)).expect("it is ours");
    let output = bench.run(&["run", "--name", "vm"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let mend = format!("mend: chmod 700 {}", bench.runtime().display());
    assert!(stderr.contains(&mend), "{stderr}");
}
