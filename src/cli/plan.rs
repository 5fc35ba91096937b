//! What a command asks of the daemon, and how the answer is shown.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::{Exit, Failure};
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

/// What a command asks of the daemon.
pub(super) enum Plan {
    /// A list, all pages of it.
    List { call: Call, columns: &'static [Column], nothing: &'static str },
    /// One object.
    Show { call: Call, columns: &'static [Column] },
    /// Something is made or changed; the answer's members in `columns` are shown.
    Change { call: Call, change: Change, done: String, columns: &'static [Column] },
    /// Something is taken away, after its effects have been shown and somebody consented.
    Destroy {
        call: Call,
        destruction: Destruction,
        effects: &'static [Column],
        question: String,
        done: String,
    },
    /// Something with a form of its own.
    Own { call: Call, show: fn(&Client, &Output, &Call) -> Result<ExitCode, Failure> },
    /// As `Own`, with a choice of the command line.
    Report { call: Call, format: super::report::Format },
    /// Takes long: somebody who waits is told so.
    Long {
        call: Call,
        change: Change,
        doing: &'static str,
        finish: fn(&Output, &Value) -> Result<ExitCode, Failure>,
    },
}

impl Plan {
    /// The operation asked for.
    #[cfg(test)]
    pub(super) fn call(&self) -> &Call {
        match self {
            Self::List { call, .. }
            | Self::Show { call, .. }
            | Self::Change { call, .. }
            | Self::Destroy { call, .. }
            | Self::Own { call, .. }
            | Self::Report { call, .. }
            | Self::Long { call, .. } => call,
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
                finish(output, &answer, change.dry_run, &done)?;
                if !output.is_json() && !change.dry_run {
                    output.sheet(columns, &answer)?;
                }
            }
            Self::Destroy { call, destruction, effects, question, done } => {
                let answer = destroy(client, output, &call, destruction, effects, &question)?;
                finish(output, &answer, destruction.dry_run, &done)?;
            }
            Self::Own { call, show } => return show(client, output, &call),
            Self::Report { call, format } => return super::report::quota(client, output, &call, format),
            Self::Long { call, change, doing, finish } => {
                let answer = waiting(doing, || client.run(&call, change.dry_run))?;
                return finish(output, &answer);
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

/// Says what was done, or that it could be.
fn finish(output: &Output, answer: &Value, dry_run: bool, done: &str) -> Result<(), Failure> {
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

/// Shows that something is going on once it takes over a second, if somebody can see it.
fn waiting<T>(doing: &'static str, work: impl FnOnce() -> T) -> T {
    if !std::io::stderr().is_terminal() {
        return work();
    }
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let wheel = std::thread::spawn(move || {
        if is_done.recv_timeout(Duration::from_secs(1)).is_ok() {
            return;
        }
        let bar = indicatif::ProgressBar::new_spinner().with_message(doing);
        bar.enable_steady_tick(Duration::from_millis(120));
        let _ = is_done.recv();
        bar.finish_and_clear();
    });
    let outcome = work();
    let _ = done.send(());
    let _ = wheel.join();
    outcome
}

/// Done, but not all of it.
pub(super) fn partly() -> ExitCode {
    ExitCode::from(Exit::Partly as u8)
}
