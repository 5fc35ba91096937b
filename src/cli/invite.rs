//! `posthouse invite …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use secrecy::SecretString;

use super::client::Call;
use super::failure::Failure;
use super::mailbox::with_password;
use super::output::{Column, columns};
use super::plan::{Change, CodeFile, Destruction, Plan};
use super::prompt::{Password, SecretSource, ask_code};

const LIST: &[Column] = columns![
    "ID" "id" Text, "ADDRESS" "address" Text, "CUSTOMER" "customer" Text, "NAME" "name" Text, "ROLES" "roles" List,
    "BY" "made_by" Text, "ENDS" "expires_at" Time
];
const SHEET: &[Column] = columns![
    "Id" "id" Text, "Address" "address" Text, "Customer" "customer" Text, "Name" "name" Text, "Roles" "roles" List,
    "May pass on" "delegable" Truth, "Roles end" "roles_end_at" Time, "By" "made_by" Text, "Made" "created_at" Time,
    "Ends" "expires_at" Time
];
const MADE: &[Column] = columns![
    "Id" "id" Text, "Address" "address" Text, "Customer" "customer" Text, "Name" "name" Text, "Roles" "roles" List,
    "Code, shown only now" "secret" Text, "Code in" "saved_in" Text, "Ends" "expires_at" Time
];
const ACCEPTED: &[Column] = columns!["Name to log in with" "name" Text];

/// Invitations: one-time codes with which somebody becomes an administrator
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Invite somebody with an address in a verified domain of the customer; the code is printed once
    Create {
        /// The address
        address: String,
        /// Where the new administrator is at home
        #[arg(long, value_name = "PATH")]
        customer: String,
        /// What it will be called [default: the part before the @]
        #[arg(long)]
        name: Option<String>,
        /// A role that it gets there; several times for several [default: the setting administrator.default_roles]
        #[arg(long)]
        role: Vec<String>,
        /// It may pass the roles on
        #[arg(long)]
        delegable: bool,
        /// When the roles end: RFC 3339, or a time from now such as 30d
        #[arg(long, value_name = "TIME")]
        expires: Option<String>,
        #[command(flatten)]
        code_file: CodeFile,
        #[command(flatten)]
        change: Change,
    },
    /// List open invitations
    List {
        /// To this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Show an invitation
    Show {
        /// Its id, from `invite list`
        id: String,
    },
    /// Take an invitation back
    Revoke {
        /// Its id, from `invite list`
        id: String,
        #[command(flatten)]
        destruction: Destruction,
    },
    /// Accept an invitation: become an administrator with a password of your own
    Accept(Redeeming),
}

/// A one-time code, and the password that is set with it.
#[derive(Args, Debug)]
pub(super) struct Redeeming {
    /// Read the code from a file; otherwise it is asked for
    #[arg(long, value_name = "FILE")]
    code_file: Option<PathBuf>,
    #[command(flatten)]
    secret: SecretSource,
    #[command(flatten)]
    change: Change,
}

impl Redeeming {
    /// Reads both.
    pub(super) fn plan(
        self,
        operation: &'static str,
        done: &str,
        columns: &'static [Column],
    ) -> Result<Plan, Failure> {
        let code: SecretString = ask_code(self.code_file.as_deref())?;
        let password = self.secret.read("your login")?;
        if let Password::Hash(_) = password {
            return Err(Failure::usage("a new password is taken, and no hash of one"));
        }
        let call = with_password(Call::new(operation), &password);
        Ok(Plan::Redeem { code, call, change: self.change, done: done.to_owned(), columns })
    }
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Create { address, customer, name, role, delegable, expires, code_file, change } => {
                let call = Call::new("invitation.create").with("address", address.clone());
                let call = call.with("customer", customer).maybe("name", name);
                let call =
                    call.maybe("roles", (!role.is_empty()).then_some(role)).flag("delegable", delegable);
                let done =
                    format!("{address} is invited; hand the code over, by no mailbox that is hosted here");
                let (call, secret) = (call.maybe("expires_at", expires), code_file.into());
                Plan::Issue { call, change, done, columns: MADE, secret }
            }
            Self::List { customer } => {
                let call = Call::new("invitation.list").maybe("customer", customer);
                Plan::List { call, columns: LIST, nothing: "no open invitations" }
            }
            Self::Show { id } => {
                Plan::Show { call: Call::new("invitation.show").with("id", id), columns: SHEET }
            }
            Self::Revoke { id, destruction } => {
                let call = Call::new("invitation.revoke").with("id", id);
                let (question, done) =
                    ("Take the invitation back?".to_owned(), "the invitation is taken back".to_owned());
                Plan::Destroy { call, destruction, effects: SHEET, question, done }
            }
            Self::Accept(redeeming) => {
                redeeming.plan("invitation.accept", "welcome; log in with --login", ACCEPTED)?
            }
        })
    }
}
