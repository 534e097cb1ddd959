//! The command line defines what a file may say.

use std::collections::BTreeSet;

use clap::{Arg, Command};

use super::super::*;

/// Each option of each command.
fn each<'a>(command: &'a Command, name: &str, into: &mut Vec<(String, &'a Arg)>) {
    let options = command
        .get_arguments()
        .filter(|arg| arg.get_long().is_some());
    into.extend(options.map(|arg| (name.to_owned(), arg)));
    for below in command.get_subcommands() {
        let dot = if name.is_empty() { "" } else { "." };
        each(below, &format!("{name}{dot}{}", below.get_name()), into);
    }
}

/// Values that an option takes, as a file has them.
fn some_value(arg: &Arg) -> String {
    let first = arg
        .get_possible_values()
        .first()
        .map(|value| value.get_name().to_owned());
    let placeholder = arg
        .get_value_names()
        .and_then(|names| names.first())
        .map_or("", |name| name);
    match (arg.get_default_values().first(), first, placeholder) {
        _ if is_switch(arg) => "true".to_owned(),
        (Some(value), _, _) => format!("{:?}", value.to_string_lossy()),
        (None, Some(value), _) => format!("{value:?}"),
        (None, None, "ADDR:PORT") => "'127.0.0.1:1'".to_owned(),
        (None, None, "RATE") => "'1M'".to_owned(),
        (None, None, "TIME") => "'10s'".to_owned(),
        (None, None, "FINGERPRINT") => format!("'sha256:{}'", "0".repeat(64)),
        _ => "1".to_owned(),
    }
}

#[test]
fn every_option_takes_part_or_is_refused_and_nothing_else_is_known() {
    let command = command();
    command.clone().debug_assert();
    let mut all = Vec::new();
    each(&command, "", &mut all);
    let refused: BTreeSet<&str> = all
        .iter()
        .filter_map(|(_, arg)| arg.get_long())
        .filter(|long| options::refusal(long).is_some())
        .collect();
    for (name, _) in options::REFUSED {
        assert!(refused.contains(name), "--{name} is no option any more");
    }
    let mut taken = 0;
    for (name, arg) in &all {
        let long = arg.get_long().unwrap();
        let header = if name.is_empty() {
            String::new()
        } else {
            format!("[{name}]\n")
        };
        let text = format!("{header}{long} = {}", some_value(arg));
        let read = file::File::parse(Path::new("f"), &text, &command);
        match options::refusal(long) {
            Some(reason) => assert!(read.unwrap_err().to_string().ends_with(reason), "{text}"),
            None => {
                let entries = read
                    .unwrap_or_else(|error| panic!("{text}: {error}"))
                    .entries;
                assert_eq!((entries.len(), entries[0].option.as_str()), (1, long));
                assert!(has_default(arg), "{text}");
                taken += 1;
            }
        }
    }
    assert!(taken > 40, "{taken}");
}

#[test]
fn what_can_have_a_default_is_chosen_with_care() {
    let command = command();
    let of = |name: &str| {
        let command = command.find_subcommand(name).unwrap();
        let options = command.get_arguments().filter(|arg| has_default(arg));
        options
            .map(|arg| arg.get_long().unwrap())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        of("run"),
        "memory cpus serial rng balloon metrics no-probes large-pages config-dir runtime-dir"
    );
    assert_eq!(
        of("receive"),
        "listen serial max-memory once metrics no-probes large-pages config-dir runtime-dir"
    );
    assert_eq!(
        of("hybrid-migrate"),
        "runtime-dir mode max-bandwidth precopy-limit downtime-limit guest-slowdown-max timeout \
         recover-limit no-auto-recover verify peer codec without output"
    );
    assert_eq!(of("list"), "runtime-dir output");
    for name in ["stop", "pause", "resume"] {
        assert_eq!(of(name), "runtime-dir");
    }
}
