//! `posthouse customer|domain|mailbox legal-hold …`

use clap::Subcommand;

use super::client::Call;
use super::hold::Kind;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};

const LIST: &[Column] = columns![
    "ID" "id" Text, "ON" "on" Text, "REASON" "reason" Text, "SET AT" "authority" Text, "BY" "actor" Text,
    "SINCE" "created_at" Time
];
const SET: &[Column] = columns!["Id" "id" Text, "On" "on" Text, "Reason" "reason" Text];
const RELEASED: &[Column] =
    columns!["On" "on" Text, "Reason" "reason" Text, "Set at" "authority" Text, "Since" "created_at" Time];

/// Legal holds: nothing is removed for good while one lasts
#[derive(Subcommand, Debug)]
pub(super) enum LegalHold {
    /// Keep everything there from being removed for good
    Add {
        /// The path, domain or address
        name: String,
        /// Why, such as the number of the case
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        change: Change,
    },
    /// Release a legal hold; what was deleted long enough ago goes then
    Release {
        /// The hold's id, from `legal-hold list`
        id: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// List legal holds of a customer and below, and those above that cover it
    List {
        /// The customer's path; default: everything you see
        path: Option<String>,
    },
}

impl LegalHold {
    pub(super) fn plan(self, kind: Kind) -> Plan {
        match self {
            Self::Add { name, reason, change } => {
                let call =
                    Call::new("legal-hold.add").with(kind.field(), name.clone()).with("reason", reason);
                Plan::Change { call, change, done: format!("{name} is under legal hold"), columns: SET }
            }
            Self::Release { id, destruction } => {
                let call = Call::new("legal-hold.release").with("id", id.clone());
                let question = format!("Release legal hold {id}?");
                let done = format!("legal hold {id} released");
                Plan::Destroy { call, destruction, effects: RELEASED, question, done }
            }
            Self::List { path } => Plan::List {
                call: Call::new("legal-hold.list").maybe("customer", path),
                columns: LIST,
                nothing: "no legal holds",
            },
        }
    }
}
