//! Dictionaries that were trained from a customer's own mail, for that customer alone.
//!
//! # Consistency
//! A dictionary is committed before the first frame uses it. `pack_dictionary` says which packs need it, dropped
//! ones too for as long as their files may be read; its row goes after the last of them, and only when it is no
//! longer in use for new packs.

use std::collections::BTreeMap;

use super::sql::{Conn, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, MailboxId};
use crate::params;
use crate::storage::Result;
use crate::storage::pack::DICTIONARY_TRAINED;

/// Mailboxes of a customer from which mail is taken.
const MAILBOXES_MAX: i64 = 256;

/// Key of the dictionary with this number in frames; nothing for those that have no row.
pub fn key(id: u32) -> Option<i64> {
    id.checked_sub(DICTIONARY_TRAINED).map(i64::from)
}

/// The number in frames of the dictionary with this key.
fn number(key: i64) -> Option<u32> {
    u32::try_from(key).ok()?.checked_add(DICTIONARY_TRAINED)
}

/// The bytes of dictionaries, by their numbers in frames.
///
/// # Errors
/// What the database says.
pub async fn bytes(conn: &mut Conn, numbers: &[u32]) -> Result<Vec<(u32, Vec<u8>)>> {
    let keys = ids(numbers.iter().filter_map(|id| key(*id)));
    let mut found = Vec::new();
    for row in conn.rows("SELECT id, data FROM dictionary WHERE id IN IDS($1)", vec![keys]).await? {
        if let Some(number) = number(row.int(0)?) {
            found.push((number, row.blob(1)?));
        }
    }
    Ok(found)
}

/// All dictionaries of these customers, those out of use too, by their numbers in frames.
///
/// # Errors
/// What the database says.
pub async fn of(conn: &mut Conn, customers: &[i64]) -> Result<Vec<u32>> {
    let text = "SELECT id FROM dictionary WHERE customer_id IN IDS($1) ORDER BY id";
    let rows = conn.rows(text, vec![ids(customers.iter().copied())]).await?;
    Ok(rows
        .iter()
        .map(|row| row.int(0))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .filter_map(number)
        .collect())
}

/// The dictionaries in use for new packs, by customer.
///
/// # Errors
/// What the database says.
pub async fn in_use(conn: &mut Conn, customers: &[i64]) -> Result<BTreeMap<i64, u32>> {
    let text = "SELECT customer_id, max(id) FROM dictionary
                WHERE retired_at IS NULL AND customer_id IN IDS($1) GROUP BY customer_id";
    let mut found = BTreeMap::new();
    for row in conn.rows(text, vec![ids(customers.iter().copied())]).await? {
        if let Some(number) = number(row.int(1)?) {
            found.insert(row.int(0)?, number);
        }
    }
    Ok(found)
}

/// Takes a new dictionary into use for a customer, in place of the present one; answers its number in frames.
///
/// # Errors
/// What the database says.
pub async fn replace(
    conn: &mut Conn,
    customer: CustomerId,
    data: &[u8],
    now: Timestamp,
) -> Result<Option<u32>> {
    retire(conn, customer, now).await?;
    let text = "INSERT INTO dictionary (customer_id, data, created_at) VALUES ($1, $2, $3)";
    Ok(number(conn.insert(text, params![customer, data, now]).await?))
}

/// Takes a customer's dictionary out of use for new packs.
///
/// # Errors
/// What the database says.
pub async fn retire(conn: &mut Conn, customer: CustomerId, now: Timestamp) -> Result<()> {
    let text = "UPDATE dictionary SET retired_at = $2 WHERE customer_id = $1 AND retired_at IS NULL";
    conn.execute(text, params![customer, now]).await.map(drop)
}

/// Deletes dictionaries that are out of use and that no pack needs; those of customers that are gone go out of
/// use. Answers how many were deleted.
///
/// # Errors
/// What the database says.
pub async fn prune(conn: &mut Conn, now: Timestamp) -> Result<u64> {
    let text = "UPDATE dictionary SET retired_at = $1 WHERE retired_at IS NULL
                  AND NOT EXISTS (SELECT 1 FROM customer c WHERE c.id = dictionary.customer_id)";
    conn.execute(text, params![now]).await?;
    let text = "DELETE FROM dictionary WHERE retired_at IS NOT NULL
                  AND NOT EXISTS (SELECT 1 FROM pack_dictionary u WHERE u.dictionary_id = dictionary.id)";
    conn.execute(text, Vec::new()).await
}

/// Customers with at least so many octets of mail in their own mailboxes whose dictionary, if they have one, is
/// older than `before`; at most 10,000.
///
/// # Errors
/// What the database says.
pub async fn candidates(conn: &mut Conn, octets_min: i64, before: Timestamp) -> Result<Vec<CustomerId>> {
    let text = "SELECT d.customer_id FROM mailbox m JOIN domain d ON d.id = m.domain_id
                WHERE m.deleted_at IS NULL AND NOT EXISTS (
                    SELECT 1 FROM dictionary t WHERE t.customer_id = d.customer_id AND t.created_at > $2)
                GROUP BY d.customer_id HAVING sum(m.bytes_used) >= $1 ORDER BY d.customer_id LIMIT 10000";
    let rows = conn.rows(text, params![octets_min, before]).await?;
    rows.iter().map(|row| row.int(0).map(CustomerId)).collect()
}

/// A customer's mailboxes with mail, and the octets of each; at most 256.
///
/// # Errors
/// What the database says.
pub async fn mailboxes(conn: &mut Conn, customer: CustomerId) -> Result<Vec<(MailboxId, i64)>> {
    let text = "SELECT m.id, m.bytes_used FROM mailbox m JOIN domain d ON d.id = m.domain_id
                WHERE d.customer_id = $1 AND m.deleted_at IS NULL AND m.bytes_used > 0
                ORDER BY m.bytes_used DESC, m.id LIMIT $2";
    let rows = conn.rows(text, params![customer, MAILBOXES_MAX]).await?;
    rows.iter().map(|row| Ok((MailboxId(row.int(0)?), row.int(1)?))).collect()
}

/// Bodies of a mailbox's newest messages in each of its last folders, up to `octets_max` long and of this
/// customer; at most `count` messages are looked at.
///
/// # Errors
/// What the database says.
pub async fn samples(
    conn: &mut Conn,
    customer: CustomerId,
    mailbox: MailboxId,
    octets_max: i64,
    count: i64,
) -> Result<Vec<BodyId>> {
    let text = "SELECT DISTINCT b.id FROM (
                    SELECT body_id FROM message WHERE mailbox_id = $1 ORDER BY folder_id DESC, uid DESC LIMIT $2) m
                    JOIN body b ON b.id = m.body_id
                WHERE b.scope_id = $3 AND b.octets <= $4 ORDER BY b.id";
    let rows = conn.rows(text, params![mailbox, count, customer, octets_max]).await?;
    rows.iter().map(|row| row.int(0).map(BodyId)).collect()
}
