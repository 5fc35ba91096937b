//! Messages of a backup: read from a database that was restored aside, appended to the mailbox that they were in.

use super::content::{Reads, read_messages};
use super::folders;
use super::intake::Intake;
use super::types::{FlagBits, FlagSet, FolderName};
use super::undelete::{Back, lock};
use super::work::{Ready, append_rows, first_uid, over_quota, totals};
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId};
use crate::service::error::{Result, ServiceError};
use crate::storage::bodies::Bodies;
use crate::storage::metadata::content::{self, Stored};
use crate::storage::metadata::database::Database;
use crate::storage::metadata::folder::{self, FolderDelta};
use crate::storage::metadata::message::{self, Chosen, MessageRow};
use crate::storage::metadata::quota;
use crate::storage::metadata::sql::Conn;

/// Messages that are looked up together.
const SLICE_ROWS: i64 = 64;
/// Octets of messages after which a slice ends.
const SLICE_OCTETS: i64 = 4 << 20;

/// A folder as the backup has it.
#[derive(Clone, Debug)]
pub(in crate::service) struct OldFolder {
    /// Key, in the backup.
    pub id: FolderId,
    /// Its name.
    pub name: String,
    keywords: Vec<String>,
}

/// The folders of a mailbox in a backup, in the order of their keys; only the one called `only` if that is given.
pub(in crate::service) async fn old_folders(
    old: &Database,
    mailbox: MailboxId,
    only: Option<&FolderName>,
) -> Result<Vec<OldFolder>> {
    let only = only.cloned();
    let read = old.read(move |conn| {
        Box::pin(async move {
            let mut rows = folder::list(conn, mailbox).await?;
            rows.retain(|row| row.selectable && only.as_ref().is_none_or(|only| only.as_str() == row.name));
            rows.sort_by_key(|row| row.id);
            let mut found = Vec::with_capacity(rows.len());
            for row in rows {
                let keywords = folder::keywords(conn, row.id).await?;
                found.push(OldFolder { id: row.id, name: row.name, keywords });
            }
            Ok::<_, ServiceError>(found)
        })
    });
    read.await
}

/// Messages on their way back, prepared for their transaction.
pub(in crate::service) struct Slice {
    ready: Vec<Ready>,
    /// The UID, in the backup, behind the last one.
    pub next_uid: u32,
    /// Messages whose bytes are damaged or missing in the backup.
    pub unreadable: u64,
}

impl Slice {
    /// How many messages come.
    pub fn messages(&self) -> u64 {
        self.ready.len() as u64
    }

    /// Their octets.
    pub fn octets(&self) -> u64 {
        self.ready.iter().fold(0, |sum, message| sum.saturating_add(message.octets))
    }

    /// Reads the next messages of a folder of the backup, from UID `from` on, and prepares them for `back`; nothing
    /// when there are no more.
    ///
    /// # Errors
    /// When the backup cannot be read now, or a large body cannot be written.
    pub async fn read(
        (old, bodies): (&Database, &Bodies),
        (mailbox, folder): (MailboxId, &OldFolder),
        from: u32,
        back: &Back,
        intake: &Intake,
    ) -> Result<Option<Self>> {
        let id = folder.id;
        let find = old.read(move |conn| {
            Box::pin(async move {
                let mut rows = message::first_rows(conn, mailbox, id, from, SLICE_ROWS).await?;
                let mut octets = 0_i64;
                let fitting = rows.iter().take_while(|row| {
                    octets = octets.saturating_add(row.octets);
                    octets <= SLICE_OCTETS
                });
                rows.truncate(fitting.count().max(1));
                let uids = rows.iter().map(|row| row.uid).collect();
                let stored = content::contents(conn, mailbox, id, &Chosen::List(uids)).await?;
                Ok::<(Vec<MessageRow>, Vec<Stored>), ServiceError>((rows, stored))
            })
        });
        let (rows, stored) = find.await?;
        let Some(last) = rows.last() else { return Ok(None) };
        let mut slice = Self { ready: Vec::new(), next_uid: last.uid.saturating_add(1), unreadable: 0 };
        let read = read_messages(bodies, &stored, Reads::Whole).await;
        for (stored, bytes) in stored.iter().zip(read) {
            let Some(row) = rows.iter().find(|row| row.uid == stored.uid) else { continue };
            let gone = || Err(ServiceError::Unavailable("a body of the backup is not there now".to_owned()));
            let bytes = match bytes.unwrap_or_else(gone) {
                Ok(bytes) => bytes,
                Err(error @ ServiceError::Unavailable(_)) => {
                    slice.settle(intake).await;
                    return Err(error);
                }
                Err(error) => {
                    tracing::error!(body = %stored.body, %error, "a message of a backup cannot be read");
                    slice.unreadable += 1;
                    continue;
                }
            };
            let octets = bytes.len() as u64;
            let prepared = match intake.prepare(bytes, &[back.mailbox], back.at).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    slice.settle(intake).await;
                    return Err(error.into());
                }
            };
            let (flags, internal_date) = (flags(row.flags, &folder.keywords), Timestamp(row.internal_date));
            slice.ready.push(Ready { octets, prepared, flags, internal_date, at: back.at });
        }
        slice.unreadable += (rows.len() - stored.len().min(rows.len())) as u64;
        Ok(Some(slice))
    }

    /// Removes what was written for messages that were not stored; call it after the transaction, whatever came of it.
    pub async fn settle(&self, intake: &Intake) {
        for message in &self.ready {
            intake.settle(&message.prepared.body).await;
        }
    }

    /// Appends the messages to the folder `into`, which is made if it is not there.
    ///
    /// # Errors
    /// `OverQuota`, `NotFound`; nothing was changed.
    pub async fn append(&self, conn: &mut Conn, back: &Back, into: &FolderName) -> Result<()> {
        let locked = lock(conn, back).await?;
        let target = folders::ensure(conn, back.mailbox, into, None, back.at).await?;
        let count = i64::try_from(self.ready.len()).unwrap_or(i64::MAX);
        let octets = i64::try_from(self.octets()).unwrap_or(i64::MAX);
        quota::charge(conn, locked.id, octets, count).await?.map_err(over_quota)?;
        let place = (first_uid(&target, self.ready.len())?, target.mod_seq + 1);
        let rows = append_rows(conn, &locked, target.id, &self.ready, place).await?;
        folder::advance(conn, target.id, place.1, FolderDelta { uids: count, ..totals(&rows, &target) })
            .await?;
        Ok(())
    }
}

/// Makes the folder `into`, which may stay empty.
///
/// # Errors
/// `NotFound`, `Limit`; nothing was changed.
pub(in crate::service) async fn folder_ensure(conn: &mut Conn, back: &Back, into: &FolderName) -> Result<()> {
    lock(conn, back).await?;
    folders::ensure(conn, back.mailbox, into, None, back.at).await.map(drop)
}

/// Flags by name, without `\Deleted`: what comes back is to stay.
fn flags(bits: u64, keywords: &[String]) -> FlagSet {
    let set = |index: &usize| FlagBits(bits).contains(FlagBits::keyword(*index));
    let names = keywords.iter().enumerate().filter(|(index, _)| set(index)).map(|(_, name)| name.clone());
    FlagSet { system: FlagBits(bits & FlagBits::SYSTEM.0 & !FlagBits::DELETED.0), keywords: names.collect() }
}
