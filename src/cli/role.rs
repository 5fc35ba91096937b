//! `posthouse role …`

use clap::Subcommand;

use super::client::Call;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};

const LIST: &[Column] = columns![
    "NAME" "name" Text, "OF" "customer" Text, "BASE" "base" Text
];
const SHEET: &[Column] = columns![
    "Name" "name" Text, "Of" "customer" Text, "Base role" "base" Text, "Granted" "grants" Count,
    "Permissions" "permissions" List, "Without effect" "without_effect" List
];
const BRIEF: &[Column] = columns!["Role" "name" Text, "Of" "customer" Text];

/// Roles: what can be granted. NAME is `name@CODE`, or the bare name where it is unambiguous
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create a role of a customer: some of the permissions of a built-in role
    Create {
        /// Its name
        name: String,
        /// Whose it is; it can be granted there and below
        #[arg(long, value_name = "PATH")]
        customer: String,
        /// The built-in role that bounds it: admin, manager, viewer, helpdesk, auditor, billing, or system-admin
        #[arg(long, value_name = "ROLE")]
        base: String,
        /// What it allows, of what the base role has; `role show ROLE` lists that
        #[arg(long, value_name = "PERMISSION,…", value_delimiter = ',', required = true)]
        allow: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// List the roles that can be granted, built-in ones first
    List {
        /// At this customer or below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show what a role allows
    Show {
        /// The role
        name: String,
    },
    /// Change what a role allows; counts at once wherever it is granted
    Update {
        /// The role
        name: String,
        /// Another base role
        #[arg(long, value_name = "ROLE")]
        base: Option<String>,
        /// All that it allows from now on
        #[arg(long, value_name = "PERMISSION,…", value_delimiter = ',')]
        allow: Option<Vec<String>>,
        /// What it allows besides
        #[arg(long, value_name = "PERMISSION,…", value_delimiter = ',')]
        add: Vec<String>,
        /// What it allows no more
        #[arg(long, value_name = "PERMISSION,…", value_delimiter = ',')]
        remove: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Delete a role that nobody holds
    Delete {
        /// The role
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        let of = |operation, name: &str| Call::new(operation).with("name", name);
        match self {
            Self::Create { name, customer, base, allow, change } => {
                let call = of("role.create", &name).with("customer", customer).with("base", base);
                let done = format!("role {name} created");
                Plan::Change { call: call.with("permissions", allow), change, done, columns: SHEET }
            }
            Self::List { customer } => {
                let call = Call::new("role.list").maybe("customer", customer);
                Plan::List { call, columns: LIST, nothing: "no roles" }
            }
            Self::Show { name } => Plan::Show { call: of("role.show", &name), columns: SHEET },
            Self::Update { name, base, allow, add, remove, change } => {
                let call = of("role.update", &name).maybe("base", base).maybe("permissions", allow);
                let call = if add.is_empty() { call } else { call.with("add", add) };
                let call = if remove.is_empty() { call } else { call.with("remove", remove) };
                Plan::Change { call, change, done: format!("role {name} changed"), columns: SHEET }
            }
            Self::Delete { name, destruction } => {
                let question = format!("Delete the role {name}?");
                let done = format!("role {name} deleted");
                Plan::Destroy { call: of("role.delete", &name), destruction, effects: BRIEF, question, done }
            }
        }
    }
}
