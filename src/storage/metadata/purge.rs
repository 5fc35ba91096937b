//! Removing for good what was deleted softly and can no longer come back.
//!
//! # Consistency
//! A mailbox goes in slices of messages; each releases, in its own transaction, the bodies, the trace lines, and the
//! charge of what it removes. Locks are taken in the order of `delivery.rs`. Before the first slice the mailbox loses
//! its address and its mark, so that nothing brings back what is no longer whole.

use std::collections::BTreeMap;

use super::audit as records;
use super::body;
use super::customer::{TreeLock, tree_version};
use super::legal_hold::{self, HELD_CUSTOMERS, HELD_DOMAINS, HELD_MAILBOXES};
use super::login_log;
use super::pool::{self, Pooled};
use super::quota;
use super::sql::{Conn, ids};
use super::tombstone;
use super::tree_change::tree_changed;
use crate::base::clock::Timestamp;
use crate::base::id::{BodyId, CustomerId, MailboxId};
use crate::params;
use crate::storage::Result;

/// Rows that one slice removes.
const SLICE_ROWS: i64 = 256;
/// The mark of what is being purged.
const MARK: &str = "purge";

/// What can be deleted softly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A mailbox.
    Mailbox,
    /// A domain.
    Domain,
    /// An administrator.
    Administrator,
    /// A customer.
    Customer,
}

/// Keys of what was deleted up to `before`, has nothing below it any more and is under no legal hold; at most 256.
///
/// # Errors
/// When the database fails.
pub async fn due(conn: &mut Conn, kind: Kind, before: Timestamp) -> Result<Vec<i64>> {
    let text = match kind {
        // What is on its way into a folder goes first, since it is not on the counters.
        Kind::Mailbox => format!(
            "SELECT id FROM mailbox WHERE deleted_at <= $1 AND id NOT IN {HELD_MAILBOXES}
               AND NOT EXISTS (SELECT 1 FROM folder_stage s WHERE s.mailbox_id = mailbox.id)
             ORDER BY id LIMIT 256"
        ),
        Kind::Domain => format!(
            "SELECT d.id FROM domain d WHERE d.deleted_at <= $1 AND d.id NOT IN {HELD_DOMAINS}
               AND NOT EXISTS (SELECT 1 FROM mailbox m WHERE m.domain_id = d.id)
               AND NOT EXISTS (SELECT 1 FROM domain a WHERE a.alias_of = d.id)
             ORDER BY d.id LIMIT 256"
        ),
        Kind::Administrator => format!(
            "SELECT id FROM administrator WHERE deleted_at <= $1 AND customer_id NOT IN {HELD_CUSTOMERS}
             ORDER BY id LIMIT 256"
        ),
        Kind::Customer => format!(
            "SELECT c.id FROM customer c WHERE c.deleted_at <= $1 AND c.id NOT IN {HELD_CUSTOMERS}
               AND NOT EXISTS (SELECT 1 FROM customer b WHERE b.parent_id = c.id)
               AND NOT EXISTS (SELECT 1 FROM domain d WHERE d.customer_id = c.id)
             ORDER BY c.id LIMIT 256"
        ),
    };
    conn.rows(text, params![before]).await?.iter().map(|row| row.int(0)).collect()
}

/// Removes a slice of what was deleted; false when nothing is left of it, it was brought back, or a legal hold is on
/// it. That a mailbox or customer is gone for good since `now` is written down: no backup may bring it back.
///
/// # Errors
/// When the database fails; then the transaction must not be committed.
pub async fn slice(conn: &mut Conn, kind: Kind, key: i64, before: Timestamp, now: Timestamp) -> Result<bool> {
    if legal_hold::covers(conn, kind, key).await? {
        return Ok(false);
    }
    match kind {
        Kind::Mailbox => mailbox_slice(conn, MailboxId(key), before, now).await,
        Kind::Domain => domain_slice(conn, key, before).await,
        Kind::Administrator => administrator(conn, key, before).await.map(|()| false),
        Kind::Customer => customer(conn, CustomerId(key), before, now).await.map(|()| false),
    }
}

/// A message that one slice removed.
struct Removed {
    uid: i64,
    octets: i64,
    flags: i64,
}

/// Messages removed by one slice, by folder.
type ByFolder = BTreeMap<i64, Vec<Removed>>;

/// Removes a slice of a deleted mailbox; false when it is gone, or was brought back.
async fn mailbox_slice(
    conn: &mut Conn,
    mailbox: MailboxId,
    before: Timestamp,
    now: Timestamp,
) -> Result<bool> {
    let text =
        "UPDATE mailbox SET local_part = public_id, deleted_by = $3 WHERE id = $1 AND deleted_at <= $2";
    if conn.execute(text, params![mailbox, before, MARK]).await? == 0 {
        return Ok(false);
    }
    let text = "DELETE FROM message WHERE mailbox_id = $1 AND (folder_id, uid) IN (
                    SELECT folder_id, uid FROM message WHERE mailbox_id = $1 ORDER BY folder_id, uid LIMIT $2)
                RETURNING folder_id, octets, flags, body_id, prefix_id, uid";
    let rows = conn.rows(text, params![mailbox, SLICE_ROWS]).await?;
    if rows.is_empty() {
        if tombstone::purge_slice(conn, mailbox).await? > 0
            || login_log::purge_slice(conn, mailbox).await? > 0
        {
            return Ok(true);
        }
        mailbox_row(conn, mailbox, now).await?;
        return Ok(false);
    }
    let (mut folders, mut bodies, mut prefixes) = (ByFolder::new(), BTreeMap::new(), Vec::new());
    for row in &rows {
        let removed = Removed { octets: row.int(1)?, flags: row.int(2)?, uid: row.int(5)? };
        folders.entry(row.int(0)?).or_default().push(removed);
        *bodies.entry(BodyId(row.int(3)?)).or_insert(0) += 1;
        prefixes.push(row.int(4)?);
    }
    release_charge(conn, mailbox, folders).await?;
    body::release(conn, &bodies).await?;
    prefixes.retain(|&prefix| prefix != 0);
    conn.execute("DELETE FROM message_prefix WHERE id IN IDS($1)", vec![ids(prefixes)]).await?;
    Ok(true)
}

/// Takes removed messages off the counters. Those of folders that were deleted before are off already.
async fn release_charge(conn: &mut Conn, mailbox: MailboxId, removed: ByFolder) -> Result<()> {
    let lock = conn.for_update();
    let text = format!("SELECT id, recent_uid FROM folder WHERE mailbox_id = $1 ORDER BY id{lock}");
    let (mut changes, mut octets, mut messages) = (Vec::new(), 0_i64, 0);
    for row in conn.rows(text, params![mailbox]).await? {
        let (id, recent_uid) = (row.int(0)?, row.int(1)?);
        let Some(removed) = removed.get(&id) else { continue };
        let count = |wanted: &dyn Fn(&Removed) -> bool| {
            i64::try_from(removed.iter().filter(|one| wanted(one)).count()).unwrap_or(i64::MAX)
        };
        let sum = |wanted: &dyn Fn(&Removed) -> bool| {
            removed.iter().filter(|one| wanted(one)).fold(0_i64, |sum, one| sum.saturating_add(one.octets))
        };
        let is_deleted = |one: &Removed| one.flags & 8 != 0;
        let (folder_octets, folder_messages) = (sum(&|_| true), count(&|_| true));
        octets = octets.saturating_add(folder_octets);
        messages += folder_messages;
        changes.push(vec![
            id,
            folder_octets,
            folder_messages,
            count(&|one| one.flags & 1 == 0),
            count(&|one| one.uid >= recent_uid),
            count(&is_deleted),
            sum(&is_deleted),
        ]);
    }
    let text = "UPDATE folder SET octets = octets - v.column2, messages = messages - v.column3,
                                  unseen = unseen - v.column4, recent = recent - v.column5,
                                  deleted = deleted - v.column6, deleted_octets = deleted_octets - v.column7";
    conn.update_from_values(text, "folder.id", 7, changes).await?;
    // What shrinks is never refused.
    quota::charge(conn, mailbox, -octets, -messages).await.map(drop)
}

/// Removes an empty mailbox with everything that belongs to it.
async fn mailbox_row(conn: &mut Conn, mailbox: MailboxId, now: Timestamp) -> Result<()> {
    let text = "INSERT INTO erasure (kind, public_id, at) SELECT 'mailbox', public_id, CAST($2 AS BIGINT)
                FROM mailbox WHERE id = $1 ON CONFLICT DO NOTHING";
    conn.execute(text, params![mailbox, now]).await?;
    for text in [
        "DELETE FROM folder_keyword WHERE folder_id IN (SELECT id FROM folder WHERE mailbox_id = $1)",
        "DELETE FROM expunged WHERE folder_id IN (SELECT id FROM folder WHERE mailbox_id = $1)",
        "DELETE FROM folder_keyword WHERE folder_id IN (SELECT folder_id FROM folder_purge WHERE mailbox_id = $1)",
        "DELETE FROM expunged WHERE folder_id IN (SELECT folder_id FROM folder_purge WHERE mailbox_id = $1)",
        "DELETE FROM folder_keyword WHERE folder_id IN (SELECT folder_id FROM deleted_folder WHERE mailbox_id = $1)",
        "DELETE FROM deleted_folder WHERE mailbox_id = $1",
        "DELETE FROM folder_purge WHERE mailbox_id = $1",
        "DELETE FROM folder WHERE mailbox_id = $1",
        "DELETE FROM subscription WHERE mailbox_id = $1",
        "DELETE FROM hold WHERE mailbox_id = $1",
        "DELETE FROM setting WHERE mailbox_id = $1",
        "DELETE FROM expiry WHERE mailbox_id = $1",
        "DELETE FROM notice_mail WHERE mailbox_id = $1",
        "DELETE FROM notice WHERE mailbox_id = $1",
        "DELETE FROM homing WHERE mailbox_id = $1",
        "DELETE FROM mailbox WHERE id = $1",
    ] {
        conn.execute(text, params![mailbox]).await?;
    }
    Ok(())
}

/// Removes a slice of a deleted domain; false when it is gone, or was brought back.
async fn domain_slice(conn: &mut Conn, domain: i64, before: Timestamp) -> Result<bool> {
    let text = "UPDATE domain SET deleted_by = $3 WHERE id = $1 AND deleted_at <= $2";
    if conn.execute(text, params![domain, before, MARK]).await? == 0 {
        return Ok(false);
    }
    let some = "SELECT id FROM alias WHERE domain_id = $1 ORDER BY id LIMIT $2";
    let text = format!("DELETE FROM alias_target WHERE alias_id IN ({some})");
    conn.execute(text, params![domain, SLICE_ROWS]).await?;
    let text = format!("DELETE FROM alias WHERE id IN ({some})");
    if conn.execute(text, params![domain, SLICE_ROWS]).await? > 0 {
        return Ok(true);
    }
    for text in [
        "DELETE FROM hold WHERE domain_id = $1",
        "DELETE FROM setting WHERE domain_id = $1",
        "DELETE FROM domain_usage WHERE domain_id = $1",
        "DELETE FROM domain_offer WHERE domain_id = $1",
        "DELETE FROM domain WHERE id = $1",
    ] {
        conn.execute(text, params![domain]).await?;
    }
    Ok(false)
}

/// Removes a deleted administrator with tokens and grants.
async fn administrator(conn: &mut Conn, administrator: i64, before: Timestamp) -> Result<()> {
    let text = "UPDATE administrator SET deleted_by = $3 WHERE id = $1 AND deleted_at <= $2";
    if conn.execute(text, params![administrator, before, MARK]).await? == 0 {
        return Ok(());
    }
    for text in [
        "DELETE FROM token WHERE administrator_id = $1",
        "DELETE FROM second_factor WHERE administrator_id = $1",
        "DELETE FROM recovery_code WHERE administrator_id = $1",
        "DELETE FROM role_grant WHERE administrator_id = $1",
        "DELETE FROM expiry WHERE administrator_id = $1",
        "DELETE FROM notice_reader WHERE administrator_id = $1",
        "DELETE FROM notice WHERE administrator_id = $1",
        "DELETE FROM group_member WHERE administrator_id = $1",
        "DELETE FROM administrator WHERE id = $1",
    ] {
        conn.execute(text, params![administrator]).await?;
    }
    Ok(())
}

/// Takes what is reserved for a customer off the counters above it.
async fn release_guarantee(conn: &mut Conn, customer: CustomerId) -> Result<()> {
    let text = "WITH RECURSIVE up (id, parent_id, height) AS (
                    SELECT id, parent_id, CAST(0 AS BIGINT) FROM customer WHERE id = $1
                    UNION ALL
                    SELECT c.id, c.parent_id, up.height + 1 FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT id FROM up WHERE height > 0 ORDER BY height";
    let rows = conn.rows(text, params![customer]).await?;
    let above: Vec<i64> = rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?;
    let reserved = pool::passed_by(conn, customer, Pooled::Octets).await?;
    // What shrinks is never refused.
    quota::climb(conn, &above, -reserved).await.map(drop)
}

/// Removes a deleted customer that has nothing below it any more, with its administrators and what was granted there.
async fn customer(conn: &mut Conn, customer: CustomerId, before: Timestamp, now: Timestamp) -> Result<()> {
    // Before the counters, as whoever changes the hierarchy does.
    tree_version(conn, TreeLock::Exclusive).await?;
    let text = "UPDATE customer SET deleted_by = $3 WHERE id = $1 AND deleted_at <= $2";
    if conn.execute(text, params![customer, before, MARK]).await? == 0 {
        return Ok(());
    }
    release_guarantee(conn, customer).await?;
    let text = "INSERT INTO erasure (kind, public_id, at) SELECT 'customer', public_id, CAST($2 AS BIGINT)
                FROM customer WHERE id = $1 ON CONFLICT DO NOTHING";
    conn.execute(text, params![customer, now]).await?;
    for text in [
        "DELETE FROM token WHERE administrator_id IN (SELECT id FROM administrator WHERE customer_id = $1)",
        "DELETE FROM second_factor WHERE administrator_id IN (SELECT id FROM administrator WHERE customer_id = $1)",
        "DELETE FROM recovery_code WHERE administrator_id IN (SELECT id FROM administrator WHERE customer_id = $1)",
        "DELETE FROM role_grant WHERE administrator_id IN (SELECT id FROM administrator WHERE customer_id = $1)",
        "DELETE FROM group_member WHERE administrator_id IN (SELECT id FROM administrator WHERE customer_id = $1)",
        "DELETE FROM role_grant WHERE group_id IN (SELECT id FROM administrator_group WHERE customer_id = $1)",
        "DELETE FROM group_member WHERE group_id IN (SELECT id FROM administrator_group WHERE customer_id = $1)",
        "DELETE FROM administrator_group WHERE customer_id = $1",
        "DELETE FROM role_grant WHERE customer_id = $1
             OR role_id IN (SELECT id FROM custom_role WHERE customer_id = $1)",
        "DELETE FROM custom_role WHERE customer_id = $1",
        "DELETE FROM hold WHERE customer_id = $1 OR authority_customer_id = $1",
        "DELETE FROM setting WHERE customer_id = $1 OR lock_customer_id = $1",
        "DELETE FROM template WHERE customer_id = $1",
        "DELETE FROM notice_reader WHERE administrator_id IN (SELECT id FROM administrator WHERE customer_id = $1)
           OR notice_id IN (SELECT id FROM notice WHERE customer_id = $1)",
        "DELETE FROM expiry WHERE customer_id = $1
           OR administrator_id IN (SELECT id FROM administrator WHERE customer_id = $1)",
        "DELETE FROM request_approval WHERE request_id IN (SELECT id FROM request WHERE customer_id = $1)",
        "DELETE FROM request WHERE customer_id = $1",
        "DELETE FROM process WHERE customer_id = $1",
        "DELETE FROM notice_mail WHERE notice_id IN (SELECT id FROM notice WHERE customer_id = $1)",
        "DELETE FROM notice WHERE customer_id = $1",
        "DELETE FROM administrator WHERE customer_id = $1",
        "DELETE FROM customer_usage WHERE customer_id = $1",
        "DELETE FROM customer_count WHERE customer_id = $1",
        "DELETE FROM job WHERE customer_id = $1",
        "DELETE FROM webhook WHERE customer_id = $1",
        "DELETE FROM customer_store WHERE customer_id = $1",
        "DELETE FROM customer WHERE id = $1",
    ] {
        conn.execute(text, params![customer]).await?;
    }
    tree_changed(conn, &[customer.0]).await
}

/// Forgets answers given under an Idempotency-Key up to `before`; at most 256. Answers how many.
///
/// # Errors
/// When the database fails.
pub async fn idempotency(conn: &mut Conn, before: Timestamp) -> Result<u64> {
    let text = "DELETE FROM idempotency WHERE (caller, operation, key) IN (
                    SELECT caller, operation, key FROM idempotency WHERE created_at <= $1
                    ORDER BY created_at LIMIT $2)";
    conn.execute(text, params![before, SLICE_ROWS]).await
}

/// How far [`audit`] came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pruned {
    /// Everything before is done.
    pub until: Timestamp,
    /// Whether there may be more.
    pub more: bool,
    /// Records that went.
    pub removed: u64,
    /// Changes and refusals among them, by the customer to which they belonged: how many, and the time of the last.
    pub changes: BTreeMap<i64, (u64, Timestamp)>,
}

/// Forgets audit records from `from` on that are older than `before` and whose operation is one of `reads`, done; and
/// all others that are older than what `kept_since` says for their path, which is never later than `before`. Looks at
/// 1,000 records at most.
///
/// # Errors
/// When the database fails.
pub async fn audit(
    conn: &mut Conn,
    from: Timestamp,
    before: Timestamp,
    kept_since: impl Fn(&str) -> Timestamp + Send,
    reads: &[&str],
) -> Result<Pruned> {
    const LOOKED_AT_MAX: i64 = 1_000;
    let text = "SELECT id, at, operation, outcome, node_path FROM audit WHERE at >= $1 AND at < $2
                ORDER BY at LIMIT $3";
    let rows = conn.rows(text, params![from, before, LOOKED_AT_MAX]).await?;
    let (mut gone, mut until, mut changes) = (Vec::new(), from, BTreeMap::new());
    for row in &rows {
        until = Timestamp(row.int(1)?);
        let is_read = row.text(3)? == "done" && reads.contains(&row.text(2)?.as_str());
        let path = row.text(4)?;
        if !is_read && until >= kept_since(&path) {
            continue;
        }
        if !is_read {
            let customer = records::path_ids(&path).last().unwrap_or(0);
            let (count, last) = changes.entry(customer).or_insert((0, until));
            (*count, *last) = (*count + 1, until);
        }
        gone.push((row.int(0)?, path));
    }
    let is_full = i64::try_from(rows.len()) == Ok(LOOKED_AT_MAX);
    if is_full && gone.is_empty() && until == from {
        // More records of one microsecond than are looked at: they stay.
        until = Timestamp(until.0 + 1);
    }
    let removed = gone.len() as u64;
    records::delete(conn, &gone).await?;
    Ok(Pruned { until, more: is_full, removed, changes })
}
