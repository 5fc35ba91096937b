//! What a command asks of the daemon, and how the answer is shown.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::{Exit, Failure};
use super::output::Kind;
use super::output::{Column, Output, member, show};
use super::prompt::consent;

/// Objects asked for at a time.
const PAGE_OBJECTS: u64 = 500;
/// Most effects that are listed before somebody is asked.
const EFFECTS_SHOWN_MAX: usize = 40;

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
    Destroy { call: Call, destruction: Destruction, question: String, done: String },
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
            Self::Destroy { call, destruction, question, done } => {
                destroy(client, output, &call, destruction, &question, &done)?;
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
    loop {
        call = call.with("limit", PAGE_OBJECTS.min(left));
        let page = client.run(&call, false)?;
        let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        each(items)?;
        left = left.saturating_sub(items.len() as u64);
        match page.get("next") {
            Some(next) if !next.is_null() && left > 0 => call = call.with("cursor", next.clone()),
            _ => return Ok(()),
        }
    }
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
        eprintln!("{nothing}");
        return Ok(());
    }
    output.table(columns, &objects)
}

/// Says what was done, or what would have been.
fn finish(output: &Output, answer: &Value, dry_run: bool, done: &str) -> Result<(), Failure> {
    if output.is_json() {
        return output.document(answer);
    }
    if dry_run {
        eprintln!("dry run: all checks passed, nothing was changed");
        for effect in effects(answer) {
            eprintln!("  {effect}");
        }
    } else {
        eprintln!("{done}");
    }
    Ok(())
}

fn destroy(
    client: &Client,
    output: &Output,
    call: &Call,
    destruction: Destruction,
    question: &str,
    done: &str,
) -> Result<(), Failure> {
    if destruction.dry_run {
        let answer = client.run(call, true)?;
        return finish(output, &answer, true, done);
    }
    if !destruction.yes {
        let planned = client.run(call, true)?;
        for effect in effects(&planned).iter().take(EFFECTS_SHOWN_MAX) {
            eprintln!("  {effect}");
        }
        consent(question, false)?;
    }
    let answer = client.run(call, false)?;
    finish(output, &answer, false, done)
}

/// What the daemon says would happen, a line each.
fn effects(answer: &Value) -> Vec<String> {
    match member(answer, "effects") {
        Some(Value::Array(effects)) => effects.iter().map(|effect| show(Kind::Text, Some(effect))).collect(),
        Some(Value::Object(effects)) => {
            let line = |(name, value): (&String, &Value)| {
                format!("{}: {}", name.replace('_', " "), show(Kind::Text, Some(value)))
            };
            effects.iter().map(line).collect()
        }
        _ => Vec::new(),
    }
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
