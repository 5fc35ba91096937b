//! `posthouse admin …`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::{Call, Client};
use super::expiry::Expire;
use super::failure::Failure;
use super::mailbox::with_password;
use super::output::{Column, Output, columns};
use super::plan::{Change, Destruction, Plan, TokenFile};
use super::prompt::SecretSource;
use super::second_factor;

const LIST: &[Column] = columns![
    "NAME" "name" Text, "HOME" "customer" Text, "ROLES" "roles" List, "ENABLED" "enabled" Truth,
    "SECOND FACTOR" "second_factor" Truth, "CONTACT" "contact" Text, "CREATED" "created_at" Time
];
const SHEET: &[Column] = columns![
    "Name" "name" Text, "Home" "customer" Text, "Enabled" "enabled" Truth,
    "Second factor" "second_factor" Truth, "Recovery codes left" "recovery_codes_left" Text, "Contact" "contact" Text,
    "Groups" "groups" List, "Id" "id" Text, "Created" "created_at" Time
];
pub(super) const GRANTS: &[Column] = columns![
    "GRANT" "id" Text, "ROLE" "role" Text, "CUSTOMER" "customer" Text, "ZONE" "zone" Text, "BY GROUP" "holder" Text,
    "MAY PASS ON" "delegable" Truth, "BEGINS" "not_before" Time, "ENDS" "expires_at" Time, "BY" "made_by" Text
];
pub(super) const HOLDINGS: &[Column] = columns![
    "HOLDER" "holder" Text, "ROLE" "role" Text, "CUSTOMER" "customer" Text, "ZONE" "zone" Text,
    "MAY PASS ON" "delegable" Truth, "BEGINS" "not_before" Time, "ENDS" "expires_at" Time, "BY" "made_by" Text,
    "MADE" "created_at" Time
];
const GRANT: &[Column] = columns![
    "Grant" "id" Text, "Role" "role" Text, "Customer" "customer" Text, "Zone" "zone" Text,
    "Begins" "not_before" Time, "Ends" "expires_at" Time
];
const ENDED: &[Column] = columns![
    "Grant" "id" Text, "Role" "role" Text, "Customer" "customer" Text, "Zone" "zone" Text,
    "Ends" "expires_at" Time, "Ends with it" "also_ended" List
];
const CREATED: &[Column] = columns![
    "Name" "name" Text, "Home" "customer" Text, "Token" "token" Text, "Token in" "saved_in" Text,
    "Token ends" "expires_at" Time
];
const EFFECTIVE: &[Column] = columns![
    "Administrator" "name" Text, "Customer" "customer" Text, "Permissions" "permissions" List,
    "May pass on" "delegable" List, "Taken away by ceilings" "withheld" List
];
const EFFECTIVE_IN_ZONE: &[Column] = columns![
    "In zone" "zone" Text, "Permissions" "permissions" List, "May pass on" "delegable" List
];
const RETURNED: &[Column] = columns!["Name" "name" Text, "Home" "customer" Text, "Enabled" "enabled" Truth];
const BRIEF: &[Column] = columns!["Administrator" "name" Text, "Home" "customer" Text];
const TOKENS: &[Column] = columns![
    "ID" "id" Text, "LABEL" "label" Text, "CREATED" "created_at" Time, "EXPIRES" "expires_at" Time,
    "LAST USED" "last_used_at" Time, "PERMISSIONS" "permissions" List, "NETWORKS" "networks" List
];
const TOKEN: &[Column] = columns![
    "Id" "id" Text, "Token" "token" Text, "Token in" "saved_in" Text, "Expires" "expires_at" Time
];
const REVOKED: &[Column] = columns!["Token" "id" Text, "Label" "label" Text, "Last used" "last_used_at" Time];

/// Administrators, their grants and tokens. NAME is `name@CODE`, or the bare name where it is unambiguous
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Create an administrator with a role at its customer; its first token is printed once
    Create {
        /// Its name, unique at its customer
        name: String,
        /// Where it is at home
        #[arg(long, value_name = "PATH")]
        customer: String,
        /// Its role there: admin, manager, viewer, helpdesk, auditor, billing, system-admin, or one of the customer's
        #[arg(long, default_value = "viewer")]
        role: String,
        /// The administrator may pass it on
        #[arg(long)]
        delegable: bool,
        /// When the role ends: RFC 3339, or a time from now such as 30d
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// Where to write to
        #[arg(long, value_name = "ADDRESS")]
        contact: Option<String>,
        #[command(flatten)]
        token_file: TokenFile,
        #[command(flatten)]
        change: Change,
    },
    /// List administrators
    List {
        /// At home at this customer or below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show an administrator and its grants
    Show {
        /// The administrator
        name: String,
    },
    /// Grant a role at a customer and all below it, or in a zone; to a group with `posthouse group grant`
    Grant(Granting),
    /// Take a role away
    Revoke(Revoking),
    /// List grants with their holders
    Grants {
        /// At this customer or below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Made by this administrator, who may be deleted
        #[arg(long, value_name = "NAME")]
        made_by: Option<String>,
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
    /// Say when its time is over, and what happens then
    Expire(Expire),
    /// Keep an administrator out; grants and tokens stay
    Disable {
        /// The administrator
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Delete an administrator; its tokens die with it, the rest can be undeleted for a while
    Delete {
        /// The administrator
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Bring a deleted administrator back with those of its grants that you could give; tokens stay dead
    Undelete {
        /// The administrator
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Set an administrator's password; its tokens end
    Password {
        /// The administrator
        name: String,
        #[command(flatten)]
        secret: SecretSource,
        #[command(flatten)]
        change: Change,
    },
    /// Second factors: codes of an authenticator beside the password
    #[command(subcommand)]
    SecondFactor(second_factor::Command),
    /// Tokens, for programs that act as an administrator
    #[command(subcommand)]
    Token(Token),
}

#[derive(Subcommand, Debug)]
pub(super) enum Token {
    /// Make a token; it is printed once
    Create {
        /// The administrator it acts as; you, if not given
        name: Option<String>,
        /// What it is for
        #[arg(long)]
        label: Option<String>,
        /// When it ends: a time from now such as 90d, or RFC 3339
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        /// Confine it to this permission; may be given several times
        #[arg(long, value_name = "NAME")]
        permission: Vec<String>,
        /// Take it from this network (192.0.2.0/24) only, or from sockets of this machine (unix); several times
        #[arg(long, value_name = "NETWORK")]
        network: Vec<String>,
        #[command(flatten)]
        token_file: TokenFile,
        #[command(flatten)]
        change: Change,
    },
    /// List an administrator's tokens
    List {
        /// The administrator; you, if not given
        name: Option<String>,
    },
    /// Revoke a token
    Revoke {
        /// The token's id, from `token list`
        id: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

/// Where a role is granted.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct GrantPlace {
    /// At this customer and below
    #[arg(long, value_name = "PATH")]
    customer: Option<String>,
    /// Over the mail stores and servers of this zone
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

impl GrantPlace {
    /// For people.
    fn words(&self) -> String {
        let zone = self.zone.as_ref().map(|zone| format!("zone {zone}"));
        zone.or_else(|| self.customer.clone()).unwrap_or_default()
    }

    fn add_to(self, call: Call) -> Call {
        call.maybe("customer", self.customer).maybe("zone", self.zone)
    }
}

/// What is granted to an administrator or a group.
#[derive(Args, Debug)]
pub(super) struct Granting {
    /// Who gets it
    name: String,
    /// admin, manager, viewer, helpdesk, auditor, billing, system-admin, or a role of the customer or above it
    #[arg(long)]
    role: String,
    #[command(flatten)]
    place: GrantPlace,
    /// From when it counts: RFC 3339, or a time from now such as 7d
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// When it ends: RFC 3339, or a time from now such as 30d
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// It may be passed on
    #[arg(long)]
    delegable: bool,
    #[command(flatten)]
    change: Change,
}

impl Granting {
    pub(super) fn plan(self, operation: &'static str) -> Plan {
        let Self { name, role, place, not_before, expires, delegable, change } = self;
        let done = format!("{name} is {role} at {}", place.words());
        let call = place.add_to(Call::new(operation).with("name", name).with("role", role));
        let call = call.maybe("not_before", not_before).maybe("expires_at", expires);
        Plan::Change { call: call.flag("delegable", delegable), change, done, columns: GRANT }
    }
}

/// What is taken away from an administrator or a group.
#[derive(Args, Debug)]
pub(super) struct Revoking {
    /// Who has it
    name: String,
    /// The role
    #[arg(long)]
    role: String,
    #[command(flatten)]
    place: GrantPlace,
    /// Also end what was granted because of it and could not be without it, and so on
    #[arg(long)]
    cascade: bool,
    #[command(flatten)]
    destruction: Destruction,
}

impl Revoking {
    pub(super) fn plan(self, operation: &'static str) -> Plan {
        let Self { name, role, place, cascade, destruction } = self;
        let question = format!("Take {role} at {} from {name}?", place.words());
        let done = format!("{name} is not {role} at {} any more", place.words());
        let call = place.add_to(Call::new(operation).with("name", name).with("role", role));
        Plan::Destroy { call: call.flag("cascade", cascade), destruction, effects: ENDED, question, done }
    }
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        let of = |operation, name: &str| Call::new(operation).with("name", name);
        Ok(match self {
            Self::Create { name, customer, role, delegable, expires, contact, token_file, change } => {
                let call = Call::new("administrator.create").with("name", name.clone());
                let call = call.with("customer", customer).with("role", role).maybe("contact", contact);
                let call = call.maybe("expires_at", expires).flag("delegable", delegable);
                let done = format!("administrator {name} created");
                Plan::Issue { call, change, done, columns: CREATED, secret: token_file.into() }
            }
            Self::List { customer } => {
                let call = Call::new("administrator.list").maybe("customer", customer);
                let nothing = "no administrators; create one with posthouse admin create";
                Plan::List { call, columns: LIST, nothing }
            }
            Self::Show { name } => {
                Plan::Own { call: of("administrator.show", &name), show: show_administrator }
            }
            Self::Grant(granting) => granting.plan("administrator.grant"),
            Self::Revoke(revoking) => revoking.plan("administrator.revoke"),
            Self::Grants { customer, made_by } => {
                let call = Call::new("grant.list").maybe("customer", customer).maybe("made_by", made_by);
                Plan::List { call, columns: HOLDINGS, nothing: "no grants" }
            }
            Self::Effective { name, path } => {
                let call = of("administrator.effective", &name).with("customer", path);
                Plan::Own { call, show: show_effective }
            }
            Self::Enable { name, change } => {
                let call = of("administrator.enable", &name);
                Plan::Change { call, change, done: format!("administrator {name} enabled"), columns: &[] }
            }
            Self::Expire(expire) => expire.plan("administrator.expire", "name"),
            Self::Disable { name, destruction } => {
                let call = of("administrator.disable", &name);
                let (question, done) =
                    (format!("Keep {name} out?"), format!("administrator {name} disabled"));
                Plan::Destroy { call, destruction, effects: BRIEF, question, done }
            }
            Self::Delete { name, destruction } => {
                let call = of("administrator.delete", &name);
                let question = format!("Delete the administrator {name} with grants and tokens?");
                let done =
                    format!("administrator {name} deleted; posthouse admin undelete {name} brings it back");
                Plan::Destroy { call, destruction, effects: BRIEF, question, done }
            }
            Self::Undelete { name, change } => {
                let call = of("administrator.undelete", &name);
                Plan::Change {
                    call,
                    change,
                    done: format!("administrator {name} is back"),
                    columns: RETURNED,
                }
            }
            Self::Password { name, secret, change } => {
                let password = secret.read(&name)?;
                let call = with_password(of("administrator.password", &name), &password);
                let done = format!("password of {name} set; its tokens and sessions have ended");
                Plan::Change { call, change, done, columns: &[] }
            }
            Self::SecondFactor(command) => return command.plan(),
            Self::Token(token) => token.plan(),
        })
    }
}

/// What somebody may, and below it what besides in zones.
fn show_effective(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    if output.is_json() {
        output.document(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(EFFECTIVE, &answer)?;
    for zone in answer.get("zones").and_then(Value::as_array).into_iter().flatten() {
        output.line("")?;
        output.sheet(EFFECTIVE_IN_ZONE, zone)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// An administrator, and below it the grants.
fn show_administrator(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    if output.is_json() {
        output.document(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(SHEET, &answer)?;
    if let Some(grants) = answer.get("grants").and_then(Value::as_array).filter(|grants| !grants.is_empty()) {
        output.line("")?;
        output.table(GRANTS, grants)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Token {
    fn plan(self) -> Plan {
        match self {
            Self::Create { name, label, expires, permission, network, token_file, change } => {
                let call = Call::new("token.create").maybe("name", name).maybe("label", label);
                let given = |list: Vec<String>| (!list.is_empty()).then_some(list);
                let call = call.maybe("permissions", given(permission)).maybe("networks", given(network));
                let shown = if token_file.save_token.is_some() {
                    "token made"
                } else {
                    "token made; it is shown only now"
                };
                let (call, done) = (call.maybe("expires_at", expires), shown.to_owned());
                Plan::Issue { call, change, done, columns: TOKEN, secret: token_file.into() }
            }
            Self::List { name } => {
                let call = Call::new("token.list").maybe("name", name);
                Plan::List { call, columns: TOKENS, nothing: "no tokens" }
            }
            Self::Revoke { id, destruction } => {
                let call = Call::new("token.revoke").with("id", id.clone());
                let (question, done) = (format!("Revoke the token {id}?"), format!("token {id} revoked"));
                Plan::Destroy { call, destruction, effects: REVOKED, question, done }
            }
        }
    }
}
