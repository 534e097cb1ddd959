//! Defaults of options: from the environment, the user's file and the system's file.
//!
//! ```text
//! command line  >  ME2_… variables  >  ~/.config/me2/me2.toml  >  /etc/me2/me2.toml  >  built in
//! ```
//!
//! They are put into clap's own definition before the command line is parsed, so what an option takes,
//! and what its help says, is defined once. A default counts as absent for clap's conflicts and
//! requirements; that the more explicit of two options which exclude each other wins is [`layers`]'
//! doing.
//!
//! [`options`] says which options take part, [`file`] reads one file, [`layers`] chooses.

mod file;
mod layers;
mod options;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, FromArgMatches};

use super::Cli;
use super::failure::code;

pub(super) use layers::{Origin, Setting, named};
pub(super) use options::{has_default, is_switch, takes_list};

/// The command line without this host's defaults, for what is the same on every host.
pub(super) fn command() -> clap::Command {
    options::command()
}

/// What was found in the environment and in files.
#[derive(Debug, Default)]
pub struct Defaults {
    pub(super) files: Vec<Looked>,
    pub(super) settings: Vec<Setting>,
}

/// A place where a file may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Looked {
    pub(super) path: PathBuf,
    pub(super) is_there: bool,
}

/// A default that cannot be one: one sentence that begins with where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct BadDefault {
    place: String,
    problem: String,
}

/// Why there is no command to carry out.
#[derive(Debug, thiserror::Error)]
pub enum Unparsed {
    /// The command line makes no sense, or asks for help.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// A default makes no sense.
    #[error(transparent)]
    Default(#[from] BadDefault),
}

impl Unparsed {
    /// Says it, and what to end the process with.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::CommandLine(error) => {
                // Nobody reads it: the status still tells.
                let _ = error.print();
                ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(code::USAGE))
            }
            Self::Default(error) => {
                eprintln!("me2: {error}");
                ExitCode::from(code::USAGE)
            }
        }
    }
}

impl BadDefault {
    fn new(place: impl ToString, problem: impl Into<String>) -> Self {
        Self {
            place: place.to_string(),
            problem: problem.into(),
        }
    }

    fn at(file: &Path, line: usize, problem: impl Into<String>) -> Self {
        Self::new(format!("{}:{line}", file.display()), problem)
    }
}

/// Parses a command line, given this host's defaults.
///
/// # Errors
/// [`Unparsed::report`] says what they are. Help is given whatever the files have.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<(Cli, Defaults), Unparsed> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let said = Said::of(&arguments);
    let places = file::places(said.config.clone());
    parse_with(&arguments, &said, &places, &|name| std::env::var_os(name))
}

type Environment<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn parse_with(
    arguments: &[OsString],
    said: &Said,
    places: &[file::Place],
    environment: Environment,
) -> Result<(Cli, Defaults), Unparsed> {
    let defaults = match load(said, places, environment) {
        Ok(defaults) => defaults,
        Err(bad) => {
            let plain = command().try_get_matches_from(arguments);
            return Err(match plain {
                Err(help) if !help.use_stderr() => help.into(),
                _ => bad.into(),
            });
        }
    };
    let command = layers::apply(command(), &defaults.settings, &said.command);
    let cli = Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
    Ok((cli, defaults))
}

fn load(
    said: &Said,
    places: &[file::Place],
    environment: Environment,
) -> Result<Defaults, BadDefault> {
    let command = command();
    let (mut looked, mut files) = (Vec::new(), Vec::new());
    for place in places {
        let text = place.read()?;
        looked.push(Looked {
            path: place.path.clone(),
            is_there: text.is_some(),
        });
        if let Some(text) = text {
            files.push(file::File::parse(&place.path, &text, &command)?);
        }
    }
    Ok(Defaults {
        files: looked,
        settings: layers::settings(&command, &files, environment, said)?,
    })
}

/// What a command line says, as far as it can be told before the defaults are known.
#[derive(Debug, Default)]
struct Said {
    /// The command, and the one below it.
    command: Vec<String>,
    /// The options that are on the command line.
    options: Vec<clap::Id>,
    /// The file that is named.
    config: Option<PathBuf>,
}

impl Said {
    fn of(arguments: &[OsString]) -> Self {
        let lenient = command()
            .ignore_errors(true)
            .disable_help_flag(true)
            .disable_version_flag(true);
        let Ok(matches) = lenient.try_get_matches_from(arguments) else {
            return Self::default();
        };
        let mut said = Self {
            config: matches.get_one::<PathBuf>("config").cloned(),
            ..Self::default()
        };
        let mut at = &matches;
        said.add(at);
        while let Some((name, below)) = at.subcommand() {
            said.command.push(name.to_owned());
            said.add(below);
            at = below;
        }
        said
    }

    fn add(&mut self, matches: &ArgMatches) {
        let given = matches.ids().filter(|id| {
            matches.value_source(id.as_str()) == Some(clap::parser::ValueSource::CommandLine)
        });
        self.options.extend(given.cloned());
    }

    fn has(&self, command: &[String], option: &clap::Id) -> bool {
        self.command == command && self.options.contains(option)
    }
}

/// What is nearest among these, if anything is near.
fn nearest<'a>(text: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Of [`strsim::jaro_winkler`], from 0 to 1.
    const NEAR: f64 = 0.8;
    among
        .into_iter()
        .map(|other| (strsim::jaro_winkler(text, other), other))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, other)| other)
}

fn utf8(value: &OsStr) -> Result<String, String> {
    let text = value.to_str().ok_or("its value is not UTF-8")?;
    Ok(text.to_owned())
}
