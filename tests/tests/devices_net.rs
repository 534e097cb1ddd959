//! A VM with a network card: its network finds it where it has moved to, without its guest's help.
//!
//! The guest sends datagrams back that come to it, and says nothing by itself. So a bridge learns only
//! from the card's own announcement that the guest's address is behind another tap now.

use std::{fs::File, net::UdpSocket, process::Command, time::Duration};

use me2_tests::{Bench, Guest, require_kvm, say, wait_until};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const MAC: &str = "02:00:00:00:00:07";
const GUEST: &str = "10.9.0.2:7";

/// A network namespace that this thread is in, and what it starts: a bridge with two taps, and an
/// address of its own.
struct Network(String);

impl Network {
    fn new() -> Result<Self, String> {
        let network = Self(format!("me2-test-{}", std::process::id()));
        run(&format!("ip netns add {}", network.0))?;
        let file = File::open(format!("/run/netns/{}", network.0)).map_err(|e| e.to_string())?;
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(|error| error.to_string())?;
        for command in [
            "ip link set lo up",
            "ip link add br0 address 02:00:00:00:00:01 type bridge",
            "ip addr add 10.9.0.1/24 dev br0",
            "ip link set br0 up",
            "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:07 dev br0",
            "ip tuntap add tapa mode tap",
            "ip tuntap add tapb mode tap",
            "ip link set tapa master br0 up",
            "ip link set tapb master br0 up",
        ] {
            run(command)?;
        }
        Ok(network)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = run(&format!("ip netns del {}", self.0));
    }
}

fn run(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.map_err(|error| format!("{command}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Sends numbered datagrams until one of them comes back; earlier ones may come late.
fn answers(socket: &UdpSocket, number: &mut u64) {
    let first = *number + 1;
    wait_until("answer of the guest", || {
        *number += 1;
        // Refused for a moment while no tap is open.
        let _ = socket.send(&number.to_le_bytes());
        let mut answer = [0; 8];
        socket.recv(&mut answer).ok()?;
        (first..=*number)
            .contains(&u64::from_le_bytes(answer))
            .then_some(())
    });
}

#[test]
fn the_network_finds_a_guest_that_has_moved() {
    require_kvm!();
    let network = match Network::new() {
        Ok(network) => network,
        Err(reason) => {
            say(&format!(
                "SKIPPED: no network namespace of one's own: {reason}"
            ));
            return;
        }
    };
    let bench = Bench::new();
    let option = format!("tap=tapa,mac={MAC}");
    let guest = Guest::new("96M", "workload=kv rate=0 fill=24M hot=4M net=echo");
    let vm = bench.start(&guest.options(&["--net", &option]));
    vm.wait_ready();
    let socket = UdpSocket::bind("10.9.0.1:0").expect("an address of the bridge");
    socket.connect(GUEST).expect("the guest's address");
    let patience = Some(Duration::from_millis(200));
    socket.set_read_timeout(patience).expect("a time-out");
    let mut number = 0;
    answers(&socket, &mut number);

    // A receiver must be told of a tap.
    let to = bench.receive();
    let report = bench.migrate(&vm, to.address(), &[]).end();
    let report = report.failed(3, "failed");
    assert!(report.text("error").contains("--net net0="), "{report}");
    to.stop();
    answers(&socket, &mut number);

    let to = bench.receive_with(&["--net", "net0=tapb"]);
    let before = vm.works();
    bench.migrate(&vm, to.address(), &[]).end().completed();
    vm.moved_to(&to, before);
    answers(&socket, &mut number);
    // And back to the first tap, which is free again.
    let back = bench.receive_with(&["--net", "net0=tapa"]);
    let before = to.works();
    let options = ["--mode", "postcopy", "--max-bandwidth", "40M"];
    bench
        .migrate(&to, back.address(), &options)
        .end()
        .completed();
    to.moved_to(&back, before);
    answers(&socket, &mut number);
    back.stop();
    drop(network);
}
