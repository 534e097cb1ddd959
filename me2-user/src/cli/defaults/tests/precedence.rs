//! The more explicit default counts.

use super::super::super::{LogFormat, Output, SerialTarget, hybrid_migrate::Verification};
use super::*;

#[test]
fn the_most_explicit_counts() {
    let system = "[hybrid-migrate]\nmax-bandwidth = '8M'\nguest-slowdown-max = 3\nverify = 'full'";
    let file = "[hybrid-migrate]\nmax-bandwidth = '16M'\nguest-slowdown-max = 4";
    let variables = [("ME2_MAX_BANDWIDTH", "32M"), ("ME2_TIMEOUT", "")];
    let built_in = Host::default().migrate("");
    assert_eq!(built_in.max_bandwidth, None);
    let host = |user, system, variables| Host {
        user,
        system,
        variables,
    };
    assert_eq!(
        host("", system, &[]).migrate("").max_bandwidth,
        Some(1_000_000)
    );
    assert_eq!(
        host(file, system, &[]).migrate("").max_bandwidth,
        Some(2_000_000)
    );
    let all = host(file, system, &variables);
    assert_eq!(all.migrate("").max_bandwidth, Some(4_000_000));
    let args = all.migrate("--max-bandwidth 64M");
    assert_eq!(args.max_bandwidth, Some(8_000_000));
    assert_eq!((args.guest_slowdown_max, args.timeout), (Some(4), None));
    assert_eq!(args.verify, Verification::Full);
}

#[test]
fn what_is_above_the_tables_is_of_every_command_that_has_it() {
    let host = user(
        "output = 'json'\nserial = 'none'\nlog-format = 'json'\n[receive]\nserial = 'stdio'\nlog-format = 'human'\n[list]\noutput = 'human'",
    );
    assert_eq!(host.migrate("").output, Output::Json);
    assert_eq!(host.run("").serial, SerialTarget::None);
    assert_eq!(
        host.receive("--listen 127.0.0.1:0").serial,
        SerialTarget::Stdio
    );
    let format = |arguments: &str| host.parse(arguments).unwrap().0.log_format;
    assert_eq!(format("run"), LogFormat::Json);
    assert_eq!(format("receive --listen 127.0.0.1:0"), LogFormat::Human);
    assert_eq!(
        format("receive --listen 127.0.0.1:0 --log-format json"),
        LogFormat::Json
    );
    // The user's file counts more, whatever the table.
    let host = Host {
        user: "no-probes = true",
        system: "[run]\nno-probes = false\ncpus = 2",
        ..Host::default()
    };
    let args = host.run("");
    assert_eq!((args.no_probes, args.cpus), (true, 2));
}

#[test]
fn what_the_command_line_must_have_may_be_in_a_file() {
    assert!(matches!(
        Host::default().parse("receive"),
        Err(Unparsed::CommandLine(_))
    ));
    let host = user(
        "[receive]\nlisten = '127.0.0.1:7'\n[hybrid-migrate]\nwithout = ['delta', 'holes']\ncodec = 'zstd:-3'",
    );
    assert_eq!(host.receive("").listen.port(), 7);
    assert_eq!(host.receive("--listen [::1]:8").listen.port(), 8);
    assert_eq!(host.migrate("").without.len(), 2);
    assert_eq!(host.migrate("--without zero").without.len(), 1);
    let variables = [("ME2_WITHOUT", "delta,holes,zero")];
    let host = Host {
        user: host.user,
        variables: &variables,
        ..Host::default()
    };
    assert_eq!(host.migrate("").without.len(), 3);
}

#[test]
fn a_switch_that_is_on_can_be_switched_off() {
    let host = user("[receive]\nonce = true\nlisten = '127.0.0.1:0'");
    assert!(host.receive("").once && host.receive("--once").once);
    assert!(!host.receive("--once=false").once);
    for (value, on) in [("1", true), ("no", false)] {
        let variables = [("ME2_ONCE", value)];
        let host = Host {
            variables: &variables,
            ..user(host.user)
        };
        assert_eq!(host.receive("").once, on, "{value}");
    }
    assert!(user("").run("--no-probes --rng").no_probes);
}

#[test]
fn of_two_that_exclude_each_other_the_more_explicit_counts() {
    let off = "[hybrid-migrate]\nno-auto-recover = true";
    let args = user(off).migrate("");
    assert!(args.no_auto_recover);
    let args = user(off).migrate("--recover-limit 1m");
    assert_eq!(
        (args.no_auto_recover, args.recover_limit.as_secs()),
        (false, 60)
    );
    let limit = "[hybrid-migrate]\nrecover-limit = '2m'";
    assert!(user(limit).migrate("--no-auto-recover").no_auto_recover);
    let host = Host {
        user: limit,
        system: off,
        ..Host::default()
    };
    assert!(!host.migrate("").no_auto_recover);
    let host = Host {
        user: "[hybrid-migrate]\nno-auto-recover = false",
        system: limit,
        ..Host::default()
    };
    assert_eq!(host.migrate("").recover_limit.as_secs(), 120);
    let variables = [("ME2_RECOVER_LIMIT", "3m")];
    let host = Host {
        user: off,
        variables: &variables,
        ..Host::default()
    };
    let args = host.migrate("");
    assert_eq!(
        (args.no_auto_recover, args.recover_limit.as_secs()),
        (false, 180)
    );
    let both = format!("{off}\nrecover-limit = '2m'");
    let problem = user(&both).parse("list").unwrap_err().to_string();
    assert!(
        problem.contains("recover-limit") && problem.contains("no-auto-recover"),
        "{problem}"
    );
    // On the command line they exclude each other as before.
    let said =
        user("").parse("hybrid-migrate --vm a --to h:1 --recover-limit 1m --no-auto-recover");
    assert!(matches!(said, Err(Unparsed::CommandLine(_))));
    // What the command line says of a limit that Xen's rule replaces.
    let args = user("[hybrid-migrate]\ndowntime-limit = '1s'").migrate("--stop-below-pages 50");
    assert_eq!(
        (args.downtime_limit, args.stop_below_pages),
        (None, Some(50))
    );
}

#[test]
fn the_command_line_is_found_out_before_the_defaults_are_known() {
    let said = |arguments: &str| {
        let arguments: Vec<OsString> = arguments.split(' ').map(OsString::from).collect();
        Said::of(&arguments)
    };
    for arguments in [
        "me2 --config /x receive",
        "me2 receive --config /x",
        "me2 receive --config=/x --help",
        "me2 receive --config /x --memory lots",
    ] {
        let said = said(arguments);
        assert_eq!(said.config, Some("/x".into()), "{arguments}");
        assert_eq!(said.command, ["receive"], "{arguments}");
    }
    assert_eq!(said("me2 cert create --force").command, ["cert", "create"]);
}
