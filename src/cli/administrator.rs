//! `posthouse admin …`

use clap::Subcommand;

use super::client::Call;
use super::failure::Failure;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};

const LIST: &[Column] = columns![
    "NAME" "name" Text, "HOME" "customer" Text, "ROLES" "roles" List, "ENABLED" "enabled" Truth,
    "CONTACT" "contact" Text, "CREATED" "created_at" Time
];
const GRANTED: &[Column] = columns!["Grant" "id" Text];
const CREATED: &[Column] = columns!["Name" "name" Text, "Token" "token" Text, "Expires" "expires_at" Time];
const EFFECTIVE: &[Column] = columns![
    "Administrator" "name" Text, "Customer" "customer" Text, "Permissions" "permissions" List
];
const TOKENS: &[Column] = columns![
    "ID" "id" Text, "LABEL" "label" Text, "CREATED" "created_at" Time, "EXPIRES" "expires_at" Time,
    "LAST USED" "last_used_at" Time
];
const TOKEN: &[Column] = columns!["Id" "id" Text, "Token" "token" Text, "Expires" "expires_at" Time];

/// Administrators, their grants and tokens. NAME is `name@CODE`, or the bare name where it is unambiguous
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create an administrator, granted a role at its customer
    Create {
        /// Its name, unique at its customer
        name: String,
        /// Where it is at home
        #[arg(long, value_name = "PATH")]
        customer: String,
        /// admin, manager, viewer, helpdesk, auditor, billing, or system-admin
        #[arg(long)]
        role: String,
        /// Where to write to
        #[arg(long, value_name = "ADDRESS")]
        contact: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// List administrators
    List {
        /// At home at this customer or below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Grant a role at a customer and all below it
    Grant {
        /// The administrator
        name: String,
        /// admin, manager, viewer, helpdesk, auditor, billing, or system-admin
        #[arg(long)]
        role: String,
        /// Where
        #[arg(long, value_name = "PATH")]
        customer: String,
        /// When it ends: RFC 3339, or a time from now such as 30d
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// The administrator may pass it on
        #[arg(long)]
        delegable: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Take a role away
    Revoke {
        /// The administrator
        name: String,
        /// The role
        #[arg(long)]
        role: String,
        /// Where it was granted
        #[arg(long, value_name = "PATH")]
        customer: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Show what an administrator may do at a customer
    Effective {
        /// The administrator
        name: String,
        /// The customer
        path: String,
    },
    /// Let a disabled administrator in again
    Enable {
        /// The administrator
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Keep an administrator out; grants and tokens stay
    Disable {
        /// The administrator
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Delete an administrator; its tokens die with it
    Delete {
        /// The administrator
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Tokens, for programs that act as an administrator
    #[command(subcommand)]
    Token(Token),
}

#[derive(Subcommand, Debug)]
pub(super) enum Token {
    /// Make a token; it is printed once
    Create {
        /// The administrator it acts as
        name: String,
        /// What it is for
        #[arg(long)]
        label: Option<String>,
        /// When it ends: a time from now such as 90d, or RFC 3339
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// List an administrator's tokens
    List {
        /// The administrator
        name: String,
    },
    /// Revoke a token
    Revoke {
        /// The administrator
        name: String,
        /// The token's id, from `token list`
        id: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Create { name, customer, role, contact, change } => {
                let call = Call::new("administrator.create").with("name", name.clone());
                let call = call.with("customer", customer).with("role", role).maybe("contact", contact);
                let done = format!("administrator {name} created");
                Plan::Change { call, change, done, columns: CREATED }
            }
            Self::List { customer } => {
                let call = Call::new("administrator.list").maybe("customer", customer);
                let nothing = "no administrators; create one with posthouse admin create";
                Plan::List { call, columns: LIST, nothing }
            }
            Self::Grant { name, role, customer, expires, delegable, change } => {
                let done = format!("{name} is {role} at {customer}");
                let call = Call::new("administrator.grant").with("name", name).with("role", role);
                let call = call.with("customer", customer).maybe("expires_at", expires);
                Plan::Change { call: call.flag("delegable", delegable), change, done, columns: GRANTED }
            }
            Self::Revoke { name, role, customer, destruction } => {
                let question = format!("Take {role} at {customer} from {name}?");
                let done = format!("{name} is not {role} at {customer} any more");
                let call = Call::new("administrator.revoke").with("name", name).with("role", role);
                Plan::Destroy { call: call.with("customer", customer), destruction, question, done }
            }
            Self::Effective { name, path } => {
                let call = Call::new("administrator.effective").with("name", name).with("customer", path);
                Plan::Show { call, columns: EFFECTIVE }
            }
            Self::Enable { name, change } => {
                let call = Call::new("administrator.enable").with("name", name.clone());
                Plan::Change { call, change, done: format!("administrator {name} enabled"), columns: &[] }
            }
            Self::Disable { name, destruction } => {
                let call = Call::new("administrator.disable").with("name", name.clone());
                let question = format!("Keep {name} out?");
                Plan::Destroy { call, destruction, question, done: format!("administrator {name} disabled") }
            }
            Self::Delete { name, destruction } => {
                let call = Call::new("administrator.delete").with("name", name.clone());
                let question = format!("Delete the administrator {name} with grants and tokens?");
                Plan::Destroy { call, destruction, question, done: format!("administrator {name} deleted") }
            }
            Self::Token(token) => token.plan(),
        })
    }
}

impl Token {
    fn plan(self) -> Plan {
        match self {
            Self::Create { name, label, expires, change } => {
                let call = Call::new("token.create").with("name", name.clone()).maybe("label", label);
                let call = call.maybe("expires_at", expires);
                let done = format!("token for {name} made; it is shown only now");
                Plan::Change { call, change, done, columns: TOKEN }
            }
            Self::List { name } => {
                let call = Call::new("token.list").with("name", name);
                Plan::List { call, columns: TOKENS, nothing: "no tokens" }
            }
            Self::Revoke { name, id, destruction } => {
                let call = Call::new("token.revoke").with("name", name).with("id", id.clone());
                let question = format!("Revoke the token {id}?");
                Plan::Destroy { call, destruction, question, done: format!("token {id} revoked") }
            }
        }
    }
}
