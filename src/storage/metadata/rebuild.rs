//! Filling an empty database from catalogs and packs. Nothing else uses the database meanwhile, so some statements here
//! pass over whole tables.
//!
//! # Crash consistency
//! From the first row on until the last the instance is marked as unfinished; such a database is refused by whoever
//! opens it. Rebuilding begins anew with an empty one.

use std::collections::BTreeSet;

use super::delivery::{Packed, packed_row};
use super::pack::Node;
use super::sql::{Conn, Value, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{StoreId, public_id, random_text};
use crate::params;
use crate::storage::catalogs::record::{
    AliasRecord, CustomerRecord, DomainRecord, FolderRecord, HoldRecord, MailboxRecord, MessageRecord,
};
use crate::storage::{Result, StorageError};

/// The key in table `instance` that marks an unfinished rebuild.
const MARK: &str = "rebuild";
/// No password has this hash.
pub(super) const LOCKED: &str = "!";
/// UIDVALIDITY goes on at least so far behind what the catalog has: folders that were made since had these.
const UID_VALIDITY_GAP: i64 = 4_096;
/// What a tombstone counts besides its message (`tombstone.rs`).
const TOMBSTONE_ROW_OCTETS: i64 = 1_024;

/// Whether the database is as good as new: it has nothing but perhaps its root customer.
///
/// # Errors
/// What the database says.
pub async fn is_empty(conn: &mut Conn) -> Result<bool> {
    let text =
        "SELECT (SELECT count(*) FROM mailbox) + (SELECT count(*) FROM domain) + (SELECT count(*) FROM body)
                     + (SELECT count(*) FROM administrator) + (SELECT count(*) FROM pack)
                     + (SELECT count(*) FROM customer WHERE parent_id IS NOT NULL)";
    Ok(conn.row(text, params![]).await?.map_or(Ok(1), |row| row.int(0))? == 0 && !is_unfinished(conn).await?)
}

/// Whether a rebuild was begun and not finished.
///
/// # Errors
/// What the database says.
pub async fn is_unfinished(conn: &mut Conn) -> Result<bool> {
    Ok(conn.row("SELECT 1 FROM instance WHERE key = $1", params![MARK]).await?.is_some())
}

/// Marks the database as unfinished.
///
/// # Errors
/// What the database says.
pub async fn begin(conn: &mut Conn) -> Result<()> {
    conn.execute("INSERT INTO instance (key, value) VALUES ($1, 'unfinished')", params![MARK]).await.map(drop)
}

/// Puts a customer there, in place of one with its key. Those above it come first.
///
/// # Errors
/// What the database says.
pub async fn customer(conn: &mut Conn, record: &CustomerRecord) -> Result<()> {
    let text = "INSERT INTO customer (id, public_id, parent_id, slug, name, kind, code, contact, bytes_max,
                       messages_max, mailboxes_max, aliases_max, domains_max, customers_max, administrators_max,
                       created_at, deleted_at, deleted_by, bytes_guarantee, mailboxes_guarantee,
                       bytes_overcommit_percent, mailboxes_overcommit_percent)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
                        $21, $22)
                ON CONFLICT (id) DO UPDATE SET public_id = excluded.public_id, slug = excluded.slug,
                       name = excluded.name, kind = excluded.kind, code = excluded.code, contact = excluded.contact,
                       bytes_max = excluded.bytes_max, messages_max = excluded.messages_max,
                       mailboxes_max = excluded.mailboxes_max, aliases_max = excluded.aliases_max,
                       domains_max = excluded.domains_max, customers_max = excluded.customers_max,
                       administrators_max = excluded.administrators_max, created_at = excluded.created_at,
                       bytes_guarantee = excluded.bytes_guarantee,
                       mailboxes_guarantee = excluded.mailboxes_guarantee,
                       bytes_overcommit_percent = excluded.bytes_overcommit_percent,
                       mailboxes_overcommit_percent = excluded.mailboxes_overcommit_percent";
    let one = record.clone();
    let mut params = params![one.id, one.public_id, one.parent, one.slug, one.name, one.kind, one.code];
    params.push(one.contact.into());
    params.extend(one.limits.map(Value::from));
    params.extend(params![one.created_at, one.deleted_at, one.deleted_by]);
    params.extend(one.shares.map(Value::from));
    conn.execute(text, params).await.map(drop)
}

/// Gives the root customer of the empty database this key.
///
/// # Errors
/// What the database says.
pub async fn root_is(conn: &mut Conn, id: i64) -> Result<()> {
    conn.execute("UPDATE customer SET id = $1 WHERE parent_id IS NULL", params![id]).await.map(drop)
}

/// Makes sure that the customers and the domain of a mailbox are there, as far as its entry tells of them.
///
/// # Errors
/// What the database says.
pub async fn ensure_home(conn: &mut Conn, record: &MailboxRecord, now: Timestamp) -> Result<()> {
    let known = "SELECT 1 FROM domain WHERE id = $1";
    if conn.row(known, params![record.domain]).await?.is_some() {
        return Ok(());
    }
    let root = conn.row("SELECT id FROM customer WHERE parent_id IS NULL", params![]).await?;
    let mut parent = root.ok_or(StorageError::Gone("the root customer"))?.int(0)?;
    for (id, slug) in record.path.iter().skip(1) {
        let text = "INSERT INTO customer (id, public_id, parent_id, slug, name, code, created_at)
                    VALUES ($1, $2, $3, $4, $4, $5, $6) ON CONFLICT DO NOTHING";
        conn.execute(text, params![*id, public_id(), parent, slug, random_text(6), now]).await?;
        parent = *id;
    }
    let text = "INSERT INTO domain (id, public_id, customer_id, name, state, created_at)
                VALUES ($1, $2, $3, $4, 'verified', $5) ON CONFLICT DO NOTHING";
    conn.execute(text, params![record.domain, public_id(), parent, &record.domain_name, now]).await.map(drop)
}

/// Keys of the domains that are there.
///
/// # Errors
/// What the database says.
pub async fn domain_keys(conn: &mut Conn) -> Result<Vec<i64>> {
    conn.rows("SELECT id FROM domain ORDER BY id", params![]).await?.iter().map(|row| row.int(0)).collect()
}

/// Keys of the customers that are there.
///
/// # Errors
/// What the database says.
pub async fn customer_keys(conn: &mut Conn) -> Result<BTreeSet<i64>> {
    conn.rows("SELECT id FROM customer", params![]).await?.iter().map(|row| row.int(0)).collect()
}

/// Puts a domain there; false when its name or its key is taken.
///
/// # Errors
/// What the database says.
pub async fn domain(conn: &mut Conn, record: &DomainRecord) -> Result<bool> {
    let text = "INSERT INTO domain (id, public_id, customer_id, name, state, alias_of, catch_all, bytes_max,
                       messages_max, mailbox_bytes_max_default, created_at, deleted_at, deleted_by)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING";
    let one = record.clone();
    let mut params = params![one.id, one.public_id, one.customer, one.name, one.state, one.alias_of];
    params.push(one.catch_all.into());
    params.extend(one.limits.map(Value::from));
    params.extend(params![one.created_at, one.deleted_at, one.deleted_by]);
    Ok(conn.execute(text, params).await? > 0)
}

/// Puts an alias there with its targets; false when it is taken.
///
/// # Errors
/// What the database says.
pub async fn alias(conn: &mut Conn, record: &AliasRecord) -> Result<bool> {
    let text = "INSERT INTO alias (id, public_id, domain_id, local_part, created_at)
                SELECT $1, $2, $3, $4, $5 WHERE EXISTS (SELECT 1 FROM domain WHERE id = $3) ON CONFLICT DO NOTHING";
    let params = params![record.id, &record.public_id, record.domain, &record.local_part, record.created_at];
    if conn.execute(text, params).await? == 0 {
        return Ok(false);
    }
    let rows = record.targets.iter().map(|target| params![record.id, target]).collect();
    conn.insert_rows("INSERT INTO alias_target (alias_id, address)", 2, rows).await?;
    Ok(true)
}

/// Puts a hold there; false when what it is on is not.
///
/// # Errors
/// What the database says.
pub async fn hold(conn: &mut Conn, record: &HoldRecord) -> Result<bool> {
    let text = "INSERT INTO hold (id, public_id, customer_id, domain_id, mailbox_id, switch, reason, actor,
                                  authority_customer_id, created_at)
                SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10
                WHERE EXISTS (SELECT 1 FROM customer WHERE id = $9)
                  AND ($3 IS NULL OR EXISTS (SELECT 1 FROM customer WHERE id = $3))
                  AND ($4 IS NULL OR EXISTS (SELECT 1 FROM domain WHERE id = $4))
                  AND ($5 IS NULL OR EXISTS (SELECT 1 FROM mailbox WHERE id = $5)) ON CONFLICT DO NOTHING";
    let one = record.clone();
    let params = params![
        one.id,
        one.public_id,
        one.customer,
        one.domain,
        one.mailbox,
        one.switch,
        one.reason,
        one.actor,
        one.authority,
        one.created_at
    ];
    Ok(conn.execute(text, params).await? > 0)
}

/// Puts a mailbox there, which nobody can log into, with its folders and subscriptions; each folder gets a UIDVALIDITY
/// that it never had. False when the address or the key is taken.
///
/// # Errors
/// What the database says.
pub async fn mailbox(
    conn: &mut Conn,
    store: StoreId,
    record: &MailboxRecord,
    folders: &[FolderRecord],
    subscriptions: &[String],
    now: Timestamp,
) -> Result<bool> {
    let living = folders.iter().filter(|folder| folder.deleted_at.is_none());
    let first = record.uid_validity_next.saturating_add(UID_VALIDITY_GAP).max(now.secs());
    let first = first.clamp(1, i64::from(u32::MAX) - 1 - i64::try_from(folders.len()).unwrap_or(i64::MAX));
    let text =
        "INSERT INTO mailbox (id, public_id, domain_id, local_part, name, password_hash, store_id, bytes_max,
                       messages_max, uid_validity_next, created_at, deleted_at, deleted_by)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING";
    let next = first.saturating_add(i64::try_from(living.clone().count()).unwrap_or(0));
    let one = record.clone();
    let params = params![
        one.id,
        one.public_id,
        one.domain,
        one.local_part,
        one.name,
        LOCKED,
        store,
        one.bytes_max,
        one.messages_max,
        next,
        one.created_at,
        one.deleted_at,
        one.deleted_by
    ];
    if conn.execute(text, params).await? == 0 {
        return Ok(false);
    }
    let rows = living.zip(first..).map(|(folder, uid_validity)| {
        let one = folder.clone();
        let (selectable, uid_next) = (one.is_selectable, one.uid_next);
        let (name, special_use) = (one.name, one.special_use);
        let numbers = (one.mod_seq, one.recent_uid, one.created_at);
        params![
            one.id,
            record.id,
            name,
            special_use,
            selectable,
            uid_validity,
            uid_next,
            numbers.0,
            numbers.1,
            numbers.2
        ]
    });
    let head =
        "INSERT INTO folder (id, mailbox_id, name, special_use, selectable, uid_validity, uid_next, mod_seq,
                                    recent_uid, created_at)";
    conn.insert_rows(head, 10, rows.collect()).await?;
    let rows = folders.iter().filter_map(|folder| {
        let one = folder.clone();
        let (validity, at) = (one.uid_validity, one.deleted_at?);
        Some(params![one.id, record.id, one.name, one.special_use, validity, at])
    });
    let head =
        "INSERT INTO deleted_folder (folder_id, mailbox_id, name, special_use, uid_validity, deleted_at)";
    conn.insert_rows(head, 6, rows.collect()).await?;
    let keywords = folders.iter().flat_map(|folder| {
        folder.keywords.iter().map(|(number, name)| params![folder.id, *number, name.as_str()])
    });
    conn.insert_rows("INSERT INTO folder_keyword (folder_id, keyword, name)", 3, keywords.collect()).await?;
    let rows = subscriptions.iter().map(|name| params![record.id, name]).collect();
    conn.insert_rows("INSERT INTO subscription (mailbox_id, name)", 2, rows).await?;
    // What earlier entries have of folders that are gone.
    let living = folders.iter().filter(|folder| folder.deleted_at.is_none()).map(|folder| folder.id);
    let text = "DELETE FROM message WHERE mailbox_id = $1 AND folder_id NOT IN IDS($2)";
    conn.execute(text, vec![record.id.into(), ids(living)]).await.map(|_| true)
}

/// Takes everything of a mailbox back that cannot be put there.
///
/// # Errors
/// What the database says.
pub async fn forget_mailbox(conn: &mut Conn, mailbox: i64) -> Result<u64> {
    conn.execute("DELETE FROM tombstone WHERE mailbox_id = $1", params![mailbox]).await?;
    conn.execute("DELETE FROM message WHERE mailbox_id = $1", params![mailbox]).await
}

/// Puts messages into a folder, in place of those with their UIDs. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn messages(
    conn: &mut Conn,
    mailbox: i64,
    folder: i64,
    messages: &[(MessageRecord, Option<Packed>)],
) -> Result<()> {
    let uids = ids(messages.iter().map(|(message, _)| message.uid));
    let text = "DELETE FROM message WHERE mailbox_id = $1 AND folder_id = $2 AND uid IN IDS($3)";
    conn.execute(text, vec![mailbox.into(), folder.into(), uids]).await?;
    prefixes(conn, messages).await?;
    let row = |(message, prefix): &(MessageRecord, Option<Packed>)| {
        let flags = message.flags.cast_signed();
        let prefix_id = if prefix.is_some() { message.prefix_id } else { 0 };
        let (uid, body, octets) = (message.uid, message.body, message.octets);
        params![mailbox, folder, uid, flags, 1_i64, body, prefix_id, octets, message.internal_date]
    };
    let head = "INSERT INTO message (mailbox_id, folder_id, uid, flags, mod_seq, body_id, prefix_id, octets,
                                     internal_date)";
    conn.insert_rows(head, 9, messages.iter().map(row).collect()).await
}

/// Puts tombstones into a mailbox. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn tombstones(
    conn: &mut Conn,
    mailbox: i64,
    tombstones: &[(MessageRecord, Option<Packed>)],
) -> Result<()> {
    prefixes(conn, tombstones).await?;
    let row = |(message, prefix): &(MessageRecord, Option<Packed>)| {
        let flags = message.flags.cast_signed();
        let prefix_id = if prefix.is_some() { message.prefix_id } else { 0 };
        let (uid, body, octets, grave) = (message.uid, message.body, message.octets, message.grave);
        params![mailbox, grave.0, uid, flags, body, prefix_id, octets, message.internal_date, grave.1]
    };
    let head =
        "INSERT INTO tombstone (mailbox_id, folder_id, uid, flags, body_id, prefix_id, octets, internal_date,
                                       expunged_at)";
    conn.insert_rows(head, 9, tombstones.iter().map(row).collect()).await
}

async fn prefixes(conn: &mut Conn, messages: &[(MessageRecord, Option<Packed>)]) -> Result<()> {
    let some = messages.iter().filter_map(|(message, prefix)| Some((message.prefix_id, prefix.as_ref()?)));
    let rows: Vec<(i64, &Packed)> = some.collect();
    let text = "DELETE FROM message_prefix WHERE id IN IDS($1)";
    conn.execute(text, vec![ids(rows.iter().map(|(id, _)| *id))]).await?;
    let head = "INSERT INTO message_prefix (id, codec, dictionary_id, octets, data)";
    conn.insert_rows(head, 5, rows.into_iter().map(|(id, packed)| packed_row(id, packed)).collect()).await
}

/// Takes messages of a folder back whose UIDs are between these, both excluded. Give at most 256.
///
/// # Errors
/// What the database says.
pub async fn gaps(conn: &mut Conn, mailbox: i64, folder: i64, gaps: &[(i64, i64)]) -> Result<()> {
    for (after, before) in gaps {
        let text = "DELETE FROM message WHERE mailbox_id = $1 AND folder_id = $2 AND uid > $3 AND uid < $4";
        conn.execute(text, params![mailbox, folder, *after, *before]).await?;
    }
    Ok(())
}

/// Enters a dictionary under its key.
///
/// # Errors
/// What the database says.
pub async fn dictionary(
    conn: &mut Conn,
    key: i64,
    customer: i64,
    data: &[u8],
    created_at: i64,
) -> Result<()> {
    let text = "INSERT INTO dictionary (id, customer_id, data, created_at) VALUES ($1, $2, $3, $4)
                ON CONFLICT DO NOTHING";
    conn.execute(text, params![key, customer, data, created_at]).await.map(drop)
}

/// Notes that a dictionary's file lies beside the packs of a store.
///
/// # Errors
/// What the database says.
pub async fn dictionary_placed(conn: &mut Conn, key: i64, store: StoreId, is_remote: bool) -> Result<()> {
    let text = "INSERT INTO dictionary_place (dictionary_id, store_id, state, is_remote)
                VALUES ($1, $2, 'present', $3) ON CONFLICT DO NOTHING";
    conn.execute(text, params![key, store, is_remote]).await.map(drop)
}

/// Notes an old catalog, so that its file goes when there is a new one.
///
/// # Errors
/// What the database says.
pub async fn old_catalog(
    conn: &mut Conn,
    node: &Node,
    store: StoreId,
    name: &str,
    now: Timestamp,
) -> Result<()> {
    let text = "INSERT INTO catalog (public_id, store_id, state, is_remote, node_id, epoch, created_at)
                VALUES ($1, $2, 'dropped', 1, $3, $4, $5) ON CONFLICT DO NOTHING";
    conn.execute(text, params![name, store, &node.id, node.epoch, now]).await.map(drop)
}

/// Makes everything that is derived from the rest: dead bodies of packs, what tombstones count, who is the newest
/// dictionary, and the numbers that are given next.
///
/// # Errors
/// What the database says.
pub async fn settle(conn: &mut Conn, object_last: i64, now: Timestamp) -> Result<()> {
    for text in [
        "UPDATE pack SET dead_bodies = bodies - c.living, dead_octets = dead_octets - c.octets
         FROM (SELECT p.id, count(b.id) AS living, CAST(coalesce(sum(b.stored_octets), 0) AS BIGINT) AS octets
               FROM pack p LEFT JOIN body b ON b.pack_id = p.id GROUP BY p.id) AS c
         WHERE pack.id = c.id",
        "DELETE FROM message_prefix WHERE id NOT IN (SELECT prefix_id FROM message)
            AND id NOT IN (SELECT prefix_id FROM tombstone)",
        "UPDATE message SET mod_seq = (SELECT f.mod_seq FROM folder f WHERE f.id = message.folder_id)",
        // What its triggers made of bodies of which nobody knew that they are parts.
        "DELETE FROM pack_scope",
        "INSERT INTO pack_scope (scope_id, pack_id, frames, bodies, octets, stored_octets)
         SELECT b.scope_id, b.pack_id, count(*), count(*) - count(p.body_id),
                CAST(coalesce(sum(CASE WHEN p.body_id IS NULL THEN b.octets END), 0) AS BIGINT),
                CAST(sum(b.stored_octets) AS BIGINT)
         FROM body b LEFT JOIN part p ON p.body_id = b.id WHERE b.pack_id IS NOT NULL
         GROUP BY b.scope_id, b.pack_id",
    ] {
        conn.execute(text, params![]).await?;
    }
    let text = "UPDATE mailbox SET tombstone_octets =
                    (SELECT CAST(coalesce(sum(t.octets + $1), 0) AS BIGINT)
                     FROM tombstone t WHERE t.mailbox_id = mailbox.id)";
    conn.execute(text, params![TOMBSTONE_ROW_OCTETS]).await?;
    let text = "UPDATE dictionary SET retired_at = $1
                WHERE id NOT IN (SELECT max(id) FROM dictionary GROUP BY customer_id)";
    conn.execute(text, params![now]).await?;
    let text = "SELECT greatest_of.id FROM (SELECT max(id) AS id FROM (
                    SELECT coalesce(max(id), 0) AS id FROM body
                    UNION ALL SELECT coalesce(max(id), 0) FROM message_prefix
                    UNION ALL SELECT CAST($1 AS BIGINT)) AS ids) AS greatest_of";
    let last = conn.row(text, params![object_last]).await?.map_or(Ok(object_last), |row| row.int(0))?;
    if !conn.is_postgres() {
        let text = "UPDATE counter SET value = $1 WHERE name = 'object'";
        return conn.execute(text, params![last]).await.map(drop);
    }
    conn.rows("SELECT setval('object_id', $1)", params![last.max(1)]).await?;
    sequences(conn).await
}

/// Makes the keys that PostgreSQL gives next higher than those that are there; SQLite does so by itself.
pub(super) async fn sequences(conn: &mut Conn) -> Result<()> {
    if !conn.is_postgres() {
        return Ok(());
    }
    for table in ["customer", "domain", "mailbox", "folder", "alias", "hold", "dictionary"] {
        let text = format!(
            "SELECT setval(pg_get_serial_sequence('{table}', 'id'),
                           (SELECT coalesce(max(id), 0) + 1 FROM {table}), false)"
        );
        conn.rows(text, params![]).await?;
    }
    Ok(())
}

/// The database is whole.
///
/// # Errors
/// What the database says.
pub async fn finish(conn: &mut Conn) -> Result<()> {
    conn.execute("DELETE FROM instance WHERE key = $1", params![MARK]).await.map(drop)
}
