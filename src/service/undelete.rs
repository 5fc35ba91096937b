//! What was deleted inside a mailbox: expunged messages and deleted folders, listed and brought back.
//!
//! Bringing back is a job of slices; each charges the quota, so a full mailbox ends it with what fitted in place.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId};
use crate::service::authority::Permission;
use crate::service::directory::page::{Cursors, Page, limit};
use crate::service::directory::scope::moment;
use crate::service::directory::targets::{OneMailbox, absent};
use crate::service::error::{Result, ServiceError};
use crate::service::jobs::{Job, JobContext, Outcome, Work, enqueue};
use crate::service::mailstore::types::FolderName;
use crate::service::mailstore::undelete::{self, Back, CameBack};
use crate::service::registry::{Operate, Targeted as _, Tx, declare};
use crate::storage::metadata::deleted_folder;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::tombstone::{self, TombstoneRow, Wanted};

/// Most UIDs in one request.
const UIDS_MAX: usize = 1_000;

/// Which messages to list.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MessageDeletedRequest {
    /// Address of the mailbox.
    address: String,
    /// Only of the folder with this name, and of those that had it when they were deleted.
    folder: Option<String>,
    /// Not expunged before this time: RFC 3339, or relative such as `2d`.
    since: Option<String>,
    /// Not expunged after this time.
    until: Option<String>,
    /// Most messages, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// An expunged message that can come back. What it says is content, which is its owner's alone.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DeletedMessage {
    /// The folder in which it was; absent when its name is not known any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    folder: Option<String>,
    /// Whether that folder is deleted too.
    folder_deleted: bool,
    /// Its UID there.
    uid: u32,
    /// Octets.
    size: i64,
    /// When it was received (INTERNALDATE).
    #[schema(value_type = String)]
    date: Timestamp,
    #[schema(value_type = String)]
    expunged_at: Timestamp,
}

fn shown(row: TombstoneRow) -> DeletedMessage {
    DeletedMessage {
        folder: row.folder_name,
        folder_deleted: !row.folder_exists,
        uid: row.message.uid,
        size: row.message.octets,
        date: Timestamp(row.message.internal_date),
        expunged_at: row.expunged_at,
    }
}

/// A folder's name as it is stored.
fn folder_name(field: &'static str, text: &str) -> Result<FolderName> {
    FolderName::parse(text).map_err(|error| ServiceError::Invalid { field, message: error.to_string() })
}

/// Keys of the folders meant by a name.
async fn folders(tx: &mut Tx<'_>, mailbox: MailboxId, folder: Option<&str>) -> Result<Option<Vec<i64>>> {
    let Some(text) = folder else { return Ok(None) };
    let name = folder_name("folder", text)?;
    match deleted_folder::all_named(tx.conn, mailbox, name.as_str()).await? {
        keys if keys.is_empty() => Err(absent("folder", name.as_str())),
        keys => Ok(Some(keys)),
    }
}

/// `message.deleted`.
pub(in crate::service) struct MessageDeleted;

impl Operate for MessageDeleted {
    declare! { "message.deleted", Get, "/v1/mailboxes/{address}/deleted", MailboxRead, reads,
    "List expunged messages that can come back, by folder and time of expunging" }
    type Request = MessageDeletedRequest;
    type Response = Page<DeletedMessage>;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MessageDeletedRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(
        tx: &mut Tx<'_>,
        OneMailbox(row): OneMailbox,
        request: MessageDeletedRequest,
    ) -> Result<Page<DeletedMessage>> {
        let limit = limit(request.limit)?;
        let filter = MessageDeletedRequest { limit: None, cursor: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after = cursors.read(request.cursor.as_deref())?;
        let wanted = Wanted {
            folders: folders(tx, row.id, request.folder.as_deref()).await?,
            since: moment("since", request.since.as_deref(), tx.now)?.unwrap_or(Timestamp(0)),
            until: moment("until", request.until.as_deref(), tx.now)?.unwrap_or(tx.now),
            uids: None,
        };
        let rows = tombstone::page(tx.conn, row.id, &wanted, after, limit + 1).await?;
        Page::cut(rows, limit, &cursors, |row| (row.folder.0, row.id), shown)
    }
}

/// Which messages to bring back; without anything all of the mailbox.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct MessageUndeleteRequest {
    /// Address of the mailbox.
    address: String,
    /// Only of the folder with this name, and of those that had it when they were deleted.
    folder: Option<String>,
    /// Only with these UIDs, at most 1,000.
    uids: Option<Vec<u32>>,
    /// Not expunged before this time: RFC 3339, or relative such as `2d`.
    since: Option<String>,
    /// Not expunged after this time; default: now.
    until: Option<String>,
    /// The folder for all of them, made if it is not there; default: each where it was.
    into: Option<String>,
}

/// What the job is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::service) struct UndeletingRequest {
    mailbox: i64,
    /// Only of these folders.
    folders: Option<Vec<i64>>,
    uids: Option<Vec<u32>>,
    since_us: i64,
    until_us: i64,
    into: Option<String>,
    /// The one folder that comes back as such.
    folder: Option<i64>,
}

/// `message.undelete`.
pub(in crate::service) struct MessageUndelete;

impl Operate for MessageUndelete {
    declare! { "message.undelete", Post, "/v1/mailboxes/{address}/deleted/undelete", MailboxDelete, changes,
    "Bring expunged messages of a mailbox back, under new UIDs" }
    const STARTS_JOB: bool = true;
    type Request = MessageUndeleteRequest;
    type Response = Job;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MessageUndeleteRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneMailbox, request: MessageUndeleteRequest) -> Result<Job> {
        if request.uids.as_ref().is_some_and(|uids| uids.len() > UIDS_MAX) {
            let message = format!("expected at most {UIDS_MAX}");
            return Err(ServiceError::Invalid { field: "uids", message });
        }
        let mailbox = target.0.id;
        let into = request.into.as_deref().map(|text| folder_name("into", text)).transpose()?;
        let asked = UndeletingRequest {
            mailbox: mailbox.0,
            folders: folders(tx, mailbox, request.folder.as_deref()).await?,
            uids: request.uids,
            since_us: moment("since", request.since.as_deref(), tx.now)?.map_or(0, |since| since.0),
            until_us: moment("until", request.until.as_deref(), tx.now)?.unwrap_or(tx.now).0,
            into: into.map(|name| name.as_str().to_owned()),
            folder: None,
        };
        enqueue::<Messages>(tx, target.customer(), &target.label(), &asked).await
    }
}

/// Which folder to bring back.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct FolderUndeleteRequest {
    /// Address of the mailbox.
    address: String,
    /// Name of the folder when it was deleted; of several the one that was deleted last.
    name: String,
    /// Another name for it.
    into: Option<String>,
}

/// `folder.undelete`.
pub(in crate::service) struct FolderUndelete;

impl Operate for FolderUndelete {
    declare! { "folder.undelete", Post, "/v1/mailboxes/{address}/folders/undelete", MailboxDelete, changes,
    "Bring a deleted folder back with its messages, under a new UIDVALIDITY" }
    const STARTS_JOB: bool = true;
    type Request = FolderUndeleteRequest;
    type Response = Job;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a FolderUndeleteRequest) -> Result<OneMailbox> {
        OneMailbox::find(tx, &request.address).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneMailbox, request: FolderUndeleteRequest) -> Result<Job> {
        let mailbox = target.0.id;
        let name = folder_name("name", &request.name)?;
        let into = request.into.as_deref().map(|text| folder_name("into", text)).transpose()?;
        let found = deleted_folder::find(tx.conn, mailbox, name.as_str()).await?;
        let found = found.ok_or_else(|| absent("deleted folder", name.as_str()))?;
        let asked = UndeletingRequest {
            mailbox: mailbox.0,
            folders: Some(vec![found.id.0]),
            uids: None,
            since_us: 0,
            until_us: tx.now.0,
            into: into.map(|name| name.as_str().to_owned()),
            folder: Some(found.id.0),
        };
        enqueue::<Folder>(tx, target.customer(), &target.label(), &asked).await
    }
}

/// What came back.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(in crate::service) struct Undeleted {
    /// Messages.
    messages: u64,
    /// Their octets.
    octets: u64,
}

/// The work of `message.undelete`.
pub(in crate::service) struct Messages;

impl Work for Messages {
    const KIND: &'static str = MessageUndelete::NAME;
    const PERMISSION: Permission = MessageUndelete::PERMISSION;
    type Request = UndeletingRequest;
    type Report = Undeleted;

    async fn run(context: JobContext, request: UndeletingRequest, position: String) -> Outcome<Undeleted> {
        bring_back(&context, request, &position).await
    }
}

/// The work of `folder.undelete`.
pub(in crate::service) struct Folder;

impl Work for Folder {
    const KIND: &'static str = FolderUndelete::NAME;
    const PERMISSION: Permission = FolderUndelete::PERMISSION;
    type Request = UndeletingRequest;
    type Report = Undeleted;

    async fn run(context: JobContext, request: UndeletingRequest, position: String) -> Outcome<Undeleted> {
        bring_back(&context, request, &position).await
    }
}

/// Brings everything back that is asked for, slice by slice. The position is what came back so far: what is left to do
/// is what is still deleted.
async fn bring_back(context: &JobContext, request: UndeletingRequest, position: &str) -> Outcome<Undeleted> {
    let mut so_far: Undeleted = serde_json::from_str(position).unwrap_or_default();
    let mailbox = MailboxId(request.mailbox);
    let into = request.into.as_deref().map(|text| folder_name("into", text)).transpose()?;
    let back = Back { mailbox, customer: context.customer, into, at: context.now() };
    let wanted = Wanted {
        folders: request.folders,
        since: Timestamp(request.since_us),
        until: Timestamp(request.until_us),
        uids: request.uids,
    };
    let database = &context.inner.database;
    while database.write(Priority::Bulk, move |conn| Box::pin(undelete::settle_slice(conn, mailbox))).await? {
        context.go_on()?;
    }
    let folder = request.folder.map(FolderId);
    if let Some(folder) = folder {
        let back = back.clone();
        let write = database.write(Priority::Bulk, move |conn| {
            let back = back.clone();
            Box::pin(async move { undelete::folder_ensure(conn, &back, folder).await })
        });
        write.await?;
    }
    loop {
        context.go_on()?;
        let came = slice(context, &back, &wanted, so_far).await?;
        if came == CameBack::default() {
            break;
        }
        so_far.messages += came.messages;
        so_far.octets += came.octets;
        context.advance(so_far.messages, None, "messages");
    }
    if let Some(folder) = folder {
        let write = database.write(Priority::Bulk, move |conn| {
            Box::pin(async move { Ok::<_, ServiceError>(deleted_folder::settle(conn, folder).await?) })
        });
        write.await?;
    }
    Ok(so_far)
}

/// A slice, and with it the position behind it.
async fn slice(context: &JobContext, back: &Back, wanted: &Wanted, so_far: Undeleted) -> Result<CameBack> {
    let (own, back, wanted) = (context.clone(), back.clone(), wanted.clone());
    let write = context.inner.database.write(Priority::Bulk, move |conn| {
        let (own, back, wanted) = (own.clone(), back.clone(), wanted.clone());
        Box::pin(async move {
            let came = undelete::slice(conn, &back, &wanted).await?;
            let behind =
                Undeleted { messages: so_far.messages + came.messages, octets: so_far.octets + came.octets };
            let position = serde_json::to_string(&behind).unwrap_or_default();
            own.save_position_in(conn, &position).await?;
            Ok(came)
        })
    });
    write.await
}
