//! One mailbox's entry: read from the database in short pages, written section by section.
//!
//! # Consistency
//! Tombstones are read first, then each folder, then, of folders that have changed meanwhile, what is new in them: so a
//! message that moves between folders, or comes back, while the mailbox is read is in the entry at least once. What has
//! changed since the beginning is written again with the next entry, since the entry's state is that of the beginning.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file::FileWriter;
use super::format::PLAIN_OCTETS_MAX;
use super::record::{
    FolderRecord, MESSAGES_OCTETS, MailboxRecord, MessageRecord, Present, ROWS_MAX, Rows, section, to_json,
};
use crate::base::clock::Timestamp;
use crate::base::id::MailboxId;
use crate::storage::bodies::Bodies;
use crate::storage::metadata::catalog::{MailboxState, NewEntry};
use crate::storage::metadata::catalog_content::{self as content, MailboxContent, Read};
use crate::storage::{Result, StorageError};

/// Smaller mailboxes are written whole whenever something changes.
const MORE_OCTETS_MIN: i64 = 64 << 10;
/// After so many entries a mailbox is written whole.
const ENTRIES_MAX: u32 = 64;
/// How often folders that change while they are read are read again.
const ROUNDS_MAX: usize = 4;

/// How far the entries of a mailbox go.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
struct Positions {
    /// How many entries there are.
    entries: u32,
    /// Highest mod-sequence, messages and next UID of each folder.
    folders: BTreeMap<i64, (i64, i64, i64)>,
}

/// What changes with anything that an entry has to say.
pub(super) fn fingerprint(content: &MailboxContent, path: &[(i64, String)]) -> Result<String> {
    let MailboxContent { record, folders, messages, subscriptions, going, .. } = content;
    let all = (record, path, folders, messages, subscriptions, going);
    let text = serde_json::to_vec(&all).map_err(|error| StorageError::Corrupt(error.to_string()))?;
    Ok(blake3::hash(&text).to_hex().to_string())
}

/// Writes the entry of a mailbox whose fingerprint has changed. Nothing when the mailbox gets folders while it is read:
/// then the entry must not count, and there is another try.
///
/// # Errors
/// What the database says; `Io` or `Full`: then the file can only be dropped.
pub(super) async fn write(
    bodies: &Bodies,
    file: &mut FileWriter,
    content: MailboxContent,
    path: Vec<(i64, String)>,
    now: Timestamp,
) -> Result<Option<NewEntry>> {
    let fingerprint = fingerprint(&content, &path)?;
    let before = content.state.clone().unwrap_or_default();
    let positions: Option<Positions> = serde_json::from_str(&before.positions).ok();
    let positions = positions.filter(|positions| {
        before.whole_octets >= MORE_OCTETS_MIN
            && before.more_octets.saturating_mul(2) < before.whole_octets
            && positions.entries < ENTRIES_MAX
            && content.going.1 == 0
    });
    let sequence = now.0.max(before.sequence.saturating_add(1));
    let is_whole = positions.is_none();
    let mailbox = MailboxId(content.record.id);
    let octets_before = file.octets();
    let record = MailboxRecord {
        sequence: sequence.cast_unsigned(),
        is_whole,
        path,
        at: now.0,
        ..content.record.clone()
    };
    file.append(section::MAILBOX, to_json(&record)?).await?;
    for folders in content.folders.chunks(ROWS_MAX) {
        file.append(section::FOLDERS, to_json(folders)?).await?;
    }
    for names in content.subscriptions.chunks(ROWS_MAX) {
        file.append(section::SUBSCRIPTIONS, to_json(names)?).await?;
    }
    let mut reading = Reading { bodies, file, mailbox };
    let after = if is_whole { 0 } else { before.tombstone };
    let tombstone = reading.tombstones(after, content.going.1 > 0).await?;
    let living = content.folders.iter().filter(|folder| folder.deleted_at.is_none());
    let mut seen: BTreeMap<i64, i64> = BTreeMap::new();
    for folder in living.clone() {
        let position = positions.as_ref().and_then(|positions| positions.folders.get(&folder.id));
        let messages = content.messages.get(&folder.id).copied().unwrap_or(0);
        seen.insert(folder.id, folder.mod_seq);
        match position {
            Some(position) => reading.changes(folder, messages, *position).await?,
            None => reading.whole(folder.id).await?,
        }
    }
    if !reading.catch_up(&mut seen).await? {
        return Ok(None);
    }
    let octets = file.octets().saturating_sub(octets_before);
    let octets_signed = i64::try_from(octets).unwrap_or(i64::MAX);
    let (whole_octets, more_octets) = if is_whole {
        (octets_signed, 0)
    } else {
        (before.whole_octets, before.more_octets.saturating_add(octets_signed))
    };
    let position = |folder: &FolderRecord| {
        let messages = content.messages.get(&folder.id).copied().unwrap_or(0);
        (folder.id, (folder.mod_seq, messages, folder.uid_next))
    };
    let reached = Positions {
        entries: positions.map_or(1, |positions| positions.entries.saturating_add(1)),
        folders: living.map(position).collect(),
    };
    let positions = serde_json::to_string(&reached).map_err(|e| StorageError::Corrupt(e.to_string()))?;
    let state = MailboxState { fingerprint, sequence, whole_octets, more_octets, positions, tombstone };
    Ok(Some(NewEntry { mailbox, octets, is_whole, state }))
}

struct Reading<'a> {
    bodies: &'a Bodies,
    file: &'a mut FileWriter,
    mailbox: MailboxId,
}

impl Reading<'_> {
    /// The row with its trace lines; those that are damaged are left out, and told.
    fn row(&self, (record, packed, _): Read) -> MessageRecord {
        let Some(packed) = packed else { return record };
        match self.bodies.decompress(&packed) {
            Ok(prefix) => MessageRecord { prefix, ..record },
            Err(error) => {
                tracing::error!(mailbox = %self.mailbox, uid = record.uid, %error, "trace lines are damaged");
                record
            }
        }
    }

    async fn write_rows(&mut self, kind: u8, folder: i64, page: Vec<Read>, rows: &mut Rows) -> Result<()> {
        for read in page {
            let row = self.row(read);
            rows.push(row);
            if rows.octets() >= MESSAGES_OCTETS {
                let full = std::mem::replace(rows, Rows::of(folder));
                self.file.append(kind, full.into_bytes()).await?;
            }
        }
        Ok(())
    }

    async fn close(&mut self, kind: u8, rows: Rows) -> Result<()> {
        if !rows.is_empty() {
            self.file.append(kind, rows.into_bytes()).await?;
        }
        Ok(())
    }

    /// Tombstones behind `after`; answers the last.
    async fn tombstones(&mut self, after: i64, is_purging: bool) -> Result<i64> {
        let (mailbox, mut last, mut rows) = (self.mailbox, after, Rows::of(0));
        // First those that become tombstones meanwhile.
        let mut next = is_purging.then_some((0, 0));
        while let Some(buried) = next {
            let read = self.bodies.database().read(|conn| Box::pin(content::buried(conn, mailbox, buried)));
            let page: Vec<Read> = read.await?;
            let Some((record, _, _)) = page.last() else { break };
            next = Some((record.grave.0, record.uid));
            self.write_rows(section::TOMBSTONES, 0, page, &mut rows).await?;
        }
        loop {
            let read = self.bodies.database().read(|conn| Box::pin(content::tombstones(conn, mailbox, last)));
            let page: Vec<Read> = read.await?;
            let Some((_, _, id)) = page.last() else { break };
            last = *id;
            self.write_rows(section::TOMBSTONES, 0, page, &mut rows).await?;
        }
        self.close(section::TOMBSTONES, rows).await?;
        Ok(last)
    }

    /// All messages of a folder.
    async fn whole(&mut self, folder: i64) -> Result<()> {
        let (mailbox, mut after, mut rows) = (self.mailbox, 0, Rows::of(folder));
        loop {
            let read =
                self.bodies.database().read(|conn| Box::pin(content::messages(conn, mailbox, folder, after)));
            let page: Vec<Read> = read.await?;
            let Some((last, _, _)) = page.last() else { break };
            after = last.uid;
            self.write_rows(section::MESSAGES, folder, page, &mut rows).await?;
        }
        self.close(section::MESSAGES, rows).await
    }

    /// Messages of a folder that have changed since a mod-sequence; answers how many have UIDs from `uid_next` on.
    async fn since(&mut self, folder: i64, mod_seq: i64, uid_next: i64) -> Result<i64> {
        let (mailbox, mut after, mut rows) = (self.mailbox, (mod_seq, i64::MAX), Rows::of(folder));
        let mut new = 0_i64;
        loop {
            let read =
                self.bodies.database().read(|conn| Box::pin(content::changed(conn, mailbox, folder, after)));
            let page: Vec<Read> = read.await?;
            let Some((last, _, at)) = page.last() else { break };
            after = (*at, last.uid);
            new += page.iter().map(|(record, _, _)| i64::from(record.uid >= uid_next)).sum::<i64>();
            self.write_rows(section::MESSAGES, folder, page, &mut rows).await?;
        }
        self.close(section::MESSAGES, rows).await?;
        Ok(new)
    }

    /// What has become of a folder since it was at a position.
    async fn changes(
        &mut self,
        folder: &FolderRecord,
        messages: i64,
        (mod_seq, messages_before, uid_next): (i64, i64, i64),
    ) -> Result<()> {
        if (folder.mod_seq, messages, folder.uid_next) == (mod_seq, messages_before, uid_next) {
            return Ok(());
        }
        let new = self.since(folder.id, mod_seq, uid_next).await?;
        if messages_before.saturating_add(new) == messages {
            return Ok(());
        }
        // Some are gone: which are left.
        let (mailbox, key, mut after, mut present) = (self.mailbox, folder.id, 0, Present::of(folder.id));
        loop {
            let read = self.bodies.database().read(|conn| Box::pin(content::uids(conn, mailbox, key, after)));
            let page: Vec<i64> = read.await?;
            let Some(last) = page.last() else { break };
            after = *last;
            page.into_iter().for_each(|uid| present.push(uid));
        }
        if present.octets() >= PLAIN_OCTETS_MAX - 64 {
            // More holes than a section can tell: all of them again, behind nothing.
            self.file.append(section::PRESENT, Present::of(folder.id).into_bytes()).await?;
            return self.whole(folder.id).await;
        }
        self.file.append(section::PRESENT, present.into_bytes()).await.map(drop)
    }

    /// Reads again what has changed while folders were read. False when there are folders that were not read.
    async fn catch_up(&mut self, seen: &mut BTreeMap<i64, i64>) -> Result<bool> {
        let mailbox = self.mailbox;
        for _ in 0..ROUNDS_MAX {
            let read = self.bodies.database().read(|conn| Box::pin(content::mod_seqs(conn, mailbox)));
            let now: Vec<(i64, i64)> = read.await?;
            let mut is_still = true;
            for (folder, mod_seq) in now {
                let Some(before) = seen.insert(folder, mod_seq) else { return Ok(false) };
                if before != mod_seq {
                    is_still = false;
                    self.since(folder, before, i64::MAX).await?;
                }
            }
            if is_still {
                break;
            }
        }
        Ok(true)
    }
}
