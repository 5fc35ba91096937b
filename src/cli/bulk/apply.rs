//! `posthouse plan` and `posthouse apply`: what differs from a file that says how things are to be, and making them
//! so.
//!
//! The daemon itself tells what each object would come to (a dry run of `import.batch`). Applying sends the same rows
//! with what was told of them; a row that would come to something else by now is refused.

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::batches::{Batches, Step, outcome};
use super::columns::{Row, Type};
use super::desired::{Desired, read};
use super::export::{list, objects};
use super::report::Report;
use super::rows::{identity, label};
use crate::base::size::format_size;
use crate::cli::client::{Call, Client};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Output, clean, note};
use crate::cli::plan::partly;
use crate::cli::prompt::consent;

/// Rows of a call.
const ROWS_PER_CALL: usize = 100;

/// Show what differs from a file that says how customers and what they have are to be
#[derive(Args, Debug)]
pub(in crate::cli) struct Plan {
    /// The file (TOML); `-` for standard input
    file: PathBuf,
    /// What the file does not name is to go, of the types that it speaks of
    #[arg(long)]
    prune: bool,
    /// End with code 9 if anything differs
    #[arg(long)]
    exit_code: bool,
}

/// Make customers and what they have as a file says
#[derive(Args, Debug)]
pub(in crate::cli) struct Apply {
    /// The file (TOML)
    file: PathBuf,
    /// What the file does not name goes, of the types that it speaks of
    #[arg(long)]
    prune: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Something that is to go.
#[derive(Clone, PartialEq, Debug)]
struct Removal {
    label: String,
    call: &'static str,
    fields: Row,
}

/// All that differs.
struct Differences {
    steps: Vec<Step>,
    removals: Vec<Removal>,
    unchanged: u64,
    report: Report,
}

impl Plan {
    pub(in crate::cli) fn carry_out(self, client: &Client, output: &Output) -> Result<ExitCode, Failure> {
        let mut desired = read(&self.file)?;
        desired.prune |= self.prune;
        let mut differences = Differences::find(client, &desired, self.file.display().to_string())?;
        differences.show(output)?;
        if differences.report.failed > 0 {
            return Err(impossible(&differences));
        }
        let differs = self.exit_code && !differences.is_empty();
        Ok(if differs { ExitCode::from(Exit::Differences as u8) } else { ExitCode::SUCCESS })
    }
}

impl Apply {
    pub(in crate::cli) fn carry_out(self, client: &Client, output: &Output) -> Result<ExitCode, Failure> {
        let mut desired = read(&self.file)?;
        desired.prune |= self.prune;
        let name = self.file.display().to_string();
        let mut differences = Differences::find(client, &desired, name.clone())?;
        differences.show(output)?;
        if differences.report.failed > 0 {
            return Err(impossible(&differences));
        }
        if differences.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        consent(&differences.question(), self.yes)?;
        if !self.yes && removals(client, &desired)? != differences.removals {
            let message = "what is there has changed since the plan was shown; nothing was changed";
            return Err(Failure::new(Exit::Conflict, message).hint("look at the new plan: run it again"));
        }
        let mut report = Report::of(name);
        let outcome = differences.carry_out(client, &mut report);
        // What was done has been shown as the plan; now it is told what was not.
        report.show_failures(output)?;
        outcome?;
        Ok(if report.failed > 0 { partly() } else { ExitCode::SUCCESS })
    }
}

fn impossible(differences: &Differences) -> Failure {
    let count = differences.report.failed;
    let message = format!("{count} of the objects cannot be as the file says; nothing was changed");
    Failure::new(Exit::Other, message)
}

impl Differences {
    fn find(client: &Client, desired: &Desired, name: String) -> Result<Self, Failure> {
        let report = Report::of(name);
        let mut batches = Batches::new(client, Call::new("import.batch"), true, report).keeping_steps();
        batches.expect(desired.objects.len() as u64);
        for wanted in &desired.objects {
            let outside = desired.customer.as_deref().filter(|top| !is_below(top, wanted.kind, &wanted.row));
            match outside {
                Some(top) => batches.report.outside(wanted.line, &label(wanted.kind, &wanted.row), top),
                None => batches.take(wanted.line, wanted.kind, wanted.row.clone())?,
            }
        }
        let outcome = batches.finish();
        batches.bar.clear();
        outcome?;
        let (mut steps, report) = (batches.steps.take().unwrap_or_default(), batches.report);
        steps.retain(|step| outcome_of(step) != "unchanged");
        let removals = removals(client, desired)?;
        Ok(Self { steps, removals, unchanged: report.unchanged, report })
    }

    fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.removals.is_empty()
    }

    fn count(&self, word: &str) -> usize {
        self.steps.iter().filter(|step| outcome_of(step) == word).count()
    }

    fn question(&self) -> String {
        let named: Vec<&str> = self.removals.iter().take(10).map(|removal| removal.label.as_str()).collect();
        match self.removals.len() {
            0 => "Apply it?".to_owned(),
            count if count > named.len() => {
                format!("Apply it, and delete {} and {} more?", named.join(", "), count - named.len())
            }
            _ => format!("Apply it, and delete {}?", named.join(", ")),
        }
    }

    fn show(&mut self, output: &Output) -> Result<(), Failure> {
        let (create, change) = (self.count("created"), self.count("changed"));
        if output.is_json() {
            let step = |step: &Step| {
                json!({ "object": label(step.kind, &step.row), "outcome": outcome_of(step),
                        "changes": step.result.get("changes").cloned().unwrap_or_else(|| json!([])) })
            };
            let steps: Vec<Value> = self.steps.iter().map(step).collect();
            let removals: Vec<&str> = self.removals.iter().map(|removal| removal.label.as_str()).collect();
            let failed = self.report.failed;
            let errors = self.report.errors();
            return output.document(&json!({
                "create": create, "change": change, "delete": removals.len(), "unchanged": self.unchanged,
                "steps": steps, "deletions": removals, "failed": failed, "errors": errors,
            }));
        }
        for step in &self.steps {
            output.line(&clean(&format!("{} {}", sign(step), label(step.kind, &step.row))))?;
            for line in lines(step) {
                output.line(&clean(&format!("    {line}")))?;
            }
        }
        for removal in &self.removals {
            output.line(&clean(&format!("- {}", removal.label)))?;
        }
        self.report.show_failures(output)?;
        note(format!(
            "{create} to create, {change} to change, {} to delete, {} as they are to be",
            self.removals.len(),
            self.unchanged
        ));
        Ok(())
    }

    fn carry_out(self, client: &Client, report: &mut Report) -> Result<(), Failure> {
        for steps in self.steps.chunks(ROWS_PER_CALL) {
            let rows: Vec<Value> = steps.iter().map(|step| Value::Object(step.row.clone())).collect();
            let expected: Vec<Value> = steps.iter().map(expected).collect();
            let call = Call::new("import.batch").with("rows", rows).with("expected", expected);
            let answer = client.run(&call, false)?;
            let results =
                answer.get("results").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            for (step, result) in steps.iter().zip(results) {
                match outcome(result) {
                    "failed" => report.refused(0, &label(step.kind, &step.row), result),
                    word => report.count(word),
                }
            }
        }
        for removal in self.removals {
            let call = Call { operation: removal.call, fields: removal.fields };
            match client.run(&call, false) {
                Ok(_) => report.count("changed"),
                Err(failure) if failure.exit == Exit::Unavailable => return Err(failure),
                Err(failure) => report.refused(0, &removal.label, &json!({ "message": failure.message })),
            }
        }
        Ok(())
    }
}

fn outcome_of(step: &Step) -> &str {
    outcome(&step.result)
}

fn expected(step: &Step) -> Value {
    let changes = step.result.get("changes").cloned().unwrap_or_else(|| json!([]));
    json!({ "outcome": outcome_of(step), "changes": changes })
}

fn sign(step: &Step) -> &'static str {
    if outcome_of(step) == "created" { "+" } else { "~" }
}

/// What is set in a new object, and what changes in one that is there.
fn lines(step: &Step) -> Vec<String> {
    let shown = |field: &str, value: &Value| match (step.kind.field(field), value) {
        (_, Value::Null) => "none".to_owned(),
        (Some(known), Value::Number(octets)) if known.is_size() => {
            octets.as_u64().map_or_else(|| octets.to_string(), format_size)
        }
        (Some(known), value) => known.to_text(value),
        (None, value) => value.to_string(),
    };
    if outcome_of(step) == "created" {
        let set = step.kind.fields().filter(|field| !step.kind.naming().contains(&field.name));
        let set = set.filter_map(|field| Some((field.name, step.row.get(field.name)?)));
        return set.map(|(name, value)| format!("{name}: {}", shown(name, value))).collect();
    }
    let changes = step.result.get("changes").and_then(Value::as_array).into_iter().flatten();
    let line = |change: &Value| {
        let field = change.get("field").and_then(Value::as_str)?;
        let side = |name: &str| change.get(name).map(|value| shown(field, value)).unwrap_or_default();
        Some(format!("{field}: {} -> {}", side("from"), side("to")))
    };
    changes.filter_map(line).collect()
}

/// Whether a row speaks of the customer or of one below it, as far as the row tells.
fn is_below(top: &str, kind: Type, row: &Row) -> bool {
    let field = if kind == Type::Customer { "path" } else { "customer" };
    let Some(path) = row.get(field).and_then(Value::as_str) else { return true };
    let (path, top) =
        (path.trim_matches('/').to_ascii_lowercase(), top.trim_matches('/').to_ascii_lowercase());
    let rest = path.strip_prefix(&top);
    top.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// What is there and is not in the file, of the types of which it speaks.
fn removals(client: &Client, desired: &Desired) -> Result<Vec<Removal>, Failure> {
    if !desired.prune {
        return Ok(Vec::new());
    }
    let named: HashSet<String> =
        desired.objects.iter().map(|wanted| identity(wanted.kind, &wanted.row)).collect();
    // Customers first: what a customer has goes with it.
    let mut gone = Gone { top: desired.customer.as_deref().unwrap_or("/"), ..Gone::default() };
    for kind in [Type::Customer, Type::Domain, Type::Mailbox, Type::Alias, Type::Administrator] {
        if !desired.types.contains(&kind) {
            continue;
        }
        let call = Call::new(list(kind)).maybe("customer", desired.customer.clone());
        objects(client, &call, kind, |row| {
            if !named.contains(&identity(kind, &row)) {
                gone.take(kind, &row);
            } else if kind == Type::Administrator {
                gone.roles(desired, &row);
            }
            Ok(())
        })?;
    }
    Ok(gone.in_order())
}

/// What is to go.
#[derive(Default)]
struct Gone<'t> {
    /// Where it begins; this customer stays.
    top: &'t str,
    customers: Vec<String>,
    domains: HashSet<String>,
    removals: Vec<(Type, bool, Removal)>,
}

impl Gone<'_> {
    fn take(&mut self, kind: Type, row: &Row) {
        let text = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let customer = text(if kind == Type::Customer { "path" } else { "customer" });
        let is_within = |above: &String| customer == *above || customer.starts_with(&format!("{above}/"));
        if self.customers.iter().any(is_within) {
            return;
        }
        let address = text("address");
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        if !domain.is_empty() && self.domains.contains(domain) {
            return;
        }
        let (call, fields) = match kind {
            Type::Customer if customer.trim_matches('/') == self.top.trim_matches('/') => return,
            Type::Customer => {
                self.customers.push(customer.clone());
                ("customer.delete", json!({ "path": customer }))
            }
            Type::Domain => {
                self.domains.insert(text("domain"));
                ("domain.delete", json!({ "domain": text("domain"), "customer": customer }))
            }
            Type::Mailbox => ("mailbox.delete", json!({ "address": address })),
            Type::Alias => ("alias.delete", json!({ "address": address })),
            Type::Administrator => ("administrator.delete", json!({ "name": text("login") })),
        };
        let is_alias = row.get("alias_of").is_some_and(Value::is_string);
        self.push(kind, is_alias, label(kind, row), call, fields);
    }

    fn push(&mut self, kind: Type, first: bool, label: String, call: &'static str, fields: Value) {
        let Value::Object(fields) = fields else { return };
        self.removals.push((kind, !first, Removal { label, call, fields }));
    }

    /// Roles that an administrator of the file has and the file does not give it.
    fn roles(&mut self, desired: &Desired, row: &Row) {
        let wanted = desired.objects.iter().find(|wanted| {
            wanted.kind == Type::Administrator
                && identity(wanted.kind, &wanted.row) == identity(wanted.kind, row)
        });
        let roles = |row: &Row| row.get("roles").and_then(Value::as_array).cloned();
        let Some(given) = wanted.and_then(|wanted| roles(&wanted.row)) else { return };
        let home = row.get("customer").and_then(Value::as_str).unwrap_or_default();
        let place = |role: &Value| {
            let text = |name: &str| role.get(name).and_then(Value::as_str);
            let at = text("customer").unwrap_or(home).trim_matches('/').to_ascii_lowercase();
            (text("role").unwrap_or_default().to_owned(), at)
        };
        let given: HashSet<(String, String)> = given.iter().map(place).collect();
        for role in roles(row).unwrap_or_default() {
            let (name, at) = place(&role);
            if given.contains(&(name.clone(), at.clone())) {
                continue;
            }
            let at = if at.is_empty() { "/".to_owned() } else { at };
            let label = format!("role {name} at {at} of {}", label(Type::Administrator, row));
            let login = row.get("login").cloned().unwrap_or_default();
            let fields = json!({ "name": login, "role": name, "customer": at });
            self.push(Type::Administrator, true, label, "administrator.revoke", fields);
        }
    }

    /// In the order in which one can go after the other: what leads somewhere before where it leads.
    fn in_order(mut self) -> Vec<Removal> {
        let place = |kind: &Type| match kind {
            Type::Administrator => 0,
            Type::Alias => 1,
            Type::Mailbox => 2,
            Type::Domain => 3,
            Type::Customer => 4,
        };
        self.removals.sort_by_key(|(kind, later, _)| (place(kind), *later));
        self.removals.into_iter().map(|(_, _, removal)| removal).collect()
    }
}
