//! Summaries: what listing needs, read by chunks together with the trace lines that stand before the body.

use super::delivery::Packed;
use super::message::{Chosen, selection};
use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::base::id::{FolderId, MailboxId};
use crate::params;
use crate::storage::Result;

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
        "SELECT m.uid, m.internal_date, p.codec, p.dictionary_id, p.octets, p.data, s.codec, s.dictionary_id, s.octets, s.data
         FROM message m JOIN summary s ON s.body_id = m.body_id LEFT JOIN message_prefix p ON p.id = m.prefix_id
         WHERE m.mailbox_id = $1 AND m.folder_id = $2 AND {condition} ORDER BY m.uid"
    );
    let mut params = params![mailbox, folder];
    params.append(&mut extra);
    let mut summaries = Vec::new();
    for row in conn.rows(text, params).await? {
        let prefix = match row.blob_opt(5)? {
            Some(data) => Some(Packed {
                codec: row.number(2)?,
                dictionary_id: row.number(3)?,
                octets: row.number(4)?,
                data: data.into(),
            }),
            None => None,
        };
        let summary = Packed {
            codec: row.number(6)?,
            dictionary_id: row.number(7)?,
            octets: row.number(8)?,
            data: row.blob(9)?.into(),
        };
        let internal_date = Timestamp(row.int(1)?);
        summaries.push(SummaryRow { uid: row.number(0)?, internal_date, prefix, summary });
    }
    Ok(summaries)
}
