//! What happens to folders inside one transaction.
//!
//! Names are unique within a mailbox, and every folder's superiors exist (RFC 3501 section 6.3.3), so a name is free
//! exactly when nothing is below it.

use super::types::{Folder, FolderName, FolderStatus, HIERARCHY_SEPARATOR, SpecialUse};
use super::work::{lock_mailbox, no_folder, over_quota};
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId, ModSeq, Uid, UidValidity};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::deleted_folder;
use crate::storage::metadata::folder::{self, FolderRow, NewFolder};
use crate::storage::metadata::legal_hold;
use crate::storage::metadata::quota;
use crate::storage::metadata::sql::Conn;

/// Most folders of one mailbox.
pub(super) const FOLDERS_MAX: usize = 10_000;
/// Most subscribed names of one mailbox.
pub(super) const SUBSCRIPTIONS_MAX: usize = 10_000;

/// The stored form of a special use.
pub(super) const fn special_use_name(special_use: SpecialUse) -> &'static str {
    match special_use {
        SpecialUse::Archive => "archive",
        SpecialUse::Drafts => "drafts",
        SpecialUse::Junk => "junk",
        SpecialUse::Sent => "sent",
        SpecialUse::Trash => "trash",
    }
}

fn special_use_parse(name: &str) -> Option<SpecialUse> {
    [SpecialUse::Archive, SpecialUse::Drafts, SpecialUse::Junk, SpecialUse::Sent, SpecialUse::Trash]
        .into_iter()
        .find(|&special_use| special_use_name(special_use) == name)
}

fn conflict(message: impl Into<String>) -> ServiceError {
    ServiceError::Conflict { message: message.into() }
}

pub(super) fn stored_name(name: &str) -> Result<FolderName> {
    FolderName::parse(name).map_err(|error| ServiceError::Internal(format!("folder name {name:?}: {error}")))
}

/// Whether `name` is below `above`.
fn is_below(name: &str, above: &str) -> bool {
    name.strip_prefix(above).is_some_and(|rest| rest.starts_with(HIERARCHY_SEPARATOR))
}

/// The counters of a folder's row.
pub(super) fn status(row: &FolderRow) -> FolderStatus {
    let count = |value: i64| u32::try_from(value).unwrap_or(0);
    let octets = |value: i64| u64::try_from(value).unwrap_or(0);
    FolderStatus {
        messages: count(row.messages),
        recent: count(row.recent),
        unseen: count(row.unseen),
        deleted: count(row.deleted),
        deleted_octets: octets(row.deleted_octets),
        uid_next: Uid(u32::try_from(row.uid_next).unwrap_or(u32::MAX)),
        uid_validity: UidValidity(row.uid_validity),
        highest_mod_seq: ModSeq(row.mod_seq),
        octets: octets(row.octets),
    }
}

/// All folders, ordered by name.
pub(super) async fn list(conn: &mut Conn, mailbox: MailboxId) -> Result<Vec<Folder>> {
    let mut rows = folder::list(conn, mailbox).await?;
    let mut subscribed = folder::subscriptions(conn, mailbox).await?;
    subscribed.sort_unstable();
    // Sorted by levels, a folder is followed by what is below it.
    rows.sort_by(|one, other| one.name.split(HIERARCHY_SEPARATOR).cmp(other.name.split(HIERARCHY_SEPARATOR)));
    let mut folders = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter().peekable();
    while let Some(row) = rows.next() {
        folders.push(Folder {
            has_children: rows.peek().is_some_and(|next| is_below(&next.name, &row.name)),
            subscribed: subscribed.binary_search(&row.name).is_ok(),
            special_use: row.special_use.as_deref().and_then(special_use_parse),
            selectable: row.selectable,
            status: status(&row),
            name: stored_name(&row.name)?,
        });
    }
    folders.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(folders)
}

/// Creates a folder and the missing ones above it.
pub(super) async fn create(
    conn: &mut Conn,
    mailbox: MailboxId,
    name: &FolderName,
    special_use: Option<SpecialUse>,
    at: Timestamp,
) -> Result<()> {
    lock_mailbox(conn, mailbox).await?;
    let special_use = special_use.map(special_use_name);
    let rows = folder::list(conn, mailbox).await?;
    match rows.iter().find(|row| row.name == name.as_str()) {
        Some(row) if row.selectable => Err(conflict(format!("folder {name} exists already"))),
        Some(row) => Ok(folder::make_selectable(conn, mailbox, row.id, special_use).await?),
        None => insert(conn, mailbox, &rows, name, special_use, at).await,
    }
}

/// The folder of this name in a locked mailbox, locked; it is created if it is not there, with that special use unless
/// another folder has it.
pub(super) async fn ensure(
    conn: &mut Conn,
    mailbox: MailboxId,
    name: &FolderName,
    special_use: Option<&str>,
    at: Timestamp,
) -> Result<FolderRow> {
    let found = folder::lock_named(conn, mailbox, name.as_str()).await?;
    if let Some(row) = found.filter(|row| row.selectable) {
        return Ok(row);
    }
    let rows = folder::list(conn, mailbox).await?;
    let is_free = |wanted: &&str| rows.iter().all(|row| row.special_use.as_deref() != Some(*wanted));
    let special_use = special_use.filter(is_free).and_then(special_use_parse);
    create(conn, mailbox, name, special_use, at).await?;
    folder::lock_named(conn, mailbox, name.as_str()).await?.ok_or_else(|| no_folder(name))
}

/// Inserts a folder and the missing ones above it.
async fn insert(
    conn: &mut Conn,
    mailbox: MailboxId,
    rows: &[FolderRow],
    name: &FolderName,
    special_use: Option<&str>,
    at: Timestamp,
) -> Result<()> {
    let added = insert_superiors(conn, mailbox, rows, name, at).await?;
    room_for(rows.len() + added + 1)?;
    let folder = NewFolder { mailbox, name: name.as_str(), special_use, selectable: true, at };
    folder::insert(conn, folder).await?;
    Ok(())
}

/// Refuses more folders than a mailbox may have.
fn room_for(folders: usize) -> Result<()> {
    if folders > FOLDERS_MAX {
        return Err(ServiceError::Limit(format!("a mailbox has at most {FOLDERS_MAX} folders")));
    }
    Ok(())
}

/// Inserts what is missing above `name`; answers how many folders that were.
async fn insert_superiors(
    conn: &mut Conn,
    mailbox: MailboxId,
    rows: &[FolderRow],
    name: &FolderName,
    at: Timestamp,
) -> Result<usize> {
    let mut missing = Vec::new();
    let mut above = name.parent();
    while let Some(superior) = above.take_if(|superior| rows.iter().all(|row| row.name != superior.as_str()))
    {
        above = superior.parent();
        missing.push(superior);
    }
    room_for(rows.len() + missing.len())?;
    for superior in missing.iter().rev() {
        let name = superior.as_str();
        let folder = NewFolder { mailbox, name, special_use: None, selectable: true, at };
        folder::insert(conn, folder).await?;
    }
    Ok(missing.len())
}

/// Deletes a folder and answers which it was: its charge is released at once, its messages are purged in the
/// background. With `kept`, or under a legal hold, it can come back.
pub(super) async fn delete(
    conn: &mut Conn,
    mailbox: MailboxId,
    name: &FolderName,
    at: Timestamp,
    kept: bool,
) -> Result<FolderId> {
    if name.is_inbox() {
        return Err(conflict("INBOX cannot be deleted"));
    }
    lock_mailbox(conn, mailbox).await?;
    let row = folder::lock_named(conn, mailbox, name.as_str()).await?.ok_or_else(|| no_folder(name))?;
    let rows = folder::list(conn, mailbox).await?;
    let has_children = rows.iter().any(|other| is_below(&other.name, &row.name));
    if has_children && !row.selectable {
        // RFC 3501 section 6.3.4: an error for a name that cannot be selected and has inferiors.
        return Err(conflict(format!("folder {name} has folders below it")));
    }
    quota::charge(conn, mailbox, -row.octets, -row.messages).await?.map_err(over_quota)?;
    folder::bury(conn, mailbox, row.id, at).await?;
    if row.selectable && (kept || legal_hold::covers_mailbox(conn, mailbox).await?) {
        deleted_folder::keep(conn, mailbox, &row, at).await?;
    }
    if has_children {
        let folder = NewFolder { mailbox, name: name.as_str(), special_use: None, selectable: false, at };
        folder::insert(conn, folder).await?;
    }
    Ok(row.id)
}

/// Renames a folder and those below it. For `INBOX` only the target is created, and `INBOX` comes back: its messages
/// are moved afterwards.
pub(super) async fn rename(
    conn: &mut Conn,
    mailbox: MailboxId,
    from: &FolderName,
    to: &FolderName,
    at: Timestamp,
) -> Result<Option<FolderId>> {
    lock_mailbox(conn, mailbox).await?;
    let rows = folder::list(conn, mailbox).await?;
    let source = rows.iter().find(|row| row.name == from.as_str()).ok_or_else(|| no_folder(from))?;
    if rows.iter().any(|row| row.name == to.as_str()) {
        return Err(conflict(format!("folder {to} exists already")));
    }
    if from.is_inbox() {
        insert(conn, mailbox, &rows, to, None, at).await?;
        return Ok(Some(source.id));
    }
    if is_below(to.as_str(), from.as_str()) {
        let message = "a folder cannot be moved below itself".to_owned();
        return Err(ServiceError::Invalid { field: "name", message });
    }
    insert_superiors(conn, mailbox, &rows, to, at).await?;
    for row in rows.iter().filter(|row| row.id == source.id || is_below(&row.name, from.as_str())) {
        let rest = row.name.strip_prefix(from.as_str()).unwrap_or_default();
        let name = FolderName::parse(&format!("{to}{rest}")).map_err(|error| ServiceError::Invalid {
            field: "name",
            message: format!("{}: {error}", row.name),
        })?;
        folder::rename(conn, row.id, name.as_str()).await?;
    }
    Ok(None)
}

/// Subscribes or unsubscribes a name.
pub(super) async fn subscribe(
    conn: &mut Conn,
    mailbox: MailboxId,
    name: &FolderName,
    subscribed: bool,
) -> Result<()> {
    if subscribed {
        lock_mailbox(conn, mailbox).await?;
        if folder::subscriptions(conn, mailbox).await?.len() >= SUBSCRIPTIONS_MAX {
            return Err(ServiceError::Limit(format!("at most {SUBSCRIPTIONS_MAX} names can be subscribed")));
        }
    }
    Ok(folder::subscribe(conn, mailbox, name.as_str(), subscribed).await?)
}
