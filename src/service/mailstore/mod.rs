//! The mail store as its users see it: folders, messages, changes, search.
//!
//! Invariants
//! - A folder's live state is one table in memory shared by all sessions ([`table`]); the database is the truth and
//!   the table catches up by mod-sequence, whoever made the change.
//! - A session owns only its view ([`view`]): which UIDs it has been told of, in sequence-number order.
//! - Listing never reads bodies: whatever a folder sync asks for comes from the table and from summaries.

mod content;
mod find;
mod flags;
mod folders;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod intake;
pub mod mime;
pub(in crate::service) mod revived;
pub mod search;
mod stage;
pub mod summary;
mod summary_encoding;
mod table;
pub mod types;
pub(in crate::service) mod undelete;
pub mod view;
mod work;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::base::clock::Clock;
use crate::base::id::{FolderId, MailboxId, ModSeq, StoreId, Uid, UidValidity};
use crate::service::context::Owner;
use crate::service::error::{Result, ServiceError};
use crate::storage::bodies::Bodies;
use crate::storage::metadata::database::Database;
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::store::{self, StoreState};
use crate::storage::metadata::{folder, mailbox, message, quota};
use intake::Intake;
use table::Tables;
use types::{Access, Appended, Folder, FolderName, FolderStatus, NewMessage, QuotaUse, SpecialUse};
use view::FolderView;

/// Fixed bounds of the mail store.
#[derive(Clone, Copy, Debug)]
pub struct MailStoreLimits {
    /// Largest message that can be appended, in octets; at most 1 GiB.
    pub message_octets_max: u64,
    /// How long expunged messages and deleted folders can come back, in days; 0: they cannot.
    pub undelete_days: u32,
}

impl Default for MailStoreLimits {
    fn default() -> Self {
        Self { message_octets_max: 100 * 1024 * 1024, undelete_days: 30 }
    }
}

/// Most messages in one append.
pub const APPEND_MESSAGES_MAX: usize = 1000;

/// Messages of one append that are prepared one after the other.
const PREPARED_TOGETHER: usize = 16;
/// Groups of messages of one append that are prepared at a time.
const PREPARING_TASKS_MAX: usize = 4;

/// Large sets that can be on their way into folders at once.
const STAGING_TURNS: usize = 16;

/// Folders and messages of mailboxes. Cheap to clone.
#[derive(Clone)]
pub struct MailStore {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    clock: Clock,
    intake: Intake,
    bodies: Bodies,
    limits: MailStoreLimits,
    tables: Tables,
    /// Turns of large sets on their way into folders, by mailbox.
    staging: [tokio::sync::Mutex<()>; STAGING_TURNS],
}

impl Inner {
    /// Whether what is deleted can come back without being under a legal hold.
    fn keeps_deleted(&self) -> bool {
        self.limits.undelete_days > 0
    }
}

impl MailStore {
    /// A mail store on `database`, with the bodies that `bodies` keeps.
    pub fn new(database: Database, clock: Clock, bodies: Bodies, limits: MailStoreLimits) -> Self {
        let (intake, tables) = (Intake::new(bodies.clone()), Tables::default());
        let staging = std::array::from_fn(|_| tokio::sync::Mutex::default());
        Self { inner: Arc::new(Inner { database, clock, intake, bodies, limits, tables, staging }) }
    }

    /// Largest message that can be appended, in octets (APPENDLIMIT, RFC 7889).
    pub fn message_octets_max(&self) -> u64 {
        self.inner.limits.message_octets_max
    }

    /// All folders of the mailbox with their counters, ordered by name; `INBOX` always exists.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn folder_list(&self, owner: &Owner) -> Result<Vec<Folder>> {
        let mailbox = owner.mailbox;
        self.inner.database.read(move |conn| Box::pin(folders::list(conn, mailbox))).await
    }

    /// Creates a folder and the missing ones above it. `Conflict` when it exists.
    ///
    /// # Errors
    /// `Conflict`, or `Limit` for too many folders; nothing was changed.
    pub async fn folder_create(
        &self,
        owner: &Owner,
        name: &FolderName,
        special_use: Option<SpecialUse>,
    ) -> Result<()> {
        owner.enter(name, Access::ReadWrite).await?;
        let (mailbox, name, at) = (owner.mailbox, name.clone(), self.inner.clock.now());
        self.inner
            .database
            .write(Priority::Interactive, move |conn| {
                let name = name.clone();
                Box::pin(async move { folders::create(conn, mailbox, &name, special_use, at).await })
            })
            .await
    }

    /// Deletes a folder with its messages and answers which it was: names change hands, ids do not. `INBOX` cannot
    /// be deleted; one with children stays as a name that cannot be selected (RFC 3501 section 6.3.4).
    ///
    /// # Errors
    /// `NotFound`, `Conflict`; nothing was changed.
    pub async fn folder_delete(&self, owner: &Owner, name: &FolderName) -> Result<FolderId> {
        owner.enter(name, Access::ReadWrite).await?;
        let (mailbox, name, at) = (owner.mailbox, name.clone(), self.inner.clock.now());
        let kept = self.inner.keeps_deleted();
        self.inner
            .database
            .write(Priority::Interactive, move |conn| {
                let name = name.clone();
                Box::pin(async move { folders::delete(conn, mailbox, &name, at, kept).await })
            })
            .await
    }

    /// Renames a folder and those below it; renaming `INBOX` moves its messages into a new folder (RFC 3501
    /// section 6.3.5).
    ///
    /// # Errors
    /// `NotFound`, `Conflict` when the new name is taken, `Invalid` when it lies below the folder or a name below
    /// would become too long or too deep, `Limit`; nothing was changed. When the database fails while the messages of
    /// `INBOX` move, those moved before stay in the new folder.
    pub async fn folder_rename(&self, owner: &Owner, from: &FolderName, to: &FolderName) -> Result<()> {
        for name in [from, to] {
            owner.enter(name, Access::ReadWrite).await?;
        }
        let (mailbox, names, at) = (owner.mailbox, (from.clone(), to.clone()), self.inner.clock.now());
        match self
            .inner
            .database
            .write(Priority::Interactive, move |conn| {
                let (from, to) = names.clone();
                Box::pin(async move { folders::rename(conn, mailbox, &from, &to, at).await })
            })
            .await?
        {
            Some(inbox) => self.inbox_empty(mailbox, inbox, to).await,
            None => Ok(()),
        }
    }

    /// Moves what is in `INBOX` now to another folder.
    async fn inbox_empty(&self, mailbox: MailboxId, inbox: FolderId, to: &FolderName) -> Result<()> {
        let database = &self.inner.database;
        let row = database.read(move |conn| Box::pin(folder::by_id(conn, mailbox, inbox))).await?;
        let end = row.map_or(0, |row| row.uid_next);
        loop {
            let page = database.read(move |conn| Box::pin(message::states(conn, mailbox, inbox, 0))).await?;
            let uids: Vec<Uid> =
                page.iter().filter(|row| i64::from(row.uid) < end).map(|row| Uid(row.uid)).collect();
            if uids.is_empty() {
                return Ok(());
            }
            work::move_all(database, mailbox, inbox, &uids, to).await?;
        }
    }

    /// Subscribes or unsubscribes a name; the name need not exist (RFC 3501 section 6.3.6).
    ///
    /// # Errors
    /// `Limit` for too many names.
    pub async fn folder_subscribe(&self, owner: &Owner, name: &FolderName, subscribed: bool) -> Result<()> {
        owner.enter(name, Access::ReadWrite).await?;
        let (mailbox, name) = (owner.mailbox, name.clone());
        self.inner
            .database
            .write(Priority::Interactive, move |conn| {
                let name = name.clone();
                Box::pin(async move { folders::subscribe(conn, mailbox, &name, subscribed).await })
            })
            .await
    }

    /// Names that are subscribed, existing or not, ordered.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub async fn subscriptions(&self, owner: &Owner) -> Result<Vec<FolderName>> {
        let mailbox = owner.mailbox;
        let names =
            self.inner.database.read(move |conn| Box::pin(folder::subscriptions(conn, mailbox))).await?;
        let mut names: Vec<FolderName> =
            names.iter().filter_map(|name| FolderName::parse(name).ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Counters of one folder; they are kept, so nothing is counted.
    ///
    /// # Errors
    /// `NotFound`, also for a name that only holds children.
    pub async fn folder_status(&self, owner: &Owner, name: &FolderName) -> Result<FolderStatus> {
        let mailbox = owner.mailbox;
        let wanted = name.clone();
        let found = self
            .inner
            .database
            .read(move |conn| Box::pin(async move { folder::find(conn, mailbox, wanted.as_str()).await }));
        let row = found.await?.filter(|row| row.selectable).ok_or_else(|| work::no_folder(name))?;
        Ok(folders::status(&row))
    }

    /// Opens a folder. With [`Access::ReadWrite`] the messages that are new since the last such opening are
    /// recent in this view alone. For an administrator without `content.write` it is opened read-only,
    /// whatever is asked for.
    ///
    /// # Errors
    /// `NotFound`, also for a name that only holds children.
    pub async fn folder_open(&self, owner: &Owner, name: &FolderName, access: Access) -> Result<FolderView> {
        let access = owner.most(access);
        let mailbox = owner.mailbox;
        let wanted = name.clone();
        let found = self
            .inner
            .database
            .read(move |conn| Box::pin(async move { folder::find(conn, mailbox, wanted.as_str()).await }));
        let row = found.await?.filter(|row| row.selectable).ok_or_else(|| work::no_folder(name))?;
        owner.enter(name, access).await?;
        let table = self.inner.tables.table(&self.inner.database, mailbox, row.id);
        FolderView::open((Arc::clone(&self.inner), owner.visit.clone()), table, name.clone(), access).await
    }

    /// Appends messages, all or none. The answer comes when they would survive power loss.
    ///
    /// # Errors
    /// `NotFound`, `OverQuota`, `Limit` for a message, a number of messages or of keywords that is too large; nothing
    /// was changed.
    pub async fn append(
        &self,
        owner: &Owner,
        name: &FolderName,
        messages: Vec<NewMessage>,
    ) -> Result<Appended> {
        owner.enter(name, Access::ReadWrite).await?;
        if messages.len() > APPEND_MESSAGES_MAX {
            let text = format!("at most {APPEND_MESSAGES_MAX} messages can be appended at once");
            return Err(ServiceError::Limit(text));
        }
        for message in &messages {
            self.size_check(message.bytes.len() as u64)?;
        }
        if !self.inner.bodies.unmounted(&[owner.mailbox]).await?.is_empty() {
            return Err(work::store_closed());
        }
        let intake = &self.inner.intake;
        let (ready, outcome) = self.prepare_all(owner.mailbox, messages).await;
        let ready = Arc::new(ready);
        let appended = match outcome {
            Ok(()) => self.append_ready(owner.mailbox, name, Arc::clone(&ready)).await,
            Err(error) => Err(error),
        };
        for message in ready.iter() {
            intake.settle(&message.prepared.body).await;
        }
        appended
    }

    /// Prepares messages on all processors; what was ready before an error comes with it.
    async fn prepare_all(
        &self,
        mailbox: MailboxId,
        messages: Vec<NewMessage>,
    ) -> (Vec<work::Ready>, Result<()>) {
        let mut ready = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter();
        let mut tasks = VecDeque::new();
        let mut outcome = Ok(());
        loop {
            while outcome.is_ok() && tasks.len() < PREPARING_TASKS_MAX && messages.len() > 0 {
                let (own, part) = (self.clone(), messages.by_ref().take(PREPARED_TOGETHER).collect());
                tasks.push_back(tokio::spawn(async move { own.prepare_part(mailbox, part).await }));
            }
            let Some(task) = tasks.pop_front() else { return (ready, outcome) };
            match task.await {
                Ok((part, done)) => {
                    ready.extend(part);
                    outcome = outcome.and(done);
                }
                Err(error) => outcome = outcome.and(Err(ServiceError::Internal(error.to_string()))),
            }
        }
    }

    /// Prepares messages one after the other.
    async fn prepare_part(
        &self,
        mailbox: MailboxId,
        messages: Vec<NewMessage>,
    ) -> (Vec<work::Ready>, Result<()>) {
        let mut ready = Vec::with_capacity(messages.len());
        for message in messages {
            match self.prepare(mailbox, message).await {
                Ok(message) => ready.push(message),
                Err(error) => return (ready, Err(error)),
            }
        }
        (ready, Ok(()))
    }

    /// Compresses and summarizes a message; a large body is on disk afterwards.
    async fn prepare(&self, mailbox: MailboxId, message: NewMessage) -> Result<work::Ready> {
        let at = self.inner.clock.now();
        Ok(work::Ready {
            octets: message.bytes.len() as u64,
            prepared: self.inner.intake.prepare(message.bytes, &[mailbox], at).await?,
            flags: message.flags,
            internal_date: message.internal_date.unwrap_or(at),
            at,
        })
    }

    async fn append_ready(
        &self,
        mailbox: MailboxId,
        name: &FolderName,
        ready: Arc<Vec<work::Ready>>,
    ) -> Result<Appended> {
        if stage::is_large_append(&ready) {
            return stage::append(&self.inner, mailbox, name, ready).await;
        }
        let name = name.clone();
        let write = self.inner.database.write(Priority::Interactive, move |conn| {
            let (name, ready) = (name.clone(), Arc::clone(&ready));
            Box::pin(async move { work::append(conn, mailbox, &name, &ready).await })
        });
        write.await
    }

    fn size_check(&self, octets: u64) -> Result<()> {
        let octets_max = self.inner.limits.message_octets_max;
        if octets > octets_max {
            return Err(ServiceError::Limit(format!("a message has at most {octets_max} octets")));
        }
        Ok(())
    }

    /// Whether a message of `octets` would fit now; asked before a client sends its literal.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn append_check(&self, owner: &Owner, name: &FolderName, octets: u64) -> Result<()> {
        owner.may_change().await?;
        self.size_check(octets)?;
        let mailbox = owner.mailbox;
        let wanted = name.clone();
        let unmounted = self.inner.bodies.volumes().unmounted();
        let check = self.inner.database.read(move |conn| {
            Box::pin(async move {
                let row = folder::find(conn, mailbox, wanted.as_str()).await?;
                row.filter(|row| row.selectable).ok_or_else(|| work::no_folder(&wanted))?;
                let homes = store::of_mailboxes(conn, &[mailbox]).await?;
                let takes_mail = |(store, state): &(StoreId, StoreState)| {
                    state.is_writable() && !unmounted.contains(store)
                };
                if !homes.get(&mailbox).is_some_and(takes_mail) {
                    return Err(work::store_closed());
                }
                let octets = i64::try_from(octets).unwrap_or(i64::MAX);
                quota::refusing_limit(conn, mailbox, octets)
                    .await?
                    .map_or(Ok(()), |over| Err(work::over_quota(over)))
            })
        });
        check.await
    }

    /// What the mailbox uses and may use.
    ///
    /// # Errors
    /// `NotFound` when the mailbox was deleted.
    pub async fn quota(&self, owner: &Owner) -> Result<QuotaUse> {
        let mailbox = owner.mailbox;
        let read = self.inner.database.read(move |conn| Box::pin(mailbox::by_id(conn, mailbox)));
        let found = read.await?.filter(|row| row.deleted_at.is_none());
        let found = found.ok_or_else(|| ServiceError::NotFound { what: "the mailbox".to_owned() })?;
        let count = |value: i64| u64::try_from(value).unwrap_or(0);
        Ok(QuotaUse {
            octets: count(found.bytes_used),
            octets_max: found.bytes_max.map(count),
            messages: count(found.messages_used),
            messages_max: found.messages_max.map(count),
        })
    }

    /// Purges a slice of what deleted folders have left; false when nothing is left.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn purge_slice(&self) -> Result<bool> {
        self.inner.database.write(Priority::Background, |conn| Box::pin(work::purge_slice(conn))).await
    }

    /// Forgets the oldest expunged ranges of folders that keep very many; answers how many. Sessions that did not
    /// know of them yet read their folder anew.
    ///
    /// # Errors
    /// When the database cannot be written; what was forgotten before stays so.
    pub async fn expunged_prune(&self) -> Result<u64> {
        let mut after = FolderId(0);
        let mut pruned = 0;
        loop {
            let read = self
                .inner
                .database
                .read(move |conn| Box::pin(folder::expunged_excess(conn, after, EXPUNGED_RANGES_MAX)));
            let excess = read.await?;
            let Some(&(last, _)) = excess.last() else { return Ok(pruned) };
            for (id, mod_seq) in excess {
                pruned += self.expunged_prune_folder(id, mod_seq).await?;
            }
            after = last;
        }
    }

    async fn expunged_prune_folder(&self, id: FolderId, mod_seq: i64) -> Result<u64> {
        let mut pruned = 0;
        loop {
            let limit = i64::try_from(work::SLICE_ROWS).unwrap_or(i64::MAX);
            match self
                .inner
                .database
                .write(Priority::Background, move |conn| {
                    Box::pin(folder::expunged_prune(conn, id, mod_seq, limit))
                })
                .await?
            {
                0 => return Ok(pruned),
                rows => pruned += rows,
            }
        }
    }
}

/// Expunged ranges kept for each folder.
const EXPUNGED_RANGES_MAX: i64 = 4096;

/// Identity and numbers of an open folder at the time of opening.
#[derive(Clone, Debug)]
pub struct OpenFolder {
    /// Which it is, whatever its name becomes.
    pub id: FolderId,
    /// Its name when it was opened.
    pub name: FolderName,
    /// UIDVALIDITY.
    pub uid_validity: UidValidity,
    /// The next UID that will be given.
    pub uid_next: Uid,
    /// HIGHESTMODSEQ.
    pub highest_mod_seq: ModSeq,
}

#[cfg(test)]
pub(in crate::service) mod tests;
