//! Strangers, garbage and typing errors: refused, told, and nothing else.

use std::{
    net::{SocketAddr, UdpSocket},
    process::Output,
};

use me2_tests::{Bench, Guest, require_kvm};

fn guest() -> Guest {
    Guest::new("64M", "workload=kv fill=16M hot=1M")
}

#[test]
fn garbage_does_not_end_the_waiting() {
    require_kvm!();
    let bench = Bench::new();
    let to = bench.receive();
    send_garbage(to.address());
    to.wait_log("WARN");
    to.wait_state("waiting");
    bench.good_migration(&guest(), to);
}

#[test]
fn a_stranger_is_refused_and_the_waiting_goes_on() {
    require_kvm!();
    let bench = Bench::new();
    let (to, stranger) = (bench.receive(), bench.start_stranger(&guest()));
    stranger.wait_ready();
    bench
        .migrate(&stranger, to.address(), &[])
        .end()
        .failed(1, "failed");
    to.wait_log("refused a peer");
    to.wait_state("waiting");
    stranger.works();
    bench.good_migration(&guest(), to);
}

#[test]
fn a_vm_is_not_given_to_a_stranger() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, stranger) = (bench.start(&guest()), bench.receive_stranger());
    vm.wait_ready();
    bench
        .migrate(&vm, stranger.address(), &[])
        .end()
        .failed(1, "failed");
    vm.works();
    stranger.wait_state("waiting");
    // Nor to a trusted peer that is not the one who is meant.
    let (to, other) = (bench.receive(), format!("sha256:{}", "0".repeat(64)));
    let migration = bench.migrate(&vm, to.address(), &["--peer", &other]);
    migration.end().failed(1, "failed");
    vm.works();
    vm.stop();
}

#[test]
fn garbage_in_the_middle_does_no_harm() {
    require_kvm!();
    let bench = Bench::new();
    let (vm, to) = (bench.start(&guest()), bench.receive());
    vm.wait_ready();
    let before = vm.works();
    let migration = bench.migrate(&vm, to.address(), &["--max-bandwidth", "20M"]);
    vm.wait_phase("precopy");
    send_garbage(to.address());
    migration.end().completed();
    vm.moved_to(&to, before);
    to.stop();
}

#[test]
fn a_vm_that_is_too_large_is_refused() {
    require_kvm!();
    let bench = Bench::new();
    let vm = bench.start(&guest());
    vm.wait_ready();
    let to = bench.receive_with(&["--max-memory", "32M"]);
    bench
        .migrate(&vm, to.address(), &[])
        .end()
        .failed(3, "failed");
    to.wait_state("waiting");
    vm.works();
    vm.stop();
}

#[test]
fn arguments_that_make_no_sense_are_status_2() {
    let bench = Bench::new();
    for words in [
        &[][..],
        &["fly"],
        &["run", "--cpus", "0"],
        &["run", "--memory", "big"],
        &["run", "--name", "../a"],
        &["run", "--unknown"],
        &["receive"],
        &["receive", "--listen", "nowhere"],
        &["hybrid-migrate", "--vm", "a"],
        &["hybrid-migrate", "--vm", "a", "--to", "b"],
        &[
            "hybrid-migrate",
            "--vm",
            "a",
            "--to",
            "b:1",
            "--mode",
            "fast",
        ],
        &["status", "--vm", "nobody"],
        &["cancel", "--vm", "nobody"],
        &["recover", "--vm", "nobody"],
        &["hybrid-migrate", "--vm", "nobody", "--to", "127.0.0.1:9"],
    ] {
        let output = bench.run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{words:?}: {output:?}"
        );
    }
}

#[test]
fn errors_are_one_line_that_names_what_is_wrong() {
    require_kvm!();
    let bench = Bench::new();
    let text = bench.folder().join("text");
    std::fs::write(&text, "not a kernel").expect("a file");
    let text = text.to_str().expect("plain");
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let taken = socket.local_addr().expect("it is bound").to_string();
    for (words, named) in [
        (&["run", "--kernel", "/no/such/file"][..], "/no/such/file"),
        (&["run", "--kernel", text], text),
        (&["run", "--initrd", "/no/such/file"], "/no/such/file"),
        (&["run", "--serial", "file:/no/such/file"], "/no/such/file"),
        (&["run", "--memory", "1M"], "memory"),
        (&["status", "--vm", "nobody"], "nobody"),
        (&["status", "--vm", "/no/such/socket"], "/no/such/socket"),
        (&["cert", "create"], "--force"),
        (&["receive", "--listen", "192.0.2.1:7"], "192.0.2.1:7"),
        (&["receive", "--listen", &taken], &taken),
    ] {
        let output = bench.run(words);
        is_one_line(words, &output, named);
    }
    drop(socket);
}

/// It failed, and the line that it ends with says what is wrong. Lines of the log may come before.
fn is_one_line(words: &[&str], output: &Output, named: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{words:?}");
    let said: Vec<_> = stderr
        .lines()
        .filter(|line| line.starts_with("me2: "))
        .collect();
    assert_eq!(said.len(), 1, "{words:?}: {stderr}");
    assert!(said[0].contains(named), "{words:?}: {stderr}");
    assert_eq!(
        stderr.lines().next_back(),
        Some(said[0]),
        "{words:?}: {stderr}"
    );
    assert!(!stderr.contains("panicked"), "{words:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{words:?}: {output:?}");
}

/// Datagrams of every length with random bytes; some begin like QUIC's long or short headers.
fn send_garbage(to: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let mut random = 1_u64;
    let mut byte = || {
        // xorshift64 (Marsaglia, "Xorshift RNGs").
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 32) as u8
    };
    const VERSION_1: [u8; 4] = [0, 0, 0, 1];
    const VERSION_UNKNOWN: [u8; 4] = [0xba, 0xba, 0xba, 0xba];
    for length in (0..1452).step_by(11).chain([1, 2, 3, 1200, 1452, 9000]) {
        for header in [&[][..], &[0xc0], &[0xe0], &[0x40]] {
            for version in [&[][..], &VERSION_1, &VERSION_UNKNOWN] {
                let mut datagram: Vec<u8> = (0..length).map(|_| byte()).collect();
                let start = [header, version].concat();
                let start = &start[..start.len().min(length)];
                datagram[..start.len()].copy_from_slice(start);
                // What the other side does not want is its own business.
                let _ = socket.send_to(&datagram, to);
            }
        }
    }
}
