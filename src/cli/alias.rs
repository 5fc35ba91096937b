//! `posthouse alias …`

use clap::Subcommand;

use super::client::Call;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};

const LIST: &[Column] = columns![
    "ADDRESS" "address" Text, "TARGETS" "targets" List, "CUSTOMER" "customer" Text
];
const DELETED: &[Column] = columns!["Alias" "address" Text, "Targets" "targets" List];

/// Aliases: addresses that lead to others
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create an alias
    Create {
        /// Its address
        address: String,
        /// Where its mail goes
        #[arg(required = true, value_name = "TARGET")]
        targets: Vec<String>,
        /// The domain's customer, when several have one of this name
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// List aliases
    List {
        /// Of this domain
        #[arg(long)]
        domain: Option<String>,
        /// Of this customer and those below; with --domain, whose domain
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Let an alias lead elsewhere
    Set {
        /// Its address
        address: String,
        /// Where its mail goes from now on
        #[arg(required = true, value_name = "TARGET")]
        targets: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Delete an alias
    Delete {
        /// Its address
        address: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Create { address, targets, customer, change } => {
                let done = format!("mail for {address} goes to {}", targets.join(", "));
                let call = Call::new("alias.create").with("address", address).with("targets", targets);
                let call = call.maybe("customer", customer);
                Plan::Change { call, change, done, columns: &[] }
            }
            Self::List { domain, customer } => {
                let call = Call::new("alias.list").maybe("domain", domain).maybe("customer", customer);
                let nothing = "no aliases; create one with posthouse alias create ADDRESS TARGET…";
                Plan::List { call, columns: LIST, nothing }
            }
            Self::Set { address, targets, change } => {
                let done = format!("mail for {address} goes to {}", targets.join(", "));
                let call = Call::new("alias.update").with("address", address).with("targets", targets);
                Plan::Change { call, change, done, columns: &[] }
            }
            Self::Delete { address, destruction } => {
                let call = Call::new("alias.delete").with("address", address.clone());
                let question = format!("Delete the alias {address}?");
                let done = format!("alias {address} deleted");
                Plan::Destroy { call, destruction, effects: DELETED, question, done }
            }
        }
    }
}
