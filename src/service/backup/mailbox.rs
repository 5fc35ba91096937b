//! Bringing back a mailbox, or one folder of it, as of the time of a backup, next to what is there.
//!
//! What comes back goes into the mailbox that it was in, known by its id: not into another that has the address by now,
//! and nothing of a mailbox that was purged for good. So it shows nobody anything that was not theirs, and needs what
//! bringing back expunged messages needs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId};
use crate::service::authority::Permission;
use crate::service::directory::scope::moment;
use crate::service::directory::targets::{OneMailbox, absent};
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue};
use crate::service::mailstore::intake::Intake;
use crate::service::mailstore::revived::{self, OldFolder, Slice};
use crate::service::mailstore::types::FolderName;
use crate::service::mailstore::undelete::Back;
use crate::service::registry::{Operate, Targeted as _, Tx, declare};
use crate::storage::backup::{self, Opened, Source, Target};
use crate::storage::metadata::backup as rows;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::restore;

/// What comes back, and where.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MailboxRestoreRequest {
    /// Address of the mailbox.
    address: String,
    /// As of this time, RFC 3339 or relative such as `2d`: the newest backup that is not younger. Default: the newest.
    at: Option<String>,
    /// This backup.
    backup: Option<String>,
    /// Only the folder that had this name then.
    folder: Option<String>,
    /// The folder for it, or above what comes back; default: `Restored` and the day of the backup.
    into: Option<String>,
}

/// What the job is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::service) struct RevivingRequest {
    mailbox: i64,
    /// Its public id, by which the backup knows it.
    public_id: String,
    backup: String,
    folder: Option<String>,
    into: Option<String>,
}

/// A folder's name as it is stored.
fn folder_name(field: &'static str, text: &str) -> Result<FolderName> {
    FolderName::parse(text).map_err(|error| ServiceError::Invalid { field, message: error.to_string() })
}

/// `mailbox.restore`.
pub(in crate::service) struct MailboxRestore;

impl Operate for MailboxRestore {
    declare! { "mailbox.restore", Post, "/v1/mailboxes/{address}/restore", MailboxDelete, changes,
    "Bring a mailbox or a folder of it back from a backup, next to what is there, under new UIDs" }
    const STARTS_JOB: bool = true;
    type Request = MailboxRestoreRequest;
    type Response = Job;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxRestoreRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneMailbox, request: MailboxRestoreRequest) -> Result<Job> {
        let folder = request.folder.as_deref().map(|text| folder_name("folder", text)).transpose()?;
        let into = request.into.as_deref().map(|text| folder_name("into", text)).transpose()?;
        let at = moment("at", request.at.as_deref(), tx.now)?.unwrap_or(tx.now);
        let place = tx.inner.backup_target(None)?.place();
        let found = rows::list(tx.conn, Some(&place)).await?.into_iter().find(|row| match &request.backup {
            Some(id) => row.public_id == *id,
            None => row.at <= at,
        });
        let found = found.ok_or_else(|| match &request.backup {
            Some(id) => absent("backup", id),
            None => absent("a backup of", &at.to_string()),
        })?;
        let asked = RevivingRequest {
            mailbox: target.0.id.0,
            public_id: target.0.public_id.clone(),
            backup: found.public_id,
            folder: folder.map(|name| name.as_str().to_owned()),
            into: into.map(|name| name.as_str().to_owned()),
        };
        enqueue::<Reviving>(tx, target.customer(), &target.label(), &asked).await
    }
}

/// How far the work is, and what came back.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Position {
    /// Key, in the backup, of the folder that is being read; those before are done.
    folder: i64,
    /// The next UID in it.
    uid: u32,
    messages: u64,
    octets: u64,
    unreadable: u64,
}

/// What came back.
#[derive(Serialize)]
pub(in crate::service) struct ReviveReport {
    /// The backup.
    backup: String,
    /// As of when.
    at: Timestamp,
    /// The folder for it, or above it.
    into: String,
    /// Folders.
    folders: u64,
    /// Messages.
    messages: u64,
    /// Their octets.
    octets: u64,
    /// Messages that are damaged or missing in the backup.
    unreadable: u64,
}

/// The work of `mailbox.restore`. Every slice of messages is stored with the position behind it.
pub(in crate::service) struct Reviving;

impl Work for Reviving {
    const KIND: &'static str = MailboxRestore::NAME;
    const PERMISSION: Permission = MailboxRestore::PERMISSION;
    const BOUND: bool = true;
    type Request = RevivingRequest;
    type Report = ReviveReport;

    async fn run(context: JobContext, request: RevivingRequest, position: String) -> Outcome<ReviveReport> {
        let (source, target): (Source, Target) =
            (context.backup_source()?, context.inner.backup_target(None)?);
        let opened = backup::open(&source, &target, &request.backup).await?;
        let outcome = Revival::new(&context, &opened, &request, &position).run().await;
        opened.close().await;
        source.finish().await;
        outcome
    }
}

struct Revival<'a> {
    context: &'a JobContext,
    opened: &'a Opened,
    request: &'a RevivingRequest,
    intake: Intake,
    back: Back,
    position: Position,
}

impl<'a> Revival<'a> {
    fn new(
        context: &'a JobContext,
        opened: &'a Opened,
        request: &'a RevivingRequest,
        position: &str,
    ) -> Self {
        // The intake of a running daemon always has its bodies; without them nothing would have been opened.
        let bodies = context.inner.bodies.get().unwrap_or(&opened.bodies).clone();
        let (mailbox, customer, at) = (MailboxId(request.mailbox), context.customer, context.now());
        Self {
            context,
            opened,
            request,
            intake: Intake::new(bodies),
            back: Back { mailbox, customer, into: None, at },
            position: serde_json::from_str(position).unwrap_or_default(),
        }
    }

    async fn run(mut self) -> Outcome<ReviveReport> {
        let day = self.opened.manifest.at.to_string().chars().take(10).collect::<String>();
        let base = self.request.into.clone().unwrap_or_else(|| format!("Restored {day}"));
        let public_id = self.request.public_id.clone();
        let find = self.opened.database.read(|conn| {
            Box::pin(async move { Ok::<_, ServiceError>(restore::mailbox(conn, &public_id).await?) })
        });
        let absent_then =
            || ServiceError::NotFound { what: "the mailbox, at the time of the backup,".to_owned() };
        let old: MailboxId = find.await?.ok_or_else(absent_then)?;
        let only = self.request.folder.as_deref().map(|name| folder_name("folder", name)).transpose()?;
        let folders = revived::old_folders(&self.opened.database, old, only.as_ref()).await?;
        if let (Some(only), true) = (&only, folders.is_empty()) {
            return Err(absent("at the time of the backup, folder", only.as_str()).into());
        }
        let is_named = only.is_some() && self.request.into.is_some();
        let begun = FolderId(self.position.folder);
        for folder in folders.iter().filter(|folder| folder.id >= begun) {
            let name = if is_named { base.clone() } else { format!("{base}/{}", folder.name) };
            // What would be too long or too deep below the base goes into the base itself.
            let into = FolderName::parse(&name).or_else(|_| FolderName::parse(&base));
            let into = into.map_err(|error| ServiceError::Internal(format!("folder {base:?}: {error}")))?;
            self.folder(old, folder, &into).await?;
        }
        let Position { messages, octets, unreadable, .. } = self.position;
        let (backup, at) = (self.request.backup.clone(), self.opened.manifest.at);
        let folders = folders.len() as u64;
        Ok(ReviveReport { backup, at, into: base, folders, messages, octets, unreadable })
    }

    async fn folder(&mut self, old: MailboxId, folder: &OldFolder, into: &FolderName) -> Outcome<()> {
        if self.position.folder != folder.id.0 {
            (self.position.folder, self.position.uid) = (folder.id.0, 0);
            let (back, name) = (self.back.clone(), into.clone());
            let write = self.context.inner.database.write(Priority::Bulk, move |conn| {
                let (back, name) = (back.clone(), name.clone());
                Box::pin(async move { revived::folder_ensure(conn, &back, &name).await })
            });
            write.await?;
        }
        loop {
            self.context.go_on()?;
            let (database, bodies) = (&self.opened.database, &self.opened.bodies);
            let from = self.position.uid;
            let read = Slice::read((database, bodies), (old, folder), from, &self.back, &self.intake).await?;
            let Some(slice) = read else { return Ok(()) };
            let slice = Arc::new(slice);
            let behind = Position {
                folder: folder.id.0,
                uid: slice.next_uid,
                messages: self.position.messages + slice.messages(),
                octets: self.position.octets.saturating_add(slice.octets()),
                unreadable: self.position.unreadable + slice.unreadable,
            };
            let stored = self.store(&slice, into, behind).await;
            slice.settle(&self.intake).await;
            stored?;
            self.position = behind;
            self.context.advance(behind.messages, None, "messages");
        }
    }

    /// Stores a slice, and with it the position behind it.
    async fn store(&self, slice: &Arc<Slice>, into: &FolderName, behind: Position) -> Result<()> {
        let position =
            serde_json::to_string(&behind).map_err(|error| ServiceError::Internal(error.to_string()))?;
        let (own, slice, back, into) =
            (self.context.clone(), Arc::clone(slice), self.back.clone(), into.clone());
        let write = self.context.inner.database.write(Priority::Bulk, move |conn| {
            let (own, slice, back) = (own.clone(), Arc::clone(&slice), back.clone());
            let (into, position) = (into.clone(), position.clone());
            Box::pin(async move {
                slice.append(conn, &back, &into).await?;
                own.save_position_in(conn, &position).await
            })
        });
        write.await
    }
}
