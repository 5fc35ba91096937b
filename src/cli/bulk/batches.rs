//! Sends rows to the daemon, a hundred a call, each carried out by the daemon's operations. Rows may come in any
//! order: one that needs what comes later is tried again at the end.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::codes::Codes;
use super::columns::{Row, Type};
use super::made::Made;
use super::report::Report;
use super::rows::label;
use crate::cli::client::{Call, Client};
use crate::cli::failure::Failure;

/// Rows of a call: its transaction holds up deliveries on SQLite, for about 50 ms.
const ROWS_PER_CALL: usize = 100;
/// Octets of the rows of a call; the daemon takes 1 MiB with all that stands around them.
const OCTETS_PER_CALL: usize = 600 * 1024;
/// Passwords of a call that the daemon has to hash.
const PASSWORDS_PER_CALL: usize = 50;
/// Rows of a call that are only there so that others can be tried; the daemon takes 2,000.
const CONTEXT_PER_CALL: usize = 1_500;
/// Rows that wait to be tried again.
const WAITING_MAX: usize = 20_000;
/// How often rows are tried again at most; they are as long as it helps.
const ROUNDS_MAX: usize = 64;
/// Work that takes longer shows how far it is.
const BAR_DELAY: Duration = Duration::from_secs(1);

/// A row on its way.
struct Work {
    line: u64,
    kind: Type,
    row: Row,
    part: Part,
    /// Why it failed when it was tried.
    error: Option<Value>,
}

/// Which part of a line it is: where a domain's unknown mail goes is said when all addresses are there.
enum Part {
    Whole,
    /// The domain, and the address that is left out.
    Domain(Value),
    /// The address, and what the domain came to.
    CatchAll(String),
}

/// A row that was carried out, and what it came to.
pub(super) struct Step {
    pub kind: Type,
    pub row: Row,
    pub result: Value,
}

/// Rows on their way.
pub(super) struct Batches<'c> {
    client: &'c Client,
    call: Call,
    dry_run: bool,
    /// Whether passwords are for new mailboxes alone.
    new_only: bool,
    batch: Vec<Work>,
    octets: usize,
    context: Vec<Row>,
    in_context: HashSet<String>,
    waiting: Vec<Work>,
    /// Whether a row was done since the last round began.
    progressed: bool,
    made: Made,
    pub(super) report: Report,
    /// What rows came to, for whoever wants to know.
    pub(super) steps: Option<Vec<Step>>,
    /// Where one-time codes go.
    pub(super) codes: Option<Codes>,
    pub(super) bar: Bar,
}

impl<'c> Batches<'c> {
    /// Carries out rows by `call`, or only tries them; what becomes of them is counted in `report`.
    pub(super) fn new(client: &'c Client, call: Call, dry_run: bool, report: Report) -> Self {
        Self {
            client,
            new_only: call.fields.get("passwords").is_none_or(|passwords| passwords == "new"),
            call,
            dry_run,
            batch: Vec::new(),
            octets: 0,
            context: Vec::new(),
            in_context: HashSet::new(),
            waiting: Vec::new(),
            progressed: false,
            made: Made::default(),
            report,
            steps: None,
            codes: None,
            bar: Bar::new(),
        }
    }

    /// Keeps what each row came to.
    pub(super) fn keeping_steps(self) -> Self {
        Self { steps: Some(Vec::new()), ..self }
    }

    /// Says how many rows there will be.
    pub(super) fn expect(&mut self, rows: u64) {
        self.bar.total = Some(rows);
    }

    /// Sends what is left, and again what waits.
    pub(super) fn finish(&mut self) -> Result<(), Failure> {
        self.flush()?;
        self.rounds()
    }

    /// Takes a line. A domain's catch-all waits until its target is there.
    pub(super) fn take(&mut self, line: u64, kind: Type, mut row: Row) -> Result<(), Failure> {
        let later = match row.get_mut("catch_all") {
            Some(address) if address.is_string() => Some(address.take()),
            _ => None,
        };
        let part = match later {
            Some(address) => {
                row.remove("catch_all");
                Part::Domain(address)
            }
            None => Part::Whole,
        };
        self.push(Work { line, kind, row, part, error: None })
    }

    fn push(&mut self, work: Work) -> Result<(), Failure> {
        let octets = serde_json::to_string(&work.row).map_or(0, |text| text.len());
        let needed = if self.dry_run { self.made.needed(work.kind, &work.row) } else { Vec::new() };
        let passwords = self.batch.iter().filter(|work| work.row.contains_key("password")).count();
        if self.batch.len() >= ROWS_PER_CALL
            || self.octets + octets > OCTETS_PER_CALL
            || (passwords >= PASSWORDS_PER_CALL && work.row.contains_key("password"))
            || self.context.len() + needed.len() > CONTEXT_PER_CALL
        {
            self.flush()?;
        }
        for row in needed {
            let shown = serde_json::to_string(&row).unwrap_or_default();
            self.octets += shown.len();
            if self.in_context.insert(shown) {
                self.context.push(row);
            }
        }
        self.octets += octets;
        self.batch.push(work);
        Ok(())
    }

    /// Sends what has been gathered.
    fn flush(&mut self) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.batch);
        let context = std::mem::take(&mut self.context);
        self.in_context.clear();
        self.octets = 0;
        if batch.is_empty() {
            return Ok(());
        }
        let count = batch.len() as u64;
        let (mut sent, mut rows) = (Vec::new(), Vec::new());
        let known = self.known(&batch)?;
        for (index, work) in batch.into_iter().enumerate() {
            let mut row = work.row.clone();
            match known.as_ref().and_then(|known| known.get(index)) {
                // It fails with its password as without.
                Some(result) if outcome(result) == "failed" => {
                    self.conclude(work, result)?;
                    continue;
                }
                Some(result) if outcome(result) != "created" => drop(row.remove("password")),
                _ => {}
            }
            rows.push(Value::Object(row));
            sent.push(work);
        }
        let mut call = self.call.clone().with("rows", rows);
        if self.dry_run {
            let context: Vec<Value> = context.into_iter().map(Value::Object).collect();
            call = call.with("context", context).with("without_hashing", true);
        }
        if !sent.is_empty() {
            let results = self.ask(&call, self.dry_run, sent.len())?;
            for (work, result) in sent.into_iter().zip(results) {
                self.conclude(work, &result)?;
            }
        }
        self.bar.advance(count);
        Ok(())
    }

    /// With passwords to be hashed, what the rows would come to: only those that make a mailbox need theirs.
    fn known(&self, batch: &[Work]) -> Result<Option<Vec<Value>>, Failure> {
        let has_passwords = batch.iter().any(|work| work.row.contains_key("password"));
        if self.dry_run || !self.new_only || !has_passwords {
            return Ok(None);
        }
        let rows: Vec<Value> = batch.iter().map(|work| Value::Object(work.row.clone())).collect();
        let call = self.call.clone().with("rows", rows).with("without_hashing", true);
        self.ask(&call, true, batch.len()).map(Some)
    }

    fn ask(&self, call: &Call, dry_run: bool, count: usize) -> Result<Vec<Value>, Failure> {
        let mut answer = self.client.run(call, dry_run)?;
        match answer.get_mut("results").map(Value::take) {
            Some(Value::Array(results)) if results.len() == count => Ok(results),
            _ => Err(Failure::broken("it does not speak of every row")),
        }
    }

    fn conclude(&mut self, mut work: Work, result: &Value) -> Result<(), Failure> {
        let outcome = outcome(result);
        if outcome == "failed" {
            if may_succeed_later(result) && self.waiting.len() < WAITING_MAX {
                work.error = Some(result.clone());
                self.waiting.push(work);
            } else {
                self.report.refused(work.line, &label(work.kind, &work.row), result);
            }
            return Ok(());
        }
        if let Some(codes) = &mut self.codes {
            codes.take(work.row.get("address").and_then(Value::as_str).unwrap_or_default(), result)?;
        }
        if self.dry_run && outcome == "created" {
            self.made.note(work.kind, &work.row);
        }
        self.progressed = true;
        if let Some(steps) = &mut self.steps {
            steps.push(Step { kind: work.kind, row: work.row.clone(), result: result.clone() });
        }
        match work.part {
            Part::Whole => self.report.count(outcome),
            Part::Domain(address) => {
                let mut row = work.row;
                row.retain(|name, _| matches!(name.as_str(), "type" | "domain" | "customer"));
                row.insert("catch_all".to_owned(), address);
                let part = Part::CatchAll(outcome.to_owned());
                self.waiting.push(Work { line: work.line, kind: work.kind, row, part, error: None });
            }
            Part::CatchAll(before) => {
                self.report.count(if before == "unchanged" { outcome } else { &before });
            }
        }
        Ok(())
    }

    /// Tries again what waits, as long as it helps.
    fn rounds(&mut self) -> Result<(), Failure> {
        for _ in 0..ROUNDS_MAX {
            self.progressed = false;
            for work in std::mem::take(&mut self.waiting) {
                self.push(work)?;
            }
            self.flush()?;
            if self.waiting.is_empty() || !self.progressed {
                break;
            }
        }
        for work in std::mem::take(&mut self.waiting) {
            let error = work.error.unwrap_or_default();
            self.report.refused(work.line, &label(work.kind, &work.row), &error);
        }
        Ok(())
    }
}

/// The word for what a row came to.
pub(super) fn outcome(result: &Value) -> &str {
    result.get("outcome").and_then(Value::as_str).unwrap_or("failed")
}

/// Whether another row may bring what this one lacks.
fn may_succeed_later(result: &Value) -> bool {
    let text = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default();
    match text("code") {
        "not_found" => true,
        // Addresses that lead nowhere yet.
        "invalid" => matches!(text("field"), "targets" | "address"),
        _ => false,
    }
}

/// How far it is, on standard error, if that is a terminal and it takes long.
pub(super) struct Bar {
    since: Instant,
    total: Option<u64>,
    done: u64,
    bar: Option<ProgressBar>,
}

impl Bar {
    fn new() -> Self {
        Self { since: Instant::now(), total: None, done: 0, bar: None }
    }

    fn advance(&mut self, rows: u64) {
        self.done += rows;
        if self.since.elapsed() < BAR_DELAY {
            return;
        }
        let total = self.total;
        let bar = self.bar.get_or_insert_with(|| {
            let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
            let template = match total {
                Some(_) => "{wide_bar} {human_pos}/{human_len} rows {per_sec} {eta}",
                None => "{spinner} {human_pos} rows {per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        });
        bar.set_position(self.done.min(total.unwrap_or(u64::MAX)));
    }

    /// Takes it off the screen.
    pub(super) fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
