//! `posthouse request …`, `posthouse process …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use super::client::{Call, Client};
use super::failure::Failure;
use super::limit::size_limit;
use super::output::{Column, Output, clean, columns, member};
use super::plan::{Change, Destruction, Plan};
use super::prompt::{Password, SecretSource};
use crate::service::registry::operation;

const LIST: &[Column] = columns![
    "ID" "id" Text, "OPERATION" "operation" Text, "OF" "target" Text, "BY" "requester" Text, "STATE" "state" Text,
    "WAITS AT" "waits_at" Text, "FOR" "waits_for" Text, "MADE" "created_at" Time, "UNTIL" "expires_at" Time
];
const SHEET: &[Column] = columns![
    "Id" "id" Text, "Operation" "operation" Text, "Of" "target" Text, "Customer" "customer" Text,
    "Asked for by" "requester" Text, "Reason" "reason" Text, "State" "state" Text, "Step" "step" Count,
    "Of steps" "steps" Count, "Waits at" "waits_at" Text, "Waits for" "waits_for" Text, "Made" "created_at" Time,
    "Waits until" "expires_at" Time, "Decided" "decided_at" Time, "By" "decided_by" Text, "Said" "decision" Text
];
const MADE: &[Column] = columns![
    "Id" "id" Text, "Waits at" "waits_at" Text, "Waits for" "waits_for" Text, "Until" "expires_at" Time
];
const DECIDED: &[Column] = columns![
    "Id" "id" Text, "Operation" "operation" Text, "Of" "target" Text, "State" "state" Text,
    "Waits at" "waits_at" Text, "Waits for" "waits_for" Text
];
const PROCESS_STEPS: &[Column] = columns![
    "ROLE" "role" Text, "GROUP" "group" Text, "ADMINISTRATOR" "administrator" Text, "AT" "customer" Text
];
const PROCESS: &[Column] =
    columns!["Customer" "customer" Text, "Set at" "set_at" Text, "Changed" "changed_at" Time];
const PROCESS_SET: &[Column] =
    columns!["Customer" "customer" Text, "Set at" "set_at" Text, "Requests begun anew" "restarted" Count];

/// Requests: operations that others have to approve
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Ask for an operation
    Create(Box<Create>),
    /// List requests, the newest first
    List {
        /// At this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Your own
        #[arg(long, conflicts_with_all = ["to_approve", "customer"])]
        mine: bool,
        /// Those that wait for you
        #[arg(long)]
        to_approve: bool,
        /// Only open ones
        #[arg(long)]
        open: bool,
    },
    /// Show a request, with what it would do
    Show {
        /// Its id
        id: String,
    },
    /// Approve a request; the last approval carries it out, with your rights
    Approve {
        /// Its id
        id: String,
        #[command(flatten)]
        change: Change,
    },
    /// Reject a request
    Reject {
        /// Its id
        id: String,
        /// Why; who asked for it sees it
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Take back a request of your own
    Withdraw {
        /// Its id
        id: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

/// What to ask for.
#[derive(Args, Debug)]
pub(super) struct Create {
    /// customer.create, .delete, .limit, .expire, domain.create, .delete, .limit, mailbox.create, .delete, .rename,
    /// .quota or .expire
    operation: String,
    /// Its parameters: path=gov/health, address=x@d.test, quota=2GiB, …
    #[arg(value_name = "NAME=VALUE")]
    fields: Vec<String>,
    /// Why; the approvers see it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    secret: SecretSource,
    #[command(flatten)]
    change: Change,
}

impl Create {
    fn plan(self) -> Result<Plan, Failure> {
        let Self { operation: name, fields, reason, secret, change } = self;
        let known =
            operation(&name).ok_or_else(|| Failure::usage(format!("there is no operation {name}")))?;
        let mut given = Map::new();
        for text in fields {
            let Some((field, value)) = text.split_once('=') else {
                return Err(Failure::usage(format!("{text}: expected NAME=VALUE")));
            };
            let is_size = matches!(field, "quota" | "bytes" | "mailbox_default");
            let value = match (value.eq_ignore_ascii_case("none"), is_size) {
                (true, _) => Value::Null,
                (false, true) => size_limit(value).map_err(|error| Failure::usage(error.to_string()))?.into(),
                (false, false) => known.field_from_text(field, value),
            };
            given.insert(field.to_owned(), value);
        }
        if name == "mailbox.create" {
            let whose = given.get("address").and_then(Value::as_str).unwrap_or("the mailbox").to_owned();
            let (field, secret) = match secret.read(&whose)? {
                Password::Plain(secret) => ("password", secret),
                Password::Hash(secret) => ("password_hash", secret),
            };
            given.insert(field.to_owned(), secret.expose_secret().into());
        }
        let call = Call::new("request.create").with("operation", name.clone()).with("fields", given);
        let call = call.maybe("reason", reason);
        Ok(Plan::Change { call, change, done: format!("{name} was asked for"), columns: MADE })
    }
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        let one = |operation, id: &str| Call::new(operation).with("id", id);
        Ok(match self {
            Self::Create(create) => create.plan()?,
            Self::List { customer, mine, to_approve, open } => {
                let call = Call::new("request.list").maybe("customer", customer).flag("mine", mine);
                let call = call.flag("to_approve", to_approve).flag("open", open);
                Plan::List { call, columns: LIST, nothing: "no requests" }
            }
            Self::Show { id } => Plan::Own { call: one("request.show", &id), show },
            Self::Approve { id, change } => {
                let call = one("request.approve", &id);
                Plan::Change { call, change, done: format!("request {id} approved"), columns: DECIDED }
            }
            Self::Reject { id, reason, destruction } => {
                let call = one("request.reject", &id).maybe("reason", reason);
                let (question, done) = (format!("Reject request {id}?"), format!("request {id} rejected"));
                Plan::Destroy { call, destruction, effects: DECIDED, question, done }
            }
            Self::Withdraw { id, destruction } => {
                let call = one("request.withdraw", &id);
                let (question, done) = (format!("Withdraw request {id}?"), format!("request {id} withdrawn"));
                Plan::Destroy { call, destruction, effects: DECIDED, question, done }
            }
        })
    }
}

fn show(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let request = client.run(call, false)?;
    if output.is_json() {
        output.document(&request)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(SHEET, &request)?;
    for (title, name) in [("Parameters", "fields"), ("Effects when it was asked for", "effects")] {
        let members = member(&request, name).and_then(Value::as_object);
        if members.is_none_or(Map::is_empty) {
            continue;
        }
        output.line(&format!("\n{title}:"))?;
        for (name, value) in members.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output.line(&format!("  {}: {}", clean(name), clean(&text)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who must approve requests
#[derive(Subcommand, Debug)]
pub(super) enum ProcessCommand {
    /// Show the process in force at a customer
    Show {
        /// The customer
        path: String,
    },
    /// Set a customer's process: every step must approve, in this order
    Set {
        /// The customer; it counts there and below
        path: String,
        /// role:ROLE (at the customer), role:ROLE@PATH (at one above), group:NAME@CODE, or admin:NAME@CODE
        #[arg(required = true, value_name = "STEP")]
        steps: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Take a customer's process away; one above, or the default one, is in force then
    Delete {
        /// The customer
        path: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

fn step(text: &str) -> Result<Value, Failure> {
    let step = match text.split_once(':') {
        Some(("role", role)) => match role.split_once('@') {
            Some((role, path)) => serde_json::json!({ "role": role, "customer": path }),
            None => serde_json::json!({ "role": role }),
        },
        Some(("admin", name)) => serde_json::json!({ "administrator": name }),
        Some(("group", name)) => serde_json::json!({ "group": name }),
        _ => {
            let hint = "a step is role:ROLE, role:ROLE@PATH, group:NAME@CODE or admin:NAME@CODE";
            return Err(Failure::usage(format!("{text} is no step")).hint(hint));
        }
    };
    Ok(step)
}

impl ProcessCommand {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Show { path } => {
                Plan::Own { call: Call::new("process.show").with("customer", path), show: show_process }
            }
            Self::Set { path, steps, change } => {
                let steps: Vec<Value> = steps.iter().map(|text| step(text)).collect::<Result<_, _>>()?;
                let call = Call::new("process.set").with("customer", path.clone()).with("steps", steps);
                Plan::Change { call, change, done: format!("process of {path} set"), columns: PROCESS_SET }
            }
            Self::Delete { path, destruction } => {
                let call = Call::new("process.set").with("customer", path.clone());
                let call = call.with("steps", Vec::<Value>::new());
                let question = format!("Take the process of {path} away?");
                let done = format!("{path} has no process of its own");
                Plan::Destroy { call, destruction, effects: PROCESS_SET, question, done }
            }
        })
    }
}

fn show_process(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let process = client.run(call, false)?;
    if output.is_json() {
        output.document(&process)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(PROCESS, &process)?;
    let steps = member(&process, "steps").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if steps.is_empty() {
        output
            .line("An administrator of the customer who may do what is asked for, else the nearest above")?;
    } else {
        output.table(PROCESS_STEPS, steps)?;
    }
    Ok(ExitCode::SUCCESS)
}
