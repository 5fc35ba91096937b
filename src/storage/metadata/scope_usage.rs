//! What customers' mail takes where, for reports. Table `pack_scope` is kept by triggers on `body`, so that the cost is
//! a few rows for each pack that holds something of a customer; only bodies that no pack holds yet are counted one by
//! one, and there are few of them for long.

use std::collections::{BTreeMap, HashMap};

use super::packed;
use super::scope::Customers;
use super::sql::{Conn, ids};
use crate::base::id::{CustomerId, StoreId};
use crate::params;
use crate::storage::{Result, StorageError};

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
/// When the database fails, and `Corrupt` when no number holds a sum.
pub async fn kept(conn: &mut Conn, customers: &Customers) -> Result<BTreeMap<(CustomerId, StoreId), Kept>> {
    let mut kept: BTreeMap<(CustomerId, StoreId), Kept> = BTreeMap::new();
    let (these, values) = match customers {
        Customers::Few(keys) => ("WHERE u.scope_id IN IDS($1)", vec![ids(keys.iter().copied())]),
        Customers::Many(_) => ("", Vec::new()),
    };
    let packed =
        packed::aggregate(&["s.scope", "s.store", "s.bodies", "s.octets", "s.stored", "s.near", "s.far"]);
    let text = format!(
        "SELECT {packed} FROM (
             SELECT u.scope_id AS scope, p.store_id AS store, sum(u.bodies) AS bodies, sum(u.octets) AS octets,
                    sum(u.stored_octets) AS stored,
                    sum(CASE WHEN p.local_state <> 'absent' THEN u.stored_octets ELSE 0 END) AS near,
                    sum(CASE WHEN p.remote_state = 'present' THEN u.stored_octets ELSE 0 END) AS far
             FROM pack_scope u JOIN pack p ON p.id = u.pack_id {these} GROUP BY u.scope_id, p.store_id) AS s"
    );
    let row = conn.row(text, values).await?.ok_or(StorageError::Gone("an aggregate"))?;
    for columns in packed::rows(row.text_opt(0)?.as_deref())? {
        let [customer, store, bodies, octets, stored_octets, local_octets, remote_octets] =
            columns.map(Option::unwrap_or_default);
        let database_octets = 0;
        let more = Kept { bodies, octets, stored_octets, database_octets, local_octets, remote_octets };
        if customers.has(CustomerId(customer)) {
            kept.entry((CustomerId(customer), StoreId(store))).or_default().add(&more);
        }
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
            if !customers.has(CustomerId(customer)) {
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

/// What the mailboxes of these customers hold, by customer and the mail store where they are at home; as of one moment.
///
/// # Errors
/// When the database fails, and `Corrupt` when no number holds a sum.
pub async fn held(conn: &mut Conn, customers: &Customers) -> Result<BTreeMap<(CustomerId, StoreId), Held>> {
    let (domains, of_mailbox, values) = match customers {
        Customers::Few(keys) => (
            "WHERE d.customer_id IN IDS($1)",
            "AND m.domain_id IN (SELECT d.id FROM domain d WHERE d.customer_id IN IDS($1))",
            vec![ids(keys.iter().copied())],
        ),
        Customers::Many(_) => ("", "", Vec::new()),
    };
    // Two halves, since each has an index of its own; of all mailboxes neither is used.
    let half = |condition: &str| {
        format!(
            "SELECT +m.domain_id AS domain, m.store_id AS store,
                    sum(CASE WHEN m.deleted_at IS NULL THEN 1 ELSE 0 END) AS mailboxes,
                    sum(CASE WHEN m.deleted_at IS NULL THEN m.messages_used ELSE 0 END) AS messages,
                    sum(CASE WHEN m.deleted_at IS NULL THEN m.bytes_used ELSE 0 END) AS octets,
                    sum(m.tombstone_octets + CASE WHEN m.deleted_at IS NULL THEN 0 ELSE m.bytes_used END) AS undelete
             FROM mailbox m WHERE {condition} {of_mailbox} GROUP BY +m.domain_id, m.store_id"
        )
    };
    let mailboxes = match customers {
        Customers::Few(_) => {
            format!("{} UNION ALL {}", half("m.deleted_at IS NULL"), half("m.deleted_at IS NOT NULL"))
        }
        Customers::Many(_) => half("0 = 0"),
    };
    let text = format!(
        "SELECT (SELECT {} FROM domain d {domains}), (SELECT {} FROM ({mailboxes}) AS s)",
        packed::aggregate(&["d.id", "d.customer_id"]),
        packed::aggregate(&["s.domain", "s.store", "s.mailboxes", "s.messages", "s.octets", "s.undelete"]),
    );
    let row = conn.row(text, values).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let owners: HashMap<i64, i64> = packed::rows(row.text_opt(0)?.as_deref())?
        .into_iter()
        .map(|[domain, customer]| (domain.unwrap_or_default(), customer.unwrap_or_default()))
        .collect();
    let mut held: BTreeMap<(CustomerId, StoreId), Held> = BTreeMap::new();
    for columns in packed::rows(row.text_opt(1)?.as_deref())? {
        let [domain, store, mailboxes, messages, octets, undelete_octets] =
            columns.map(Option::unwrap_or_default);
        let Some(customer) = owners.get(&domain).map(|id| CustomerId(*id)) else { continue };
        if customers.has(customer) {
            let more = Held { mailboxes, messages, octets, undelete_octets };
            held.entry((customer, StoreId(store))).or_default().add(&more);
        }
    }
    Ok(held)
}
