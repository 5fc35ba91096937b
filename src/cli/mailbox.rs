//! `posthouse mailbox …`

use std::process::ExitCode;

use clap::Subcommand;
use secrecy::ExposeSecret;
use serde_json::Value;

use super::client::Call;
use super::expiry::Expire;
use super::failure::Failure;
use super::hold::{self, Hold, Resume, Suspend};
use super::invite::Redeeming;
use super::job::Follow;
use super::legal_hold::LegalHold;
use super::limit::{Limit, count_limit, size_limit};
use super::output::{Column, Output, columns, member};
use super::plan::{Change, CodeFile, Destruction, Plan, partly};
use super::prompt::{Password, SecretSource};
use super::setting::Settings;

const LIST: &[Column] = columns![
    "ADDRESS" "address" Text, "NAME" "name" Text, "USED" "bytes_used" Size, "LIMIT" "bytes_max" Size,
    "MESSAGES" "messages_used" Count, "LAST LOGIN" "last_login_at" Time, "STATE" "state" Text
];
const SHEET: &[Column] = columns![
    "Address" "address" Text, "Name" "name" Text, "Customer" "customer" Text, "State" "state" Text,
    "Switched off" "switches_off" List, "Mail store" "store" Text, "Used" "bytes_used" Size, "Limit" "bytes_max" Size,
    "Messages" "messages_used" Count, "Limit on messages" "messages_max" Count, "Last login" "last_login_at" Time,
    "Code for the owner ends" "invited_until" Time, "Id" "id" Text, "Created" "created_at" Time
];
const INVITED: &[Column] = columns![
    "Mailbox" "address" Text, "Code, shown only now" "secret" Text, "Code in" "saved_in" Text,
    "Ends" "expires_at" Time
];
const ADDRESS: &[Column] = columns!["Mailbox" "address" Text];
const DELETED: &[Column] = columns![
    "Mailbox" "address" Text, "Messages" "messages_used" Count, "Mail" "bytes_used" Size,
    "Aliases that lead here" "aliases" List, "Catch-all of" "catch_alls" List
];
const DELETED_MESSAGES: &[Column] = columns![
    "FOLDER" "folder" Text, "DELETED" "folder_deleted" Truth, "UID" "uid" Text, "SIZE" "size" Size,
    "RECEIVED" "date" Time, "EXPUNGED" "expunged_at" Time
];
const LOGINS: &[Column] = columns![
    "HOUR" "hour" Time, "SERVICE" "service" Text, "SOURCE" "source" Text, "LOGINS" "successes" Count,
    "REFUSED" "failures" Count, "LAST" "last_at" Time
];
const MOVED: &[Column] = columns![
    "Messages" "messages" Count, "Mail" "octets" Size, "Damaged, left where they were" "damaged" Count
];
const UNDELETED: &[Column] = columns!["Messages" "messages" Count, "Mail" "octets" Size];

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
        /// A template of its customer, or of one above
        #[arg(long, value_name = "NAME")]
        template: Option<String>,
        /// The domain's customer, when several have one of this name
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        #[command(flatten)]
        secret: SecretSource,
        /// Without a password: nobody can log in until one is set
        #[arg(long, conflicts_with_all = ["password_stdin", "password_file", "password_hash_stdin"])]
        no_password: bool,
        #[command(flatten)]
        change: Change,
    },
    /// List mailboxes
    List {
        /// Of this domain
        #[arg(long)]
        domain: Option<String>,
        /// Of this customer and those below; with --domain, whose domain
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show one mailbox
    Show {
        /// Its address
        address: String,
    },
    /// List who logged in, or tried to, by service, source and hour
    Logins {
        /// The mailbox's address
        address: String,
        /// From the hour of this time on, such as 2d or 2026-11-22T10:00:00Z; a week unless it is given
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
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
    /// Make a one-time code with which the owner sets the password; it is printed once
    Invite {
        /// The mailbox's address
        address: String,
        #[command(flatten)]
        code_file: CodeFile,
        #[command(flatten)]
        change: Change,
    },
    /// Take back the code with which the owner could set the password
    Uninvite {
        /// The mailbox's address
        address: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Set the password of your own mailbox with a one-time code
    SetPassword(Redeeming),
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
    /// Say when its time is over, and what happens then
    Expire(Expire),
    /// Holds: reasons for which something is switched off
    #[command(subcommand)]
    Hold(Hold),
    /// Settings: inherited from above unless set, and lockable
    #[command(subcommand)]
    Settings(Settings),
    /// Legal holds: nothing is removed for good while one lasts
    #[command(subcommand)]
    LegalHold(LegalHold),
    /// Move a mailbox to another mail store while it is in use
    Move {
        /// Its address
        address: String,
        /// The mail store; the present one: a move that was cut off goes on
        #[arg(long)]
        store: String,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
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
    /// List messages that were expunged and can come back
    Deleted {
        /// The mailbox's address
        address: String,
        /// Only of this folder, deleted or not
        #[arg(long, value_name = "FOLDER")]
        folder: Option<String>,
        /// Not expunged before this time, such as 2d or 2026-11-22T10:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Not expunged after this time
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// Bring expunged messages back, each to the folder where it was
    UndeleteMessages {
        /// The mailbox's address
        address: String,
        /// Only of this folder, deleted or not
        #[arg(long, value_name = "FOLDER")]
        folder: Option<String>,
        /// Only with these UIDs
        #[arg(long, value_name = "UID", value_delimiter = ',', requires = "folder")]
        uids: Option<Vec<u32>>,
        /// Not expunged before this time, such as 2d or 2026-11-22T10:00:00Z
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Not expunged after this time
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// All to this folder; it is made if it is not there
        #[arg(long, value_name = "FOLDER")]
        into: Option<String>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
    /// Bring a deleted folder back with its messages
    UndeleteFolder {
        /// The mailbox's address
        address: String,
        /// The folder's name when it was deleted
        name: String,
        /// Under another name
        #[arg(long, value_name = "FOLDER")]
        into: Option<String>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Create {
                address,
                quota,
                messages,
                name,
                store,
                template,
                customer,
                secret,
                no_password,
                change,
            } => {
                let call = Call::new("mailbox.create").with("address", address.clone()).maybe("name", name);
                let call = call.maybe("quota", quota).maybe("messages", messages).maybe("store", store);
                let call = call.maybe("customer", customer).maybe("template", template);
                let call = if no_password { call } else { with_password(call, &secret.read(&address)?) };
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
            Self::Logins { address, since } => {
                let call = Call::new("mailbox.logins").with("address", address).maybe("since", since);
                Plan::List { call, columns: LOGINS, nothing: "nobody has tried to log in" }
            }
            Self::Password { address, secret, change } => {
                let call = Call::new("mailbox.password").with("address", address.clone());
                let call = with_password(call, &secret.read(&address)?);
                Plan::Change { call, change, done: format!("password of {address} set"), columns: &[] }
            }
            Self::Invite { address, code_file, change } => {
                let call = Call::new("mailbox.invite").with("address", address);
                let done = "hand the code over to the owner of the mailbox".to_owned();
                Plan::Issue { call, change, done, columns: INVITED, secret: code_file.into() }
            }
            Self::Uninvite { address, destruction } => {
                let call = Call::new("mailbox.uninvite").with("address", address.clone());
                let question = format!("Take the code for {address} back?");
                let done = format!("the code for {address} is good for nothing now");
                Plan::Destroy { call, destruction, effects: ADDRESS, question, done }
            }
            Self::SetPassword(redeeming) => {
                redeeming.plan("mailbox.set-password", "the password is set", ADDRESS)?
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
            Self::Expire(expire) => expire.plan("mailbox.expire", "address"),
            Self::Hold(hold) => hold.plan(hold::Kind::Mailbox),
            Self::Settings(settings) => settings.plan(hold::Kind::Mailbox),
            Self::LegalHold(legal_hold) => legal_hold.plan(hold::Kind::Mailbox),
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
            Self::Move { address, store, change, following } => {
                let call = Call::new("mailbox.move").with("address", address).with("store", store);
                Plan::Job { call, change, following }
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
            Self::Deleted { address, folder, since, until } => {
                let call = Call::new("message.deleted").with("address", address).maybe("folder", folder);
                let call = call.maybe("since", since).maybe("until", until);
                Plan::List { call, columns: DELETED_MESSAGES, nothing: "nothing that could come back" }
            }
            Self::UndeleteMessages { address, folder, uids, since, until, into, change, following } => {
                let call = Call::new("message.undelete").with("address", address).maybe("folder", folder);
                let call = call.maybe("uids", uids).maybe("since", since).maybe("until", until);
                Plan::Job { call: call.maybe("into", into), change, following }
            }
            Self::UndeleteFolder { address, name, into, change, following } => {
                let call = Call::new("folder.undelete").with("address", address).with("name", name);
                Plan::Job { call: call.maybe("into", into), change, following }
            }
        })
    }
}

/// What came back.
pub(super) fn show_undeleted(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        output.sheet(UNDELETED, answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What moved; damage is told by the exit code too.
pub(super) fn show_moved(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        output.sheet(MOVED, answer)?;
    }
    let is_whole = member(answer, "damaged").and_then(Value::as_u64) == Some(0);
    Ok(if is_whole { ExitCode::SUCCESS } else { partly() })
}

pub(super) fn with_password(call: Call, password: &Password) -> Call {
    match password {
        Password::Plain(secret) => call.with("password", secret.expose_secret()),
        Password::Hash(secret) => call.with("password_hash", secret.expose_secret()),
    }
}
