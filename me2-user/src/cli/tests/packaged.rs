//! What the package's unit tells `me2`.

use clap::Parser;

use crate::cli::{Cli, Command, SerialTarget};

const UNIT: &str = include_str!("../../../../packaging/me2-receive@.service");
const EXAMPLE: &str = include_str!("../../../../packaging/web.conf");

#[test]
fn its_command_line_is_one_of_today() {
    let mut lines = UNIT.lines();
    let command = lines.find_map(|line| line.strip_prefix("ExecStart=/usr/bin/"));
    let command = command.expect("the unit starts me2");
    let listen = EXAMPLE
        .lines()
        .find_map(|line| line.strip_prefix("ME2_LISTEN="));
    let options = EXAMPLE
        .lines()
        .find_map(|line| line.strip_prefix("#ME2_OPTIONS="));
    let command = command
        .replace("${ME2_LISTEN}", listen.expect("the example has a port"))
        .replace("$ME2_OPTIONS", options.expect("the example has options"))
        .replace("${ME2_SERIAL}", "none")
        .replace("%i", "web");
    let cli = Cli::try_parse_from(command.split(' ')).expect("it is understood");
    let Command::Receive(args) = cli.command else {
        panic!("it receives: {command}");
    };
    assert_eq!(args.name.expect("named").as_str(), "web");
    assert_eq!(args.listen.port(), 7300);
    assert!(matches!(args.serial, SerialTarget::None));
    assert_eq!((args.disk.len(), args.net.len()), (1, 1));
}

/// Each is a way to lose a VM.
#[test]
fn it_is_neither_restarted_nor_killed() {
    for line in [
        "Restart=no",
        "TimeoutStopSec=infinity",
        "RuntimeDirectoryPreserve=yes",
    ] {
        assert!(UNIT.lines().any(|present| present == line), "{line}");
    }
}
