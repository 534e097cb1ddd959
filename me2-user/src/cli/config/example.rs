//! A file to be edited, from the same definitions as the help.

use std::collections::BTreeMap;
use std::fmt::Write;

use clap::{Arg, Command};

use super::defaults;

/// An option of so many commands is shown once, above all tables.
const SHARED_BY_COMMANDS: usize = 3;

/// Longest line of a comment.
const COLUMNS: usize = 80;

const HEAD: &str = "\
# Defaults of me2's options: /etc/me2/me2.toml, or ~/.config/me2/me2.toml, which
# counts more. Names and values are those of the command line. What is to count
# must lose its first #. What counts in the end, and why: me2 config

# Above the first table: of every command that has the option. What a command's
# own table says counts more.
";

/// Every option that can have a default, commented out.
pub(super) fn text(root: &Command) -> String {
    let mut commands = Vec::new();
    collect(root, "", &mut commands);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let long = |arg: &Arg| arg.get_long().map(str::to_owned).unwrap_or_default();
    for arg in commands.iter().flat_map(|(_, args)| args) {
        *counts
            .entry(arg.get_long().unwrap_or_default())
            .or_default() += 1;
    }
    let is_shared =
        |arg: &Arg| arg.is_global_set() || counts[long(arg).as_str()] >= SHARED_BY_COMMANDS;
    let mut text = HEAD.to_owned();
    let mut done = Vec::new();
    for arg in commands
        .iter()
        .flat_map(|(_, args)| args)
        .filter(|arg| is_shared(arg))
    {
        if !done.contains(&long(arg)) {
            done.push(long(arg));
            option(arg, &mut text);
        }
    }
    for (name, args) in &commands {
        let mut own = args.iter().filter(|arg| !is_shared(arg)).peekable();
        if own.peek().is_some() {
            let _ = write!(text, "\n[{name}]\n");
            own.for_each(|arg| option(arg, &mut text));
        }
    }
    text
}

fn collect<'a>(command: &'a Command, name: &str, into: &mut Vec<(String, Vec<&'a Arg>)>) {
    let args = command
        .get_arguments()
        .filter(|arg| defaults::has_default(arg));
    into.push((name.to_owned(), args.collect()));
    for below in command.get_subcommands() {
        let dot = if name.is_empty() { "" } else { "." };
        collect(below, &format!("{name}{dot}{}", below.get_name()), into);
    }
}

/// Its help, and the option as it is without a file.
fn option(arg: &Arg, text: &mut String) {
    text.push('\n');
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let possible = arg.get_possible_values();
    if !possible.is_empty() && !defaults::is_switch(arg) {
        let names: Vec<&str> = possible.iter().map(|value| value.get_name()).collect();
        let _ = write!(help, ": {}", names.join(", "));
    }
    comment(&help, text);
    let name = arg.get_long().unwrap_or_default();
    let _ = writeln!(text, "#{name} = {}", value(arg));
}

/// The built-in default; where there is none, what kind of value it takes.
fn value(arg: &Arg) -> String {
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let placeholder = || {
        arg.get_value_names()
            .and_then(|names| names.first())
            .map_or("VALUE", |name| name)
    };
    match defaults.first() {
        Some(value) if defaults::is_switch(arg) || value.parse::<i64>().is_ok() => {
            value.to_string()
        }
        Some(value) => format!("{value:?}"),
        None if defaults::takes_list(arg) => "[]".to_owned(),
        None => format!("{:?}", placeholder()),
    }
}

/// Wrapped at spaces.
fn comment(help: &str, text: &mut String) {
    let mut line = "#".to_owned();
    for word in help.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            text.push_str(&line);
            text.push('\n');
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
