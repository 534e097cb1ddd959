//! `me2 config`: the defaults of this host, and where each comes from.

mod example;

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Arg, Args};
use serde::Serialize;

use super::defaults::{self, Defaults, Origin};
use super::failure::Failure;
use super::{Output, print};

/// The version of the document's shape; it grows when a field changes its meaning or goes away.
const CONFIG_SCHEMA_VERSION: u32 = 1;

/// `me2 config`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
An option counts as given on the command line, else by its variable (--max-bandwidth
by ME2_MAX_BANDWIDTH), else in ~/.config/me2/me2.toml ($XDG_CONFIG_HOME is
respected), else in /etc/me2/me2.toml, else as built in. --config FILE, or
ME2_CONFIG, names one file instead of both. Such a file has a table a command:

  runtime-dir = \"/run/me2\"            # of every command that has the option

  [hybrid-migrate]
  max-bandwidth = \"400M\"              # as on the command line
  no-auto-recover = true              # off again for once: --no-auto-recover=false

Examples:
  me2 config
  me2 config --all --output json
  me2 config --example >me2.toml")]
pub struct ConfigArgs {
    /// Show those that are built in, too
    #[arg(long)]
    pub all: bool,
    /// Print a file with all options that can have a default, to be edited, instead
    #[arg(long, conflicts_with_all = ["all", "output"])]
    pub example: bool,
    /// What the defaults are written as
    #[arg(long, value_name = "FORMAT", default_value_t, value_enum)]
    pub output: Output,
}

/// What `--output json` writes.
#[derive(Debug, Serialize)]
struct Document {
    schema_version: u32,
    /// The one that counts most first.
    files: Vec<File>,
    defaults: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct File {
    path: PathBuf,
    is_there: bool,
}

/// The default of one option.
#[derive(Debug, Serialize)]
struct Row {
    /// As on the command line: `cert create`; empty for options of all commands.
    command: String,
    option: String,
    /// As on the command line; more than one if the option takes several.
    values: Vec<String>,
    #[serde(flatten)]
    source: Source,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
enum Source {
    Environment { variable: String },
    File { file: PathBuf, line: usize },
    BuiltIn,
}

pub(super) fn execute(
    args: &ConfigArgs,
    defaults: &Defaults,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    if args.example {
        print(stdout, &example::text(&defaults::command()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let document = document(defaults, args.all);
    let text = match args.output {
        Output::Human => lines(&document),
        Output::Json => {
            serde_json::to_string_pretty(&document).map_err(anyhow::Error::from)? + "\n"
        }
    };
    print(stdout, &text)?;
    Ok(ExitCode::SUCCESS)
}

fn document(defaults: &Defaults, all: bool) -> Document {
    let mut rows = Vec::new();
    add(&defaults::command(), &[], defaults, all, &mut rows);
    let file = |looked: &defaults::Looked| File {
        path: looked.path.clone(),
        is_there: looked.is_there,
    };
    Document {
        schema_version: CONFIG_SCHEMA_VERSION,
        files: defaults.files.iter().map(file).collect(),
        defaults: rows,
    }
}

/// The rows of a command, what counts most first, and of those below it.
fn add(
    command: &clap::Command,
    name: &[String],
    defaults: &Defaults,
    all: bool,
    into: &mut Vec<Row>,
) {
    let set = defaults
        .settings
        .iter()
        .filter(|setting| setting.command == name);
    into.extend(set.map(|setting| Row {
        command: name.join(" "),
        option: setting.option.clone(),
        values: setting.values.clone(),
        source: match setting.origin.clone() {
            Origin::Variable(variable) => Source::Environment { variable },
            Origin::Line { file, line } => Source::File { file, line },
        },
    }));
    let is_built_in = |arg: &&Arg| {
        all && defaults::has_default(arg)
            && defaults::named(&defaults.settings, name, arg).is_none()
    };
    for arg in command.get_arguments().filter(is_built_in) {
        let values = arg.get_default_values().iter();
        into.push(Row {
            command: name.join(" "),
            option: arg.get_long().unwrap_or_default().to_owned(),
            values: values
                .map(|value| value.to_string_lossy().into_owned())
                .collect(),
            source: Source::BuiltIn,
        });
    }
    for below in command.get_subcommands() {
        add(
            below,
            &[name, &[below.get_name().to_owned()]].concat(),
            defaults,
            all,
            into,
        );
    }
}

/// For people: a line for what many commands have from one place.
fn lines(document: &Document) -> String {
    let mut text = String::new();
    for File { path, is_there } in &document.files {
        let state = if *is_there { "read" } else { "not there" };
        let _ = writeln!(text, "{}: {state}", path.display());
    }
    let mut table: Vec<([String; 4], usize)> = Vec::new();
    for row in &document.defaults {
        let cells = [
            row.command.clone(),
            row.option.clone(),
            shown(&row.values),
            from(&row.source),
        ];
        let same = |(other, _): &&mut ([String; 4], usize)| {
            row.source != Source::BuiltIn && other[1..] == cells[1..]
        };
        match table.iter_mut().find(same) {
            Some((_, commands)) => *commands += 1,
            None => table.push((cells, 1)),
        }
    }
    if table.is_empty() {
        text.push_str("\nno option has a default of this host's\n");
        return text;
    }
    let rows: Vec<[String; 4]> = table
        .into_iter()
        .map(|(mut cells, commands)| {
            cells[0] = match (commands, cells[0].as_str()) {
                (1, "") => "all commands".to_owned(),
                (1, _) => std::mem::take(&mut cells[0]),
                (many, _) => format!("{many} commands"),
            };
            cells
        })
        .collect();
    let width = |at: usize| {
        rows.iter()
            .map(|cells| cells[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let (command, option, value) = (width(0), width(1), width(2));
    text.push('\n');
    for [name, key, values, place] in &rows {
        let _ = writeln!(
            text,
            "{name:command$}  {key:option$}  {values:value$}  {place}"
        );
    }
    text
}

fn shown(values: &[String]) -> String {
    match values {
        [] => "-".to_owned(),
        values => values.join(","),
    }
}

fn from(source: &Source) -> String {
    let line = |file: &Path, line: &usize| format!("{}:{line}", file.display());
    match source {
        Source::Environment { variable } => variable.clone(),
        Source::File { file, line: at } => line(file, at),
        Source::BuiltIn => "built in".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn config(file: &str, options: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("me2.toml");
        std::fs::write(&path, file).unwrap();
        let all = format!("me2 config --config {} {options}", path.display());
        let (cli, defaults) = defaults::parse(all.split_whitespace().map(OsString::from)).unwrap();
        let super::super::Command::Config(args) = cli.command else {
            panic!("{cli:?}");
        };
        let mut stdout = Vec::new();
        execute(&args, &defaults, &mut stdout).unwrap();
        String::from_utf8(stdout)
            .unwrap()
            .replace(&path.display().to_string(), "FILE")
    }

    #[test]
    fn each_default_tells_where_it_comes_from() {
        let file = "no-probes = true\nlog-format = 'json'\n[hybrid-migrate]\nwithout = ['delta', 'holes']\n[receive]\nlog-format = 'human'";
        let text = config(file, "");
        assert!(text.starts_with("FILE: read\n\n"), "{text}");
        for row in [
            "all commands    log-format  json         FILE:2",
            "2 commands      no-probes   true         FILE:1",
            "receive         log-format  human        FILE:6",
            "hybrid-migrate  without     delta,holes  FILE:4",
        ] {
            assert!(text.lines().any(|line| line == row), "{row}: {text}");
        }
        assert_eq!(text.lines().count(), 6, "{text}");
        let document: serde_json::Value =
            serde_json::from_str(&config(file, "--output json --all")).unwrap();
        assert_eq!(document["schema_version"], 1);
        let rows = document["defaults"].as_array().unwrap();
        let row = |command: &str, option: &str| {
            let mut rows = rows
                .iter()
                .filter(|row| row["command"] == command && row["option"] == option);
            let row = rows.next().unwrap_or_else(|| panic!("{command} {option}"));
            assert!(rows.next().is_none(), "{command} {option}");
            row
        };
        let set = row("run", "no-probes");
        assert_eq!((&set["source"], &set["line"]), (&"file".into(), &1.into()));
        let built_in = row("run", "memory");
        assert_eq!(
            (&built_in["source"], &built_in["values"][0]),
            (&"built_in".into(), &"1G".into())
        );
        assert_eq!(
            row("hybrid-migrate", "max-bandwidth")["values"],
            serde_json::json!([])
        );
    }

    #[test]
    fn the_example_has_every_option_and_can_be_read() {
        let text = config("", "--example");
        // Nothing counts as it is; what has a built-in default may have its # taken away.
        assert_eq!(config(&text, "").lines().count(), 3, "{text}");
        let placeholder = |line: &str| {
            let value = line.split_once(" = ").map_or("", |(_, value)| value);
            value.starts_with('"')
                && !value.contains(|c: char| c.is_ascii_digit() || c.is_ascii_lowercase())
        };
        let edited: Vec<&str> = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(option) if !option.starts_with(' ') && !placeholder(option) => option,
                _ => line,
            })
            .collect();
        let edited = edited.join("\n");
        let read = config(&edited, "--output json");
        for option in [
            "cpus",
            "memory",
            "no-probes",
            "mode",
            "recover-limit",
            "without",
            "scrollback",
            "log-format",
        ] {
            assert!(
                read.contains(&format!("\"option\": \"{option}\"")),
                "{option}: {edited}"
            );
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let document: serde_json::Value =
            serde_json::from_str(&config("", "--all --output json")).unwrap();
        for row in document["defaults"].as_array().unwrap() {
            let option = row["option"].as_str().unwrap();
            assert!(text.contains(&format!("\n#{option} = ")), "{option}");
        }
    }
}
