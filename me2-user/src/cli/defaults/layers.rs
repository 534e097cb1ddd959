//! Which default counts: the most explicit one.

use std::cmp::Reverse;
use std::path::PathBuf;

use clap::{Arg, Command};

use super::file::{Entry, File};
use super::{BadDefault, Environment, Said, options, utf8};

/// The default of one option of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Setting {
    /// Empty for `me2` itself.
    pub(in crate::cli) command: Vec<String>,
    pub(in crate::cli) option: String,
    /// As on the command line.
    pub(in crate::cli) values: Vec<String>,
    pub(in crate::cli) origin: Origin,
    rank: Rank,
}

/// Where a default was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) enum Origin {
    /// An environment variable.
    Variable(String),
    /// A line of a file.
    Line {
        file: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Variable(name) => f.write_str(name),
            Self::Line { file, line } => write!(f, "{}:{line}", file.display()),
        }
    }
}

/// The least counts: the environment (0), then file after file; within one, the innermost table.
type Rank = (usize, Reverse<usize>);

/// The defaults of all commands. `files` begin with the one that counts most.
pub(super) fn settings(
    root: &Command,
    files: &[File],
    environment: Environment,
    said: &Said,
) -> Result<Vec<Setting>, BadDefault> {
    let layers = Layers {
        root,
        files,
        environment,
        said,
    };
    let mut settings = Vec::new();
    layers.add(root, &[], &mut settings)?;
    Ok(settings)
}

/// The command line with these defaults, given which command is about to be parsed.
pub(super) fn apply(root: Command, settings: &[Setting], chosen: &[String]) -> Command {
    put(root, &[], settings, chosen)
}

fn put(command: Command, name: &[String], settings: &[Setting], chosen: &[String]) -> Command {
    let command = command.mut_args(|arg| {
        let of = |command: &[String]| named(settings, command, &arg);
        // An option of all commands may have a default for one of them.
        let for_chosen = if arg.is_global_set() {
            of(chosen)
        } else {
            None
        };
        match for_chosen.or_else(|| of(name)) {
            Some(setting) => options::with_default(arg, &setting.values),
            None => arg,
        }
    });
    command.mut_subcommands(|below| {
        let name = [name, &[below.get_name().to_owned()]].concat();
        put(below, &name, settings, chosen)
    })
}

/// The default of a command's option, if there is one.
pub(in crate::cli) fn named<'a>(
    settings: &'a [Setting],
    command: &[String],
    arg: &Arg,
) -> Option<&'a Setting> {
    settings.iter().find(|setting| {
        setting.command == command && Some(setting.option.as_str()) == arg.get_long()
    })
}

struct Layers<'a> {
    root: &'a Command,
    files: &'a [File],
    environment: Environment<'a>,
    said: &'a Said,
}

impl Layers<'_> {
    fn add(
        &self,
        command: &Command,
        name: &[String],
        into: &mut Vec<Setting>,
    ) -> Result<(), BadDefault> {
        let own = command
            .get_arguments()
            .filter(|arg| options::has_default(arg));
        let mut found = Vec::new();
        for arg in own {
            if let Some(setting) = self.find(name, arg)? {
                found.push((arg, setting));
            }
        }
        into.extend(self.without_ousted(command, name, found)?);
        into.extend(self.of_all_commands(name)?);
        for below in command.get_subcommands() {
            self.add(
                below,
                &[name, &[below.get_name().to_owned()]].concat(),
                into,
            )?;
        }
        Ok(())
    }

    /// What a table says of options that all commands have.
    fn of_all_commands(&self, name: &[String]) -> Result<Vec<Setting>, BadDefault> {
        let mut found = Vec::new();
        if name.is_empty() {
            return Ok(found);
        }
        let global = self.root.get_arguments().filter(|arg| arg.is_global_set());
        for arg in global.filter(|arg| options::has_default(arg)) {
            let setting = self.find(name, arg)?;
            found.extend(setting.filter(|setting| setting.rank.1 != Reverse(0)));
        }
        Ok(found)
    }

    fn find(&self, command: &[String], arg: &Arg) -> Result<Option<Setting>, BadDefault> {
        let Some(option) = arg.get_long() else {
            return Ok(None);
        };
        let setting = |values, origin, rank| Setting {
            command: command.to_vec(),
            option: option.to_owned(),
            values,
            origin,
            rank,
        };
        if let Some((variable, values)) = self.in_environment(arg)? {
            let origin = Origin::Variable(variable);
            return Ok(Some(setting(values, origin, (0, Reverse(0)))));
        }
        let mut files = self.files.iter().enumerate();
        let found =
            files.find_map(|(at, file)| Some((at, file, innermost(file, command, option)?)));
        Ok(found.map(|(at, file, entry)| {
            let origin = Origin::Line {
                file: file.path.clone(),
                line: entry.line,
            };
            setting(
                entry.values.clone(),
                origin,
                (at + 1, Reverse(entry.table.len())),
            )
        }))
    }

    fn in_environment(&self, arg: &Arg) -> Result<Option<(String, Vec<String>)>, BadDefault> {
        let Some(variable) = options::variable(arg) else {
            return Ok(None);
        };
        let Some(value) = (self.environment)(&variable).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        // What clap reads itself may be what no file can say: a path that is not UTF-8.
        if arg.get_env().is_some() {
            return Ok(Some((variable, vec![value.to_string_lossy().into_owned()])));
        }
        let checked = utf8(&value).and_then(|text| options::check(arg, vec![text]));
        match checked {
            Ok(values) => Ok(Some((variable, values))),
            Err(problem) => Err(BadDefault::new(
                variable,
                format!("cannot be {value:?}: {problem}"),
            )),
        }
    }

    /// Of two options that exclude each other, the more explicit one counts.
    fn without_ousted(
        &self,
        command: &Command,
        name: &[String],
        mut found: Vec<(&Arg, Setting)>,
    ) -> Result<Vec<Setting>, BadDefault> {
        found.sort_by_key(|(_, setting)| setting.rank);
        let said = command
            .get_arguments()
            .filter(|arg| self.said.has(name, arg.get_id()));
        let said: Vec<&Arg> = said.collect();
        let mut kept: Vec<(&Arg, Setting)> = Vec::new();
        for (arg, setting) in found {
            let is_excluded = |other: &Arg| exclude(command, arg, other);
            if is_off(arg, &setting) {
                kept.push((arg, setting));
                continue;
            }
            if said.iter().any(|other| is_excluded(other)) {
                continue;
            }
            let mut stronger = kept
                .iter()
                .filter(|(other, setting)| !is_off(other, setting));
            match stronger.find(|(other, _)| is_excluded(other)) {
                None => kept.push((arg, setting)),
                Some((_, other)) if other.rank < setting.rank => {}
                Some((_, other)) => {
                    let problem = format!(
                        "{} excludes {} ({}): leave out one",
                        setting.option, other.option, other.origin
                    );
                    return Err(BadDefault::new(&setting.origin, problem));
                }
            }
        }
        Ok(kept.into_iter().map(|(_, setting)| setting).collect())
    }
}

/// A switch that is off excludes nothing.
fn is_off(arg: &Arg, setting: &Setting) -> bool {
    options::is_switch(arg) && setting.values == ["false"]
}

/// Either may say so.
fn exclude(command: &Command, one: &Arg, other: &Arg) -> bool {
    let says = |one: &Arg, other: &Arg| {
        let excluded = command.get_arg_conflicts_with(one);
        excluded.iter().any(|arg| arg.get_id() == other.get_id())
    };
    says(one, other) || says(other, one)
}

/// What a file says of an option, in the table that is nearest to the command.
fn innermost<'a>(file: &'a File, command: &[String], option: &str) -> Option<&'a Entry> {
    let entries = file.entries.iter();
    entries
        .filter(|entry| entry.option == option && command.starts_with(&entry.table))
        .max_by_key(|entry| entry.table.len())
}
