//! `me2 completions`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

use super::{Failure, defaults, print};

/// `me2 completions`, parsed.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  me2 completions bash >~/.local/share/bash-completion/completions/me2
  me2 completions zsh >~/.zfunc/_me2                    (a folder of $fpath)
  me2 completions fish >~/.config/fish/completions/me2.fish")]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}

pub(super) fn execute(
    args: &CompletionsArgs,
    stdout: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut defaults::command(), "me2", &mut script);
    print(stdout, &String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_learns_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            execute(&CompletionsArgs { shell: *shell }, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for command in defaults::command().get_subcommands() {
                let name = command.get_name();
                assert!(script.contains(name), "{shell}: {name}");
            }
            assert!(script.contains("max-bandwidth"), "{shell}");
        }
    }
}
