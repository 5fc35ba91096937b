//! What customers' mail takes where, for reports. Table `pack_scope` is kept by triggers on `body`, so that the cost is
//! a few rows for each pack that holds something of a customer; only bodies that no pack holds yet are counted one by
//! one, and there are few of them for long.

use std::collections::BTreeMap;

use super::sql::{Conn, ids};
use crate::base::id::{CustomerId, StoreId};
use crate::params;
use crate::storage::Result;

/// Bodies outside packs that one statement looks at.
const FRESH_ROWS: i64 = 1_000;

/// What bodies take; sums saturate.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Kept {
    /// Bodies, without the parts that they share.
    pub bodies: i64,
    /// Their octets as received, each body once.
    pub octets: i64,
    /// Octets as kept, shared parts included.
    pub stored_octets: i64,
    /// Of these in the database.
    pub database_octets: i64,
    /// Of these in packs on the volume.
    pub local_octets: i64,
    /// Of these in packs in object storage; a pack may be in both places.
    pub remote_octets: i64,
}

impl Kept {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.bodies, other.bodies),
            (&mut self.octets, other.octets),
            (&mut self.stored_octets, other.stored_octets),
            (&mut self.database_octets, other.database_octets),
            (&mut self.local_octets, other.local_octets),
            (&mut self.remote_octets, other.remote_octets),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// What the bodies that belong to these customers take, by customer and mail store.
///
/// # Errors
/// When the database fails.
pub async fn kept(conn: &mut Conn, customers: &[i64]) -> Result<BTreeMap<(CustomerId, StoreId), Kept>> {
    let mut kept: BTreeMap<(CustomerId, StoreId), Kept> = BTreeMap::new();
    let text = "SELECT u.scope_id, p.store_id, CAST(sum(u.bodies) AS BIGINT), CAST(sum(u.octets) AS BIGINT),
                       CAST(sum(u.stored_octets) AS BIGINT),
                       CAST(sum(CASE WHEN p.local_state <> 'absent' THEN u.stored_octets ELSE 0 END) AS BIGINT),
                       CAST(sum(CASE WHEN p.remote_state = 'present' THEN u.stored_octets ELSE 0 END) AS BIGINT)
                FROM pack_scope u JOIN pack p ON p.id = u.pack_id
                WHERE u.scope_id IN IDS($1) GROUP BY u.scope_id, p.store_id";
    for row in conn.rows(text, vec![ids(customers.iter().copied())]).await? {
        let more = Kept {
            bodies: row.int(2)?,
            octets: row.int(3)?,
            stored_octets: row.int(4)?,
            database_octets: 0,
            local_octets: row.int(5)?,
            remote_octets: row.int(6)?,
        };
        kept.entry((CustomerId(row.int(0)?), StoreId(row.int(1)?))).or_default().add(&more);
    }
    let mut after = 0;
    loop {
        let text = "SELECT b.scope_id, b.store_id, count(*), CAST(sum(b.octets) AS BIGINT),
                           CAST(sum(b.stored_octets) AS BIGINT), max(f.body_id)
                    FROM (SELECT body_id FROM fresh_body WHERE body_id > $1 ORDER BY body_id LIMIT $2) AS f
                    JOIN body b ON b.id = f.body_id GROUP BY b.scope_id, b.store_id";
        let mut seen = 0;
        for row in conn.rows(text, params![after, FRESH_ROWS]).await? {
            let (bodies, stored_octets) = (row.int(2)?, row.int(4)?);
            seen += bodies;
            after = after.max(row.int(5)?);
            let customer = row.int(0)?;
            if customers.binary_search(&customer).is_err() {
                continue;
            }
            let octets = row.int(3)?;
            let more =
                Kept { bodies, octets, stored_octets, database_octets: stored_octets, ..Kept::default() };
            kept.entry((CustomerId(customer), StoreId(row.int(1)?))).or_default().add(&more);
        }
        if seen < FRESH_ROWS {
            return Ok(kept);
        }
    }
}

/// What the mailboxes of a customer's domains hold.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Mailboxes that are not deleted.
    pub mailboxes: i64,
    /// Their messages.
    pub messages: i64,
    /// Octets of these as received, each message's own.
    pub octets: i64,
    /// Octets of what can still come back: expunged messages (1,024 more for each) and deleted mailboxes.
    pub undelete_octets: i64,
}

impl Held {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.mailboxes, other.mailboxes),
            (&mut self.messages, other.messages),
            (&mut self.octets, other.octets),
            (&mut self.undelete_octets, other.undelete_octets),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// What the mailboxes of these customers hold, by customer and the mail store where they are at home.
///
/// # Errors
/// When the database fails.
pub async fn held(conn: &mut Conn, customers: &[i64]) -> Result<BTreeMap<(CustomerId, StoreId), Held>> {
    let mut held: BTreeMap<(CustomerId, StoreId), Held> = BTreeMap::new();
    // Two texts, since each has an index of its own.
    for text in [
        "SELECT d.customer_id, m.store_id, count(*), CAST(sum(m.messages_used) AS BIGINT),
                CAST(sum(m.bytes_used) AS BIGINT), CAST(sum(m.tombstone_octets) AS BIGINT)
         FROM domain d JOIN mailbox m ON m.domain_id = d.id AND m.deleted_at IS NULL
         WHERE d.customer_id IN IDS($1) GROUP BY d.customer_id, m.store_id",
        "SELECT d.customer_id, m.store_id, CAST(0 AS BIGINT), CAST(0 AS BIGINT), CAST(0 AS BIGINT),
                CAST(sum(m.bytes_used + m.tombstone_octets) AS BIGINT)
         FROM domain d JOIN mailbox m ON m.domain_id = d.id AND m.deleted_at IS NOT NULL
         WHERE d.customer_id IN IDS($1) GROUP BY d.customer_id, m.store_id",
    ] {
        for row in conn.rows(text, vec![ids(customers.iter().copied())]).await? {
            let more = Held {
                mailboxes: row.int(2)?,
                messages: row.int(3)?,
                octets: row.int(4)?,
                undelete_octets: row.int(5)?,
            };
            held.entry((CustomerId(row.int(0)?), StoreId(row.int(1)?))).or_default().add(&more);
        }
    }
    Ok(held)
}
