//! One file: where it may be, and what it says.

use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{BadDefault, nearest, options};
use crate::identity::config_dir;

/// Where the defaults of all users are.
const SYSTEM_FILE: &str = "/etc/me2/me2.toml";

/// What it is called in a user's configuration folder.
const USER_FILE_NAME: &str = "me2.toml";

/// Far more than all options with comments.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Where a file may be.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Whether somebody said that it is there.
    pub(super) is_named: bool,
}

/// The file named, else the user's and the system's, in this order.
pub(super) fn places(named: Option<PathBuf>) -> Vec<Place> {
    if let Some(path) = named {
        return vec![Place {
            path,
            is_named: true,
        }];
    }
    let user = config_dir(None).map(|folder| folder.join(USER_FILE_NAME));
    let mut paths: Vec<PathBuf> = user.into_iter().collect();
    paths.push(SYSTEM_FILE.into());
    paths.dedup();
    let place = |path| Place {
        path,
        is_named: false,
    };
    paths.into_iter().map(place).collect()
}

impl Place {
    /// The text of the file; `None` if there is none, which is well unless it was named.
    pub(super) fn read(&self) -> Result<Option<String>, BadDefault> {
        let bad = |problem: String| BadDefault::new(self.path.display(), problem);
        // A folder that this user may not look into has nothing for this user.
        let is_hidden = !self.is_named && fs::symlink_metadata(&self.path).is_err();
        if is_hidden {
            return Ok(None);
        }
        let file = match fs::File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound && !self.is_named => return Ok(None),
            Err(error) => return Err(bad(format!("cannot read it: {error}"))),
        };
        let metadata = file.metadata().map_err(|error| bad(error.to_string()))?;
        if metadata.is_file() && metadata.mode() & 0o002 != 0 {
            let mode = metadata.mode() & 0o777;
            return Err(bad(format!(
                "anybody can write it (mode {mode:03o}); mend: chmod o-w"
            )));
        }
        let mut bytes = Vec::new();
        let mut bounded = file.take(FILE_BYTES_MAX + 1);
        bounded
            .read_to_end(&mut bytes)
            .map_err(|error| bad(format!("cannot read it: {error}")))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(bad(format!("larger than {} KiB", FILE_BYTES_MAX >> 10)));
        }
        String::from_utf8(bytes).map(Some).map_err(|error| {
            let line = line_of(error.as_bytes(), error.utf8_error().valid_up_to());
            BadDefault::at(&self.path, line, "not UTF-8")
        })
    }
}

/// What a file says.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) entries: Vec<Entry>,
}

/// A default for one option of the commands at or below a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Empty above the first table.
    pub(super) table: Vec<String>,
    pub(super) option: String,
    /// As on the command line.
    pub(super) values: Vec<String>,
    pub(super) line: usize,
}

impl File {
    /// Reads all of it, for whichever command: a mistake shows at once.
    pub(super) fn parse(path: &Path, text: &str, root: &Command) -> Result<Self, BadDefault> {
        let document = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = line_of(text.as_bytes(), at);
            BadDefault::at(path, line, error.message().replace('\n', ", "))
        })?;
        let mut reader = Reader {
            path,
            text,
            root,
            entries: Vec::new(),
        };
        reader.table(root, &[], document.get_ref())?;
        Ok(Self {
            path: path.to_owned(),
            entries: reader.entries,
        })
    }
}

/// Counted from 1.
fn line_of(text: &[u8], at: usize) -> usize {
    1 + text[..at.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    root: &'a Command,
    entries: Vec<Entry>,
}

impl Reader<'_> {
    /// `command` is what the table `name` is for.
    fn table(
        &mut self,
        command: &Command,
        name: &[String],
        table: &DeTable,
    ) -> Result<(), BadDefault> {
        let mut rows: Vec<_> = table.iter().collect();
        // The first mistake is told, not that of the first key in the alphabet.
        rows.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in rows {
            let line = line_of(self.text.as_bytes(), key.span().start);
            let key = key.get_ref().as_ref();
            let done = match (command.find_subcommand(key), value.get_ref()) {
                (Some(below), DeValue::Table(table)) => {
                    self.table(below, &[name, &[key.to_owned()]].concat(), table)?;
                    Ok(())
                }
                (Some(_), _) if options::refusal(key).is_none() => Err(format!(
                    "{key} is a command: its options go below [{}]",
                    dotted(name, key)
                )),
                (None, DeValue::Table(_)) => Err(no_command(command, name, key)),
                _ => self.entry(command, name, key, value, line),
            };
            done.map_err(|problem| BadDefault::at(self.path, line, problem))?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        command: &Command,
        table: &[String],
        key: &str,
        value: &Spanned<DeValue>,
        line: usize,
    ) -> Result<(), String> {
        let mut holders = Vec::new();
        let global = self.root.get_arguments().filter(|arg| arg.is_global_set());
        holders.extend(global.filter(|arg| arg.get_long() == Some(key)));
        find(command, key, &mut holders);
        if holders.is_empty() {
            return Err(no_option(self.root, command, table, key));
        }
        if let Some(reason) = options::refusal(key) {
            return Err(format!("{key} cannot have a default: --{key} {reason}"));
        }
        let mut values = Vec::new();
        for arg in holders.into_iter().filter(|arg| options::has_default(arg)) {
            let words = words(arg, value.get_ref())
                .map_err(|expected| format!("{key} takes {expected}"))?;
            let shown = words.join(",");
            values = options::check(arg, words)
                .map_err(|problem| format!("{key} cannot be {shown:?}: {problem}"))?;
        }
        self.entries.push(Entry {
            table: table.to_vec(),
            option: key.to_owned(),
            values,
            line,
        });
        Ok(())
    }
}

/// The arguments of this name at or below a command.
fn find<'a>(command: &'a Command, long: &str, into: &mut Vec<&'a Arg>) {
    into.extend(
        command
            .get_arguments()
            .filter(|arg| arg.get_long() == Some(long)),
    );
    for below in command.get_subcommands() {
        find(below, long, into);
    }
}

/// A value as on the command line; else what the option takes.
fn words(arg: &Arg, value: &DeValue) -> Result<Vec<String>, &'static str> {
    let single = |value: &DeValue| match value {
        DeValue::String(text) => Some(text.to_string()),
        // Larger numbers are none for any option.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string()),
        _ => None,
    };
    match value {
        DeValue::Boolean(on) if options::is_switch(arg) => Ok(vec![on.to_string()]),
        _ if options::is_switch(arg) => Err("true or false"),
        DeValue::Array(items) if options::takes_list(arg) => {
            let words = items.iter().map(|item| single(item.get_ref()));
            words.collect::<Option<_>>().ok_or("a list of texts")
        }
        _ if options::takes_list(arg) => single(value)
            .map(|word| vec![word])
            .ok_or("a text or a list of texts"),
        _ => single(value)
            .map(|word| vec![word])
            .ok_or("a text in quotes or a number"),
    }
}

fn dotted(table: &[String], key: &str) -> String {
    let mut words = table.to_vec();
    words.push(key.to_owned());
    words.join(".")
}

fn no_command(command: &Command, table: &[String], key: &str) -> String {
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    let mut options = Vec::new();
    find(command, key, &mut options);
    let key = key.escape_debug();
    let hint = match nearest(&key.to_string(), names.iter().copied()) {
        Some(near) => format!("did you mean [{}]?", dotted(table, near)),
        None if !options.is_empty() => format!("{key} is an option: {key} = …"),
        None if names.is_empty() => "it has none".to_owned(),
        None => format!("there are {}", names.join(", ")),
    };
    format!("no command {key} of {}; {hint}", who(table))
}

fn no_option(root: &Command, command: &Command, table: &[String], key: &str) -> String {
    let allowed = allowed(command);
    let shown = key.escape_debug();
    let hint = match nearest(key, allowed.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => match elsewhere(root, key) {
            Some(command) => format!("it belongs below [{command}]"),
            None if allowed.is_empty() => "none can have a default there".to_owned(),
            None => format!("those that can have a default are {}", allowed.join(", ")),
        },
    };
    format!("no option {shown} of {}; {hint}", who(table))
}

fn who(table: &[String]) -> String {
    [&["me2".to_owned()], table].concat().join(" ")
}

/// The options at or below a command that can have a default.
fn allowed(command: &Command) -> Vec<&str> {
    let own = command
        .get_arguments()
        .filter(|arg| options::has_default(arg));
    let mut names: Vec<&str> = own.filter_map(Arg::get_long).collect();
    for below in command.get_subcommands() {
        names.extend(allowed(below));
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// Another command that has the option.
fn elsewhere<'a>(root: &'a Command, key: &str) -> Option<&'a str> {
    let mut commands = root.get_subcommands();
    commands
        .find(|command| allowed(command).contains(&key))
        .map(Command::get_name)
}
