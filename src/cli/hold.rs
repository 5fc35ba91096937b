//! Suspending, resuming and holds, which customers, domains and mailboxes have alike.

use clap::{Args, Subcommand};

use super::client::Call;
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};

const HOLDS: &[Column] = columns![
    "ID" "id" Text, "SWITCH" "switch" Text, "REASON" "reason" Text, "SET AT" "authority" Text, "BY" "actor" Text,
    "SINCE" "created_at" Time
];
const SWITCHED_OFF: &[Column] = columns!["Switched off" "switches_off" List];
const HELD: &[Column] = columns!["Switch" "switch" Text, "Reason" "reason" Text];

#[derive(Args, Debug)]
pub(super) struct Suspend {
    /// Its path or address
    name: String,
    /// Why; its administrators see it
    #[arg(long)]
    reason: Option<String>,
    /// What to switch off: login, receive, send, manage, imap, pop3, smtp, submission, admin; may be repeated
    #[arg(long = "switch", value_name = "SWITCH")]
    switches: Vec<String>,
    #[command(flatten)]
    destruction: Destruction,
}

#[derive(Args, Debug)]
pub(super) struct Resume {
    /// Its path or address
    name: String,
    /// The reason that was given, if one was
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    change: Change,
}

#[derive(Subcommand, Debug)]
pub(super) enum Hold {
    /// Switch something off
    Add {
        /// The path, domain or address
        name: String,
        /// login, receive, send, manage, or a service: imap, pop3, smtp, submission, admin
        #[arg(long)]
        switch: String,
        /// Why; its administrators see it
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Take a hold away; what it held is on again when no other hold is left
    Release {
        /// The hold's id, from `hold list`
        id: String,
        #[command(flatten)]
        change: Change,
    },
    /// List the holds
    List {
        /// The path, domain or address
        name: String,
    },
}

/// What suspending, resuming and holds are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Customer,
    Domain,
    Mailbox,
}

impl Kind {
    /// The field of a hold or a setting that names it.
    pub(super) const fn field(self) -> &'static str {
        match self {
            Self::Customer => "path",
            Self::Domain => "domain",
            Self::Mailbox => "mailbox",
        }
    }
}

impl Suspend {
    pub(super) fn plan(self, kind: Kind) -> Plan {
        let Self { name, reason, switches, destruction } = self;
        let call = match kind {
            Kind::Mailbox => Call::new("mailbox.suspend").with("address", name.clone()),
            Kind::Customer | Kind::Domain => Call::new("customer.suspend").with("path", name.clone()),
        };
        let call = call.maybe("reason", reason);
        let call = if switches.is_empty() { call } else { call.with("switches", switches) };
        let question = format!("Suspend {name}?");
        Plan::Destroy {
            call,
            destruction,
            effects: SWITCHED_OFF,
            question,
            done: format!("{name} suspended"),
        }
    }
}

impl Resume {
    pub(super) fn plan(self, kind: Kind) -> Plan {
        let Self { name, reason, change } = self;
        let call = match kind {
            Kind::Mailbox => Call::new("mailbox.resume").with("address", name.clone()),
            Kind::Customer | Kind::Domain => Call::new("customer.resume").with("path", name.clone()),
        };
        let call = call.maybe("reason", reason);
        Plan::Change { call, change, done: format!("{name} resumed"), columns: SWITCHED_OFF }
    }
}

impl Hold {
    pub(super) fn plan(self, kind: Kind) -> Plan {
        match self {
            Self::Add { name, switch, reason, destruction } => {
                let call =
                    Call::new("hold.add").with(kind.field(), name.clone()).with("switch", switch.clone());
                let question = format!("Switch {switch} off for {name}?");
                let done = format!("{switch} is held for {name}");
                Plan::Destroy {
                    call: call.with("reason", reason),
                    destruction,
                    effects: HELD,
                    question,
                    done,
                }
            }
            Self::Release { id, change } => {
                let call = Call::new("hold.release").with("id", id.clone());
                Plan::Change { call, change, done: format!("hold {id} released"), columns: &[] }
            }
            Self::List { name } => Plan::List {
                call: Call::new("hold.list").with(kind.field(), name),
                columns: HOLDS,
                nothing: "no holds",
            },
        }
    }
}
