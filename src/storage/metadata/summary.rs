//! Summaries: what listing needs, read by chunks together with the trace lines that stand before the body.
//!
//! # Retries
//! Rows and the blocks that they point into are read by two statements. A block that is gone by the second was put
//! together anew in between; then both are read again.

use std::collections::{BTreeMap, BTreeSet};

use super::content::packed_opt;
use super::delivery::Packed;
use super::message::{Chosen, selection};
use super::sql::{Conn, Row, Value, values_placeholders};
use super::summary_block;
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, FolderId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Most summaries in one read.
pub const SUMMARIES_MAX: usize = 1000;

/// How often rows are read whose blocks are gone: a block is put together anew once in a long while.
const READS_MAX: usize = 4;

/// Where a summary is.
#[derive(Clone, Debug)]
pub enum SummaryPlace {
    /// Here it is.
    Own(Packed),
    /// In a block, together with others.
    Block {
        /// Its id.
        block: i64,
        /// First octet in the block before compression.
        offset: u64,
        /// Length in octets.
        octets: u64,
    },
}

/// One message's summary as it is stored.
pub struct SummaryRow {
    /// UID.
    pub uid: u32,
    /// INTERNALDATE.
    pub internal_date: Timestamp,
    /// Trace lines, if any.
    pub prefix: Option<Packed>,
    /// The summary.
    pub summary: SummaryPlace,
}

/// Summaries of a folder.
pub struct Summaries {
    /// Ascending by UID.
    pub rows: Vec<SummaryRow>,
    /// The blocks that they point into.
    pub blocks: BTreeMap<i64, Packed>,
}

/// Summaries, ascending by UID; those that are gone are left out.
///
/// # Errors
/// What the database says; `Busy` when blocks went away again and again.
pub async fn read(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    chosen: &Chosen,
) -> Result<Summaries> {
    for _ in 0..READS_MAX {
        let rows = rows(conn, mailbox, folder, chosen).await?;
        let block = |row: &SummaryRow| match row.summary {
            SummaryPlace::Own(_) => None,
            SummaryPlace::Block { block, .. } => Some(block),
        };
        let wanted: BTreeSet<i64> = rows.iter().filter_map(block).collect();
        let blocks = summary_block::read(conn, &wanted).await?;
        if blocks.len() == wanted.len() {
            return Ok(Summaries { rows, blocks });
        }
    }
    Err(StorageError::Busy("summaries are being put together anew"))
}

async fn rows(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    chosen: &Chosen,
) -> Result<Vec<SummaryRow>> {
    let (condition, mut extra) = selection(chosen, 3);
    let text = format!(
        "SELECT m.uid, m.internal_date, p.codec, p.dictionary_id, p.octets, p.data,
                s.codec, s.dictionary_id, s.octets, s.data, s.block_id, s.block_offset
         FROM message m JOIN summary s ON s.body_id = m.body_id LEFT JOIN message_prefix p ON p.id = m.prefix_id
         WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND {condition} ORDER BY m.uid"
    );
    let mut params = params![mailbox, folder];
    params.append(&mut extra);
    let rows = conn.rows(text, params).await?;
    let read = |row: &Row| {
        let summary = match row.int_opt(10)? {
            Some(block) => SummaryPlace::Block { block, offset: row.number(11)?, octets: row.number(8)? },
            None => SummaryPlace::Own(packed_opt(row, 6)?.ok_or(StorageError::Gone("summary"))?),
        };
        let internal_date = Timestamp(row.int(1)?);
        Ok(SummaryRow { uid: row.number(0)?, internal_date, prefix: packed_opt(row, 2)?, summary })
    };
    rows.iter().map(read).collect()
}

/// Gives bodies the summaries of others with the same bytes: pairs of old and new body.
///
/// # Errors
/// What the database says.
pub async fn copy(conn: &mut Conn, pairs: &[(BodyId, BodyId)]) -> Result<()> {
    let mut rest = pairs;
    while !rest.is_empty() {
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let (chunk, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        rest = after;
        let text = format!(
            "INSERT INTO summary (body_id, codec, dictionary_id, octets, data, block_id, block_offset)
             SELECT v.column2, s.codec, s.dictionary_id, s.octets, s.data, s.block_id, s.block_offset
             FROM (VALUES {}) AS v JOIN summary s ON s.body_id = v.column1",
            values_placeholders(chunk.len(), 2, true)
        );
        let params = chunk.iter().flat_map(|(old, new)| [Value::from(*old), Value::from(*new)]);
        conn.execute(text, params.collect()).await?;
    }
    let new: Vec<i64> = pairs.iter().map(|(_, new)| new.0).collect();
    summary_block::join(conn, &new).await
}
