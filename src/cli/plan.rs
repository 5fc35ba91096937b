//! What a command asks of the daemon, and how the answer is shown.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use secrecy::SecretString;
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::{Exit, Failure};
use super::job::Follow;
use super::output::{Column, Output, note};
use super::prompt::consent;
use crate::service::registry::operation;

/// Objects asked for at a time.
const PAGE_OBJECTS: u64 = 500;

/// For every verb that changes something.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Change {
    /// Run all checks, change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// For every verb that takes something away.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Destruction {
    /// Run all checks, show what would happen, change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// For every verb that makes a token.
#[derive(Args, Clone, Debug)]
pub(super) struct TokenFile {
    /// Write the token to this new file, which nobody else can read, instead of printing it; for --token-file
    #[arg(long, value_name = "FILE")]
    pub save_token: Option<PathBuf>,
}

/// For every verb that makes a one-time code.
#[derive(Args, Clone, Debug)]
pub(super) struct CodeFile {
    /// Write the code to this new file, which nobody else can read, instead of printing it; for --code-file
    #[arg(long, value_name = "FILE")]
    pub save_code: Option<PathBuf>,
}

/// For every verb that makes recovery codes.
#[derive(Args, Clone, Debug)]
pub(super) struct RecoveryFile {
    /// Write the recovery codes to this new file, one a line, which nobody else can read, instead of printing them
    #[arg(long, value_name = "FILE")]
    pub save_codes: Option<PathBuf>,
}

/// A member of an answer that is shown only once, and the file that it goes to if one is named.
pub(super) struct Secret {
    member: &'static str,
    path: Option<PathBuf>,
}

impl From<TokenFile> for Secret {
    fn from(file: TokenFile) -> Self {
        Self { member: "token", path: file.save_token }
    }
}

impl From<CodeFile> for Secret {
    fn from(file: CodeFile) -> Self {
        Self { member: "secret", path: file.save_code }
    }
}

impl From<RecoveryFile> for Secret {
    fn from(file: RecoveryFile) -> Self {
        Self { member: "recovery_codes", path: file.save_codes }
    }
}

/// What a command asks of the daemon.
pub(super) enum Plan {
    /// A list, all pages of it.
    List { call: Call, columns: &'static [Column], nothing: &'static str },
    /// One object.
    Show { call: Call, columns: &'static [Column] },
    /// Something is made or changed; the answer's members in `columns` are shown.
    Change { call: Call, change: Change, done: String, columns: &'static [Column] },
    /// As `Change`; a secret that is made goes to a file if one is named.
    Issue { call: Call, change: Change, done: String, columns: &'static [Column], secret: Secret },
    /// Something is taken away, after its effects have been shown and somebody consented.
    Destroy {
        call: Call,
        destruction: Destruction,
        effects: &'static [Column],
        question: String,
        done: String,
    },
    /// A one-time code is used for what it was made for; the answer's members in `columns` are shown.
    Redeem { code: SecretString, call: Call, change: Change, done: String, columns: &'static [Column] },
    /// Something with a form of its own.
    Own { call: Call, show: fn(&Client, &Output, &Call) -> Result<ExitCode, Failure> },
    /// As `Own`, with a choice of the command line.
    Report { call: Call, format: super::report::Format },
    /// A job does it; it is followed to its end unless told otherwise.
    Job { call: Call, change: Change, following: Follow },
    /// A server is restarted, and waited for unless told otherwise.
    Restart { call: Call, change: Change, following: Follow },
}

impl Plan {
    /// The operation asked for.
    #[cfg(test)]
    pub(super) fn call(&self) -> &Call {
        match self {
            Self::List { call, .. }
            | Self::Show { call, .. }
            | Self::Change { call, .. }
            | Self::Issue { call, .. }
            | Self::Destroy { call, .. }
            | Self::Redeem { call, .. }
            | Self::Own { call, .. }
            | Self::Report { call, .. }
            | Self::Job { call, .. }
            | Self::Restart { call, .. } => call,
        }
    }

    /// Asks and shows.
    pub(super) fn carry_out(self, client: &Client, output: &Output) -> Result<ExitCode, Failure> {
        match self {
            Self::List { call, columns, nothing } => list(client, output, &call, columns, nothing)?,
            Self::Show { call, columns } => {
                let answer = client.run(&call, false)?;
                if output.is_json() { output.document(&answer)? } else { output.sheet(columns, &answer)? }
            }
            Self::Change { call, change, done, columns } => {
                let answer = client.run(&call, change.dry_run)?;
                changed(output, &answer, change, &done, columns)?;
            }
            Self::Redeem { code, call, change, done, columns } => {
                let answer = client.redeem(&code, &call, change.dry_run)?;
                changed(output, &answer, change, &done, columns)?;
            }
            Self::Issue { call, change, done, columns, secret } => {
                let answer = issue(client, &call, change, &secret)?;
                changed(output, &answer, change, &done, columns)?;
            }
            Self::Destroy { call, destruction, effects, question, done } => {
                let answer = destroy(client, output, &call, destruction, effects, &question)?;
                finish(output, &answer, destruction.dry_run, &done)?;
            }
            Self::Own { call, show } => return show(client, output, &call),
            Self::Report { call, format } => return super::report::report(client, output, &call, format),
            Self::Job { call, change, following } => {
                return super::job::start(client, output, &call, change, following);
            }
            Self::Restart { call, change, following } => {
                super::node::restart(client, output, &call, change, following)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// All objects of a list, page after page; `each` gets them a page at a time.
pub(super) fn pages(
    client: &Client,
    call: &Call,
    mut each: impl FnMut(&[Value]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let asked_for = call.fields.get("limit").and_then(Value::as_u64);
    let mut left = asked_for.unwrap_or(u64::MAX);
    let mut call = call.clone();
    let is_paged = takes(&call, "limit");
    loop {
        if is_paged {
            call = call.with("limit", PAGE_OBJECTS.min(left));
        }
        let page = client.run(&call, false)?;
        let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        each(items)?;
        left = left.saturating_sub(items.len() as u64);
        match page.get("cursor") {
            Some(cursor) if !cursor.is_null() && left > 0 => call = call.with("cursor", cursor.clone()),
            _ => return Ok(()),
        }
    }
}

/// Whether the operation has this field.
fn takes(call: &Call, field: &str) -> bool {
    let schema = operation(call.operation).map(|operation| (operation.request)().schema);
    let schema = serde_json::to_value(schema).unwrap_or_default();
    schema.pointer("/properties").is_some_and(|fields| fields.get(field).is_some())
}

/// All objects of a list.
pub(super) fn all(client: &Client, call: &Call) -> Result<Vec<Value>, Failure> {
    let mut objects = Vec::new();
    pages(client, call, |page| {
        objects.extend_from_slice(page);
        Ok(())
    })?;
    Ok(objects)
}

fn list(
    client: &Client,
    output: &Output,
    call: &Call,
    columns: &[Column],
    nothing: &str,
) -> Result<(), Failure> {
    if output.is_json() {
        return pages(client, call, |page| page.iter().try_for_each(|object| output.object(object)));
    }
    let objects = all(client, call)?;
    if objects.is_empty() {
        note(nothing);
        return Ok(());
    }
    output.table(columns, &objects)
}

/// Says what was made or changed, and shows it.
fn changed(
    output: &Output,
    answer: &Value,
    change: Change,
    done: &str,
    columns: &[Column],
) -> Result<(), Failure> {
    finish(output, answer, change.dry_run, done)?;
    if output.is_json() || change.dry_run { Ok(()) } else { output.sheet(columns, answer) }
}

/// Makes a secret, and puts it into a file if one is named. The file is made first: what is shown only once and could
/// not be kept would be lost.
fn issue(client: &Client, call: &Call, change: Change, secret: &Secret) -> Result<Value, Failure> {
    let path = secret.path.as_deref().filter(|_| !change.dry_run);
    let Some(path) = path else { return client.run(call, change.dry_run) };
    let failed = |error: std::io::Error| Failure::usage(format!("{}: {error}", path.display()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let mut answer = client.run(call, false).inspect_err(|_| drop(std::fs::remove_file(path)))?;
    let text = answer.as_object_mut().and_then(|members| members.remove(secret.member));
    let lines = text.as_ref().and_then(Value::as_array).into_iter().flatten();
    let mut lines: Vec<&str> = lines.filter_map(Value::as_str).collect();
    lines.extend(text.as_ref().and_then(Value::as_str));
    let text = lines.join("\n");
    let written = file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n"));
    written.and_then(|()| file.sync_all()).map_err(failed)?;
    if let Some(members) = answer.as_object_mut() {
        members.insert("saved_in".to_owned(), path.display().to_string().into());
    }
    Ok(answer)
}

/// Says what was done, or that it could be.
pub(super) fn finish(output: &Output, answer: &Value, dry_run: bool, done: &str) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(answer);
    }
    if dry_run {
        note("dry run: all checks passed, nothing was changed");
    } else {
        note(done);
    }
    Ok(())
}

/// Shows what would happen, asks, and does it.
fn destroy(
    client: &Client,
    output: &Output,
    call: &Call,
    destruction: Destruction,
    effects: &[Column],
    question: &str,
) -> Result<Value, Failure> {
    if destruction.yes && !destruction.dry_run {
        return client.run(call, false);
    }
    let planned = client.run(call, true)?;
    if (!destruction.dry_run || !output.is_json())
        && let Some(sheet) = output.sheet_text(effects, &planned)
    {
        note(sheet);
    }
    if destruction.dry_run {
        return Ok(planned);
    }
    consent(question, false)?;
    client.run(call, false)
}

/// Done, but not all of it.
pub(super) fn partly() -> ExitCode {
    ExitCode::from(Exit::Partly as u8)
}
