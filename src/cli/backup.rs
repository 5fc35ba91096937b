//! `posthouse backup …` and `posthouse restore …`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Call;
use super::failure::Failure;
use super::job::Follow;
use super::output::{Column, Kind, Output, columns, member, note, show};
use super::plan::{Change, Destruction, Plan, partly};
use super::prompt::consent;

const LIST: &[Column] = columns![
    "ID" "id" Text, "AS OF" "at" Time, "STATE" "state" Text, "PACKS" "packs" Count, "SIZE" "octets" Size,
    "NEW" "new_octets" Size, "MAILBOXES" "mailboxes" Count, "MESSAGES" "messages" Count, "VERIFIED" "verified_at" Time,
    "TESTED" "tested_at" Time, "TARGET" "target" Text
];
const SHEET: &[Column] = columns![
    "Id" "id" Text, "Target" "target" Text, "As of" "at" Time, "State" "state" Text, "Taken by version" "version" Text,
    "Packs" "packs" Count, "Size" "octets" Size, "Of that new" "new_octets" Size, "Mailboxes" "mailboxes" Count,
    "Messages" "messages" Count, "Mail" "message_octets" Size, "Packs missing" "missing" Count,
    "Verified" "verified_at" Time, "Found" "verified" Text, "Tested" "tested_at" Time, "Test found" "tested" Text
];

/// Where backups are.
#[derive(Args, Debug)]
pub(super) struct Place {
    /// A directory, on the daemon's machine [default: the place in section [backup] of the configuration]
    dir: Option<PathBuf>,
}

impl Place {
    /// The call with the directory, as the daemon must know it: it has a working directory of its own.
    fn add_to(self, call: Call) -> Result<Call, Failure> {
        let Some(dir) = self.dir else { return Ok(call) };
        let path = std::path::absolute(&dir);
        let path = path.map_err(|error| Failure::usage(format!("{}: {error}", dir.display())))?;
        let path = path.to_str().ok_or_else(|| Failure::usage("the directory's name is no UTF-8"))?;
        Ok(call.with("dir", path))
    }
}

/// Backups of everything
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Take a backup while the daemon serves; what the target has already is not copied again
    Create {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
    /// List backups, the newest first
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show one backup, and what checks and trials of it found
    Show {
        /// Its id
        id: String,
    },
    /// Compare every file of a backup with its manifest
    Verify {
        #[command(flatten)]
        place: Place,
        /// Its id [default: the newest]
        #[arg(long)]
        id: Option<String>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
    /// Remove the backups that need not be kept any more (keep_… in the configuration)
    Prune {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        destruction: Destruction,
        #[command(flatten)]
        following: Follow,
    },
    /// Try a backup out: restore it into a scratch folder, count what is in it, and read bodies
    Test {
        #[command(flatten)]
        place: Place,
        /// Its id [default: the newest]
        #[arg(long)]
        id: Option<String>,
        /// Bodies that are read, spread over all; 0: every one [default: test_bodies of the configuration]
        #[arg(long, value_name = "N")]
        bodies: Option<u32>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Create { place, change, following } => {
                Plan::Job { call: place.add_to(Call::new("backup.create"))?, change, following }
            }
            Self::List { place } => {
                let call = place.add_to(Call::new("backup.list"))?;
                Plan::List { call, columns: LIST, nothing: "no backups" }
            }
            Self::Show { id } => Plan::Show { call: Call::new("backup.show").with("id", id), columns: SHEET },
            Self::Verify { place, id, change, following } => {
                let call = place.add_to(Call::new("backup.verify").maybe("id", id))?;
                Plan::Job { call, change, following }
            }
            Self::Prune { place, destruction, following } => {
                if !destruction.yes && !destruction.dry_run {
                    consent("Remove the backups that need not be kept any more?", false)?;
                }
                let change = Change { dry_run: destruction.dry_run };
                Plan::Job { call: place.add_to(Call::new("backup.prune"))?, change, following }
            }
            Self::Test { place, id, bodies, change, following } => {
                let call = Call::new("backup.test").maybe("id", id).maybe("bodies", bodies);
                Plan::Job { call: place.add_to(call)?, change, following }
            }
        })
    }
}

/// Bring everything back into an empty data directory, or a mailbox into the running daemon
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Restore {
    #[command(subcommand)]
    pub command: Option<RestoreCommand>,
    /// The configuration file of the installation that is to have everything; its daemon must not run
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// The directory with the backups [default: the place in section [backup] of the configuration]
    #[arg(long, value_name = "DIR")]
    pub from: Option<PathBuf>,
    /// As of this time, RFC 3339 or relative such as 2d: the newest backup that is not younger [default: the newest]
    #[arg(long, value_name = "TIME", conflicts_with = "backup")]
    pub at: Option<String>,
    /// This backup
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
}

/// Parts of a backup, into the running daemon
#[derive(Subcommand, Debug)]
pub(super) enum RestoreCommand {
    /// Bring a mailbox or a folder of it back, next to what is there, under new UIDs
    Mailbox {
        /// Its address
        address: String,
        /// As of this time, RFC 3339 or relative such as 2d: the newest backup not younger [default: the newest]
        #[arg(long, value_name = "TIME", conflicts_with = "backup")]
        at: Option<String>,
        /// This backup
        #[arg(long, value_name = "ID")]
        backup: Option<String>,
        /// Only the folder that had this name then
        #[arg(long)]
        folder: Option<String>,
        /// The folder for it, or above what comes back [default: Restored and the day of the backup]
        #[arg(long, value_name = "FOLDER")]
        into: Option<String>,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
}

impl RestoreCommand {
    pub(super) fn plan(self) -> Plan {
        let Self::Mailbox { address, at, backup, folder, into, change, following } = self;
        let call =
            Call::new("mailbox.restore").with("address", address).maybe("at", at).maybe("backup", backup);
        let call = call.maybe("folder", folder).maybe("into", into);
        Plan::Job { call, change, following }
    }
}

/// The texts of a list in a report.
fn texts(answer: &Value, name: &str) -> Vec<String> {
    let list = answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().map(|value| show(Kind::Text, Some(value))).collect()
}

fn sheet(output: &Output, columns: &[Column], answer: &Value) -> Result<(), Failure> {
    if output.is_json() { output.document(answer) } else { output.sheet(columns, answer) }
}

/// What is wrong is told by the exit code too.
fn conclude(wrong: &[String]) -> ExitCode {
    wrong.iter().for_each(note);
    if wrong.is_empty() { ExitCode::SUCCESS } else { partly() }
}

pub(super) fn show_created(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let columns: &[Column] = columns![
        "Id" "id" Text, "Target" "target" Text, "As of" "at" Time, "Packs" "packs" Count, "Size" "octets" Size,
        "Packs copied" "new_packs" Count, "Size copied" "new_octets" Size, "Removed" "pruned" List
    ];
    sheet(output, columns, answer)?;
    let missing = texts(answer, "missing");
    let mut wrong: Vec<String> = missing
        .iter()
        .map(|pack| format!("not in the backup, since it cannot be read: pack {pack}"))
        .collect();
    wrong.extend(
        texts(answer, "damaged").iter().map(|pack| format!("damaged, in the backup as it is: pack {pack}")),
    );
    Ok(conclude(&wrong))
}

pub(super) fn show_checked(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let columns: &[Column] = columns![
        "Id" "id" Text, "Target" "target" Text, "As of" "at" Time, "Files" "files" Count, "Size" "octets" Size
    ];
    sheet(output, columns, answer)?;
    let damaged = texts(answer, "damaged");
    Ok(conclude(&damaged.iter().map(|file| format!("damaged or missing: {file}")).collect::<Vec<_>>()))
}

pub(super) fn show_tried(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let columns: &[Column] = columns![
        "Id" "id" Text, "Target" "target" Text, "Mailboxes" "mailboxes" Count, "Messages" "messages" Count,
        "Mail" "message_octets" Size, "Bodies read" "bodies" Count, "Their size" "octets" Size
    ];
    sheet(output, columns, answer)?;
    Ok(conclude(&texts(answer, "wrong")))
}

pub(super) fn show_pruned(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let columns: &[Column] = columns![
        "Target" "target" Text, "Removed" "pruned" List, "Packs" "packs" Count, "Size" "octets" Size,
        "Stay while they are read" "in_use" List
    ];
    sheet(output, columns, answer)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show_revived(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let columns: &[Column] = columns![
        "Backup" "backup" Text, "As of" "at" Time, "Into" "into" Text, "Folders" "folders" Count,
        "Messages" "messages" Count, "Mail" "octets" Size
    ];
    sheet(output, columns, answer)?;
    let unreadable = member(answer, "unreadable").and_then(Value::as_u64).unwrap_or(0);
    let told =
        (unreadable > 0).then(|| format!("{unreadable} messages are damaged or missing in the backup"));
    Ok(conclude(told.as_slice()))
}
