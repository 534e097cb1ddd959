//! What the command line takes, and what its help says.

use clap::{CommandFactory, Parser};

use super::super::*;

#[test]
fn is_consistent() {
    Cli::command().debug_assert();
}

fn each_help() -> Vec<(String, String)> {
    fn walk(command: &mut clap::Command, path: &str, into: &mut Vec<(String, String)>) {
        into.push((path.to_owned(), command.render_help().to_string()));
        let names: Vec<_> = command
            .get_subcommands()
            .map(|sub| sub.get_name().to_owned())
            .collect();
        for name in names {
            let sub = command.find_subcommand_mut(&name).expect("just listed");
            walk(sub, &format!("{path} {name}"), into);
        }
    }
    let mut command = Cli::command();
    command.build();
    let mut helps = Vec::new();
    walk(&mut command, "me2", &mut helps);
    helps.retain(|(path, _)| !path.contains("help"));
    helps
}

#[test]
fn every_help_has_an_example_and_fits_80_columns() {
    let helps = each_help();
    assert!(helps.len() >= 11, "{}", helps.len());
    for (path, help) in helps {
        let examples = help.rfind("\nExample").or(help.rfind("\nA first move"));
        let examples = examples.unwrap_or_else(|| panic!("{path}: {help}"));
        for line in help[examples..].lines() {
            assert!(line.chars().count() <= 80, "{path}: {line}");
        }
    }
}

fn run(arguments: &str) -> Result<RunArgs, clap::Error> {
    match Cli::try_parse_from(
        ["me2", "run"]
            .into_iter()
            .chain(arguments.split_whitespace()),
    )?
    .command
    {
        Command::Run(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

#[test]
fn run_has_defaults_and_limits() {
    let args = run("").unwrap();
    assert_eq!(
        (args.memory, args.cpus, args.no_probes),
        (1 << 30, 1, false)
    );
    assert_eq!(args.serial, SerialTarget::Stdio);
    let args = run("--name a --memory 256M --cpus 8 --serial file:x.log --runtime-dir /r").unwrap();
    assert_eq!(
        args.api_path().unwrap(),
        std::path::PathBuf::from("/r/a.sock")
    );
    assert_eq!(args.serial, SerialTarget::File("x.log".into()));
    for bad in [
        "--cpus 0",
        "--cpus 9",
        "--memory 0",
        "--memory lots",
        "--name a/b",
        "--serial file:",
        "--serial tty",
        "extra",
    ] {
        assert!(run(bad).is_err(), "{bad}");
    }
}

#[test]
fn receive_may_know_its_name_only_later() {
    let receive = |arguments: &str| {
        let all = format!("me2 receive --listen 127.0.0.1:0 --runtime-dir /r {arguments}");
        match Cli::try_parse_from(all.split_whitespace()).unwrap().command {
            Command::Receive(args) => args,
            other => panic!("{other:?}"),
        }
    };
    let arriving = "a".parse().unwrap();
    let path = |args: &ReceiveArgs, arriving| {
        args.api_path(arriving)
            .unwrap()
            .map(|path| path.display().to_string())
    };
    let args = receive("");
    assert_eq!(args.max_memory, 64 << 30);
    assert_eq!(path(&args, None), None);
    assert_eq!(path(&args, Some(&arriving)).as_deref(), Some("/r/a.sock"));
    let args = receive("--name b");
    assert_eq!(path(&args, None).as_deref(), Some("/r/b.sock"));
    assert_eq!(args.vm_name(&arriving).to_string(), "b");
    assert_eq!(path(&receive("--api /x"), None).as_deref(), Some("/x"));
    assert!(Cli::try_parse_from(["me2", "receive", "--listen", "nowhere"]).is_err());
}
