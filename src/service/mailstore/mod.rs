//! The mail store as its users see it: folders, messages, changes, search.
//!
//! Invariants
//! - A folder's live state is one table in memory shared by all sessions ([`table`]); the database is the truth and
//!   the table catches up by mod-sequence, whoever made the change.
//! - A session owns only its view ([`view`]): which UIDs it has been told of, in sequence-number order.
//! - Listing never reads bodies: whatever a folder sync asks for comes from the table and from summaries.

pub mod intake;
pub mod mime;
pub mod search;
pub mod summary;
mod summary_encoding;
pub mod types;
pub mod view;

use std::sync::Arc;

use crate::base::id::{ModSeq, Uid, UidValidity};
use crate::service::context::Owner;
use crate::service::error::Result;
use types::{Access, Appended, Folder, FolderName, FolderStatus, NewMessage, QuotaUse, SpecialUse};
use view::FolderView;

/// Folders and messages of mailboxes. Cheap to clone.
#[derive(Clone)]
pub struct MailStore {
    #[allow(dead_code)]
    inner: Arc<()>,
}

#[allow(unused_variables, reason = "bodies follow")]
impl MailStore {
    /// All folders of the mailbox, ordered by name; `INBOX` always exists.
    pub async fn folder_list(&self, owner: &Owner) -> Result<Vec<Folder>> {
        todo!()
    }

    /// Creates a folder and the missing ones above it. `Conflict` when it exists.
    pub async fn folder_create(
        &self,
        owner: &Owner,
        name: &FolderName,
        special_use: Option<SpecialUse>,
    ) -> Result<()> {
        todo!()
    }

    /// Deletes a folder with its messages. `INBOX` cannot be deleted; one with children stays as a name that
    /// cannot be selected (RFC 3501 section 6.3.4).
    pub async fn folder_delete(&self, owner: &Owner, name: &FolderName) -> Result<()> {
        todo!()
    }

    /// Renames a folder and those below it; renaming `INBOX` moves its messages into a new folder (RFC 3501
    /// section 6.3.5).
    pub async fn folder_rename(&self, owner: &Owner, from: &FolderName, to: &FolderName) -> Result<()> {
        todo!()
    }

    /// Subscribes or unsubscribes a name; the name need not exist (RFC 3501 section 6.3.6).
    pub async fn folder_subscribe(&self, owner: &Owner, name: &FolderName, subscribed: bool) -> Result<()> {
        todo!()
    }

    /// Names that are subscribed, existing or not, ordered.
    pub async fn subscriptions(&self, owner: &Owner) -> Result<Vec<FolderName>> {
        todo!()
    }

    /// Counters of one folder.
    pub async fn folder_status(&self, owner: &Owner, name: &FolderName) -> Result<FolderStatus> {
        todo!()
    }

    /// Opens a folder. With [`Access::ReadWrite`] the messages that are new since the last such opening are recent
    /// in this view alone.
    pub async fn folder_open(&self, owner: &Owner, name: &FolderName, access: Access) -> Result<FolderView> {
        todo!()
    }

    /// Appends messages, all or none. The answer comes when they would survive power loss.
    pub async fn append(
        &self,
        owner: &Owner,
        name: &FolderName,
        messages: Vec<NewMessage>,
    ) -> Result<Appended> {
        todo!()
    }

    /// Whether a message of `octets` would fit now; asked before a client sends its literal.
    pub async fn append_check(&self, owner: &Owner, name: &FolderName, octets: u64) -> Result<()> {
        todo!()
    }

    /// What the mailbox uses and may use.
    pub async fn quota(&self, owner: &Owner) -> Result<QuotaUse> {
        todo!()
    }
}

/// Identity and numbers of an open folder at the time of opening.
#[derive(Clone, Debug)]
pub struct OpenFolder {
    /// Its name.
    pub name: FolderName,
    /// UIDVALIDITY.
    pub uid_validity: UidValidity,
    /// The next UID that will be given.
    pub uid_next: Uid,
    /// HIGHESTMODSEQ.
    pub highest_mod_seq: ModSeq,
}
