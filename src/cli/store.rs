//! `posthouse store …`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};

use super::client::{Call, Client};
use super::failure::Failure;
use super::job::Follow;
use super::output::{Column, Kind, Output, columns, member, note, show};
use super::plan::{Change, Plan, partly};
use super::prompt::KeySource;
use crate::base::store_settings::{Setting, named};

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
    "Trouble here" "trouble" Text, "Damaged packs" "damaged_packs" Count, "Created" "created_at" Time
];
const SET_UP: &[Column] = columns!["Name" "name" Text, "State" "state" Text, "Path" "path" Text];
const DAMAGE: &[Column] =
    columns!["PACK" "pack" Text, "COPY" "copy" Text, "BODY" "body" Text, "WHAT" "what" Text];

/// Mail stores
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// List mail stores
    List,
    /// Show one mail store
    Show {
        /// Its name
        name: String,
        /// Also try its folder and its object storage: something small is written, read and removed there
        #[arg(long)]
        probe: bool,
    },
    /// Make a mail store
    Create {
        /// Its name
        name: String,
        /// Its folder on the daemon's machine: absolute, or below the data directory
        #[arg(long)]
        path: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        change: Change,
    },
    /// Change settings of a mail store
    Set {
        /// Its name
        name: String,
        #[command(flatten)]
        settings: Settings,
        #[command(flatten)]
        change: Change,
    },
    /// Stop a mail store: its mail is deferred, its bodies are unavailable, its files are closed
    Stop {
        /// Its name
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Make a mail store read-only: its mail is deferred, nothing in its folder is changed
    ReadOnly {
        /// Its name
        name: String,
        #[command(flatten)]
        change: Change,
    },
    /// Start a mail store after its folder, packs and object storage were looked at
    Start {
        /// Its name
        name: String,
        /// Only to be read
        #[arg(long)]
        read_only: bool,
        /// Whatever is found: what is missing stays unavailable, and the folder is taken as it is
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        following: Follow,
    },
    /// Move all bodies from the database into packs now, whatever their age, and bring the catalogs up to date
    Pack {
        #[command(flatten)]
        following: Follow,
    },
    /// Move all mailboxes of a mail store elsewhere, so that it can be stopped
    Drain {
        /// Its name
        name: String,
        /// Where they go; default: where new mailboxes of their customers go
        #[arg(long, value_name = "STORE")]
        to: Option<String>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
    /// Bring the mail back when the database is lost: fill an empty database from catalogs and packs. The daemon must
    /// not run
    Rebuild {
        /// The daemon's configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only this mail store
        #[arg(long, value_name = "NAME")]
        store: Option<String>,
        /// Show what would come of it; keep nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Send all packs to object storage now, whatever their age, and remove the local copies
    Offload {
        /// The store's name
        name: String,
        #[command(flatten)]
        following: Follow,
    },
    /// Write packs anew now that hold anything dead or were written with older settings
    Compact {
        /// The store's name
        name: String,
        #[command(flatten)]
        following: Follow,
    },
    /// Read packs back, local and remote, and compare everything with its checksums
    Verify {
        /// The store's name
        name: String,
        /// Only so many percent of the packs, chosen at random
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u64).range(1..=100))]
        sample: Option<u64>,
        /// All packs, which is the default
        #[arg(long, conflicts_with = "sample")]
        all: bool,
        #[command(flatten)]
        following: Follow,
    },
}

/// Settings of a mail store.
#[derive(Args, Clone, Debug)]
pub(super) struct Settings {
    /// Settings; without a value, or with `default`, the default again. `store show` lists them all
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<String>,
    #[command(flatten)]
    keys: KeySource,
}

impl Settings {
    /// What is asked for, by name.
    fn read(&self) -> Result<Map<String, Value>, Failure> {
        let mut map = Map::new();
        for text in &self.settings {
            let (name, value) =
                text.split_once('=').ok_or_else(|| Failure::usage(format!("{text}: expected KEY=VALUE")))?;
            let is_place = ["", "default"].contains(&value)
                || value.starts_with("file:")
                || value.starts_with("credential:");
            if named(name).is_some_and(Setting::is_secret) && !is_place {
                let hint = "give it with --keys-stdin or --keys-file FILE, or say where it is with file:PATH";
                return Err(
                    Failure::usage(format!("{name} is a secret, which no argument may hold")).hint(hint)
                );
            }
            if map.insert(name.to_owned(), value.into()).is_some() {
                return Err(Failure::usage(format!("{name} is given twice")));
            }
        }
        if let Some((access, secret)) = self.keys.read()? {
            map.insert("offload.access_key".to_owned(), access.expose_secret().into());
            map.insert("offload.secret_key".to_owned(), secret.expose_secret().into());
        }
        Ok(map)
    }
}

fn job(operation: &'static str, name: String, following: Follow) -> Plan {
    let call = Call::new(operation).with("name", name);
    Plan::Job { call, change: Change { dry_run: false }, following }
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::List => Plan::List { call: Call::new("store.list"), columns: STORES, nothing: "no stores" },
            Self::Show { name, probe: false } => {
                Plan::Show { call: Call::new("store.show").with("name", name), columns: STORE }
            }
            Self::Show { name, probe: true } => {
                Plan::Own { call: Call::new("store.probe").with("name", name), show: show_and_probe }
            }
            Self::Create { name, path, settings, change } => {
                let done = format!("mail store {name} made");
                let call = Call::new("store.create").with("name", name).with("path", path);
                let call = call.with("settings", settings.read()?);
                Plan::Change { call, change, done, columns: SET_UP }
            }
            Self::Set { name, settings, change } => {
                let asked = settings.read()?;
                if asked.is_empty() {
                    return Err(Failure::usage("nothing to set: give KEY=VALUE"));
                }
                let done = format!("mail store {name} changed");
                let call = Call::new("store.set").with("name", name).with("settings", asked);
                Plan::Change { call, change, done, columns: SET_UP }
            }
            Self::Stop { name, change } => {
                let done = format!("mail store {name} stopped");
                Plan::Change {
                    call: Call::new("store.stop").with("name", name),
                    change,
                    done,
                    columns: SET_UP,
                }
            }
            Self::ReadOnly { name, change } => {
                let done = format!("mail store {name} is read-only");
                let call = Call::new("store.read-only").with("name", name);
                Plan::Change { call, change, done, columns: SET_UP }
            }
            Self::Start { name, read_only, force, following } => {
                let call = Call::new("store.start").with("name", name);
                let call = call.flag("read_only", read_only).flag("force", force);
                Plan::Job { call, change: Change { dry_run: false }, following }
            }
            Self::Pack { following } => {
                Plan::Job { call: Call::new("store.pack"), change: Change { dry_run: false }, following }
            }
            Self::Drain { name, to, change, following } => {
                let call = Call::new("store.drain").with("name", name).maybe("to", to);
                Plan::Job { call, change, following }
            }
            Self::Offload { name, following } => job("store.offload", name, following),
            Self::Compact { name, following } => job("store.compact", name, following),
            Self::Verify { name, sample, all: _, following } => {
                let call = Call::new("store.verify").with("name", name).maybe("sample_percent", sample);
                Plan::Job { call, change: Change { dry_run: false }, following }
            }
            Self::Rebuild { .. } => return Err(Failure::usage("this command asks nothing of the daemon")),
        })
    }
}

fn show_and_probe(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let name = call.fields.get("name").cloned().unwrap_or_default();
    let store = client.run(&Call::new("store.show").with("name", name), false)?;
    if output.is_json() {
        output.document(&store)?
    } else {
        output.sheet(STORE, &store)?
    }
    super::job::start(client, output, call, Change { dry_run: false }, Follow { detach: false })
}

/// What is wrong is told by the exit code too.
pub(super) fn show_started(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        let columns: &[Column] = columns!["State" "state" Text, "Packs found" "packs" Count];
        output.sheet(columns, answer)?;
    }
    let problems = answer.get("problems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for problem in problems {
        note(show(Kind::Text, Some(problem)));
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { partly() })
}

pub(super) fn show_offloaded(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        let columns: &[Column] = columns![
            "Packs sent" "uploaded" Count, "Size" "uploaded_octets" Size, "Local copies removed" "removed" Count,
            "Space freed" "removed_octets" Size, "Packs written anew" "rewritten" Count,
            "Their size" "rewritten_octets" Size, "What they became" "became_octets" Size,
            "Damaged bodies" "damaged" Count
        ];
        output.sheet(columns, answer)?;
    }
    let is_damaged = answer.get("damaged").and_then(Value::as_u64).is_some_and(|damaged| damaged > 0);
    Ok(if is_damaged { partly() } else { ExitCode::SUCCESS })
}

/// Damage is told by the exit code too.
pub(super) fn show_verified(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let damaged = answer.get("damaged").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if output.is_json() {
        output.document(answer)?;
    } else {
        let columns: &[Column] = columns![
            "Copies of packs read" "packs" Count, "Bodies" "bodies" Count, "Size" "octets" Size,
            "Damaged" "damage" Count
        ];
        output.sheet(columns, answer)?;
        if !damaged.is_empty() {
            output.table(DAMAGE, damaged)?;
        }
    }
    let found = answer.get("damage").and_then(Value::as_u64).unwrap_or_default();
    Ok(if found == 0 { ExitCode::SUCCESS } else { partly() })
}

/// What does not work is told by the exit code too.
pub(super) fn show_probed(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        let columns: &[Column] = columns![
            "Folder" "folder" Text, "Free there" "free_octets" Size, "Object storage" "remote" Text,
            "Answered after ms" "remote_millis" Count
        ];
        output.sheet(columns, answer)?;
    }
    let works = answer.get("works").and_then(Value::as_bool).unwrap_or_default();
    Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What is left is told by the exit code too.
pub(super) fn show_drained(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    if output.is_json() {
        output.document(answer)?;
    } else {
        let columns: &[Column] = columns![
            "Mailboxes" "mailboxes" Count, "Messages" "messages" Count, "Mail" "octets" Size,
            "Bodies left" "left" Count
        ];
        output.sheet(columns, answer)?;
    }
    let is_empty = member(answer, "left").and_then(Value::as_u64) == Some(0);
    Ok(if is_empty { ExitCode::SUCCESS } else { partly() })
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
