//! `posthouse import`: the rows of a file. It is read twice: first to see that every line can be understood, before
//! anything is changed; then to do it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::batches::Batches;
use super::codes::Codes;
use super::columns::Type;
use super::feed::{Feed, Format, Line, format_of, open, rewind};
use super::report::Report;
use super::rows::Mistake;
use crate::cli::client::{Call, Client};
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::plan::{Change, partly};

/// What becomes of passwords.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Passwords {
    /// They are for mailboxes that are created; others keep theirs
    New,
    /// Mailboxes that are there get them too
    Set,
}

/// Bring customers, domains, mailboxes, aliases and administrators in from a file
#[derive(Args, Debug)]
pub(in crate::cli) struct Import {
    /// CSV with a header, or JSON lines; `-` for standard input
    file: PathBuf,
    /// The form of the file [default: as its name ends, else csv]
    #[arg(long)]
    format: Option<Format>,
    /// Paths in the file begin below this customer
    #[arg(long, value_name = "PATH")]
    customer: Option<String>,
    /// All rows are of this type, and the file needs no column `type`
    #[arg(long = "type", alias = "kind", value_name = "TYPE")]
    only: Option<Type>,
    /// What becomes of passwords and their hashes
    #[arg(long, default_value = "new")]
    passwords: Passwords,
    /// New mailboxes without a password get a one-time code with which their owners set one; the codes go into this new
    /// file, as CSV
    #[arg(long, value_name = "FILE")]
    codes: Option<PathBuf>,
    #[command(flatten)]
    change: Change,
}

impl Import {
    /// The call that each batch of rows makes.
    pub(in crate::cli) fn call(&self) -> Call {
        let passwords = if self.passwords == Passwords::Set { "set" } else { "new" };
        let call = Call::new("import.batch").maybe("customer", self.customer.clone());
        call.with("passwords", passwords).flag("codes", self.codes.is_some())
    }

    pub(in crate::cli) fn carry_out(self, client: &Client, output: &Output) -> Result<ExitCode, Failure> {
        let format = self.format.unwrap_or_else(|| format_of(&self.file));
        let name = if self.file.as_os_str() == "-" {
            "standard input".into()
        } else {
            self.file.display().to_string()
        };
        let mut report = Report::of(name);
        let mut total = None;
        let source: Box<dyn std::io::Read> = match open(&self.file)? {
            None => Box::new(std::io::stdin()),
            Some(mut file) => {
                if rewind(&mut file) {
                    let again = file.try_clone().map_err(|error| Failure::usage(error.to_string()))?;
                    total = Some(look(Box::new(again), format, self.only, &mut report));
                    if report.failed > 0 {
                        report.show(output, self.change.dry_run)?;
                        let message = "the file cannot be imported as it is; nothing was changed";
                        return Err(Failure::usage(message));
                    }
                    rewind(&mut file);
                }
                Box::new(file)
            }
        };
        let mut batches = Batches::new(client, self.call(), self.change.dry_run, report);
        if let Some(path) = self.codes.as_deref().filter(|_| !self.change.dry_run) {
            batches.codes = Some(Codes::create(path)?);
        }
        if let Some(total) = total {
            batches.expect(total);
        }
        let outcome = send(source, format, self.only, &mut batches);
        batches.bar.clear();
        batches.report.show(output, self.change.dry_run)?;
        outcome.map_err(|failure| match batches.report.done() {
            0 => failure,
            _ => failure.hint("what was done stays; run it again, and it goes on where it stopped"),
        })?;
        Ok(if batches.report.failed > 0 { partly() } else { ExitCode::SUCCESS })
    }
}

/// Sends all rows; lines that cannot be understood are noted.
fn send(
    source: Box<dyn std::io::Read>,
    format: Format,
    only: Option<Type>,
    batches: &mut Batches<'_>,
) -> Result<(), Failure> {
    let mut feed = match Feed::new(source, format, only) {
        Ok(feed) => feed,
        Err((line, mistakes)) => {
            batches.report.wrong(line, None, mistakes);
            return Ok(());
        }
    };
    loop {
        match feed.next() {
            Ok(None) => break,
            Ok(Some(Line { number, read: Ok((kind, row)) })) => batches.take(number, kind, row)?,
            Ok(Some(Line { number, read: Err(mistakes) })) => batches.report.wrong(number, None, mistakes),
            Err(broken) => {
                batches.report.wrong(broken.line, None, vec![Mistake::new(broken.message)]);
                break;
            }
        }
    }
    batches.finish()
}

/// Reads the file and notes what is wrong in it; answers the number of rows.
fn look(source: Box<dyn std::io::Read>, format: Format, only: Option<Type>, report: &mut Report) -> u64 {
    let mut feed = match Feed::new(source, format, only) {
        Ok(feed) => feed,
        Err((line, mistakes)) => {
            report.wrong(line, None, mistakes);
            return 0;
        }
    };
    let mut rows = 0;
    loop {
        match feed.next() {
            Ok(None) => return rows,
            Ok(Some(Line { number, read })) => {
                rows += 1;
                if let Err(mistakes) = read {
                    report.wrong(number, None, mistakes);
                }
            }
            Err(broken) => {
                report.wrong(broken.line, None, vec![Mistake::new(broken.message)]);
                return rows;
            }
        }
    }
}
