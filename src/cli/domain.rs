//! `posthouse domain …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::{Exit, Failure};
use super::hold::{self, Hold};
use super::legal_hold::LegalHold;
use super::limit::{Limit, count_limit, size_limit};
use super::output::{Column, Output, columns, note};
use super::plan::{Change, Destruction, Plan};
use super::setting::Settings;

const LIST: &[Column] = columns![
    "DOMAIN" "name" Text, "CUSTOMER" "customer" Text, "STATE" "state" Text, "ALIAS OF" "alias_of" Text,
    "MAILBOXES" "mailboxes" Count, "USED" "bytes_used" Size, "LIMIT" "bytes_max" Size
];
const SHEET: &[Column] = columns![
    "Domain" "name" Text, "In its script" "unicode" Text, "Customer" "customer" Text, "State" "state" Text,
    "Alias of" "alias_of" Text, "Alias domains" "alias_domains" List, "Offered to" "offered_to" Text,
    "Catch-all" "catch_all" Text,
    "Switched off" "switches_off" List,
    "Mailboxes" "mailboxes" Count, "Aliases" "aliases" Count, "Used" "bytes_used" Size,
    "Limit on mail" "bytes_max" Size, "Limit on messages" "messages_max" Count,
    "Limit of new mailboxes" "mailbox_bytes_max_default" Size, "Id" "id" Text, "Created" "created_at" Time
];
const BRIEF: &[Column] = columns![
    "Domain" "name" Text, "Customer" "customer" Text, "Alias of" "alias_of" Text, "State" "state" Text
];
const MOVED: &[Column] = columns![
    "Domain" "domain" Text, "State" "state" Text, "Customer" "customer" Text, "Alias domains" "alias_domains" List,
    "Mailboxes" "mailboxes" Count, "Mail" "bytes" Size, "Messages" "messages" Count
];
const RECORDS: &[Column] =
    columns!["FOR" "purpose" Text, "NAME" "name" Text, "TYPE" "type" Text, "VALUE" "value" Text];
const DELETED: &[Column] = columns![
    "Domain" "name" Text, "Customer" "customer" Text, "State" "state" Text, "Mailboxes" "mailboxes" Count,
    "Mail" "bytes_used" Size, "Aliases" "aliases" Count, "Aliases elsewhere that lead here" "aliases_here" Count,
    "Catch-alls elsewhere that lead here" "catch_alls_here" Count
];

/// Which of several domains of one name.
#[derive(Args, Debug)]
pub(super) struct Whose {
    /// Whose, when several customers have a domain of this name
    #[arg(long, value_name = "PATH")]
    customer: Option<String>,
}

impl Whose {
    fn of(self, call: Call) -> Call {
        call.maybe("customer", self.customer)
    }
}

/// Domains and alias domains
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create a domain for a customer
    Create {
        /// The domain
        domain: String,
        /// Whose it is
        #[arg(long, value_name = "PATH")]
        customer: String,
        #[command(flatten)]
        change: Change,
    },
    /// List domains
    List {
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show one domain
    Show {
        /// The domain
        domain: String,
        #[command(flatten)]
        whose: Whose,
    },
    /// Show the DNS records that prove a domain and that lead its mail here
    Dns {
        /// The domain
        domain: String,
        #[command(flatten)]
        whose: Whose,
    },
    /// Look in the DNS for the proof that a pending domain is its customer's
    Verify {
        /// The domain
        domain: String,
        #[command(flatten)]
        whose: Whose,
    },
    /// Confirm that a pending domain is its customer's
    Confirm {
        /// The domain
        domain: String,
        /// If another customer has it verified, that one's becomes pending
        #[arg(long)]
        displace: bool,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        change: Change,
    },
    /// Make a domain whose addresses mean those of another one
    Alias {
        /// The new domain
        domain: String,
        /// The domain that it stands for
        #[arg(long, value_name = "DOMAIN")]
        of: String,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        change: Change,
    },
    /// Say where mail for unknown addresses goes
    CatchAll {
        /// The domain
        domain: String,
        /// The address, or `none` to refuse it
        address: String,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        change: Change,
    },
    /// Set limits on a domain
    Limit {
        /// The domain
        domain: String,
        /// Mail in all its mailboxes, or `none`
        #[arg(long, value_parser = size_limit, value_name = "SIZE")]
        bytes: Option<Limit>,
        /// Messages in all its mailboxes, or `none`
        #[arg(long, value_parser = count_limit, value_name = "N")]
        messages: Option<Limit>,
        /// Limit of new mailboxes that are given none, or `none`
        #[arg(long, value_parser = size_limit, value_name = "SIZE")]
        mailbox_default: Option<Limit>,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        change: Change,
    },
    /// Give a domain with its mailboxes to another customer; where that is not yours, it must accept
    Move {
        /// The domain
        domain: String,
        /// Who gets it: a path, or the short code of a customer that you do not see
        #[arg(long, value_name = "CUSTOMER")]
        to: String,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Take the offer of a domain back
    Withdraw {
        /// The domain
        domain: String,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        change: Change,
    },
    /// Accept a domain that another customer offers
    Accept {
        /// The domain
        domain: String,
        /// Who gets it
        #[arg(long, value_name = "PATH")]
        customer: String,
        #[command(flatten)]
        change: Change,
    },
    /// Delete a domain with its mailboxes; it can be undeleted for a while
    Delete {
        /// The domain
        domain: String,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Bring a deleted domain back
    Undelete {
        /// The domain
        domain: String,
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        change: Change,
    },
    /// Holds: reasons for which something is switched off
    #[command(subcommand)]
    Hold(Hold),
    /// Settings: inherited from above unless set, and lockable
    #[command(subcommand)]
    Settings(Settings),
    /// Legal holds: nothing is removed for good while one lasts
    #[command(subcommand)]
    LegalHold(LegalHold),
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Create { domain, customer, change } => {
                let call =
                    Call::new("domain.create").with("domain", domain.clone()).with("customer", customer);
                Plan::Change { call, change, done: format!("domain {domain} created"), columns: BRIEF }
            }
            Self::List { customer } => {
                let call = Call::new("domain.list").maybe("customer", customer);
                let nothing = "no domains; create one with posthouse domain create DOMAIN --customer PATH";
                Plan::List { call, columns: LIST, nothing }
            }
            Self::Show { domain, whose } => {
                let call = whose.of(Call::new("domain.show").with("domain", domain));
                Plan::Show { call, columns: SHEET }
            }
            Self::Dns { domain, whose } => {
                let call = whose.of(Call::new("domain.dns").with("domain", domain));
                Plan::Own { call, show: show_records }
            }
            Self::Verify { domain, whose } => {
                let call = whose.of(Call::new("domain.verify").with("domain", domain));
                Plan::Own { call, show: verify }
            }
            Self::Confirm { domain, displace, whose, change } => {
                let call = whose.of(Call::new("domain.confirm").with("domain", domain.clone()));
                let call = call.flag("displace", displace);
                Plan::Change { call, change, done: format!("domain {domain} confirmed"), columns: BRIEF }
            }
            Self::Alias { domain, of, whose, change } => {
                let call =
                    Call::new("domain.alias").with("domain", domain.clone()).with("alias_of", of.clone());
                let done = format!("alias domain {domain} of {of} created");
                Plan::Change { call: whose.of(call), change, done, columns: BRIEF }
            }
            Self::CatchAll { domain, address, whose, change } => {
                let is_none = address.eq_ignore_ascii_case("none");
                let value = if is_none { Value::Null } else { address.clone().into() };
                let call =
                    Call::new("domain.catch-all").with("domain", domain.clone()).with("address", value);
                let done = if is_none {
                    format!("mail for unknown addresses of {domain} is refused")
                } else {
                    format!("mail for unknown addresses of {domain} goes to {address}")
                };
                Plan::Change { call: whose.of(call), change, done, columns: &[] }
            }
            Self::Limit { domain, bytes, messages, mailbox_default, whose, change } => {
                let call = Call::new("domain.limit").with("domain", domain.clone());
                let call = call.maybe("bytes", bytes).maybe("messages", messages);
                let call = whose.of(call.maybe("mailbox_default", mailbox_default));
                Plan::Change { call, change, done: format!("limits of {domain} set"), columns: &[] }
            }
            Self::Move { domain, to, whose, destruction } => {
                let call = Call::new("domain.move").with("domain", domain.clone()).with("to", to.clone());
                let question = format!("Give {domain} with all its mailboxes to {to}?");
                let done = format!("domain {domain} given or offered to {to}");
                Plan::Destroy { call: whose.of(call), destruction, effects: MOVED, question, done }
            }
            Self::Withdraw { domain, whose, change } => {
                let call = Call::new("domain.move").with("domain", domain.clone()).with("to", Value::Null);
                let done = format!("domain {domain} is not offered any more");
                Plan::Change { call: whose.of(call), change, done, columns: &[] }
            }
            Self::Accept { domain, customer, change } => {
                let call = Call::new("domain.accept").with("domain", domain.clone());
                let done = format!("domain {domain} is {customer}'s now");
                Plan::Change { call: call.with("customer", customer), change, done, columns: MOVED }
            }
            Self::Delete { domain, whose, destruction } => {
                let call = whose.of(Call::new("domain.delete").with("domain", domain.clone()));
                let question = format!("Delete {domain} with all its mailboxes?");
                let done =
                    format!("domain {domain} deleted; posthouse domain undelete {domain} brings it back");
                Plan::Destroy { call, destruction, effects: DELETED, question, done }
            }
            Self::Hold(hold) => hold.plan(hold::Kind::Domain),
            Self::Settings(settings) => settings.plan(hold::Kind::Domain),
            Self::LegalHold(legal_hold) => legal_hold.plan(hold::Kind::Domain),
            Self::Undelete { domain, whose, change } => {
                let call = whose.of(Call::new("domain.undelete").with("domain", domain.clone()));
                Plan::Change { call, change, done: format!("domain {domain} is back"), columns: &[] }
            }
        }
    }
}

/// The records, and what came of looking for the proof.
fn show_records(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    if output.is_json() {
        output.document(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    let records = answer.get("records").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    output.table(RECORDS, records)?;
    if answer.get("state").is_some_and(|state| state == "pending") {
        let name = call.fields.get("domain").and_then(Value::as_str).unwrap_or("DOMAIN");
        note(format!(
            "set the record for the proof, then: posthouse domain verify {name}; the daemon also looks by itself"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether it is verified is also the exit code.
fn verify(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    let text = |member: &str| answer.get(member).and_then(Value::as_str).unwrap_or_default();
    if output.is_json() {
        output.document(&answer)?;
    } else {
        note(text("message"));
        if text("outcome") == "absent" {
            note(format!("expected: {} TXT {}", text("record"), text("text")));
        }
    }
    let exit = if text("outcome") == "verified" { None } else { Some(Exit::Conflict) };
    Ok(exit.map_or(ExitCode::SUCCESS, |exit| ExitCode::from(exit as u8)))
}
