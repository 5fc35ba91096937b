//! Settings, which customers, domains and mailboxes have alike.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::Failure;
use super::hold::Kind;
use super::output::{Column, Output, columns};
use super::plan::{Change, Plan};

const LIST: &[Column] = columns![
    "KEY" "key" Text, "VALUE" "value" Text, "UNIT" "unit" Text, "FROM" "from" Text, "SET HERE" "own" Text,
    "LOCKED" "locked" Text
];
const SHEET: &[Column] = columns![
    "Key" "key" Text, "Value" "value" Text, "Unit" "unit" Text, "From" "from" Text, "Set here" "own" Text,
    "Locked" "locked" Text, "Help" "help" Text
];

/// Settings: inherited from above unless set, and lockable
#[derive(Subcommand, Debug)]
pub(super) enum Settings {
    /// List all settings, what holds and where it comes from
    List {
        /// The path, domain or address
        name: String,
    },
    /// Show one setting
    Get {
        /// The path, domain or address
        name: String,
        /// The key
        key: String,
    },
    /// Set a value; it holds there and below
    Set {
        /// The path, domain or address
        name: String,
        /// The key
        key: String,
        /// The value
        value: String,
        #[command(flatten)]
        change: Change,
    },
    /// Take a value away; what is set above holds again
    Unset {
        /// The path, domain or address
        name: String,
        /// The key
        key: String,
        #[command(flatten)]
        change: Change,
    },
    /// Lock a setting: nothing that is set below counts any more
    Lock {
        /// The path, domain or address
        name: String,
        /// The key
        key: String,
        /// Set this value at the same time
        value: Option<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Unlock a setting: what is set below counts again
    Unlock {
        /// The path, domain or address
        name: String,
        /// The key
        key: String,
        #[command(flatten)]
        change: Change,
    },
}

/// The only setting of a list, as an object of its own.
fn show_one(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    for one in answer.get("items").and_then(Value::as_array).into_iter().flatten() {
        if output.is_json() { output.document(one)? } else { output.sheet(SHEET, one)? }
    }
    Ok(ExitCode::SUCCESS)
}

impl Settings {
    pub(super) fn plan(self, kind: Kind) -> Plan {
        let call = |operation, name: String, key: String| {
            Call::new(operation).with(kind.field(), name).with("key", key)
        };
        match self {
            Self::List { name } => Plan::List {
                call: Call::new("setting.list").with(kind.field(), name),
                columns: LIST,
                nothing: "no settings",
            },
            Self::Get { name, key } => Plan::Own { call: call("setting.list", name, key), show: show_one },
            Self::Set { name, key, value, change } => {
                let done = format!("{key} of {name} set");
                let call = call("setting.set", name, key).with("value", value);
                Plan::Change { call, change, done, columns: SHEET }
            }
            Self::Unset { name, key, change } => {
                let done = format!("{key} is no longer set for {name}");
                Plan::Change { call: call("setting.unset", name, key), change, done, columns: SHEET }
            }
            Self::Lock { name, key, value, change } => {
                let done = format!("{key} is locked for {name} and below");
                let call = call("setting.lock", name, key).maybe("value", value);
                Plan::Change { call, change, done, columns: SHEET }
            }
            Self::Unlock { name, key, change } => {
                let done = format!("{key} is no longer locked for {name}");
                Plan::Change { call: call("setting.unlock", name, key), change, done, columns: SHEET }
            }
        }
    }
}
