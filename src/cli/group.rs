//! `posthouse group …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::administrator::{GRANTS, Granting, Revoking};
use super::client::{Call, Client};
use super::failure::Failure;
use super::output::{Column, Output, columns};
use super::plan::{Change, Destruction, Plan};

const LIST: &[Column] = columns!["NAME" "name" Text, "HOME" "customer" Text, "CREATED" "created_at" Time];
const SHEET: &[Column] = columns![
    "Name" "name" Text, "Home" "customer" Text, "Members" "members" List, "Id" "id" Text, "Created" "created_at" Time
];
const MEMBERS: &[Column] = columns!["Group" "name" Text, "Members" "members" List];

/// Groups of administrators: who is in one has what it is granted. NAME is `name@CODE`, or the bare name where it is
/// unambiguous
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create a group
    Create {
        /// Its name, unique at its customer
        name: String,
        /// Where it is at home
        #[arg(long, value_name = "PATH")]
        customer: String,
        #[command(flatten)]
        change: Change,
    },
    /// List groups
    List {
        /// At home at this customer or below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show a group, its members and grants
    Show {
        /// The group
        name: String,
    },
    /// Add an administrator to a group
    Add {
        /// The group
        name: String,
        /// The administrator
        administrator: String,
        #[command(flatten)]
        change: Change,
    },
    /// Take an administrator out of a group; counts for the next request
    Remove {
        /// The group
        name: String,
        /// The administrator
        administrator: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Grant a group a role at a customer and all below it
    Grant(Granting),
    /// Take a role away from a group
    Revoke(Revoking),
    /// Delete a group; its grants end, its members stay administrators
    Delete {
        /// The group
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        let of = |operation, name: &str| Call::new(operation).with("name", name);
        match self {
            Self::Create { name, customer, change } => {
                let call = of("group.create", &name).with("customer", customer);
                Plan::Change { call, change, done: format!("group {name} created"), columns: SHEET }
            }
            Self::List { customer } => {
                let call = Call::new("group.list").maybe("customer", customer);
                let nothing = "no groups; create one with posthouse group create";
                Plan::List { call, columns: LIST, nothing }
            }
            Self::Show { name } => Plan::Own { call: of("group.show", &name), show: show_group },
            Self::Add { name, administrator, change } => {
                let done = format!("{administrator} is in {name}");
                let call = of("group.add", &name).with("administrator", administrator);
                Plan::Change { call, change, done, columns: MEMBERS }
            }
            Self::Remove { name, administrator, destruction } => {
                let question = format!("Take {administrator} out of {name}?");
                let done = format!("{administrator} is not in {name} any more");
                let call = of("group.remove", &name).with("administrator", administrator);
                Plan::Destroy { call, destruction, effects: MEMBERS, question, done }
            }
            Self::Grant(granting) => granting.plan("group.grant"),
            Self::Revoke(revoking) => revoking.plan("group.revoke"),
            Self::Delete { name, destruction } => {
                let question = format!("Delete the group {name} with its grants?");
                let done = format!("group {name} deleted");
                Plan::Destroy { call: of("group.delete", &name), destruction, effects: SHEET, question, done }
            }
        }
    }
}

/// A group, and below it the grants.
fn show_group(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    if output.is_json() {
        output.document(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(SHEET, &answer)?;
    if let Some(grants) = answer.get("grants").and_then(Value::as_array).filter(|grants| !grants.is_empty()) {
        output.line("")?;
        output.table(GRANTS, grants)?;
    }
    Ok(ExitCode::SUCCESS)
}
