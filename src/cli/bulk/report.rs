//! What has come of rows: counts, and what is wrong by line.

use serde_json::{Value, json};

use super::rows::Mistake;
use crate::cli::failure::Failure;
use crate::cli::output::{Output, clean, note};

/// Errors that are shown; all are counted.
const ERRORS_SHOWN_MAX: usize = 1_000;

/// What has come of it so far.
#[derive(Default)]
pub(super) struct Report {
    name: String,
    pub created: u64,
    pub changed: u64,
    pub unchanged: u64,
    pub failed: u64,
    /// What is wrong, by line; not all when there is more than can be shown.
    errors: Vec<(u64, Value)>,
    errors_left_out: u64,
}

impl Report {
    /// Nothing yet; `name` is the file's, for messages.
    pub(super) fn of(name: String) -> Self {
        Self { name, ..Self::default() }
    }

    pub(super) fn done(&self) -> u64 {
        self.created + self.changed + self.unchanged
    }

    pub(super) fn count(&mut self, outcome: &str) {
        match outcome {
            "created" => self.created += 1,
            "changed" => self.changed += 1,
            _ => self.unchanged += 1,
        }
    }

    /// Counts a line that failed, and notes why.
    pub(super) fn wrong(&mut self, line: u64, of: Option<String>, mistakes: Vec<Mistake>) {
        self.failed += 1;
        for Mistake { field, message } in mistakes {
            self.error(
                line,
                json!({ "line": line, "object": of, "field": field, "code": "invalid", "message": message }),
            );
        }
    }

    pub(super) fn error(&mut self, line: u64, error: Value) {
        if self.errors.len() < ERRORS_SHOWN_MAX {
            self.errors.push((line, error));
        } else {
            self.errors_left_out += 1;
        }
    }

    /// Notes an object that is not where it should be.
    pub(super) fn outside(&mut self, line: u64, of: &str, top: &str) {
        self.wrong(line, Some(of.to_owned()), vec![Mistake::new(format!("is not below {top}"))]);
    }

    /// Notes what the daemon refused.
    pub(super) fn refused(&mut self, line: u64, of: &str, result: &Value) {
        self.failed += 1;
        let part = |name: &str| result.get(name).cloned().unwrap_or_default();
        let (field, code, message) = (part("field"), part("code"), part("message"));
        self.error(
            line,
            json!({ "line": line, "object": of, "field": field, "code": code, "message": message }),
        );
    }

    /// What is wrong, by line.
    pub(super) fn errors(&mut self) -> Vec<&Value> {
        self.errors.sort_by_key(|(line, _)| *line);
        self.errors.iter().map(|(_, error)| error).collect()
    }

    /// For people, what is wrong.
    pub(super) fn show_failures(&mut self, output: &Output) -> Result<(), Failure> {
        let name = self.name.clone();
        if output.is_json() {
            return Ok(());
        }
        for error in self.errors() {
            let part =
                |member: &str| error.get(member).and_then(Value::as_str).map(|text| format!("{text}: "));
            let (of, field) = (part("object").unwrap_or_default(), part("field").unwrap_or_default());
            let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
            let line = error.get("line").and_then(Value::as_u64).filter(|line| *line > 0);
            let place = line.map_or_else(|| name.clone(), |line| format!("{name}:{line}"));
            note(clean(&format!("{place}: {of}{field}{message}")));
        }
        if self.errors_left_out > 0 {
            note(format!("… and {} more", self.errors_left_out));
        }
        Ok(())
    }

    /// A document for programs; for people, the errors and the counts.
    pub(super) fn show(&mut self, output: &Output, dry_run: bool) -> Result<(), Failure> {
        self.show_failures(output)?;
        let Self { created, changed, unchanged, failed, errors_left_out, .. } = *self;
        if output.is_json() {
            let errors = self.errors();
            return output.document(&json!({
                "dry_run": dry_run, "created": created, "changed": changed, "unchanged": unchanged,
                "failed": failed, "errors": errors, "errors_left_out": errors_left_out,
            }));
        }
        let would = if dry_run { "dry run, nothing was changed: " } else { "" };
        note(format!("{would}{created} created, {changed} changed, {unchanged} unchanged, {failed} failed"));
        Ok(())
    }
}
