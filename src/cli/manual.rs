//! Shell completions and manual pages, made from the command line's own description.

use std::io::Write;
use std::path::Path;

use clap::{Command, ValueEnum};

use super::failure::Failure;

/// The shells that completions are made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Shell {
    /// GNU Bash.
    Bash,
    /// Z shell.
    Zsh,
    /// fish.
    Fish,
}

/// Writes the completions to standard output.
pub(super) fn completions(shell: Shell, mut command: Command) -> Result<(), Failure> {
    use clap_complete::Shell::{Bash, Fish, Zsh};
    let shell = match shell {
        Shell::Bash => Bash,
        Shell::Zsh => Zsh,
        Shell::Fish => Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "posthouse", &mut text);
    write(&text)
}

/// Writes the manual page to standard output, or one for every command into `dir`.
pub(super) fn pages(dir: Option<&Path>, command: Command) -> Result<(), Failure> {
    match dir {
        Some(dir) => {
            let failed = |error| Failure::usage(format!("{}: {error}", dir.display()));
            std::fs::create_dir_all(dir).map_err(failed)?;
            clap_mangen::generate_to(command, dir).map_err(failed)
        }
        None => {
            let mut text = Vec::new();
            clap_mangen::Man::new(command).render(&mut text)?;
            write(&text)
        }
    }
}

fn write(text: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}
