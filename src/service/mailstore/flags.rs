//! Changing flags, and keywords by name.

use super::types::{FlagBits, FlagMode, FlagSet, KEYWORDS_MAX};
use super::work::{gone, uids_of};
use crate::base::id::{FolderId, MailboxId, ModSeq, Uid};
use crate::service::error::{Result, ServiceError};
use crate::storage::metadata::folder::{self, FolderDelta};
use crate::storage::metadata::message;
use crate::storage::metadata::sql::Conn;

/// Longest keyword in octets.
const KEYWORD_OCTETS_MAX: usize = 128;

/// The keywords of a locked folder, read when the first one is asked for.
pub(super) struct Keywords {
    folder: FolderId,
    names: Option<Vec<String>>,
}

impl Keywords {
    pub(super) const fn new(folder: FolderId) -> Self {
        Self { folder, names: None }
    }

    async fn names(&mut self, conn: &mut Conn) -> Result<&mut Vec<String>> {
        let names = match self.names.take() {
            Some(names) => names,
            None => folder::keywords(conn, self.folder).await?,
        };
        Ok(self.names.insert(names))
    }

    /// The bits of `flags`; keywords that the folder does not have are created, or left out.
    pub(super) async fn bits(&mut self, conn: &mut Conn, flags: &FlagSet, create: bool) -> Result<u64> {
        let mut bits = flags.system.0 & FlagBits::SYSTEM.0;
        for name in &flags.keywords {
            match self.bit(conn, name, create).await? {
                Some(bit) => bits |= bit.0,
                None if create => {
                    return Err(ServiceError::Limit(format!("a folder has at most {KEYWORDS_MAX} keywords")));
                }
                None => {}
            }
        }
        Ok(bits)
    }

    async fn bit(&mut self, conn: &mut Conn, name: &str, create: bool) -> Result<Option<FlagBits>> {
        let names = self.names(conn).await?;
        if let Some(index) = names.iter().position(|known| known.eq_ignore_ascii_case(name)) {
            return Ok(Some(FlagBits::keyword(index)));
        }
        let index = names.len();
        if !create || index >= KEYWORDS_MAX {
            return Ok(None);
        }
        if name.is_empty() || name.len() > KEYWORD_OCTETS_MAX {
            let message = format!("a keyword has 1 to {KEYWORD_OCTETS_MAX} octets");
            return Err(ServiceError::Invalid { field: "keyword", message });
        }
        folder::keyword_insert(conn, self.folder, index, name).await?;
        self.names(conn).await?.push(name.to_owned());
        Ok(Some(FlagBits::keyword(index)))
    }

    /// Where each of the keywords `used` here is in `target`: pairs of bits. A keyword for which the target has no
    /// room is dropped: losing a label is better than refusing the message (RFC 3501 section 6.4.7: SHOULD).
    pub(super) async fn translation(
        &mut self,
        conn: &mut Conn,
        target: &mut Keywords,
        used: u64,
    ) -> Result<Vec<(u64, u64)>> {
        let mut pairs = Vec::new();
        for (index, name) in self.names(conn).await?.clone().iter().enumerate() {
            let from = FlagBits::keyword(index).0;
            if used & from != 0
                && let Some(to) = target.bit(conn, name, true).await?
            {
                pairs.push((from, to.0));
            }
        }
        Ok(pairs)
    }
}

/// The word `flags` after translation of its keywords.
pub(super) fn translate(flags: u64, pairs: &[(u64, u64)]) -> u64 {
    let keywords = pairs.iter().filter(|(from, _)| flags & from != 0).fold(0, |bits, (_, to)| bits | to);
    (flags & FlagBits::SYSTEM.0) | keywords
}

/// A change of flags, as asked for.
pub(super) struct FlagChange {
    pub(super) mode: FlagMode,
    pub(super) flags: FlagSet,
    pub(super) unchanged_since: Option<ModSeq>,
}

/// What became of one slice.
#[derive(Default)]
pub(super) struct StoredSlice {
    pub(super) done: Vec<Uid>,
    pub(super) modified: Vec<Uid>,
    /// UIDs that got `mod_seq`, with their mod-sequences before.
    pub(super) changed: Vec<(u32, u64)>,
    pub(super) mod_seq: u64,
}

/// Changes the flags of one slice of messages.
pub(super) async fn store_slice(
    conn: &mut Conn,
    mailbox: MailboxId,
    id: FolderId,
    uids: &[u32],
    change: &FlagChange,
) -> Result<StoredSlice> {
    let row = folder::lock(conn, mailbox, id).await?.ok_or_else(gone)?;
    let mut slice = StoredSlice { mod_seq: row.mod_seq + 1, ..StoredSlice::default() };
    let limit = change.unchanged_since.map_or(u64::MAX, |mod_seq| mod_seq.0);
    let (rows, modified): (Vec<_>, Vec<_>) =
        message::rows(conn, mailbox, id, uids).await?.into_iter().partition(|row| row.mod_seq <= limit);
    slice.modified = modified.iter().map(|row| Uid(row.uid)).collect();
    slice.done = rows.iter().map(|row| Uid(row.uid)).collect();
    if rows.is_empty() {
        return Ok(slice);
    }
    let mut keywords = Keywords::new(id);
    let bits = keywords.bits(conn, &change.flags, change.mode != FlagMode::Remove).await?;
    let (keep, set) = match change.mode {
        FlagMode::Replace => (0, bits),
        FlagMode::Add => (u64::MAX, bits),
        FlagMode::Remove => (!bits, 0),
    };
    let after = |flags: u64| (flags & keep) | set;
    let changed: Vec<_> = rows.into_iter().filter(|row| after(row.flags) != row.flags).collect();
    if changed.is_empty() {
        return Ok(slice);
    }
    let unseen = |flags: u64| i64::from(flags & FlagBits::SEEN.0 == 0);
    let deleted = |flags: u64| i64::from(flags & FlagBits::DELETED.0 != 0);
    let mut delta = FolderDelta::default();
    for row in &changed {
        let (before, after) = (row.flags, after(row.flags));
        delta.unseen += unseen(after) - unseen(before);
        delta.deleted += deleted(after) - deleted(before);
        delta.deleted_octets += (deleted(after) - deleted(before)) * row.octets;
    }
    message::flags_update(conn, (mailbox, id), &uids_of(&changed), (keep, set), slice.mod_seq).await?;
    folder::advance(conn, id, slice.mod_seq, delta).await?;
    slice.changed = changed.iter().map(|row| (row.uid, row.mod_seq)).collect();
    Ok(slice)
}
