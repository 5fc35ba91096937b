//! Where bodies belong, and bringing them there. A body is at home in the mail store of the mailbox that refers to it,
//! and shared within the customer to which that mailbox belongs. It is elsewhere after the mailbox moved to another
//! store, or its domain to another customer: then it is written anew at home, and what refers to it is re-pointed.
//!
//! # Consistency
//! Messages and tombstones change under the lock of their mailbox, and are re-pointed under it, only if they still
//! refer to the old body; the references of old and new body change in the same transaction. UIDs, flags and
//! mod-sequences stay, so no client sees anything. Who reads meanwhile may find the body gone that the message had a
//! moment ago, and looks at the message again.
//!
//! What several mailboxes share stays shared: `body_copy` says which body was written for an old one, as long as
//! anything else refers to that.

use std::collections::{BTreeMap, BTreeSet};

use super::body;
use super::catalog;
use super::content::{self, NewBody};
use super::delivery::BodyPlace;
use super::mailbox::{self, LockedMailbox};
use super::sql::{Conn, Row, Value, ids, values_placeholders};
use super::summary;
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, DomainId, FolderId, MailboxId, StoreId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Rows of one page.
pub const PAGE_ROWS: usize = 1_000;
/// Rows that may have come or changed during a pass for it to count as the last one.
const LATE_ROWS_MAX: i64 = 1_000;

/// What refers to a body; in the order of passes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Holder {
    /// A message, by folder and UID.
    Message(FolderId, u32),
    /// A tombstone.
    Tombstone(i64),
}

impl Holder {
    /// Before all others.
    pub const FIRST: Self = Self::Message(FolderId(0), 0);
    /// Before all tombstones.
    pub const FIRST_TOMBSTONE: Self = Self::Tombstone(0);
}

/// A reference to a body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// What refers.
    pub holder: Holder,
    /// To which body.
    pub body: BodyId,
    /// Length of the body in octets.
    pub octets: u64,
    /// Whether it is where it belongs.
    pub is_home: bool,
}

const HELD: &str = "r.body_id, b.octets, \
     CASE WHEN b.scope_id = d.customer_id AND b.store_id = m.store_id THEN CAST(1 AS BIGINT) \
     ELSE CAST(0 AS BIGINT) END";
const HELD_JOINS: &str = "JOIN body b ON b.id = r.body_id JOIN mailbox m ON m.id = r.mailbox_id \
     JOIN domain d ON d.id = m.domain_id";

fn held(row: &Row, holder: Holder) -> Result<Held> {
    let (body, octets) = (BodyId(row.int(0)?), row.number(1)?);
    Ok(Held { holder, body, octets, is_home: row.int(2)? == 1 })
}

/// What refers to bodies in a mailbox behind `after`: messages or tombstones as that is, in order, those of deleted
/// folders and those on their way too; at most [`PAGE_ROWS`].
///
/// # Errors
/// What the database says.
pub async fn page(conn: &mut Conn, mailbox: MailboxId, after: Holder) -> Result<Vec<Held>> {
    match after {
        Holder::Message(folder, uid) => {
            let text = format!(
                "SELECT {HELD}, r.folder_id, r.uid FROM message r {HELD_JOINS}
                 WHERE r.mailbox_id = $1 AND (r.folder_id, r.uid) > ($2, $3)
                 ORDER BY r.folder_id, r.uid LIMIT 1000"
            );
            let rows = conn.rows(text, params![mailbox, folder, uid]).await?;
            let message = |row: &Row| held(row, Holder::Message(FolderId(row.int(3)?), row.number(4)?));
            rows.iter().map(message).collect()
        }
        Holder::Tombstone(id) => {
            let text = format!(
                "SELECT {HELD}, r.id FROM tombstone r {HELD_JOINS}
                 WHERE r.mailbox_id = $1 AND r.id > $2 ORDER BY r.id LIMIT 1000"
            );
            let rows = conn.rows(text, params![mailbox, id]).await?;
            rows.iter().map(|row| held(row, Holder::Tombstone(row.int(3)?))).collect()
        }
    }
}

/// Bodies at the home of a mailbox that were written in place of those of `bodies`.
///
/// # Errors
/// What the database says.
pub async fn copies(
    conn: &mut Conn,
    mailbox: MailboxId,
    bodies: impl Iterator<Item = BodyId>,
) -> Result<BTreeMap<BodyId, BodyId>> {
    let text = "SELECT c.body_id, c.copy_id
                FROM mailbox m JOIN domain d ON d.id = m.domain_id
                     JOIN body_copy c ON c.scope_id = d.customer_id AND c.store_id = m.store_id
                     JOIN body b ON b.id = c.copy_id
                WHERE m.id = $1 AND c.body_id IN IDS($2)";
    let rows = conn.rows(text, vec![mailbox.into(), ids(bodies.map(|body| body.0))]).await?;
    rows.iter().map(|row| Ok((BodyId(row.int(0)?), BodyId(row.int(1)?)))).collect()
}

/// What takes the place of a body.
#[derive(Clone, Debug)]
pub enum Replacement {
    /// A body that was written in its place before.
    Copy(BodyId),
    /// Its bytes, placed for the mailbox.
    Placed(BodyPlace),
}

/// What one transaction re-points: the references of one page from the first to the last, messages or tombstones.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The first of them.
    pub first: Holder,
    /// The last of them.
    pub last: Holder,
    /// What takes the place of which body, with the length of that in octets.
    pub replacements: BTreeMap<BodyId, (u64, Replacement)>,
}

/// Re-points the references of a batch to what takes the place of their bodies; answers how many, and the octets of
/// their bodies. What has changed meanwhile is left for another pass.
///
/// # Errors
/// `Busy` while the mail store takes nothing; what the database says. Then the transaction must not be committed.
pub async fn repoint(
    conn: &mut Conn,
    mailbox: MailboxId,
    batch: &Batch,
    now: Timestamp,
) -> Result<(u64, u64)> {
    let Some(home) = mailbox::lock_even_deleted(conn, mailbox).await? else { return Ok((0, 0)) };
    if !home.store_open {
        return Err(StorageError::Busy("the mail store takes no mail at present"));
    }
    let copies = lock_bodies(conn, &home, batch).await?;
    let mut found = still_held(conn, mailbox, batch).await?;
    found.retain(|(_, old)| match batch.replacements.get(old) {
        Some((_, Replacement::Copy(copy))) => copies.contains(copy),
        Some((_, Replacement::Placed(BodyPlace::Packs(packs)))) => {
            packs.iter().any(|pack| (pack.scope, pack.store) == (home.customer, home.store))
        }
        Some((_, Replacement::Placed(BodyPlace::Fresh(_)))) => true,
        None => false,
    });
    let references = content::count(found.iter().map(|(_, old)| old.0));
    let new = insert_new(conn, &home, batch, &found, &references, now).await?;
    let mut copied = BTreeMap::new();
    let mut all = new.clone();
    for (old, count) in &references {
        if let Some((_, Replacement::Copy(copy))) = batch.replacements.get(old) {
            *copied.entry(*copy).or_insert(0) += count;
            all.insert(*old, *copy);
        }
    }
    if !found.is_empty() {
        catalog::outdate(conn, &[mailbox.0]).await?;
    }
    set_bodies(conn, mailbox, &found, &all).await?;
    content::refer(conn, &copied).await?;
    body::release(conn, &references).await?;
    remember(conn, &home, &new).await?;
    let octets = found.iter().filter_map(|(_, old)| batch.replacements.get(old)).map(|(octets, _)| octets);
    Ok((found.len() as u64, octets.fold(0, |sum, octets| sum.saturating_add(*octets))))
}

/// Locks the bodies of a batch, their parts and the copies, ascending as all do; answers the copies that are there.
async fn lock_bodies(conn: &mut Conn, home: &LockedMailbox, batch: &Batch) -> Result<BTreeSet<BodyId>> {
    let copies = batch.replacements.values().filter_map(|(_, replacement)| match replacement {
        Replacement::Copy(copy) => Some(*copy),
        Replacement::Placed(_) => None,
    });
    let copies: BTreeSet<i64> = copies.map(|copy| copy.0).collect();
    if conn.is_postgres() {
        let all = batch.replacements.keys().map(|body| body.0).chain(copies.iter().copied());
        let text = "SELECT count(*) FROM (
                        SELECT id FROM body WHERE id IN IDS($1)
                           OR id IN (SELECT part_id FROM body_part WHERE body_id IN IDS($1))
                        ORDER BY id FOR UPDATE) AS locked";
        conn.execute(text, vec![ids(all)]).await?;
    }
    let text = "SELECT id FROM body WHERE id IN IDS($1) AND scope_id = $2 AND store_id = $3";
    let rows = conn.rows(text, vec![ids(copies), home.customer.into(), home.store.into()]).await?;
    rows.iter().map(|row| row.int(0).map(BodyId)).collect()
}

/// The references of a batch that still are to its bodies.
async fn still_held(conn: &mut Conn, mailbox: MailboxId, batch: &Batch) -> Result<Vec<(Holder, BodyId)>> {
    let bodies = ids(batch.replacements.keys().map(|body| body.0));
    match (batch.first, batch.last) {
        (Holder::Message(first, from), Holder::Message(last, to)) => {
            let text = "SELECT body_id, folder_id, uid FROM message
                        WHERE mailbox_id = $1 AND (folder_id, uid) >= ($3, $4) AND (folder_id, uid) <= ($5, $6)
                          AND body_id IN IDS($2)
                        ORDER BY folder_id, uid LIMIT 1000";
            let mut params = vec![mailbox.into(), bodies];
            params.extend(params![first, from, last, to]);
            let rows = conn.rows(text, params).await?;
            let held =
                |row: &Row| Ok((Holder::Message(FolderId(row.int(1)?), row.number(2)?), BodyId(row.int(0)?)));
            rows.iter().map(held).collect()
        }
        (Holder::Tombstone(first), Holder::Tombstone(last)) => {
            let text = "SELECT body_id, id FROM tombstone
                        WHERE mailbox_id = $1 AND id >= $3 AND id <= $4 AND body_id IN IDS($2)
                        ORDER BY id LIMIT 1000";
            let mut params = vec![mailbox.into(), bodies];
            params.extend(params![first, last]);
            let rows = conn.rows(text, params).await?;
            rows.iter().map(|row| Ok((Holder::Tombstone(row.int(1)?), BodyId(row.int(0)?)))).collect()
        }
        _ => Err(StorageError::Corrupt("messages and tombstones in one batch".to_owned())),
    }
}

/// Inserts the bodies that were placed and are referred to, with the summaries of the old ones; answers which stands
/// for which.
async fn insert_new(
    conn: &mut Conn,
    home: &LockedMailbox,
    batch: &Batch,
    found: &[(Holder, BodyId)],
    references: &BTreeMap<BodyId, i64>,
    now: Timestamp,
) -> Result<BTreeMap<BodyId, BodyId>> {
    let mut folders = BTreeMap::new();
    for (holder, old) in found {
        let folder = if let Holder::Message(folder, _) = holder { *folder } else { FolderId(0) };
        folders.entry(*old).or_insert(folder);
    }
    let (mut olds, mut bodies) = (Vec::new(), Vec::new());
    for (old, count) in references {
        let Some((octets, Replacement::Placed(place))) = batch.replacements.get(old) else { continue };
        let folder = folders.get(old).copied().unwrap_or(FolderId(0));
        olds.push(*old);
        bodies.push(NewBody { folder, references: *count, at: now, octets: *octets, place, summary: None });
    }
    let new = content::insert(conn, home, &bodies).await?;
    let pairs: Vec<(BodyId, BodyId)> = olds.into_iter().zip(new).collect();
    summary::copy(conn, &pairs).await?;
    Ok(pairs.into_iter().collect())
}

/// Writes the new bodies into the rows that refer.
async fn set_bodies(
    conn: &mut Conn,
    mailbox: MailboxId,
    found: &[(Holder, BodyId)],
    new: &BTreeMap<BodyId, BodyId>,
) -> Result<()> {
    let mut rest = found;
    while !rest.is_empty() {
        let size = [64, 16, 4, 1].into_iter().find(|&size| size <= rest.len()).unwrap_or(1);
        let (chunk, after) = rest.split_at_checked(size).unwrap_or((rest, &[]));
        rest = after;
        let list = values_placeholders(chunk.len(), 4, true);
        let last = chunk.len() * 4 + 1;
        let is_message = matches!(chunk.first(), Some((Holder::Message(..), _)));
        // A tombstone has one key; the second is 0, below every mailbox.
        let (table, key) = if is_message {
            ("message", "message.folder_id = v.column1 AND message.uid = v.column2")
        } else {
            ("tombstone", "tombstone.id = v.column1 AND tombstone.mailbox_id > v.column2")
        };
        let text = format!(
            "UPDATE {table} SET body_id = v.column4 FROM (VALUES {list}) AS v
             WHERE {table}.mailbox_id = CAST(${last} AS BIGINT) AND {key} AND {table}.body_id = v.column3"
        );
        let mut params: Vec<Value> = Vec::with_capacity(last);
        for (holder, old) in chunk {
            let key = match holder {
                Holder::Message(folder, uid) => [folder.0, i64::from(*uid)],
                Holder::Tombstone(id) => [*id, 0],
            };
            let new = new.get(old).ok_or(StorageError::Gone("a body's new home"))?;
            params.extend(key.into_iter().chain([old.0, new.0]).map(Value::from));
        }
        params.push(mailbox.into());
        if conn.execute(text, params).await? != chunk.len() as u64 {
            return Err(StorageError::Gone("a message that was to be re-pointed"));
        }
    }
    Ok(())
}

/// Notes which bodies were written for old ones that others still refer to.
async fn remember(conn: &mut Conn, home: &LockedMailbox, new: &BTreeMap<BodyId, BodyId>) -> Result<()> {
    let olds = || ids(new.keys().map(|old| old.0));
    let mut rows = Vec::new();
    for row in conn.rows("SELECT id FROM body WHERE id IN IDS($1)", vec![olds()]).await? {
        let old = BodyId(row.int(0)?);
        if let Some(new) = new.get(&old) {
            rows.push(params![old, home.customer, home.store, *new]);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = "DELETE FROM body_copy WHERE body_id IN IDS($1) AND scope_id = $2 AND store_id = $3";
    conn.execute(text, vec![olds(), home.customer.into(), home.store.into()]).await?;
    let head = "INSERT INTO body_copy (body_id, scope_id, store_id, copy_id)";
    conn.insert_rows(head, 4, rows).await
}

/// How a mailbox stood before a pass through it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Mark {
    /// Its folders' highest mod-sequences.
    folders: BTreeMap<i64, i64>,
    /// Its deleted folders whose messages are still there.
    buried: BTreeSet<i64>,
    /// Its newest tombstone.
    tombstone: i64,
}

/// How a mailbox stands.
///
/// # Errors
/// What the database says.
pub async fn mark(conn: &mut Conn, mailbox: MailboxId) -> Result<Mark> {
    let text = "SELECT CAST(0 AS BIGINT), id, mod_seq FROM folder WHERE mailbox_id = $1
                UNION ALL SELECT CAST(1 AS BIGINT), folder_id, CAST(0 AS BIGINT) FROM folder_purge WHERE mailbox_id = $1
                UNION ALL SELECT CAST(2 AS BIGINT), coalesce(max(id), 0), CAST(0 AS BIGINT) FROM tombstone
                          WHERE mailbox_id = $1";
    let mut mark = Mark::default();
    for row in conn.rows(text, params![mailbox]).await? {
        match row.int(0)? {
            0 => drop(mark.folders.insert(row.int(1)?, row.int(2)?)),
            1 => drop(mark.buried.insert(row.int(1)?)),
            _ => mark.tombstone = row.int(1)?,
        }
    }
    Ok(mark)
}

/// After a pass from `before` on that found nothing away: whether nothing has come behind its back either. Then the
/// mailbox is at home, which is written down. What comes to a message later comes from one of the same mailbox, or is
/// delivered, and so is at home.
///
/// # Errors
/// What the database says.
pub async fn settle(conn: &mut Conn, mailbox: MailboxId, before: &Mark) -> Result<bool> {
    if mailbox::lock_even_deleted(conn, mailbox).await?.is_none() {
        return Ok(true);
    }
    let now = mark(conn, mailbox).await?;
    // The messages of a folder that was deleted meanwhile may have come from anywhere.
    let is_known = before.folders.keys().all(|folder| now.folders.contains_key(folder));
    if !is_known || !now.buried.is_subset(&before.buried) {
        return Ok(false);
    }
    // With the mailbox SQLite would walk whole folders by the primary key.
    let text = format!(
        "SELECT {HELD} FROM message r {HELD_JOINS} WHERE r.folder_id = $1 AND r.mod_seq > $2 LIMIT $3"
    );
    for (folder, mod_seq) in &now.folders {
        let known = before.folders.get(folder).copied().unwrap_or(0);
        // What is on its way into a folder has mod-sequences that the folder has not reached.
        if *mod_seq == known && !is_staged(conn, *folder).await? {
            continue;
        }
        let rows = conn.rows(text.clone(), params![*folder, known, LATE_ROWS_MAX + 1]).await?;
        if !all_home(&rows)? {
            return Ok(false);
        }
    }
    let text = format!(
        "SELECT {HELD} FROM tombstone r {HELD_JOINS} WHERE r.mailbox_id = $1 AND r.id > $2 ORDER BY r.id LIMIT $3"
    );
    let rows = conn.rows(text, params![mailbox, before.tombstone, LATE_ROWS_MAX + 1]).await?;
    if !all_home(&rows)? {
        return Ok(false);
    }
    conn.execute("DELETE FROM homing WHERE mailbox_id = $1", params![mailbox]).await?;
    Ok(true)
}

async fn is_staged(conn: &mut Conn, folder: i64) -> Result<bool> {
    let text = "SELECT 1 FROM folder WHERE id = $1 AND staged_uid <> 0";
    Ok(conn.row(text, params![folder]).await?.is_some())
}

/// Whether these are few, and all at home.
fn all_home(rows: &[Row]) -> Result<bool> {
    if i64::try_from(rows.len()).unwrap_or(i64::MAX) > LATE_ROWS_MAX {
        return Ok(false);
    }
    for row in rows {
        if row.int(2)? != 1 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Gives mailboxes another mail store: what arrives goes there from now on. Their bodies are to follow.
///
/// # Errors
/// What the database says.
pub async fn set_store(
    conn: &mut Conn,
    mailboxes: &[MailboxId],
    store: StoreId,
    now: Timestamp,
) -> Result<()> {
    let keys = || ids(mailboxes.iter().map(|mailbox| mailbox.0));
    mailbox::lock_rows(conn, mailboxes.iter().map(|mailbox| mailbox.0)).await?;
    conn.execute("UPDATE mailbox SET store_id = $2 WHERE id IN IDS($1)", vec![keys(), store.into()]).await?;
    catalog::outdate(conn, &mailboxes.iter().map(|mailbox| mailbox.0).collect::<Vec<_>>()).await?;
    let text = "INSERT INTO homing (mailbox_id, is_automatic, tried_at, created_at)
                SELECT id, 0, 0, CAST($2 AS BIGINT) FROM mailbox WHERE id IN IDS($1) ON CONFLICT DO NOTHING";
    conn.execute(text, vec![keys(), now.into()]).await.map(drop)
}

/// Notes that domains have come to another customer: the bodies of their mailboxes follow by themselves.
///
/// # Errors
/// What the database says.
pub async fn domains_moved(conn: &mut Conn, domains: &[DomainId], now: Timestamp) -> Result<()> {
    let keys = || ids(domains.iter().map(|domain| domain.0));
    let text = "INSERT INTO homing (mailbox_id, is_automatic, tried_at, created_at)
                SELECT id, 1, 0, CAST($2 AS BIGINT) FROM mailbox WHERE domain_id IN IDS($1) ON CONFLICT DO NOTHING";
    conn.execute(text, vec![keys(), now.into()]).await?;
    let text = "UPDATE homing SET is_automatic = 1, tried_at = 0
                WHERE mailbox_id IN (SELECT id FROM mailbox WHERE domain_id IN IDS($1))";
    conn.execute(text, vec![keys()]).await.map(drop)
}

/// Takes the mailbox in turn among those whose bodies follow by themselves, unless it was tried after `before`.
///
/// # Errors
/// What the database says.
pub async fn take_turn(conn: &mut Conn, before: Timestamp, now: Timestamp) -> Result<Option<MailboxId>> {
    let text = "UPDATE homing SET tried_at = $2 WHERE mailbox_id = (
                    SELECT mailbox_id FROM homing WHERE is_automatic = 1 AND tried_at <= $1
                    ORDER BY tried_at, mailbox_id LIMIT 1) AND tried_at <= $1
                RETURNING mailbox_id";
    let row = conn.row(text, params![before, now]).await?;
    row.map(|row| row.int(0).map(MailboxId)).transpose()
}

/// Mailboxes behind `after` that may have bodies elsewhere than at home, ascending; at most 256.
///
/// # Errors
/// What the database says.
pub async fn homing(conn: &mut Conn, after: MailboxId) -> Result<Vec<MailboxId>> {
    let text = "SELECT mailbox_id FROM homing WHERE mailbox_id > $1 ORDER BY mailbox_id LIMIT 256";
    conn.rows(text, params![after]).await?.iter().map(|row| row.int(0).map(MailboxId)).collect()
}

/// Mailboxes of a store, deleted ones too, each with its customer; at most 256.
///
/// # Errors
/// What the database says.
pub async fn placed_on(conn: &mut Conn, store: StoreId) -> Result<Vec<(MailboxId, CustomerId)>> {
    let text = "SELECT m.id, d.customer_id FROM mailbox m JOIN domain d ON d.id = m.domain_id
                WHERE m.store_id = $1 ORDER BY m.id LIMIT 256";
    let rows = conn.rows(text, params![store]).await?;
    rows.iter().map(|row| Ok((MailboxId(row.int(0)?), CustomerId(row.int(1)?)))).collect()
}

/// Octets of the messages of mailboxes, and of their tombstones as these count: about what may have to be moved.
///
/// # Errors
/// What the database says.
pub async fn octets_of(conn: &mut Conn, mailboxes: &[MailboxId]) -> Result<u64> {
    let text = "SELECT CAST(coalesce(sum(bytes_used + tombstone_octets), 0) AS BIGINT) FROM mailbox
                WHERE id IN IDS($1)";
    let keys = ids(mailboxes.iter().map(|mailbox| mailbox.0));
    let row = conn.row(text, vec![keys]).await?.ok_or(StorageError::Gone("the sum"))?;
    row.number(0)
}
