//! Which options may have a default, and what they take.

use clap::builder::{BoolishValueParser, Resettable, ValueParser};
use clap::error::{ContextKind, ErrorKind};
use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

const OF_ONE_VM: &str = "belongs to one VM";
const OF_ONE_COMMAND: &str = "says what one command is to do";
const DELIBERATE: &str = "must be meant each time";

/// The options that are given on the command line alone, with the reason.
pub(super) const REFUSED: [(&str, &str); 21] = [
    ("name", OF_ONE_VM),
    ("vm", OF_ONE_VM),
    ("kernel", OF_ONE_VM),
    ("initrd", OF_ONE_VM),
    ("cmdline", OF_ONE_VM),
    ("disk", OF_ONE_VM),
    ("net", OF_ONE_VM),
    ("api", OF_ONE_VM),
    ("qlog", OF_ONE_VM),
    ("to", OF_ONE_COMMAND),
    ("watch", OF_ONE_COMMAND),
    ("dir", OF_ONE_COMMAND),
    ("trusted", OF_ONE_COMMAND),
    ("all", OF_ONE_COMMAND),
    ("example", OF_ONE_COMMAND),
    ("force", DELIBERATE),
    ("no-sandbox", DELIBERATE),
    ("resume-here", DELIBERATE),
    ("destination-is-fenced", DELIBERATE),
    ("source-is-fenced", DELIBERATE),
    ("config", "says which file is read"),
];

/// Options that make sense with one value of another alone.
const BOUND: [(&str, &str); 1] = [("stop-below-pages", "goes with --mode precopy alone")];

/// Why an option has no default, if it may not have one.
pub(super) fn refusal(option: &str) -> Option<&'static str> {
    let mut all = REFUSED.iter().chain(&BOUND);
    all.find(|(refused, _)| *refused == option)
        .map(|(_, reason)| *reason)
}

/// Whether an argument may have a default.
pub(in crate::cli) fn has_default(arg: &Arg) -> bool {
    let takes_part = matches!(
        arg.get_action(),
        ArgAction::Set | ArgAction::Append | ArgAction::SetTrue
    );
    takes_part && arg.get_long().is_some_and(|long| refusal(long).is_none())
}

/// The command line, where what a default can switch on can be switched off: `--once=false`.
pub(super) fn command() -> Command {
    switchable(Cli::command())
}

fn switchable(command: Command) -> Command {
    let command = command.mut_args(|arg| match arg.get_action() {
        ArgAction::SetTrue if has_default(&arg) => arg
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value("false")
            .value_parser(BoolishValueParser::new())
            .value_name("true|false")
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => arg,
    });
    command.mut_subcommands(switchable)
}

/// Whether an option is on or off.
pub(in crate::cli) fn is_switch(arg: &Arg) -> bool {
    arg.get_value_parser().type_id() == ValueParser::bool().type_id()
}

/// Whether an option takes several values.
pub(in crate::cli) fn takes_list(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The environment variable of an option: `ME2_MAX_BANDWIDTH`.
pub(super) fn variable(arg: &Arg) -> Option<String> {
    let own = arg.get_env().and_then(|name| name.to_str());
    let by_rule = || {
        let long = arg.get_long()?;
        Some(format!("ME2_{}", long.to_uppercase().replace('-', "_")))
    };
    own.map(str::to_owned).or_else(by_rule)
}

/// The option with another default, as if it were built in.
pub(super) fn with_default(arg: Arg, values: &[String]) -> Arg {
    let help = arg
        .get_help()
        .map(|help| without_stated_default(&help.to_string()));
    arg.required(false)
        .default_values(values.iter().cloned())
        .hide_default_value(false)
        .help(Resettable::from(help.map(Into::into)))
}

/// Help without its `[default: …]` in words, which is no longer true.
fn without_stated_default(help: &str) -> String {
    let Some((before, rest)) = help.split_once("[default: ") else {
        return help.to_owned();
    };
    let after = rest.split_once(']').map_or("", |(_, after)| after);
    format!("{}{after}", before.trim_end())
}

/// Values as the option would take them on the command line; else why it would not, in its own words.
pub(super) fn check(arg: &Arg, values: Vec<String>) -> Result<Vec<String>, String> {
    // By itself: whatever else the command needs is not the matter.
    let alone = arg
        .clone()
        .required(false)
        .global(false)
        .conflicts_with(Resettable::<clap::Id>::Reset)
        .requires(Resettable::<clap::Id>::Reset)
        .env(Resettable::<clap::builder::OsStr>::Reset);
    let long = arg.get_long().unwrap_or_default();
    let words = values.iter().map(|value| format!("--{long}={value}"));
    let matches = Command::new("me2")
        .no_binary_name(true)
        .disable_help_flag(true)
        .arg(alone)
        .try_get_matches_from(words);
    match matches {
        Ok(matches) if is_switch(arg) => {
            Ok(vec![matches.get_flag(arg.get_id().as_str()).to_string()])
        }
        Ok(_) => Ok(values),
        Err(error) => Err(cause(&error)),
    }
}

fn cause(error: &clap::Error) -> String {
    use std::error::Error;
    if let Some(cause) = error.source() {
        return cause.to_string();
    }
    let said = |kind| error.get(kind).map(ToString::to_string);
    match (error.kind(), said(ContextKind::ValidValue)) {
        (ErrorKind::InvalidValue, Some(valid)) if !valid.is_empty() => {
            match said(ContextKind::SuggestedValue) {
                Some(near) => format!("expected {valid}; did you mean {near}?"),
                None => format!("expected {valid}"),
            }
        }
        (ErrorKind::InvalidValue, _) => "it is empty".to_owned(),
        (kind, _) => kind.to_string(),
    }
}
