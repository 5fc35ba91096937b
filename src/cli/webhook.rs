//! `posthouse webhook …`

use clap::Subcommand;

use super::client::Call;
use super::job::Follow;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};

const WEBHOOKS: &[Column] = columns![
    "ID" "id" Text, "CUSTOMER" "customer" Text, "URL" "url" Text, "STATE" "state" Text, "TAKEN" "delivered" Count,
    "LAST" "delivered_at" Time, "OUTCOME" "outcome" Text
];
const WEBHOOK: &[Column] = columns![
    "Id" "id" Text, "Customer" "customer" Text, "URL" "url" Text, "Kinds" "kinds" List, "State" "state" Text,
    "Taken" "delivered" Count, "Last taken" "delivered_at" Time, "Last outcome" "outcome" Text,
    "Attempts" "attempts" Count, "Failing since" "failing_since" Time, "Next attempt" "next_at" Time,
    "Made" "created_at" Time
];
const MADE: &[Column] = columns!["Id" "id" Text, "Secret (shown this once)" "secret" Text];

/// Events sent to other systems
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Have the events of a customer and those below sent to an address
    Create {
        /// Where to: https://HOST/PATH
        url: String,
        /// The customer
        #[arg(long, value_name = "PATH")]
        customer: String,
        /// Only events of this kind, such as mailbox.create; mailbox. means all of mailboxes (can be repeated)
        #[arg(long, value_name = "KIND")]
        kind: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// List them
    List {
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show one, and what became of what was sent
    Show {
        /// Its id
        id: String,
    },
    /// Send an event that says that it is a test
    Test {
        /// Its id
        id: String,
        #[command(flatten)]
        following: Follow,
    },
    /// Send again what was switched off, from where it stopped
    Enable {
        /// Its id
        id: String,
        /// Leave out what was changed meanwhile
        #[arg(long)]
        from_now: bool,
        #[command(flatten)]
        change: Change,
    },
    /// Send nothing any more
    Delete {
        /// Its id
        id: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Create { url, customer, kind, change } => {
                let call = Call::new("webhook.create").with("customer", customer).with("url", url);
                let call = call.with("kinds", kind);
                Plan::Change { call, change, done: "the webhook is made".to_owned(), columns: MADE }
            }
            Self::List { customer } => {
                let call = Call::new("webhook.list").maybe("customer", customer);
                Plan::List { call, columns: WEBHOOKS, nothing: "no webhooks" }
            }
            Self::Show { id } => {
                Plan::Show { call: Call::new("webhook.show").with("id", id), columns: WEBHOOK }
            }
            Self::Test { id, following } => {
                let call = Call::new("webhook.test").with("id", id);
                Plan::Job { call, change: Change { dry_run: false }, following }
            }
            Self::Enable { id, from_now, change } => {
                let done = format!("webhook {id} is sent events again");
                let call = Call::new("webhook.enable").with("id", id).flag("from_now", from_now);
                Plan::Change { call, change, done, columns: &[] }
            }
            Self::Delete { id, destruction } => {
                let question = format!("Delete webhook {id}?");
                let done = format!("webhook {id} is deleted");
                let call = Call::new("webhook.delete").with("id", id);
                Plan::Destroy { call, destruction, effects: WEBHOOK, question, done }
            }
        }
    }
}
