//! `posthouse customer …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Call, Client};
use super::expiry::Expire;
use super::failure::Failure;
use super::hold::{self, Hold, Resume, Suspend};
use super::legal_hold::LegalHold;
use super::limit::{Limit, count_limit, factor_limit, size_limit};
use super::output::{Column, Kind, Output, columns, member, show};
use super::plan::{Change, Destruction, Plan, TokenFile, all};
use super::setting::Settings;

const LIST: &[Column] = columns![
    "PATH" "path" Text, "NAME" "name" Text, "KIND" "kind" Text, "CODE" "code" Text, "USED" "bytes_used" Size,
    "LIMIT" "limits.bytes" Size, "MAILBOXES AT MOST" "limits.mailboxes" Count
];
const SHEET: &[Column] = columns![
    "Path" "path" Text, "Name" "name" Text, "Kind" "kind" Text, "Code" "code" Text, "Contact" "contact" Text,
    "State" "state" Text, "Used" "bytes_used" Size, "Committed" "bytes_committed" Size,
    "Domains" "domains" Count, "Mailboxes" "mailboxes" Count, "Aliases" "aliases" Count,
    "Administrators" "administrators" Count, "Switched off" "switches_off" List,
    "Allowed at most" "ceiling" List, "Allowed nobody" "withheld" List,
    "Mail store" "store" Text, "Mail stores allowed" "stores" List, "Limit on mail" "limits.bytes" Size,
    "Limit on messages" "limits.messages" Count, "Limit on mailboxes" "limits.mailboxes" Count,
    "Limit on aliases" "limits.aliases" Count, "Limit on domains" "limits.domains" Count,
    "Limit on customers" "limits.customers" Count, "Limit on administrators" "limits.administrators" Count,
    "Guaranteed mail" "limits.bytes_guarantee" Size, "Guaranteed mailboxes" "limits.mailboxes_guarantee" Count,
    "Overcommit on mail" "limits.bytes_overcommit_percent" Percent,
    "Overcommit on mailboxes" "limits.mailboxes_overcommit_percent" Percent,
    "Expires" "expiry.expires_at" Time, "Then" "expiry.on_expiry" List,
    "May spend a month" "spending.amount" Count, "Currency" "spending.currency" Text,
    "Spent" "spending.spent" Count, "When all is spent" "spending.on_limit" List,
    "Id" "id" Text, "Created" "created_at" Time
];
const CREATED: &[Column] = columns![
    "Path" "path" Text, "Code" "code" Text, "Domain" "domain" Text, "Administrator" "administrator" Text,
    "Token" "token" Text, "Token in" "saved_in" Text
];
const PLACED: &[Column] =
    columns!["Mail store of new mailboxes" "store" Text, "Mail stores allowed" "stores" List];
const CEILING: &[Column] = columns!["Allowed at most" "ceiling" List, "Allowed nobody" "withheld" List];
const MOVED: &[Column] = columns![
    "From" "from" Text, "To" "to" Text, "Customers" "customers" Count, "Mail" "bytes" Size,
    "Messages" "messages" Count, "Grants that end" "grants_ended" List,
    "Memberships that end" "memberships_ended" List, "Roles that are copied" "roles_copied" List,
    "Holds that stay" "holds_kept" List, "A ceiling stays on" "ceiling_kept" List
];
const DELETED: &[Column] = columns![
    "Customer" "customer.path" Text, "Customers" "customers" Count, "Domains" "domains" Count,
    "Mailboxes" "mailboxes" Count, "Aliases" "aliases" Count, "Administrators" "administrators" Count
];

/// Customers: the nodes of the hierarchy
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Bring a customer aboard, with its domain and first administrator if you like
    Create {
        /// Where it goes: `gov/health` is `health` below `gov`
        path: String,
        /// Its name, for people
        #[arg(long)]
        name: Option<String>,
        /// What kind of customer it is; any word
        #[arg(long)]
        kind: Option<String>,
        /// Its short code, which administrators' names end with: anna@CODE; drawn at random unless a system
        /// administrator chooses one
        #[arg(long)]
        code: Option<String>,
        /// Create this domain for it
        #[arg(long)]
        domain: Option<String>,
        /// Create this administrator for it; the token is printed once
        #[arg(long, value_name = "NAME")]
        admin: Option<String>,
        #[command(flatten)]
        token_file: TokenFile,
        /// Where to write to: mail for postmaster goes there
        #[arg(long, value_name = "ADDRESS")]
        contact: Option<String>,
        /// The mail store for its new mailboxes
        #[arg(long)]
        store: Option<String>,
        /// A template of the customer above, or of one further up
        #[arg(long, value_name = "NAME")]
        template: Option<String>,
        /// Its limit on mail, such as 500GiB
        #[arg(long, value_parser = size_limit, value_name = "SIZE")]
        bytes: Option<Limit>,
        /// Its limit on mailboxes
        #[arg(long, value_parser = count_limit, value_name = "N")]
        mailboxes: Option<Limit>,
        /// When its time is over: RFC 3339, or a time from now such as 90d
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// What happens then, in order: disable-login,stop-receiving+7d,delete+30d
        #[arg(long, value_name = "STEPS", value_delimiter = ',', requires = "expires")]
        on_expiry: Option<Vec<String>>,
        #[command(flatten)]
        change: Change,
    },
    /// List customers
    List {
        /// Below this one
        path: Option<String>,
        /// As a tree
        #[arg(long)]
        tree: bool,
    },
    /// Show one customer
    Show {
        /// Its path
        path: String,
    },
    /// Change a customer's name, path name, kind or contact
    Rename {
        /// Its path
        path: String,
        /// The new last part of its path
        #[arg(long)]
        slug: Option<String>,
        /// The new name, for people
        #[arg(long)]
        name: Option<String>,
        /// The new kind
        #[arg(long)]
        kind: Option<String>,
        /// Where to write to: mail for postmaster goes there
        #[arg(long, value_name = "ADDRESS")]
        contact: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Say which mail store new mailboxes of a customer go to, and which its administrators may name
    Store {
        /// Its path
        path: String,
        /// The mail store, or `none` for what is said above
        store: Option<String>,
        /// Mail stores that its administrators may know and name, or `none` for what is allowed above
        #[arg(long, value_name = "STORE", value_delimiter = ',')]
        allow: Option<Vec<String>>,
        #[command(flatten)]
        change: Change,
    },
    /// Move a customer with all it has below another one
    Move {
        /// Its path
        path: String,
        /// The new parent's path
        #[arg(long, value_name = "PARENT")]
        to: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Switch a customer off: login, receive and send, or what is named
    Suspend(Suspend),
    /// Undo suspend; what others hold stays off
    Resume(Resume),
    /// Delete a customer with all it has; it can be undeleted for a while
    Delete {
        /// Its path
        path: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Bring a deleted customer back
    Undelete {
        /// Its path
        path: String,
        #[command(flatten)]
        change: Change,
    },
    /// Set limits on a customer and all below it
    Limit(Limits),
    /// Say when its time is over, and what happens then
    Expire(Expire),
    /// Holds: reasons for which something is switched off
    #[command(subcommand)]
    Hold(Hold),
    /// Ceilings: what anybody can be allowed at a customer and below at most
    #[command(subcommand)]
    Ceiling(Ceiling),
    /// Settings: inherited from above unless set, and lockable
    #[command(subcommand)]
    Settings(Settings),
    /// Legal holds: nothing is removed for good while one lasts
    #[command(subcommand)]
    LegalHold(LegalHold),
}

#[derive(Subcommand, Debug)]
pub(super) enum Ceiling {
    /// Set the ceiling of a customer; the right for it is held above the customer
    Set {
        /// Its path
        path: String,
        /// What this role allows now is left
        #[arg(long)]
        role: Option<String>,
        /// These permissions are left
        #[arg(long, value_name = "PERMISSION,…", value_delimiter = ',')]
        allow: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Lift the ceiling of a customer; those above it stay
    Clear {
        /// Its path
        path: String,
        #[command(flatten)]
        change: Change,
    },
    /// Show the ceiling of a customer, and what it and those above allow nobody
    Show {
        /// Its path
        path: String,
    },
}

impl Ceiling {
    fn plan(self) -> Plan {
        match self {
            Self::Set { path, role, allow, change } => {
                let call = Call::new("ceiling.set").with("path", path.clone()).maybe("role", role);
                let call = if allow.is_empty() { call } else { call.with("permissions", allow) };
                Plan::Change { call, change, done: format!("ceiling of {path} set"), columns: CEILING }
            }
            Self::Clear { path, change } => {
                let call = Call::new("ceiling.clear").with("path", path.clone());
                Plan::Change { call, change, done: format!("ceiling of {path} lifted"), columns: CEILING }
            }
            Self::Show { path } => {
                Plan::Show { call: Call::new("ceiling.show").with("path", path), columns: CEILING }
            }
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct Limits {
    /// Its path
    path: String,
    /// Mail, such as 500GiB; `none` for no limit
    #[arg(long, value_parser = size_limit, value_name = "SIZE")]
    bytes: Option<Limit>,
    /// Messages, or `none`
    #[arg(long, value_parser = count_limit, value_name = "N")]
    messages: Option<Limit>,
    /// Mailboxes, or `none`
    #[arg(long, value_parser = count_limit, value_name = "N")]
    mailboxes: Option<Limit>,
    /// Aliases, or `none`
    #[arg(long, value_parser = count_limit, value_name = "N")]
    aliases: Option<Limit>,
    /// Domains, or `none`
    #[arg(long, value_parser = count_limit, value_name = "N")]
    domains: Option<Limit>,
    /// Child customers, or `none`
    #[arg(long, value_parser = count_limit, value_name = "N")]
    customers: Option<Limit>,
    /// Administrators, or `none`
    #[arg(long, value_parser = count_limit, value_name = "N")]
    administrators: Option<Limit>,
    /// Mail to reserve for it at the customers above; at most its limit, or `none`
    #[arg(long, value_parser = size_limit, value_name = "SIZE")]
    guarantee: Option<Limit>,
    /// Mailboxes to reserve for it, or `none`
    #[arg(long, value_parser = count_limit, value_name = "N")]
    guarantee_mailboxes: Option<Limit>,
    /// How often its limit on mail may be given to the customers right below, who need limits then: 1 is strict;
    /// `none` lets them share it
    #[arg(long, value_parser = factor_limit, value_name = "FACTOR")]
    overcommit: Option<Limit>,
    /// As --overcommit, of its limit on mailboxes
    #[arg(long, value_parser = factor_limit, value_name = "FACTOR")]
    overcommit_mailboxes: Option<Limit>,
    #[command(flatten)]
    change: Change,
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Create {
                path,
                name,
                kind,
                code,
                domain,
                admin,
                token_file,
                contact,
                store,
                template,
                bytes,
                mailboxes,
                expires,
                on_expiry,
                change,
            } => {
                let call = Call::new("customer.create").with("path", path.clone()).maybe("name", name);
                if token_file.save_token.is_some() && admin.is_none() {
                    return Err(Failure::usage("there is no token to save").hint("give --admin NAME too"));
                }
                let call = call.maybe("kind", kind).maybe("code", code).maybe("domain", domain);
                let call = call.maybe("admin", admin).maybe("contact", contact).maybe("store", store);
                let call = call.maybe("bytes", bytes).maybe("mailboxes", mailboxes);
                let call = call.maybe("template", template);
                let call = call.maybe("expires_at", expires).maybe("on_expiry", on_expiry);
                let done = format!("customer {path} created");
                Plan::Issue { call, change, done, columns: CREATED, secret: token_file.into() }
            }
            Self::List { path, tree } => {
                let call = Call::new("customer.list").maybe("customer", path);
                let nothing = "no customers; create one with posthouse customer create PATH";
                if tree {
                    Plan::Own { call, show: show_tree }
                } else {
                    Plan::List { call, columns: LIST, nothing }
                }
            }
            Self::Show { path } => {
                Plan::Show { call: Call::new("customer.show").with("path", path), columns: SHEET }
            }
            Self::Rename { path, slug, name, kind, contact, change } => {
                let call = Call::new("customer.rename").with("path", path.clone()).maybe("slug", slug);
                let call = call.maybe("name", name).maybe("kind", kind).maybe("contact", contact);
                let done = format!("customer {path} changed");
                Plan::Change { call, change, done, columns: &[] }
            }
            Self::Store { path, store, allow, change } => place(path, store, allow, change)?,
            Self::Move { path, to, destruction } => {
                let call = Call::new("customer.move").with("path", path.clone()).with("to", to.clone());
                let question = format!("Move {path} below {to}?");
                let done = format!("customer {path} moved below {to}");
                Plan::Destroy { call, destruction, effects: MOVED, question, done }
            }
            Self::Ceiling(ceiling) => ceiling.plan(),
            Self::Suspend(suspend) => suspend.plan(hold::Kind::Customer),
            Self::Resume(resume) => resume.plan(hold::Kind::Customer),
            Self::Delete { path, destruction } => {
                let call = Call::new("customer.delete").with("path", path.clone());
                let question = format!("Delete {path} with all it has?");
                let done =
                    format!("customer {path} deleted; posthouse customer undelete {path} brings it back");
                Plan::Destroy { call, destruction, effects: DELETED, question, done }
            }
            Self::Undelete { path, change } => {
                let call = Call::new("customer.undelete").with("path", path.clone());
                Plan::Change { call, change, done: format!("customer {path} is back"), columns: &[] }
            }
            Self::Limit(limits) => limits.plan()?,
            Self::Expire(expire) => expire.plan("customer.expire", "path"),
            Self::Hold(hold) => hold.plan(hold::Kind::Customer),
            Self::Settings(settings) => settings.plan(hold::Kind::Customer),
            Self::LegalHold(legal_hold) => legal_hold.plan(hold::Kind::Customer),
        })
    }
}

fn place(
    path: String,
    store: Option<String>,
    allow: Option<Vec<String>>,
    change: Change,
) -> Result<Plan, Failure> {
    if store.is_none() && allow.is_none() {
        return Err(Failure::usage("nothing to change").hint("give a mail store, --allow STORE, or both"));
    }
    let mut call = Call::new("customer.store").with("path", path.clone());
    if let Some(store) = store {
        let is_none = store.eq_ignore_ascii_case("none");
        call = call.with("store", if is_none { Value::Null } else { store.into() });
    }
    if let Some(mut allow) = allow {
        allow.retain(|store| !store.eq_ignore_ascii_case("none"));
        call = call.with("allowed", allow);
    }
    Ok(Plan::Change { call, change, done: format!("mail stores of {path} set"), columns: PLACED })
}

impl Limits {
    fn plan(self) -> Result<Plan, Failure> {
        let call = Call::new("customer.limit").with("path", self.path.clone());
        let given = [
            ("bytes", self.bytes),
            ("messages", self.messages),
            ("mailboxes", self.mailboxes),
            ("aliases", self.aliases),
            ("domains", self.domains),
            ("customers", self.customers),
            ("administrators", self.administrators),
            ("bytes_guarantee", self.guarantee),
            ("mailboxes_guarantee", self.guarantee_mailboxes),
            ("bytes_overcommit_percent", self.overcommit),
            ("mailboxes_overcommit_percent", self.overcommit_mailboxes),
        ];
        if given.iter().all(|(_, limit)| limit.is_none()) {
            let hint = "give --bytes, --messages, --mailboxes, --aliases, --domains, --customers, --administrators, \
                        --guarantee or --overcommit";
            return Err(Failure::usage("no limit was given").hint(hint));
        }
        let call = given.into_iter().fold(call, |call, (name, limit)| call.maybe(name, limit));
        let done = format!("limits of {} set", self.path);
        Ok(Plan::Change { call, change: self.change, done, columns: &[] })
    }
}

/// Customers as a tree. They come parents first, siblings by name.
fn show_tree(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let customers = all(client, call)?;
    if output.is_json() {
        customers.iter().try_for_each(|customer| output.object(customer))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut nodes: Vec<(Vec<String>, String)> = customers
        .iter()
        .map(|customer| {
            let path = show(Kind::Text, member(customer, "path"));
            let name = show(Kind::Text, member(customer, "name"));
            let parts: Vec<String> =
                path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
            let last = parts.last().map_or("/", String::as_str);
            let label =
                if name.is_empty() || name == last { last.to_owned() } else { format!("{last}  {name}") };
            (parts, label)
        })
        .collect();
    nodes.sort();
    for line in tree_lines(&nodes) {
        output.line(&line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A line for each node; `nodes` are paths with labels, sorted, so that what is below a node follows it.
fn tree_lines(nodes: &[(Vec<String>, String)]) -> Vec<String> {
    let top = nodes.iter().map(|(parts, _)| parts.len()).min().unwrap_or(0);
    let mut lines = Vec::new();
    for (index, (parts, label)) in nodes.iter().enumerate() {
        let rest = nodes.get(index + 1..).unwrap_or_default();
        let mut line = String::new();
        // Whether another node follows below the ancestor of this depth, so that its line goes on.
        let goes_on = |depth: usize| {
            let ancestor = parts.get(..depth).unwrap_or_default();
            rest.iter().any(|(other, _)| other.len() == depth + 1 && other.starts_with(ancestor))
        };
        for depth in top..parts.len() {
            let is_last_step = depth + 1 == parts.len();
            line.push_str(match (is_last_step, goes_on(depth)) {
                (true, true) => "├─ ",
                (true, false) => "└─ ",
                (false, true) => "│  ",
                (false, false) => "   ",
            });
        }
        line.push_str(label);
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_drawn_with_their_branches() {
        let node = |path: &str| {
            let parts: Vec<String> = path.split('/').map(str::to_owned).collect();
            (parts.clone(), parts.last().unwrap().clone())
        };
        let nodes = ["gov", "gov/health", "gov/health/it", "gov/works", "shop"].map(node);
        assert_eq!(tree_lines(&nodes), ["gov", "├─ health", "│  └─ it", "└─ works", "shop"]);
    }
}
