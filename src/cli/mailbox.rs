//! `posthouse mailbox …`

use clap::Subcommand;
use secrecy::ExposeSecret;

use super::client::Call;
use super::failure::Failure;
use super::hold::{self, Hold, Resume, Suspend};
use super::limit::{Limit, count_limit, size_limit};
use super::output::{Column, columns};
use super::plan::{Change, Destruction, Plan};
use super::prompt::{Password, SecretSource};

const LIST: &[Column] = columns![
    "ADDRESS" "address" Text, "NAME" "name" Text, "USED" "bytes_used" Size, "LIMIT" "bytes_max" Size,
    "MESSAGES" "messages_used" Count, "LAST LOGIN" "last_login_at" Time, "STATE" "state" Text
];
const SHEET: &[Column] = columns![
    "Address" "address" Text, "Name" "name" Text, "Customer" "customer" Text, "State" "state" Text,
    "Switched off" "switches_off" List, "Used" "bytes_used" Size, "Limit" "bytes_max" Size,
    "Messages" "messages_used" Count, "Limit on messages" "messages_max" Count, "Last login" "last_login_at" Time,
    "Id" "id" Text, "Created" "created_at" Time
];
const DELETED: &[Column] = columns![
    "Mailbox" "address" Text, "Messages" "messages_used" Count, "Mail" "bytes_used" Size
];

/// Mailboxes
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create a mailbox
    Create {
        /// Its address
        address: String,
        /// Most mail, such as 2GiB; `none` for no limit
        #[arg(long, value_parser = size_limit, value_name = "SIZE")]
        quota: Option<Limit>,
        /// Most messages, or `none`
        #[arg(long, value_parser = count_limit, value_name = "N")]
        messages: Option<Limit>,
        /// The owner's name, for people
        #[arg(long)]
        name: Option<String>,
        /// The mail store that holds it
        #[arg(long)]
        store: Option<String>,
        #[command(flatten)]
        secret: SecretSource,
        #[command(flatten)]
        change: Change,
    },
    /// List mailboxes
    List {
        /// Of this domain
        #[arg(long, conflicts_with = "customer")]
        domain: Option<String>,
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show one mailbox
    Show {
        /// Its address
        address: String,
    },
    /// Set the password; open sessions are closed
    Password {
        /// The mailbox's address
        address: String,
        #[command(flatten)]
        secret: SecretSource,
        #[command(flatten)]
        change: Change,
    },
    /// Set the limits; they count for the next message
    Quota {
        /// The mailbox's address
        address: String,
        /// Most mail, such as 2GiB; `none` for no limit
        #[arg(value_parser = size_limit, value_name = "SIZE")]
        quota: Option<Limit>,
        /// Most messages, or `none`
        #[arg(long, value_parser = count_limit, value_name = "N")]
        messages: Option<Limit>,
        #[command(flatten)]
        change: Change,
    },
    /// Switch a mailbox off
    Suspend(Suspend),
    /// Undo suspend; what others hold stays off
    Resume(Resume),
    /// Give a mailbox another address in its domain, or its owner another name
    Rename {
        /// The mailbox's address
        address: String,
        /// The new address; the old one is free then
        to: Option<String>,
        /// The owner's new name, for people
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Holds: reasons for which something is switched off
    #[command(subcommand)]
    Hold(Hold),
    /// Delete a mailbox; it can be undeleted for a while
    Delete {
        /// Its address
        address: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Bring a deleted mailbox back
    Undelete {
        /// Its address
        address: String,
        /// Another address of the same customer, where its own is in use again
        #[arg(long = "as", value_name = "ADDRESS")]
        new_address: Option<String>,
        #[command(flatten)]
        change: Change,
    },
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Create { address, quota, messages, name, store, secret, change } => {
                let call = Call::new("mailbox.create").with("address", address.clone()).maybe("name", name);
                let call = call.maybe("quota", quota).maybe("messages", messages).maybe("store", store);
                let call = with_password(call, &secret.read(&address)?);
                Plan::Change { call, change, done: format!("mailbox {address} created"), columns: &[] }
            }
            Self::List { domain, customer } => {
                let call = Call::new("mailbox.list").maybe("domain", domain).maybe("customer", customer);
                let nothing = "no mailboxes; create one with posthouse mailbox create ADDRESS";
                Plan::List { call, columns: LIST, nothing }
            }
            Self::Show { address } => {
                Plan::Show { call: Call::new("mailbox.show").with("address", address), columns: SHEET }
            }
            Self::Password { address, secret, change } => {
                let call = Call::new("mailbox.password").with("address", address.clone());
                let call = with_password(call, &secret.read(&address)?);
                Plan::Change { call, change, done: format!("password of {address} set"), columns: &[] }
            }
            Self::Quota { address, quota, messages, change } => {
                if quota.is_none() && messages.is_none() {
                    return Err(
                        Failure::usage("no limit was given").hint("give a SIZE, --messages N, or both")
                    );
                }
                let call = Call::new("mailbox.quota").with("address", address.clone());
                let call = call.maybe("quota", quota).maybe("messages", messages);
                Plan::Change { call, change, done: format!("quota of {address} set"), columns: &[] }
            }
            Self::Suspend(suspend) => suspend.plan(hold::Kind::Mailbox),
            Self::Resume(resume) => resume.plan(hold::Kind::Mailbox),
            Self::Hold(hold) => hold.plan(hold::Kind::Mailbox),
            Self::Rename { address, to, name, change } => {
                if to.is_none() && name.is_none() {
                    return Err(
                        Failure::usage("nothing to change").hint("give a new address, --name NAME, or both")
                    );
                }
                let done = format!("mailbox {} changed", to.as_ref().unwrap_or(&address));
                let call = Call::new("mailbox.rename").with("address", address).maybe("to", to);
                Plan::Change { call: call.maybe("name", name), change, done, columns: &[] }
            }
            Self::Delete { address, destruction } => {
                let call = Call::new("mailbox.delete").with("address", address.clone());
                let question = format!("Delete {address} with all its mail?");
                let done =
                    format!("mailbox {address} deleted; posthouse mailbox undelete {address} brings it back");
                Plan::Destroy { call, destruction, effects: DELETED, question, done }
            }
            Self::Undelete { address, new_address, change } => {
                let done = match &new_address {
                    Some(new) => format!("mailbox {address} is back as {new}"),
                    None => format!("mailbox {address} is back"),
                };
                let call = Call::new("mailbox.undelete").with("address", address).maybe("as", new_address);
                Plan::Change { call, change, done, columns: &[] }
            }
        })
    }
}

fn with_password(call: Call, password: &Password) -> Call {
    match password {
        Password::Plain(secret) => call.with("password", secret.expose_secret()),
        Password::Hash(secret) => call.with("password_hash", secret.expose_secret()),
    }
}
