//! Files and an environment to parse with; which default counts, what is refused, and that the
//! command line defines it all.

mod definition;
mod mistakes;
mod precedence;

use super::super::{Cli, Command, HybridMigrateArgs, ReceiveArgs, RunArgs};
use super::*;

/// A user's file, a system's file and an environment.
#[derive(Default)]
struct Host<'a> {
    user: &'a str,
    system: &'a str,
    variables: &'a [(&'a str, &'a str)],
}

impl Host<'_> {
    fn parse(&self, arguments: &str) -> Result<(Cli, Defaults), Unparsed> {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            file::Place {
                path,
                is_named: false,
            }
        };
        let places = [place("user", self.user), place("system", self.system)];
        let arguments: Vec<OsString> = ["me2"]
            .into_iter()
            .chain(arguments.split_whitespace())
            .map(OsString::from)
            .collect();
        let environment = |name: &str| {
            let mut all = self.variables.iter();
            all.find(|(other, _)| *other == name)
                .map(|(_, value)| (*value).into())
        };
        parse_with(&arguments, &Said::of(&arguments), &places, &environment)
    }

    fn migrate(&self, options: &str) -> HybridMigrateArgs {
        match self.command(&format!("hybrid-migrate --vm a --to h:1 {options}")) {
            Command::HybridMigrate(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn receive(&self, options: &str) -> ReceiveArgs {
        match self.command(&format!("receive {options}")) {
            Command::Receive(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn run(&self, options: &str) -> RunArgs {
        match self.command(&format!("run {options}")) {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn command(&self, arguments: &str) -> Command {
        let parsed = self.parse(arguments);
        parsed.unwrap_or_else(|error| panic!("{error}")).0.command
    }

    /// What is wrong with a file or the environment, from the name of the file on.
    fn problem(&self) -> String {
        match self.parse("list") {
            Err(Unparsed::Default(bad)) => {
                let said = bad.to_string();
                said.rsplit_once('/')
                    .map_or(said.clone(), |(_, said)| said.to_owned())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn user(user: &str) -> Host<'_> {
    Host {
        user,
        ..Host::default()
    }
}
