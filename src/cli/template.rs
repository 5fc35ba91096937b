//! `posthouse template …`

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};

use super::client::Call;
use super::failure::Failure;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};
use crate::base::size::parse_size;

const LIST: &[Column] = columns![
    "NAME" "name" Text, "FOR" "kind" Text, "OF" "customer" Text, "BYTES" "gives.bytes" Size,
    "MESSAGES" "gives.messages" Count, "MAILBOXES" "gives.mailboxes" Count, "STORE" "gives.store" Text
];
const SHEET: &[Column] = columns![
    "Name" "name" Text, "For" "kind" Text, "Of" "customer" Text, "Limit on mail" "gives.bytes" Size,
    "Limit on messages" "gives.messages" Count, "Limit on mailboxes" "gives.mailboxes" Count,
    "Limit on aliases" "gives.aliases" Count, "Limit on domains" "gives.domains" Count,
    "Limit on customers" "gives.customers" Count, "Limit on administrators" "gives.administrators" Count,
    "Mail store" "gives.store" Text, "Settings" "gives.settings" Text, "Created" "created_at" Time
];

/// What a template is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum For {
    /// New customers.
    Customer,
    /// New mailboxes.
    Mailbox,
}

/// Templates: what new customers and mailboxes get
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Make a template
    Create {
        /// Its name
        name: String,
        /// The customer whose it is; it is used there and below
        #[arg(long, value_name = "PATH")]
        customer: String,
        /// What it is for
        #[arg(long = "for", value_name = "KIND")]
        kind: For,
        #[command(flatten)]
        gives: Gives,
        #[command(flatten)]
        change: Change,
    },
    /// List the templates that can be used at a customer
    List {
        /// The customer's path
        #[arg(long, value_name = "PATH")]
        customer: String,
    },
    /// Show a template
    Show {
        /// Its name
        name: String,
        /// A customer at which it can be used
        #[arg(long, value_name = "PATH")]
        customer: String,
    },
    /// Say anew all that a template gives; what was made with it stays as it is
    Update {
        /// Its name
        name: String,
        /// The customer whose it is
        #[arg(long, value_name = "PATH")]
        customer: String,
        #[command(flatten)]
        gives: Gives,
        #[command(flatten)]
        change: Change,
    },
    /// Delete a template; what was made with it stays as it is
    Delete {
        /// Its name
        name: String,
        /// The customer whose it is
        #[arg(long, value_name = "PATH")]
        customer: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

/// What a template gives.
#[derive(Args, Debug)]
pub(super) struct Gives {
    /// Mail, such as 500GiB
    #[arg(long, value_name = "SIZE")]
    bytes: Option<String>,
    /// Messages
    #[arg(long, value_name = "N")]
    messages: Option<u32>,
    /// Mailboxes
    #[arg(long, value_name = "N")]
    mailboxes: Option<u32>,
    /// Aliases
    #[arg(long, value_name = "N")]
    aliases: Option<u32>,
    /// Domains
    #[arg(long, value_name = "N")]
    domains: Option<u32>,
    /// Child customers
    #[arg(long, value_name = "N")]
    customers: Option<u32>,
    /// Administrators
    #[arg(long, value_name = "N")]
    administrators: Option<u32>,
    /// The mail store
    #[arg(long)]
    store: Option<String>,
    /// A setting; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A setting that is locked; may be repeated
    #[arg(long = "lock", value_name = "KEY=VALUE")]
    lock: Vec<String>,
}

impl Gives {
    fn value(self) -> Result<Value, Failure> {
        let mut gives = Map::new();
        let wrong = |error: &dyn std::fmt::Display| Failure::usage(error.to_string());
        if let Some(size) = &self.bytes {
            gives.insert("bytes".to_owned(), parse_size(size).map_err(|error| wrong(&error))?.into());
        }
        for (name, count) in [
            ("messages", self.messages),
            ("mailboxes", self.mailboxes),
            ("aliases", self.aliases),
            ("domains", self.domains),
            ("customers", self.customers),
            ("administrators", self.administrators),
        ] {
            if let Some(count) = count {
                gives.insert(name.to_owned(), count.into());
            }
        }
        if let Some(store) = self.store {
            gives.insert("store".to_owned(), store.into());
        }
        let mut settings = Vec::new();
        for (texts, locked) in [(self.set, false), (self.lock, true)] {
            for text in texts {
                let Some((key, value)) = text.split_once('=') else {
                    return Err(Failure::usage(format!("{text:?}: expected KEY=VALUE")));
                };
                settings.push(json!({ "key": key, "value": value, "locked": locked }));
            }
        }
        if !settings.is_empty() {
            gives.insert("settings".to_owned(), settings.into());
        }
        Ok(Value::Object(gives))
    }
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        let call = |operation, name: String, customer: String| {
            Call::new(operation).with("name", name).with("customer", customer)
        };
        Ok(match self {
            Self::Create { name, customer, kind, gives, change } => {
                let done = format!("template {name} created");
                let kind = if kind == For::Customer { "customer" } else { "mailbox" };
                let call = call("template.create", name, customer).with("kind", kind);
                Plan::Change { call: call.with("gives", gives.value()?), change, done, columns: SHEET }
            }
            Self::List { customer } => Plan::List {
                call: Call::new("template.list").with("customer", customer),
                columns: LIST,
                nothing: "no templates",
            },
            Self::Show { name, customer } => {
                Plan::Show { call: call("template.show", name, customer), columns: SHEET }
            }
            Self::Update { name, customer, gives, change } => {
                let done = format!("template {name} changed");
                let call = call("template.update", name, customer).with("gives", gives.value()?);
                Plan::Change { call, change, done, columns: SHEET }
            }
            Self::Delete { name, customer, destruction } => {
                let question = format!("Delete template {name}?");
                let done = format!("template {name} deleted");
                let call = call("template.delete", name, customer);
                Plan::Destroy { call, destruction, effects: SHEET, question, done }
            }
        })
    }
}
