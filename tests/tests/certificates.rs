//! Hosts that know each other by a CA; certificates that have expired; new identities while VMs live.

use std::{fs, path::Path};

use me2_tests::{Bench, Guest, Link, Migration, Vm, require_kvm};
use me2_user::identity::{Authority, HostName, Moment, Validity};
use serde_json::Value;

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=16M rate=2000 hot=1M")
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("plain text")
}

/// A host, which has an identity of its own until it installs another.
fn fingerprint(host: &Bench) -> String {
    host.ask(&["cert", "show"]).trim().to_owned()
}

fn shown(host: &Bench) -> Value {
    let text = host.ask(&["cert", "show", "--output", "json"]);
    serde_json::from_str(&text).expect("a document")
}

/// Two hosts, and the folder of a CA.
struct Site {
    a: Bench,
    b: Bench,
    ca: std::path::PathBuf,
}

impl Site {
    fn new() -> Self {
        let a = Bench::new();
        let b = a.beside();
        let ca = a.folder().join("ca");
        a.ask(&["cert", "ca", "our CA", "--config-dir", path_text(&ca)]);
        Self { a, b, ca }
    }

    /// As an operator does it.
    fn issue(&self, host: &Bench, name: &str) {
        let folder = host.folder().join(name);
        let folder = path_text(&folder);
        self.a.ask(&[
            "cert",
            "issue",
            name,
            "--out",
            folder,
            "--config-dir",
            path_text(&self.ca),
        ]);
        host.ask(&["cert", "install", folder, "--force"]);
        fs::remove_dir_all(folder).expect("it is there");
    }

    /// What `me2 cert install` refuses: a certificate that was valid until an hour ago.
    fn issue_expired(&self, host: &Bench, name: &str) {
        let authority = Authority::load(&self.ca).expect("made before");
        let folder = host.folder().join("expired");
        let now = Moment::now().0;
        let past = Validity {
            from: Moment(now - 7200),
            until: Moment(now - 3600),
        };
        let name: HostName = name.parse().expect("a name");
        authority.issue(&name, past, &folder).expect("a new folder");
        for file in ["identity.key", "identity.pem"] {
            fs::rename(folder.join(file), host.config().join(file)).expect("one file system");
        }
        fs::remove_dir(folder).expect("it is empty");
    }
}

#[test]
fn a_ca_is_all_that_two_hosts_need() {
    require_kvm!();
    let site = Site::new();
    site.issue(&site.a, "host-a");
    site.issue(&site.b, "host-b");
    for (host, name) in [(&site.a, "host-a"), (&site.b, "host-b")] {
        let shown = shown(host);
        assert_eq!(shown["subject"], name, "{shown}");
        assert_eq!(shown["ca"]["name"], "our CA", "{shown}");
        let days_left = shown["ca"]["days_left"].as_i64();
        assert!(
            (824..=825).contains(&days_left.expect("a number")),
            "{shown}"
        );
        let trusted = host.ask(&["cert", "show", "--trusted"]);
        assert!(trusted.starts_with("ca:sha256:"), "{trusted}");
        assert_eq!(trusted.lines().count(), 1, "{trusted}");
    }
    let (vm, to) = (site.a.start(&guest()), site.b.receive());
    vm.wait_ready();
    let before = vm.works();
    site.a.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

/// A migration that one side refuses: the VM runs on, the receiver waits on; gives the reason.
fn refused(host: &Bench, vm: &Vm, to: &Vm) -> String {
    let report = host
        .migrate(vm, to.address(), &[])
        .end()
        .failed(1, "failed");
    vm.wait_state("running");
    vm.works();
    to.wait_state("waiting");
    report.text("error").to_owned()
}

#[test]
fn an_expired_certificate_is_refused_in_words_and_renewed_without_a_restart() {
    require_kvm!();
    let site = Site::new();
    site.issue(&site.a, "host-a");
    site.issue(&site.b, "host-b");
    site.issue_expired(&site.b, "host-b");
    let (vm, to) = (site.a.start(&guest()), site.b.receive());
    to.wait_log("this host's certificate expired on");
    vm.wait_ready();
    let said = refused(&site.a, &vm, &to);
    let there = "shows a certificate that this host does not take: it expired on";
    assert!(
        said.contains(there) && said.contains("me2 cert issue"),
        "{said}"
    );
    to.wait_log("does not take this host's certificate, which expired on");

    site.issue(&site.b, "host-b");
    site.issue_expired(&site.a, "host-a");
    let so_far = to.log().len();
    let said = refused(&site.a, &vm, &to);
    let here = "does not take this host's certificate, which expired on";
    assert!(
        said.contains(here) && said.contains("me2 cert issue"),
        "{said}"
    );
    let line = to.wait_log_from(so_far, "refused a peer");
    assert!(line.contains(there), "{line}");

    site.issue(&site.a, "host-a");
    let before = vm.works();
    site.a.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

#[test]
fn what_expires_soon_is_warned_of() {
    require_kvm!();
    let site = Site::new();
    let folder = site.a.folder().join("host-a");
    let (folder, ca) = (path_text(&folder), path_text(&site.ca));
    let issue = ["cert", "issue", "host-a", "--days", "20", "--out", folder];
    site.a.ask(&[&issue[..], &["--config-dir", ca]].concat());
    site.a.ask(&["cert", "install", folder, "--force"]);
    let findings = site.a.run(&["check", "--output", "json"]);
    let findings: Value = serde_json::from_slice(&findings.stdout).expect("a document");
    let rows = findings["host"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["need"] == "certificate");
    let row = row.expect("it is told");
    assert_eq!(row["is_found"], false, "{row}");
    assert!(
        row["mend"].to_string().contains("me2 cert issue host-a"),
        "{row}"
    );

    let (vm, to) = (site.a.start(&guest()), site.a.receive());
    vm.wait_log("this host's certificate expires on");
    vm.wait_ready();
    let before = vm.works();
    let ended = site.a.migrate(&vm, to.address(), &[]).end();
    let warned = ended
        .stderr
        .contains("warning: this host's certificate expires on");
    assert!(warned, "{}", ended.stderr);
    ended.completed();
    vm.moved_to(&to, before);
    to.stop();
}

/// Makes the next identity of one host, which the other is told of, and switches to it; gives its
/// fingerprint.
fn rotate(host: &Bench, peer: &Bench) -> String {
    let next = host.ask(&["cert", "rotate"]).trim().to_owned();
    peer.ask(&["cert", "trust", &next, "next"]);
    assert_eq!(host.ask(&["cert", "rotate", "--switch"]).trim(), next);
    assert_eq!(fingerprint(host), next);
    next
}

fn make_friends(a: &Bench, b: &Bench) {
    a.ask(&["cert", "trust", &fingerprint(b), "b"]);
    b.ask(&["cert", "trust", &fingerprint(a), "a"]);
}

#[test]
fn pinned_identities_are_rotated_while_a_vm_lives_and_a_receiver_waits() {
    require_kvm!();
    let a = Bench::new();
    let b = a.beside();
    make_friends(&a, &b);
    let (vm, to) = (a.start(&guest()), b.receive());
    vm.wait_ready();
    let before = vm.works();
    let (new_a, new_b) = (rotate(&a, &b), rotate(&b, &a));
    // The lines of the old ones are not needed any more.
    for (host, peer) in [(&a, &new_b), (&b, &new_a)] {
        fs::write(host.config().join("trusted"), format!("{peer} peer\n")).expect("writable");
    }
    let options = ["--peer", &new_b];
    a.migrate(&vm, to.address(), &options).end().completed();
    to.wait_log(&format!("peer={new_a}"));
    vm.moved_to(&to, before);
    to.stop();
}

/// Once a VM is under way, neither new identities nor lists nor dates keep its two sides apart.
#[test]
fn a_broken_link_is_mended_though_everything_was_renewed_meanwhile() {
    require_kvm!();
    let a = Bench::new();
    let b = a.beside();
    make_friends(&a, &b);
    let guest = Guest::new("128M", "workload=kv rate=0 fill=64M hot=8M");
    let (vm, to) = (a.start(&guest), b.receive());
    vm.wait_ready();
    let before = vm.works();
    let link = Link::to(to.address());
    let options = [
        "--max-bandwidth",
        "50M",
        "--mode",
        "postcopy",
        "--no-auto-recover",
    ];
    let migration: Migration = a.migrate(&vm, link.address(), &options);
    vm.wait_phase("postcopy");
    link.cut();
    migration.end().failed(5, "postcopy_paused");
    to.wait_state("postcopy_paused");
    for host in [&a, &b] {
        host.ask(&["cert", "rotate"]);
        host.ask(&["cert", "rotate", "--switch"]);
        fs::write(host.config().join("trusted"), "").expect("writable");
    }
    link.mend();
    a.recover(&vm).end().completed();
    vm.moved_to(&to, before);
    // What is here, all of it, is moved on with the identity that is in the folder now.
    let next = a.receive();
    make_friends(&a, &b);
    let before = to.works();
    b.migrate(&to, next.address(), &[]).end().completed();
    next.wait_log(&format!("peer={}", fingerprint(&b)));
    to.moved_to(&next, before);
    next.stop();
}
