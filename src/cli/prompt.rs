//! Asking people: for secrets without echo, and for consent before something is destroyed.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::PathBuf;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use crate::base::secret::{line, read_file};

/// Longest secret taken from standard input, in octets.
const SECRET_OCTETS_MAX: u64 = 64 * 1024;

/// Where a password comes from; never from an argument, which every process on the machine can read.
#[derive(clap::Args, Clone, Debug)]
#[group(multiple = false)]
pub(super) struct SecretSource {
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Read the password from a file
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Read a crypt(3) hash of the password (argon2, bcrypt, SHA-512-crypt, SSHA) from standard input
    #[arg(long)]
    password_hash_stdin: bool,
}

/// A password or a hash of one.
pub(super) enum Password {
    Plain(SecretString),
    Hash(SecretString),
}

impl SecretSource {
    /// Reads the secret, from a prompt if nothing else was said and there is a terminal.
    pub(super) fn read(&self, whose: &str) -> Result<Password, Failure> {
        if self.password_hash_stdin {
            return Ok(Password::Hash(from_stdin()?));
        }
        if self.password_stdin {
            return Ok(Password::Plain(from_stdin()?));
        }
        if let Some(path) = &self.password_file {
            let read = read_file(path).map_err(|error| Failure::usage(error.to_string()))?;
            return not_empty(read).map(Password::Plain);
        }
        if !std::io::stdin().is_terminal() {
            let hint = "give it with --password-stdin or --password-file FILE";
            return Err(Failure::usage("a password is needed, and there is no terminal to ask on").hint(hint));
        }
        let first = not_empty(hidden(&format!("Password for {whose}: "))?)?;
        let second = hidden("Again: ")?;
        if first.expose_secret() != second.expose_secret() {
            return Err(Failure::usage("the two passwords differ; nothing was changed"));
        }
        Ok(Password::Plain(first))
    }
}

/// The password of somebody who logs in: from a file, or from a prompt.
pub(super) fn ask_password(whose: &str, file: Option<&std::path::Path>) -> Result<SecretString, Failure> {
    if let Some(path) = file {
        return not_empty(read_file(path).map_err(|error| Failure::usage(error.to_string()))?);
    }
    if !std::io::stdin().is_terminal() {
        let hint = "give it with --login-password-file FILE";
        return Err(Failure::usage("a password is needed, and there is no terminal to ask on").hint(hint));
    }
    not_empty(hidden(&format!("Password of {whose}: "))?)
}

/// A code of the second factor of somebody who logs in: from a file, or from a prompt.
pub(super) fn ask_second_factor(
    whose: &str,
    file: Option<&std::path::Path>,
) -> Result<SecretString, Failure> {
    if let Some(path) = file {
        return not_empty(read_file(path).map_err(|error| Failure::usage(error.to_string()))?);
    }
    if !std::io::stdin().is_terminal() {
        let hint = "give it with --login-code-file FILE, or use a token";
        return Err(Failure::usage(
            "a code of the second factor is needed, and there is no terminal to ask on",
        )
        .hint(hint));
    }
    not_empty(hidden(&format!("Code of the second factor of {whose}: "))?)
}

/// A one-time code: from a file, or from a prompt.
pub(super) fn ask_code(file: Option<&std::path::Path>) -> Result<SecretString, Failure> {
    let code = match file {
        Some(path) => read_file(path).map_err(|error| Failure::usage(error.to_string()))?,
        None if !std::io::stdin().is_terminal() => {
            let hint = "give it with --code-file FILE";
            return Err(Failure::usage("a code is needed, and there is no terminal to ask on").hint(hint));
        }
        None => hidden("Code: ")?,
    };
    let code = SecretString::from(code.expose_secret().trim());
    not_empty(code)
}

/// Where the keys of object storage come from.
#[derive(clap::Args, Clone, Debug)]
#[group(multiple = false)]
pub(super) struct KeySource {
    /// Read access key and secret key of object storage from standard input, one a line
    #[arg(long)]
    keys_stdin: bool,
    /// Read them from a file, one a line
    #[arg(long, value_name = "FILE")]
    keys_file: Option<PathBuf>,
}

impl KeySource {
    /// Reads access key and secret key, if they were asked for.
    pub(super) fn read(&self) -> Result<Option<(SecretString, SecretString)>, Failure> {
        let text = match &self.keys_file {
            Some(path) => read_file(path).map_err(|error| Failure::usage(error.to_string()))?,
            None if self.keys_stdin => from_stdin()?,
            None => return Ok(None),
        };
        let pair = text.expose_secret().split_once('\n');
        let pair = pair.map(|(access, secret)| (line(access).trim(), secret.trim()));
        match pair.filter(|(access, secret)| !access.is_empty() && !secret.is_empty()) {
            Some((access, secret)) => Ok(Some((access.into(), secret.into()))),
            None => Err(Failure::usage("expected two lines, the access key and the secret key")),
        }
    }
}

fn from_stdin() -> Result<SecretString, Failure> {
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().take(SECRET_OCTETS_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    not_empty(SecretString::from(line(&text)))
}

fn not_empty(secret: SecretString) -> Result<SecretString, Failure> {
    if secret.expose_secret().is_empty() {
        Err(Failure::usage("the password or code is empty; nothing was changed"))
    } else {
        Ok(secret)
    }
}

/// Asks for consent; `--yes` has given it, and without a terminal there is nobody to ask.
pub(super) fn consent(question: &str, yes: bool) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let refused = || {
        let message = "this needs consent, and there is no terminal to ask on; nothing was changed";
        Failure::usage(message).hint("look with --dry-run, then give --yes")
    };
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    let mut terminal = terminal().map_err(|_| refused())?;
    let answer = ask(&mut terminal, &format!("{question} [y/N] ")).map_err(|_| refused())?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err(Failure::new(Exit::Other, "not done; nothing was changed"))
    }
}

fn terminal() -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/tty")
}

fn ask(terminal: &mut File, question: &str) -> std::io::Result<String> {
    terminal.write_all(question.as_bytes())?;
    terminal.flush()?;
    let mut answer = String::new();
    BufReader::new(&*terminal).take(SECRET_OCTETS_MAX).read_line(&mut answer)?;
    Ok(answer)
}

/// Switches echo off until it is dropped.
struct Silence {
    terminal: File,
    before: Termios,
}

impl Silence {
    fn of(terminal: &File) -> std::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(terminal, OptionalActions::Flush, &silent)?;
        Ok(Self { terminal: terminal.try_clone()?, before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

fn hidden(question: &str) -> Result<SecretString, Failure> {
    let asked = || -> std::io::Result<SecretString> {
        let mut terminal = terminal()?;
        let silence = Silence::of(&terminal)?;
        let answer = Zeroizing::new(ask(&mut terminal, question)?);
        drop(silence);
        terminal.write_all(b"\n")?;
        Ok(SecretString::from(line(&answer)))
    };
    asked().map_err(|error| Failure::usage(format!("cannot ask on the terminal: {error}")))
}
