//! Summaries: what listing needs, read by chunks together with the trace lines that stand before the body.

use super::content::packed_opt;
use super::delivery::Packed;
use super::message::{Chosen, selection};
use super::sql::{Conn, Row, Value, values_placeholders};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, FolderId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Most summaries in one read.
pub const SUMMARIES_MAX: usize = 1000;

/// One message's summary as it is stored.
pub struct SummaryRow {
    /// UID.
    pub uid: u32,
    /// INTERNALDATE.
    pub internal_date: Timestamp,
    /// Trace lines, if any.
    pub prefix: Option<Packed>,
    /// The summary.
    pub summary: Packed,
}

/// Summaries, ascending by UID; those that are gone are left out.
///
/// # Errors
/// What the database says.
pub async fn read(
    conn: &mut Conn,
    mailbox: MailboxId,
    folder: FolderId,
    chosen: &Chosen,
) -> Result<Vec<SummaryRow>> {
    let (condition, mut extra) = selection(chosen, 3);
    let text = format!(
        "SELECT m.uid, m.internal_date, p.codec, p.dictionary_id, p.octets, p.data,
                s.codec, s.dictionary_id, s.octets, s.data
         FROM message m JOIN summary s ON s.body_id = m.body_id LEFT JOIN message_prefix p ON p.id = m.prefix_id
         WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND {condition} ORDER BY m.uid"
    );
    let mut params = params![mailbox, folder];
    params.append(&mut extra);
    let rows = conn.rows(text, params).await?;
    let read = |row: &Row| {
        let summary = packed_opt(row, 6)?.ok_or(StorageError::Gone("summary"))?;
        let internal_date = Timestamp(row.int(1)?);
        Ok(SummaryRow { uid: row.number(0)?, internal_date, prefix: packed_opt(row, 2)?, summary })
    };
    rows.iter().map(read).collect()
}

/// Gives bodies the summaries of others with the same bytes: pairs of old and new body.
///
/// # Errors
/// What the database says.
pub async fn copy(conn: &mut Conn, pairs: impl ExactSizeIterator<Item = (BodyId, BodyId)>) -> Result<()> {
    let mut pairs = pairs;
    while pairs.len() > 0 {
        let chunk = [64, 16, 4, 1].into_iter().find(|&size| size <= pairs.len()).unwrap_or(1);
        let text = format!(
            "INSERT INTO summary (body_id, codec, dictionary_id, octets, data)
             SELECT v.column2, s.codec, s.dictionary_id, s.octets, s.data
             FROM (VALUES {}) AS v JOIN summary s ON s.body_id = v.column1",
            values_placeholders(chunk, 2, true)
        );
        let params = pairs.by_ref().take(chunk).flat_map(|(old, new)| [Value::from(old), Value::from(new)]);
        conn.execute(text, params.collect()).await?;
    }
    Ok(())
}
