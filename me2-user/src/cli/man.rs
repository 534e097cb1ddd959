//! `me2 man`: the manual pages, from the same definitions as the help.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Failure, defaults, failure, print};

/// `me2 man`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  me2 man | man -l -                                    (me2 as a whole)
  me2 man --dir /usr/local/share/man/man1               (a page a command)")]
pub struct ManArgs {
    /// Write the pages of all commands, me2.1, me2-run.1 and so on, to this folder,
    /// which is made if it is not there [default: me2(1) alone, to stdout]
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
}

pub(super) fn execute(args: &ManArgs, stdout: &mut impl Write) -> Result<ExitCode, Failure> {
    let pages = pages();
    match &args.dir {
        Some(dir) => write(&pages, dir)?,
        None => print(stdout, &pages[0].text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// A manual page.
struct Page {
    /// With its section: `me2-run.1`.
    file: String,
    text: String,
}

fn write(pages: &[Page], dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for page in pages {
        let path = dir.join(&page.file);
        std::fs::write(&path, &page.text)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The page of `me2` first, then those of its commands, and theirs.
fn pages() -> Vec<Page> {
    let mut root = defaults::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    add(root, &mut pages);
    pages
}

fn add(mut command: clap::Command, pages: &mut Vec<Page>) {
    let below: Vec<_> = command.get_subcommands().cloned().collect();
    // `me2 cert trust` is in me2-cert-trust(1).
    let name = command.get_bin_name().unwrap_or("me2").replace(' ', "-");
    command = command.display_name(name.clone());
    pages.push(Page {
        file: format!("{name}.1"),
        text: page(command),
    });
    for command in below {
        add(command, pages);
    }
}

/// As clap's own, but what follows the options keeps its lines.
fn page(command: clap::Command) -> String {
    let notes = command.get_after_help().map(ToString::to_string);
    let has_commands = command.has_subcommands();
    let man = Man::new(command);
    let mut out = Vec::new();
    let rendered = man
        .render_title(&mut out)
        .and_then(|()| man.render_name_section(&mut out))
        .and_then(|()| man.render_synopsis_section(&mut out))
        .and_then(|()| man.render_description_section(&mut out))
        .and_then(|()| man.render_options_section(&mut out))
        .and_then(|()| match has_commands {
            true => man.render_subcommands_section(&mut out),
            false => Ok(()),
        })
        .and_then(|()| closing(&notes.unwrap_or_default()).to_writer(&mut out));
    rendered.expect("a vector takes everything");
    String::from_utf8(out).expect("the help is text")
}

/// The examples, and how the command ends.
fn closing(notes: &str) -> Roff {
    let (examples, status) = match notes.split_once("Exit status:") {
        Some((examples, status)) => (examples, status),
        None => (notes, failure::EXIT_STATUS),
    };
    let mut roff = Roff::new();
    for (title, text) in [("EXAMPLES", examples), ("EXIT STATUS", status)] {
        roff.control("SH", [title]);
        roff.control("nf", []);
        for line in text.trim().lines() {
            roff.text([roman(line)]);
        }
        roff.control("fi", []);
    }
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_with_its_sections() {
        let pages = pages();
        let files: Vec<_> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(files[0], "me2.1");
        for file in ["me2-run.1", "me2-hybrid-migrate.1", "me2-cert-trust.1"] {
            assert!(files.contains(&file), "{files:?}");
        }
        for Page { file, text } in &pages {
            for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES", "\"EXIT STATUS\""] {
                let heading = format!("\n.SH {section}\n");
                assert_eq!(text.matches(&heading).count(), 1, "{file}: {section}");
            }
            let title = format!(".TH {} 1", file.trim_end_matches(".1"));
            assert!(text.contains(&title), "{file}: {text}");
            let status = text.split("\"EXIT STATUS\"").nth(1).unwrap();
            assert!(status.contains('0'), "{file}");
        }
        assert!(pages[0].text.contains("me2\\-cert(1)"), "{}", pages[0].text);
    }

    #[test]
    fn a_folder_takes_them_all() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("man1");
        let args = ManArgs {
            dir: Some(dir.clone()),
        };
        let mut stdout = Vec::new();
        execute(&args, &mut stdout).unwrap();
        assert!(stdout.is_empty());
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), pages().len());
        execute(&ManArgs { dir: None }, &mut stdout).unwrap();
        assert_eq!(std::fs::read(dir.join("me2.1")).unwrap(), stdout);
    }
}
