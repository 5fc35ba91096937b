//! `posthouse store …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::client::Call;
use super::failure::Failure;
use super::job::Follow;
use super::output::{Column, Output, columns};
use super::plan::{Change, Plan};

const STORES: &[Column] = columns![
    "NAME" "name" Text, "STATE" "state" Text, "MAILBOXES" "mailboxes" Count, "BODIES" "bodies" Count,
    "MAIL" "octets" Size, "STORED" "stored_octets" Size, "PACKS" "packs" Count, "PATH" "path" Text
];
const STORE: &[Column] = columns![
    "Name" "name" Text, "State" "state" Text, "Path" "path" Text,
    "Mailboxes" "mailboxes" Count, "Bodies" "bodies" Count, "Bodies not yet packed" "fresh_bodies" Count,
    "Bodies in packs" "packed_bodies" Count, "Mail" "octets" Size, "Stored as" "stored_octets" Size,
    "Saved" "saved_octets" Size, "Packs" "packs" Count, "Size of packs" "pack_octets" Size,
    "Of that dead" "dead_octets" Size, "On the volume" "local_octets" Size, "In object storage" "remote_octets" Size,
    "Created" "created_at" Time
];

/// Mail stores
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// List mail stores
    List,
    /// Move all bodies from the database into packs now, whatever their age
    Pack {
        #[command(flatten)]
        following: Follow,
    },
    /// Show one mail store
    Show {
        /// Its name
        name: String,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::List => Plan::List { call: Call::new("store.list"), columns: STORES, nothing: "no stores" },
            Self::Pack { following } => {
                Plan::Job { call: Call::new("store.pack"), change: Change { dry_run: false }, following }
            }
            Self::Show { name } => {
                Plan::Show { call: Call::new("store.show").with("name", name), columns: STORE }
            }
        }
    }
}

pub(super) fn show_packing(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        let columns: &[Column] =
            columns!["Packs" "packs" Count, "Bodies" "bodies" Count, "Size" "octets" Size];
        output.sheet(columns, answer)?;
    }
    Ok(ExitCode::SUCCESS)
}
