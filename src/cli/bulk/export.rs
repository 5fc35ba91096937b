//! `posthouse export`: what there is, as rows that `posthouse import` takes. Secrets are not among it.

use std::collections::HashSet;
use std::io::{BufWriter, Write as _};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value};

use super::columns::{FIELDS, Field, Row, Type};
use super::csv::write_record;
use super::desired;
use super::rows::label;
use crate::cli::client::{Call, Client};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{Output, note};
use crate::cli::plan::{pages, partly};

/// Forms of an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum Form {
    /// Comma-separated values with a header (RFC 4180)
    Csv,
    /// A JSON object on each line
    Jsonl,
    /// TOML for posthouse plan and posthouse apply
    Plan,
}

/// Write customers, domains, mailboxes, aliases and administrators as a file for import
#[derive(Args, Debug)]
pub(in crate::cli) struct Export {
    /// This customer and those below [default: everything that you may see]
    #[arg(long, value_name = "PATH")]
    customer: Option<String>,
    /// Only these types [default: all that you may list]
    #[arg(long = "type", alias = "kind", value_name = "TYPE", value_delimiter = ',')]
    only: Vec<Type>,
    /// The form [default: csv, with --json jsonl]
    #[arg(long)]
    format: Option<Form>,
}

impl Export {
    fn types(&self) -> Vec<Type> {
        let asked = |kind: &Type| self.only.is_empty() || self.only.contains(kind);
        Type::ALL.into_iter().filter(asked).collect()
    }

    fn call(&self, kind: Type) -> Call {
        Call::new(list(kind)).maybe("customer", self.customer.clone())
    }

    pub(in crate::cli) fn carry_out(self, client: &Client, output: &Output) -> Result<ExitCode, Failure> {
        let default = if output.is_json() { Form::Jsonl } else { Form::Csv };
        let types = self.types();
        let mut sink = Sink::new(self.format.unwrap_or(default), &types);
        sink.begin(self.customer.as_deref())?;
        let mut left_out = false;
        for kind in types {
            let outcome = objects(client, &self.call(kind), kind, |row| sink.row(kind, row));
            match outcome {
                // What nobody asked for by name is left out where it may not be listed; and it is said.
                Err(failure) if failure.exit == Exit::Forbidden && self.only.is_empty() => {
                    note(format!("without {}: {}", list(kind), failure.message));
                    left_out = true;
                }
                outcome => outcome?,
            }
        }
        left_out |= sink.end()?;
        Ok(if left_out { partly() } else { ExitCode::SUCCESS })
    }
}

/// The operation that lists a type.
pub(super) const fn list(kind: Type) -> &'static str {
    match kind {
        Type::Customer => "customer.list",
        Type::Domain => "domain.list",
        Type::Mailbox => "mailbox.list",
        Type::Alias => "alias.list",
        Type::Administrator => "administrator.list",
    }
}

/// All objects of a list, each as a row with every field that exports have.
pub(super) fn objects(
    client: &Client,
    call: &Call,
    kind: Type,
    mut each: impl FnMut(Row) -> Result<(), Failure>,
) -> Result<(), Failure> {
    pages(client, call, |page| {
        for object in page {
            let row = match kind {
                Type::Administrator => administrator(client, object)?,
                kind => row(kind, object),
            };
            each(row)?;
        }
        Ok(())
    })
}

/// Members of the answers that have other names than the fields.
fn member(kind: Type, field: &str) -> (&'static str, &str) {
    match (kind, field) {
        (Type::Customer, field) if is_limit(field) => ("limits", field),
        (Type::Domain, "domain") => ("", "name"),
        (Type::Domain, "bytes") => ("", "bytes_max"),
        (Type::Domain | Type::Mailbox, "messages") => ("", "messages_max"),
        (Type::Domain, "mailbox_default") => ("", "mailbox_bytes_max_default"),
        (Type::Mailbox, "quota") => ("", "bytes_max"),
        (_, field) => ("", field),
    }
}

/// Whether a customer's field is one of its limits.
fn is_limit(field: &str) -> bool {
    Type::Customer.field(field).is_some_and(|field| field.is_size() || field.is_count())
}

/// An object of a list as a row. What has no limit says so, since a default would else be put in its place.
fn row(kind: Type, object: &Value) -> Row {
    let mut row = Map::new();
    row.insert("type".to_owned(), kind.name().into());
    for field in kind.fields().filter(|field| field.is_exported) {
        let (outer, name) = member(kind, field.name);
        let holder = if outer.is_empty() { Some(object) } else { object.get(outer) };
        let value = holder.and_then(|holder| holder.get(name)).cloned();
        match value.filter(|value| !value.is_null()) {
            Some(value) => drop(row.insert(field.name.to_owned(), value)),
            None if field.may_be_none() => drop(row.insert(field.name.to_owned(), Value::Null)),
            None => {}
        }
    }
    row
}

/// Its roles stand in its own answer.
fn administrator(client: &Client, object: &Value) -> Result<Row, Failure> {
    let login = object.get("name").and_then(Value::as_str).unwrap_or_default();
    let shown = client.run(&Call::new("administrator.show").with("name", login), false)?;
    let mut row = row(Type::Administrator, &shown);
    let name = login.split_once('@').map_or(login, |(name, _)| name);
    row.insert("name".to_owned(), name.into());
    // How others call it; no field of a row.
    row.insert("login".to_owned(), login.into());
    let grants = shown.get("grants").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // What others hold, such as its groups, is theirs.
    let own = grants.iter().filter(|grant| grant.get("holder").is_none_or(Value::is_null));
    // Rights over mail stores and servers are the installation's, and none of customers'.
    let own = own.filter(|grant| grant.get("zone").is_none_or(Value::is_null));
    let mut roles: Vec<Value> = own.map(role).collect();
    roles.sort_by_key(Value::to_string);
    roles.dedup();
    row.insert("roles".to_owned(), roles.into());
    Ok(row)
}

fn role(grant: &Value) -> Value {
    let mut role = Map::new();
    for name in ["role", "customer", "delegable", "not_before", "expires_at"] {
        let value = grant.get(name).filter(|value| !value.is_null() && **value != Value::Bool(false));
        if let Some(value) = value {
            role.insert(name.to_owned(), value.clone());
        }
    }
    Value::Object(role)
}

/// Where rows go.
struct Sink {
    form: Form,
    columns: Vec<&'static Field>,
    /// Names of tables, of which there can be one each.
    tables: HashSet<String>,
    left_out: bool,
    out: BufWriter<std::io::Stdout>,
}

impl Sink {
    fn new(form: Form, types: &[Type]) -> Self {
        let is_used =
            |field: &&Field| field.is_exported && types.iter().any(|kind| kind.field(field.name).is_some());
        let columns = FIELDS.iter().filter(is_used).collect();
        let out = BufWriter::new(std::io::stdout());
        Self { form, columns, tables: HashSet::new(), left_out: false, out }
    }

    fn begin(&mut self, customer: Option<&str>) -> Result<(), Failure> {
        match (self.form, customer) {
            (Form::Csv, _) => {
                let names = std::iter::once("type").chain(self.columns.iter().map(|field| field.name));
                written(write_record(&mut self.out, names))
            }
            (Form::Plan, Some(path)) => written(writeln!(self.out, "customer = {}", desired::quoted(path))),
            _ => Ok(()),
        }
    }

    fn row(&mut self, kind: Type, mut row: Row) -> Result<(), Failure> {
        row.retain(|name, _| name == "type" || kind.field(name).is_some());
        match self.form {
            Form::Csv => {
                let text = |field: &&Field| {
                    row.get(field.name).map(|value| field.to_text(value)).unwrap_or_default()
                };
                let texts: Vec<String> = self.columns.iter().map(text).collect();
                let fields = std::iter::once(kind.name()).chain(texts.iter().map(String::as_str));
                written(write_record(&mut self.out, fields))
            }
            Form::Jsonl => written(writeln!(self.out, "{}", Value::Object(row))),
            Form::Plan => {
                let table = desired::table(kind, &row);
                let head = table.lines().next().unwrap_or_default().to_owned();
                if !self.tables.insert(head) {
                    note(format!(
                        "without {} of another customer, which has the same name",
                        label(kind, &row)
                    ));
                    self.left_out = true;
                    return Ok(());
                }
                written(write!(self.out, "\n{table}"))
            }
        }
    }

    /// Ends it; true if something could not be written.
    fn end(mut self) -> Result<bool, Failure> {
        written(self.out.flush())?;
        Ok(self.left_out)
    }
}

fn written(outcome: std::io::Result<()>) -> Result<(), Failure> {
    match outcome {
        // Whoever reads has seen enough (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => Ok(outcome?),
    }
}
