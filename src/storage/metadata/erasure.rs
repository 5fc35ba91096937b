//! The ledger of what was purged for good. A restore applies it again, so that no backup brings it back.

use serde::{Deserialize, Serialize};

use super::customer_count;
use super::sql::Conn;
use crate::base::clock::Timestamp;
use crate::params;
use crate::storage::Result;

/// An entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erased {
    /// `mailbox` or `customer`.
    pub kind: String,
    /// Its public id.
    pub id: String,
    /// When it was purged.
    pub at: Timestamp,
}

/// Entries behind `after` (kind and public id); at most 1,000.
///
/// # Errors
/// When the database fails.
pub async fn page(conn: &mut Conn, after: Option<&Erased>) -> Result<Vec<Erased>> {
    let text = "SELECT kind, public_id, at FROM erasure WHERE (kind, public_id) > ($1, $2)
                ORDER BY kind, public_id LIMIT 1000";
    let (kind, id) = after.map_or(("", ""), |after| (after.kind.as_str(), after.id.as_str()));
    let erased = |row: &super::sql::Row| {
        Ok(Erased { kind: row.text(0)?, id: row.text(1)?, at: Timestamp(row.int(2)?) })
    };
    conn.rows(text, params![kind, id]).await?.iter().map(erased).collect()
}

/// The moment at which what [`apply`] has marked counts as deleted: everything else was deleted later, so a purge up to
/// it takes exactly what was marked.
pub const MARKED: Timestamp = Timestamp(1);

/// Enters entries and marks what they name to be purged up to [`MARKED`]. Domains of an erased customer go with it
/// unless a mailbox in them was never erased: they belonged to somebody else when the customer was purged. Answers how
/// many mailboxes and customers that the database holds are concerned. Give mailboxes before customers.
///
/// # Errors
/// When the database fails.
pub async fn apply(conn: &mut Conn, entries: &[Erased]) -> Result<u64> {
    let mut concerned = 0;
    for entry in entries {
        let text = "INSERT INTO erasure (kind, public_id, at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
        conn.execute(text, params![&entry.kind, &entry.id, entry.at]).await?;
        match entry.kind.as_str() {
            "mailbox" => {
                let text = "UPDATE mailbox SET deleted_at = $2, deleted_by = $3, local_part = public_id
                            WHERE public_id = $1";
                concerned += conn.execute(text, params![&entry.id, MARKED, "erasure"]).await?;
            }
            "customer" => {
                for text in [
                    "UPDATE domain SET deleted_at = $2, deleted_by = $3
                     WHERE customer_id = (SELECT id FROM customer WHERE public_id = $1)
                       AND NOT EXISTS (SELECT 1 FROM mailbox m WHERE m.domain_id = domain.id AND m.deleted_by <> $3)
                       AND NOT EXISTS (SELECT 1 FROM mailbox m WHERE m.domain_id = domain.id AND m.deleted_by IS NULL)",
                    "UPDATE administrator SET deleted_at = $2, deleted_by = $3
                     WHERE customer_id = (SELECT id FROM customer WHERE public_id = $1)",
                ] {
                    conn.execute(text, params![&entry.id, MARKED, "erasure"]).await?;
                }
                let text = "UPDATE customer SET deleted_at = $2, deleted_by = $3
                            WHERE public_id = $1 AND parent_id IS NOT NULL";
                concerned += conn.execute(text, params![&entry.id, MARKED, "erasure"]).await?;
            }
            // Of a later version.
            _ => {}
        }
    }
    customer_count::forget_all(conn).await?;
    Ok(concerned)
}

/// Customers that were erased and yet hold domains with mailboxes that were not: those stay, and are not deleted.
/// Answers their public ids.
///
/// # Errors
/// When the database fails.
pub async fn release_kept(conn: &mut Conn) -> Result<Vec<String>> {
    let text = "UPDATE customer SET deleted_at = NULL, deleted_by = NULL WHERE deleted_at = $1
                RETURNING public_id";
    conn.rows(text, params![MARKED]).await?.iter().map(|row| row.text(0)).collect()
}
