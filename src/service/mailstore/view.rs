//! One session's view of an open folder.

use std::sync::Arc;

use bytes::Bytes;

use super::OpenFolder;
use super::search::SearchKey;
use super::summary::Summary;
use super::types::{Access, Copied, FlagMode, FlagSet, FolderEvent, FolderName, MessageState, Stored};
use crate::base::clock::Timestamp;
use crate::base::id::{ModSeq, Uid};
use crate::service::error::Result;

/// What a message's summary row holds for one message.
#[derive(Clone, Debug)]
pub struct MessageSummary {
    /// UID.
    pub uid: Uid,
    /// INTERNALDATE.
    pub internal_date: Timestamp,
    /// Trace lines that stand before the body: they are part of the header, of offsets and of the size.
    pub prefix: Bytes,
    /// Structure and header of the body.
    pub summary: Arc<Summary>,
}

/// A session's view of an open folder: the UIDs it has been told of, in order.
pub struct FolderView {
    folder: OpenFolder,
    access: Access,
}

#[allow(unused_variables, reason = "bodies follow")]
impl FolderView {
    /// Identity and numbers at the time of opening.
    pub fn folder(&self) -> &OpenFolder {
        &self.folder
    }

    /// How it was opened.
    pub fn access(&self) -> Access {
        self.access
    }

    /// UIDs in sequence-number order; the first has sequence number 1.
    pub fn uids(&self) -> &[Uid] {
        todo!()
    }

    /// Whether the message is recent in this view.
    pub fn is_recent(&self, uid: Uid) -> bool {
        todo!()
    }

    /// Number of recent messages.
    pub fn recent_count(&self) -> u32 {
        todo!()
    }

    /// HIGHESTMODSEQ up to which this view has been synchronised.
    pub fn highest_mod_seq(&self) -> ModSeq {
        todo!()
    }

    /// Present states of `uids` (ascending, all in this view); messages expunged meanwhile keep their last state.
    pub fn states(&self, uids: &[Uid]) -> Vec<MessageState> {
        todo!()
    }

    /// Names of the folder's keywords; index n has bit [`super::types::FlagBits::keyword`]`(n)`.
    pub fn keywords(&self) -> Arc<[String]> {
        todo!()
    }

    /// Brings the view up to date and tells what changed, in an order that can be sent as it is. Without
    /// `expunges` messages that went away stay in the view (RFC 3501 section 7.4.1).
    pub async fn sync(&mut self, expunges: bool) -> Result<Vec<FolderEvent>> {
        todo!()
    }

    /// Completes when [`Self::sync`] may have something to tell. Cancel-safe.
    pub async fn changed(&self) {
        todo!()
    }

    /// Changes flags of `uids` (ascending). Messages changed after `unchanged_since` are left alone. The view's own
    /// copy is updated: the next `sync` does not tell these changes again when `silent`.
    pub async fn flags_store(
        &mut self,
        uids: &[Uid],
        mode: FlagMode,
        flags: &FlagSet,
        unchanged_since: Option<ModSeq>,
        silent: bool,
    ) -> Result<Stored> {
        todo!()
    }

    /// Removes messages with `\Deleted`: all of them, or those of `uids` (UID EXPUNGE). The view learns of it by
    /// the next `sync`.
    pub async fn expunge(&mut self, uids: Option<&[Uid]>) -> Result<()> {
        todo!()
    }

    /// Copies messages to another folder of the mailbox, all or none.
    pub async fn copy(&mut self, uids: &[Uid], target: &FolderName) -> Result<Copied> {
        todo!()
    }

    /// Moves messages, each one atomically (RFC 6851). The view learns of the removal by the next `sync`.
    pub async fn move_to(&mut self, uids: &[Uid], target: &FolderName) -> Result<Copied> {
        todo!()
    }

    /// Summaries of `uids` (ascending, at most 1,000 a call); reads no body.
    pub async fn summaries(&self, uids: &[Uid]) -> Result<Vec<MessageSummary>> {
        todo!()
    }

    /// The whole message: trace lines and body. `Unavailable` when it cannot be read now, never empty instead.
    pub async fn message(&self, uid: Uid) -> Result<Bytes> {
        todo!()
    }

    /// UIDs of the messages in this view that match, ascending.
    pub async fn search(&self, key: &SearchKey) -> Result<Vec<Uid>> {
        todo!()
    }
}
