//! `posthouse zone …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::administrator::HOLDINGS;
use super::client::{Call, Client};
use super::failure::Failure;
use super::output::{Column, Output, columns};
use super::plan::{Change, Destruction, Plan};

const LIST: &[Column] = columns!["NAME" "name" Text, "MAIL STORES" "stores" List, "SERVERS" "servers" List];
const SHEET: &[Column] = columns![
    "Zone" "name" Text, "Mail stores" "stores" List, "Servers" "servers" List, "Created" "created_at" Time
];

/// Zones: mail stores and servers over which rights can be granted by themselves
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Make a zone
    Create {
        /// Its name
        name: String,
        /// Mail stores in it
        #[arg(long, value_name = "STORE,…", value_delimiter = ',')]
        store: Vec<String>,
        /// Servers in it
        #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
        server: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// List zones with their mail stores and servers
    List,
    /// Show a zone, and who holds what in it
    Show {
        /// The zone
        name: String,
    },
    /// Change what is in a zone; counts at once for those who hold roles in it
    Update {
        /// The zone
        name: String,
        /// Mail stores that it has from now on
        #[arg(long, value_name = "STORE,…", value_delimiter = ',')]
        add_store: Vec<String>,
        /// Mail stores that it has no more
        #[arg(long, value_name = "STORE,…", value_delimiter = ',')]
        remove_store: Vec<String>,
        /// Servers that it has from now on
        #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
        add_server: Vec<String>,
        /// Servers that it has no more
        #[arg(long, value_name = "NODE,…", value_delimiter = ',')]
        remove_server: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// Delete a zone; roles granted in it end, its mail stores and servers stay
    Delete {
        /// The zone
        name: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        let of = |operation, name: &str| Call::new(operation).with("name", name);
        let with = |call: Call, field: &'static str, names: Vec<String>| match names.is_empty() {
            true => call,
            false => call.with(field, names),
        };
        match self {
            Self::Create { name, store, server, change } => {
                let call = with(of("zone.create", &name), "stores", store);
                let call = with(call, "servers", server);
                Plan::Change { call, change, done: format!("zone {name} created"), columns: SHEET }
            }
            Self::List => {
                let nothing = "no zones; create one with posthouse zone create";
                Plan::List { call: Call::new("zone.list"), columns: LIST, nothing }
            }
            Self::Show { name } => Plan::Own { call: of("zone.show", &name), show: show_zone },
            Self::Update { name, add_store, remove_store, add_server, remove_server, change } => {
                let call = with(of("zone.update", &name), "add_stores", add_store);
                let call = with(call, "remove_stores", remove_store);
                let call = with(call, "add_servers", add_server);
                let call = with(call, "remove_servers", remove_server);
                Plan::Change { call, change, done: format!("zone {name} changed"), columns: SHEET }
            }
            Self::Delete { name, destruction } => {
                let question = format!("Delete the zone {name} with the roles granted in it?");
                let done = format!("zone {name} deleted");
                Plan::Destroy { call: of("zone.delete", &name), destruction, effects: SHEET, question, done }
            }
        }
    }
}

/// A zone, and below it the grants.
fn show_zone(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    if output.is_json() {
        output.document(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(SHEET, &answer)?;
    if let Some(grants) = answer.get("grants").and_then(Value::as_array).filter(|grants| !grants.is_empty()) {
        output.line("")?;
        output.table(HOLDINGS, grants)?;
    }
    Ok(ExitCode::SUCCESS)
}
