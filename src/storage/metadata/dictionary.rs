//! Dictionaries that were trained from a customer's own mail, for that customer alone.
//!
//! # Consistency
//! A dictionary is committed, and lies as a file beside the packs (`dictionary_place`), before the
//! first frame uses it. `pack_dictionary` says which packs need it, dropped
//! ones too for as long as their files may be read; its row goes after the last of them, and only when it is no
//! longer in use for new packs.

use std::collections::{BTreeMap, BTreeSet};

use super::sql::{Conn, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, MailboxId, StoreId};
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
    let deleted = conn.execute(text, Vec::new()).await?;
    let text = "UPDATE dictionary_place SET state = 'removing' WHERE state <> 'removing'
                  AND NOT EXISTS (SELECT 1 FROM dictionary d
                                  WHERE d.id = dictionary_place.dictionary_id AND d.retired_at IS NULL)
                  AND NOT EXISTS (SELECT 1 FROM pack_dictionary u JOIN pack p ON p.id = u.pack_id
                                  WHERE u.dictionary_id = dictionary_place.dictionary_id
                                    AND p.store_id = dictionary_place.store_id)";
    conn.execute(text, Vec::new()).await?;
    Ok(deleted)
}

/// The customer of a dictionary, when it was trained, and its bytes.
///
/// # Errors
/// What the database says.
pub async fn whole(conn: &mut Conn, number: u32) -> Result<Option<(i64, i64, Vec<u8>)>> {
    let text = "SELECT customer_id, created_at, data FROM dictionary WHERE id = $1";
    let row = conn.row(text, params![key(number)]).await?;
    row.map(|row| Ok((row.int(0)?, row.int(1)?, row.blob(2)?))).transpose()
}

/// A dictionary's file in a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The dictionary's number in frames.
    pub number: u32,
    /// The store.
    pub store: StoreId,
    /// Whether there may be an object too.
    pub is_remote: bool,
}

fn numbers(rows: &[super::sql::Row]) -> Result<Vec<u32>> {
    let keys = rows.iter().map(|row| row.int(0)).collect::<Result<Vec<_>>>()?;
    Ok(keys.into_iter().filter_map(number).collect())
}

/// Numbers of the dictionaries that lie beside the packs of a store.
///
/// # Errors
/// What the database says.
pub async fn placed(conn: &mut Conn, store: StoreId) -> Result<Vec<u32>> {
    let text = "SELECT dictionary_id FROM dictionary_place WHERE store_id = $1 AND state = 'present'
                ORDER BY dictionary_id";
    numbers(&conn.rows(text, params![store]).await?)
}

/// Those of the dictionaries that do not lie beside the packs of a store yet, or not in its bucket.
///
/// # Errors
/// What the database says.
pub async fn unplaced(conn: &mut Conn, store: StoreId, wanted: &[u32], remote: bool) -> Result<Vec<u32>> {
    let text = "SELECT dictionary_id FROM dictionary_place
                WHERE store_id = $1 AND state = 'present' AND is_remote >= $2";
    let placed = numbers(&conn.rows(text, params![store, remote]).await?)?;
    Ok(wanted.iter().copied().filter(|number| !placed.contains(number)).collect())
}

/// As [`unplaced`] for all dictionaries that packs of the store need; at most 256.
///
/// # Errors
/// What the database says.
pub async fn unplaced_of_packs(conn: &mut Conn, store: StoreId, remote: bool) -> Result<Vec<u32>> {
    let text = "SELECT DISTINCT u.dictionary_id FROM pack_dictionary u JOIN pack p ON p.id = u.pack_id
                WHERE p.store_id = $1 AND NOT EXISTS (
                    SELECT 1 FROM dictionary_place d WHERE d.dictionary_id = u.dictionary_id
                       AND d.store_id = $1 AND d.state = 'present' AND d.is_remote >= $2)
                ORDER BY u.dictionary_id LIMIT 256";
    numbers(&conn.rows(text, params![store, remote]).await?)
}

/// The dictionaries that packs need.
///
/// # Errors
/// What the database says.
pub async fn of_packs(conn: &mut Conn, packs: &[i64]) -> Result<BTreeSet<u32>> {
    let text = "SELECT DISTINCT dictionary_id FROM pack_dictionary WHERE pack_id IN IDS($1)";
    Ok(numbers(&conn.rows(text, vec![ids(packs.iter().copied())]).await?)?.into_iter().collect())
}

/// Says that a dictionary's file is about to be written.
///
/// # Errors
/// What the database says.
pub async fn place_begins(conn: &mut Conn, store: StoreId, number: u32) -> Result<()> {
    let text = "INSERT INTO dictionary_place (dictionary_id, store_id, state) VALUES ($1, $2, 'writing')
                ON CONFLICT (dictionary_id, store_id) DO UPDATE SET state = 'writing'
                    WHERE dictionary_place.state = 'removing'";
    conn.execute(text, params![key(number), store]).await.map(drop)
}

/// Says that a dictionary's file is there, and in the store's bucket if it has one.
///
/// # Errors
/// What the database says.
pub async fn place_done(conn: &mut Conn, store: StoreId, number: u32, is_remote: bool) -> Result<()> {
    let text = "UPDATE dictionary_place SET state = 'present', is_remote = $3
                WHERE dictionary_id = $1 AND store_id = $2";
    conn.execute(text, params![key(number), store, is_remote]).await.map(drop)
}

/// Notes that dictionaries do not lie beside the packs of a store any more.
///
/// # Errors
/// What the database says.
pub async fn unplace(conn: &mut Conn, store: StoreId, numbers: &[u32]) -> Result<()> {
    let keys = ids(numbers.iter().filter_map(|number| key(*number)));
    let text = "UPDATE dictionary_place SET state = 'writing', is_remote = 0
                WHERE store_id = $1 AND state = 'present' AND dictionary_id IN IDS($2)";
    conn.execute(text, vec![store.into(), keys]).await.map(drop)
}

/// Whether dictionaries (keys) lie beside the packs of a store.
///
/// # Errors
/// What the database says.
pub(super) async fn are_placed(conn: &mut Conn, store: StoreId, keys: &[i64]) -> Result<bool> {
    let text = "SELECT count(*) FROM dictionary_place
                WHERE store_id = $1 AND state = 'present' AND dictionary_id IN IDS($2)";
    let row = conn.row(text, vec![store.into(), ids(keys.iter().copied())]).await?;
    let count = row.map_or(Ok(0), |row| row.int(0))?;
    Ok(usize::try_from(count) == Ok(keys.len()))
}

/// Files of dictionaries that are to be removed; at most 256.
///
/// # Errors
/// What the database says.
pub async fn going(conn: &mut Conn) -> Result<Vec<Place>> {
    let text = "SELECT dictionary_id, store_id, is_remote FROM dictionary_place WHERE state = 'removing'
                ORDER BY dictionary_id, store_id LIMIT 256";
    let mut places = Vec::new();
    for row in conn.rows(text, params![]).await? {
        if let Some(number) = number(row.int(0)?) {
            places.push(Place { number, store: StoreId(row.int(1)?), is_remote: row.int(2)? != 0 });
        }
    }
    Ok(places)
}

/// Forgets a dictionary's file that is gone.
///
/// # Errors
/// What the database says.
pub async fn place_gone(conn: &mut Conn, store: StoreId, number: u32) -> Result<()> {
    let text =
        "DELETE FROM dictionary_place WHERE dictionary_id = $1 AND store_id = $2 AND state = 'removing'";
    conn.execute(text, params![key(number), store]).await.map(drop)
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
