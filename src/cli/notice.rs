//! `posthouse notice …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::{Column, Output, columns, member};
use super::plan::Plan;

const LIST: &[Column] = columns![
    "ID" "id" Text, "AT" "at" Time, "KIND" "kind" Text, "FOR" "to" Text, "SUBJECT" "subject" Text, "READ" "read_at" Time
];
const SHEET: &[Column] =
    columns!["At" "at" Time, "Kind" "kind" Text, "For" "to" Text, "Subject" "subject" Text];

/// Notices
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// List notices, the newest first
    List {
        /// Those for this customer and those below; default: those for you
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Only what you have not read
        #[arg(long, conflicts_with = "customer")]
        unread: bool,
    },
    /// Show a notice for you and mark it as read
    Read {
        /// Its id, from `notice list`
        id: String,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::List { customer, unread } => {
                let call = Call::new("notice.list").maybe("customer", customer).flag("unread", unread);
                Plan::List { call, columns: LIST, nothing: "no notices" }
            }
            Self::Read { id } => Plan::Own { call: Call::new("notice.read").with("id", id), show },
        }
    }
}

fn show(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let notice = client.run(call, false)?;
    if output.is_json() {
        output.document(&notice)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(SHEET, &notice)?;
    output.line("")?;
    for line in member(&notice, "text").and_then(Value::as_str).unwrap_or_default().lines() {
        output.line(&super::output::clean(line))?;
    }
    Ok(ExitCode::SUCCESS)
}
