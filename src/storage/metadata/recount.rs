//! Recounting what is used, against what is recorded.
//!
//! # Consistency
//! Counted and recorded come from one statement, so from one moment of the database: what transactions change
//! meanwhile cannot look like drift, and nothing is locked. One statement compares a page of mailboxes; only those that
//! have drifted are looked at one by one. A repair locks in the order of `delivery.rs` (mailboxes,
//! folders, domain counters, customer counters) and counts again behind the locks.

use std::collections::BTreeMap;

use super::packed;
use super::pool::{self, Group, Pooled};
use super::scope::Customers;
use super::sql::{Conn, Row, Value, ids};
use super::tombstone::ROW_OCTETS;
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// Mailboxes that one page counts at most.
const PAGE_MAILBOXES: i64 = 1_000;
/// Messages after which a page ends, as far as is recorded. (A statement passes over some 5 million rows a second.)
const PAGE_MESSAGES: i64 = 100_000;

/// What something uses.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct Sum {
    /// Octets.
    pub octets: i64,
    /// Messages.
    pub messages: i64,
    /// Messages without `\Seen`; this and what follows of folders only.
    pub unseen: i64,
    /// Messages that no SELECT has claimed as recent.
    pub recent: i64,
    /// Messages with `\Deleted`.
    pub deleted: i64,
    /// Octets of those.
    pub deleted_octets: i64,
    /// What expunged messages that can come back count ([`super::tombstone`]); of mailboxes only.
    pub undeletable_octets: i64,
    /// Octets that are committed, guarantees below in full; of customers only.
    #[serde(default)]
    pub committed_octets: i64,
}

/// A folder, counted.
#[derive(Clone, Debug)]
pub struct CountedFolder {
    /// Key.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What its row says.
    pub recorded: Sum,
    /// What its messages add up to.
    pub counted: Sum,
}

/// A mailbox, counted.
#[derive(Clone, Debug)]
pub struct CountedMailbox {
    /// Key.
    pub id: MailboxId,
    /// `localpart@domain`.
    pub address: String,
    /// Its domain.
    pub domain: DomainId,
    /// The customer of its domain.
    pub customer: CustomerId,
    /// What its row says.
    pub recorded: Sum,
    /// Its folders. Messages of deleted folders that are still to be purged don't count any more.
    pub folders: Vec<CountedFolder>,
    /// What its tombstones add up to.
    pub undeletable_octets: i64,
}

impl CountedMailbox {
    /// What its messages add up to.
    pub fn counted(&self) -> Sum {
        let none = Sum { undeletable_octets: self.undeletable_octets, ..Sum::default() };
        self.folders.iter().fold(none, |sum, folder| Sum {
            octets: sum.octets.saturating_add(folder.counted.octets),
            messages: sum.messages.saturating_add(folder.counted.messages),
            ..sum
        })
    }
}

/// The counter of a domain or customer.
#[derive(Clone, Debug)]
pub struct CountedOwner {
    /// Key of the domain or customer.
    pub id: i64,
    /// Name of the domain; empty for a customer.
    pub name: String,
    /// The customer, or the domain's.
    pub customer: CustomerId,
    /// Whether there has to be a counter.
    pub limited: bool,
    /// The counter, if there is one.
    pub recorded: Option<Sum>,
    /// What the mailboxes below are recorded to use.
    pub counted: Sum,
    /// Of a customer: of what that is made up, the deepest first.
    pub groups: Vec<Group>,
}

impl CountedOwner {
    /// Adds up the groups of a customer.
    ///
    /// # Errors
    /// When no number holds what they have committed.
    pub fn add_up(&mut self) -> Result<()> {
        let sums = pool::committed(&self.groups)?;
        let add = |sum: i64, more: i64| sum.saturating_add(more);
        self.counted = Sum {
            octets: self.groups.iter().map(|group| group.own).fold(0, add),
            messages: self.groups.iter().map(|group| group.messages).fold(0, add),
            committed_octets: sums.get(&self.id).copied().unwrap_or_default(),
            ..Sum::default()
        };
        Ok(())
    }
}

/// Some mailboxes, as many as are counted with one statement.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Page {
    /// Keys of those that are counted, ascending.
    pub keys: Vec<i64>,
    /// Where the next page begins; nothing when there are no more.
    pub after: Option<i64>,
}

/// The next mailboxes behind `after`, deleted ones too, of these customers. A page may have none and not be the last.
///
/// # Errors
/// When the database fails.
pub async fn page(conn: &mut Conn, customers: &Customers, after: MailboxId) -> Result<Page> {
    let (these, named) = named(customers, "d.customer_id IN IDS($3)");
    let packed = packed::aggregate(&["p.id", "p.messages_used", "p.customer_id"]);
    let text = format!(
        "SELECT {packed} FROM (SELECT m.id, m.messages_used, d.customer_id
                               FROM mailbox m JOIN domain d ON d.id = m.domain_id
                               WHERE {these} AND m.id > $1 ORDER BY m.id LIMIT $2) AS p"
    );
    let mut values = params![after, PAGE_MAILBOXES];
    values.extend(named);
    let row = conn.row(text, values).await?.ok_or(StorageError::Gone("an aggregate"))?;
    let mut rows: Vec<[i64; 3]> = packed::rows(row.text_opt(0)?.as_deref())?
        .into_iter()
        .map(|columns| columns.map(Option::unwrap_or_default))
        .collect();
    rows.sort_unstable();
    let (mut page, mut messages) = (Page::default(), 0_i64);
    for [key, used, customer] in rows {
        page.after = Some(key);
        if customers.has(CustomerId(customer)) {
            page.keys.push(key);
            messages = messages.saturating_add(used);
        }
        if messages >= PAGE_MESSAGES {
            break;
        }
    }
    Ok(page)
}

/// Those of these mailboxes of which anything that is recorded is not what is there; [`mailboxes`] says what. One
/// statement compares, so that nothing is read of those that are right but what they add up from.
///
/// # Errors
/// When the database fails.
pub async fn drifted(conn: &mut Conn, mailboxes: &[i64]) -> Result<Vec<i64>> {
    // The sums of [`mailboxes`]: those of each folder against its messages, those of the mailbox against its folders.
    let text = format!(
        "SELECT m.id FROM mailbox m WHERE m.id IN IDS($1) AND NOT (
             (SELECT coalesce(sum(f.octets), 0) = m.bytes_used AND coalesce(sum(f.messages), 0) = m.messages_used
              FROM folder f WHERE f.mailbox_id = m.id)
             AND (SELECT coalesce(sum(t.octets + {ROW_OCTETS}), 0) = m.tombstone_octets
                  FROM tombstone t WHERE t.mailbox_id = m.id)
             AND NOT EXISTS (
                 SELECT 1 FROM folder f WHERE f.mailbox_id = m.id AND NOT (
                     SELECT count(*) = f.messages AND coalesce(sum(e.octets), 0) = f.octets
                            AND coalesce(sum(1 - (e.flags & 1)), 0) = f.unseen
                            AND coalesce(sum(CASE WHEN e.uid >= f.recent_uid THEN 1 ELSE 0 END), 0) = f.recent
                            AND coalesce(sum(CASE WHEN (e.flags & 8) <> 0 THEN 1 ELSE 0 END), 0) = f.deleted
                            AND coalesce(sum(CASE WHEN (e.flags & 8) <> 0 THEN e.octets ELSE 0 END), 0)
                                = f.deleted_octets
                     FROM message e WHERE e.mailbox_id = f.mailbox_id AND e.folder_id = f.id AND e.uid < f.uid_next)))
         ORDER BY m.id"
    );
    let rows = conn.rows(text, vec![ids(mailboxes.iter().copied())]).await?;
    rows.iter().map(|row| row.int(0)).collect()
}

/// Locks mailboxes and their folders until the end of the transaction.
///
/// # Errors
/// When the database fails.
pub async fn lock_mailboxes(conn: &mut Conn, mailboxes: &[i64]) -> Result<()> {
    if conn.is_postgres() {
        for text in [
            "SELECT count(*) FROM (SELECT id FROM mailbox WHERE id IN IDS($1) ORDER BY id FOR UPDATE) AS locked",
            "SELECT count(*) FROM (SELECT id FROM folder WHERE mailbox_id IN IDS($1)
                                   ORDER BY mailbox_id, id FOR UPDATE) AS locked",
        ] {
            conn.execute(text, vec![ids(mailboxes.iter().copied())]).await?;
        }
    }
    Ok(())
}

/// Counts mailboxes and their folders.
///
/// # Errors
/// When the database fails.
pub async fn mailboxes(conn: &mut Conn, mailboxes: &[i64]) -> Result<Vec<CountedMailbox>> {
    // Flag bit 0 is \Seen, bit 3 \Deleted. What stands from the next UID on is not there yet (`stage.rs`).
    let text = format!(
        "SELECT m.id, m.local_part, d.name, d.id, d.customer_id, m.bytes_used, m.messages_used,
                       f.id, f.name, f.octets, f.messages, f.unseen,
                       coalesce(c.octets, 0), coalesce(c.messages, 0), coalesce(c.unseen, 0),
                       f.recent, f.deleted, f.deleted_octets,
                       coalesce(c.recent, 0), coalesce(c.deleted, 0), coalesce(c.deleted_octets, 0),
                       m.tombstone_octets, coalesce(t.octets, 0)
                FROM mailbox m JOIN domain d ON d.id = m.domain_id
                     LEFT JOIN folder f ON f.mailbox_id = m.id
                     LEFT JOIN (SELECT e.folder_id, CAST(sum(e.octets) AS BIGINT) AS octets, count(*) AS messages,
                                       CAST(sum(1 - (e.flags & 1)) AS BIGINT) AS unseen,
                                       CAST(sum(CASE WHEN e.uid >= g.recent_uid THEN 1 ELSE 0 END) AS BIGINT)
                                           AS recent,
                                       CAST(sum(CASE WHEN (e.flags & 8) <> 0 THEN 1 ELSE 0 END) AS BIGINT)
                                           AS deleted,
                                       CAST(sum(CASE WHEN (e.flags & 8) <> 0 THEN e.octets ELSE 0 END) AS BIGINT)
                                           AS deleted_octets
                                FROM message e JOIN folder g ON g.id = e.folder_id AND e.uid < g.uid_next
                                WHERE e.mailbox_id IN IDS($1) GROUP BY e.mailbox_id, e.folder_id) c
                          ON c.folder_id = f.id
                     LEFT JOIN (SELECT mailbox_id, CAST(sum(octets + {ROW_OCTETS}) AS BIGINT) AS octets
                                FROM tombstone WHERE mailbox_id IN IDS($1) GROUP BY mailbox_id) t
                          ON t.mailbox_id = m.id
                WHERE m.id IN IDS($1) ORDER BY m.id, f.id"
    );
    let mut counted: BTreeMap<i64, CountedMailbox> = BTreeMap::new();
    for row in conn.rows(text, vec![ids(mailboxes.iter().copied())]).await? {
        let id = row.int(0)?;
        if let std::collections::btree_map::Entry::Vacant(place) = counted.entry(id) {
            place.insert(CountedMailbox {
                id: MailboxId(id),
                address: format!("{}@{}", row.text(1)?, row.text(2)?),
                domain: DomainId(row.int(3)?),
                customer: CustomerId(row.int(4)?),
                recorded: Sum {
                    octets: row.int(5)?,
                    messages: row.int(6)?,
                    undeletable_octets: row.int(21)?,
                    ..Sum::default()
                },
                folders: Vec::new(),
                undeletable_octets: row.int(22)?,
            });
        }
        if let (Some(folder), Some(mailbox)) = (row.int_opt(7)?, counted.get_mut(&id)) {
            mailbox.folders.push(CountedFolder {
                id: folder,
                name: row.text(8)?,
                recorded: folder_sum(&row, 9, 15)?,
                counted: folder_sum(&row, 12, 18)?,
            });
        }
    }
    Ok(counted.into_values().collect())
}

/// A folder's sum in three columns from `first` and three from `second` on.
fn folder_sum(row: &Row, first: usize, second: usize) -> Result<Sum> {
    Ok(Sum {
        octets: row.int(first)?,
        messages: row.int(first + 1)?,
        unseen: row.int(first + 2)?,
        recent: row.int(second)?,
        deleted: row.int(second + 1)?,
        deleted_octets: row.int(second + 2)?,
        ..Sum::default()
    })
}

/// Makes the rows of a locked mailbox and its folders say what was counted behind the locks.
///
/// # Errors
/// When the database fails.
pub async fn mailbox_set(conn: &mut Conn, mailbox: &CountedMailbox) -> Result<()> {
    for folder in mailbox.folders.iter().filter(|folder| folder.recorded != folder.counted) {
        let text = "UPDATE folder SET octets = $2, messages = $3, unseen = $4, recent = $5, deleted = $6,
                                      deleted_octets = $7
                    WHERE id = $1";
        let Sum { octets, messages, unseen, recent, deleted, deleted_octets, .. } = folder.counted;
        let params = params![folder.id, octets, messages, unseen, recent, deleted, deleted_octets];
        conn.execute(text, params).await?;
    }
    let Sum { octets, messages, undeletable_octets, .. } = mailbox.counted();
    let text = "UPDATE mailbox SET bytes_used = $2, messages_used = $3, tombstone_octets = $4 WHERE id = $1";
    conn.execute(text, params![mailbox.id, octets, messages, undeletable_octets]).await.map(drop)
}

/// Some domains that have a counter or need one.
#[derive(Clone, Debug)]
pub struct OwnersPage {
    /// The domains.
    pub owners: Vec<CountedOwner>,
    /// Where the next page begins; nothing when there are no more.
    pub after: Option<i64>,
}

/// Domains of these customers that have a counter or need one, behind `after`, with what their mailboxes are recorded
/// to use; at most 1,000.
///
/// # Errors
/// When the database fails.
pub async fn domains(conn: &mut Conn, customers: &Customers, after: i64) -> Result<OwnersPage> {
    let (these, named) = named(customers, "d.customer_id IN IDS($2)");
    let text = format!(
        "WITH page AS (
                    SELECT d.id, d.name, d.customer_id, d.bytes_max, d.messages_max, u.bytes_used, u.messages_used
                    FROM domain d LEFT JOIN domain_usage u ON u.domain_id = d.id
                    WHERE {these} AND d.id > $1
                      AND (u.domain_id IS NOT NULL OR d.bytes_max IS NOT NULL OR d.messages_max IS NOT NULL)
                    ORDER BY d.id LIMIT 1000)
                SELECT p.id, p.name, p.customer_id, p.bytes_max, p.messages_max, p.bytes_used, p.messages_used,
                       coalesce(s.octets, 0), coalesce(s.messages, 0)
                FROM page p LEFT JOIN (
                    SELECT domain_id, CAST(sum(bytes_used) AS BIGINT) AS octets,
                           CAST(sum(messages_used) AS BIGINT) AS messages
                    FROM mailbox WHERE domain_id IN (SELECT id FROM page) GROUP BY domain_id) s ON s.domain_id = p.id
                ORDER BY p.id"
    );
    let values = std::iter::once(after.into()).chain(named).collect();
    let mut owners: Vec<CountedOwner> =
        conn.rows(text, values).await?.iter().map(owner).collect::<Result<_>>()?;
    let after = owners.last().map(|owner| owner.id);
    owners.retain(|owner| customers.has(owner.customer));
    Ok(OwnersPage { owners, after })
}

/// The condition that names the customers, if they are few, and what it names.
fn named(customers: &Customers, condition: &'static str) -> (&'static str, Option<Value>) {
    match customers {
        Customers::Few(keys) => (condition, Some(ids(keys.iter().copied()))),
        Customers::Many(_) => ("0 = 0", None),
    }
}

/// Keys of the customers among these that have a counter or need one, ascending.
///
/// # Errors
/// When the database fails.
pub async fn limited_customers(conn: &mut Conn, customers: &Customers) -> Result<Vec<i64>> {
    let (these, named) = named(customers, "c.id IN IDS($1)");
    let text = format!(
        "SELECT c.id FROM customer c LEFT JOIN customer_usage u ON u.customer_id = c.id
         WHERE {these} AND (u.customer_id IS NOT NULL OR c.bytes_max IS NOT NULL OR c.messages_max IS NOT NULL
                            OR c.bytes_guarantee IS NOT NULL)
         ORDER BY c.id"
    );
    let rows = conn.rows(text, named.into_iter().collect()).await?;
    let mut keys: Vec<i64> = rows.iter().map(|row| row.int(0)).collect::<Result<_>>()?;
    keys.retain(|&key| customers.has(CustomerId(key)));
    Ok(keys)
}

/// The customers at and below `$1`.
const SUBTREE: &str = "WITH RECURSIVE below (id) AS (
        SELECT id FROM customer WHERE id = $1
        UNION ALL SELECT c.id FROM below JOIN customer c ON c.parent_id = below.id) ";

/// A customer's counter, with what the mailboxes at it and below are recorded to use.
///
/// # Errors
/// When the database fails.
pub async fn customer(conn: &mut Conn, id: CustomerId) -> Result<Option<CountedOwner>> {
    let groups = pool::groups_text(Pooled::Octets);
    let text = format!(
        "SELECT s.*, c.bytes_max, c.messages_max, c.bytes_guarantee, u.bytes_used, u.messages_used, u.bytes_committed
         FROM ({groups}) AS s CROSS JOIN customer c LEFT JOIN customer_usage u ON u.customer_id = c.id
         WHERE c.id = $1 ORDER BY s.depth DESC, s.head"
    );
    let rows = conn.rows(text, vec![id.into(), ids([])]).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let recorded = match (row.int_opt(9)?, row.int_opt(10)?, row.int_opt(11)?) {
        (Some(octets), Some(messages), Some(committed_octets)) => {
            Some(Sum { octets, messages, committed_octets, ..Sum::default() })
        }
        _ => None,
    };
    let groups: Result<Vec<Group>> = rows.iter().map(pool::group).collect();
    let mut owner = CountedOwner {
        id: id.0,
        name: String::new(),
        customer: id,
        limited: row.int_opt(6)?.is_some() || row.int_opt(7)?.is_some() || row.int_opt(8)?.is_some(),
        recorded,
        counted: Sum::default(),
        groups: groups?,
    };
    owner.add_up()?;
    Ok(Some(owner))
}

fn owner(row: &Row) -> Result<CountedOwner> {
    let recorded = match (row.int_opt(5)?, row.int_opt(6)?) {
        (Some(octets), Some(messages)) => Some(Sum { octets, messages, ..Sum::default() }),
        _ => None,
    };
    Ok(CountedOwner {
        id: row.int(0)?,
        name: row.text(1)?,
        customer: CustomerId(row.int(2)?),
        limited: row.int_opt(3)?.is_some() || row.int_opt(4)?.is_some(),
        recorded,
        counted: Sum { octets: row.int(7)?, messages: row.int(8)?, ..Sum::default() },
        groups: Vec::new(),
    })
}

/// Locks the mailboxes of a domain, then makes its counter say what they are recorded to use.
///
/// # Errors
/// When the database fails.
pub async fn domain_set(conn: &mut Conn, domain: i64) -> Result<()> {
    if conn.is_postgres() {
        let text = "SELECT count(*) FROM (
                        SELECT id FROM mailbox WHERE domain_id = $1 ORDER BY id FOR UPDATE) AS locked";
        conn.execute(text, params![domain]).await?;
    }
    conn.execute("DELETE FROM domain_usage WHERE domain_id = $1", params![domain]).await?;
    let text = "INSERT INTO domain_usage (domain_id, bytes_used, messages_used)
                SELECT d.id, CAST(coalesce(sum(m.bytes_used), 0) AS BIGINT),
                       CAST(coalesce(sum(m.messages_used), 0) AS BIGINT)
                FROM domain d LEFT JOIN mailbox m ON m.domain_id = d.id
                WHERE d.id = $1 AND (d.bytes_max IS NOT NULL OR d.messages_max IS NOT NULL) GROUP BY d.id";
    conn.execute(text, params![domain]).await.map(drop)
}

/// Locks the mailboxes at and below a customer, then makes its counter say what they are recorded to use.
///
/// # Errors
/// When the database fails.
pub async fn customer_set(conn: &mut Conn, customer: CustomerId) -> Result<()> {
    if conn.is_postgres() {
        let text = format!(
            "{SUBTREE} SELECT count(*) FROM (
                 SELECT m.id FROM mailbox m JOIN domain d ON d.id = m.domain_id
                 WHERE d.customer_id IN (SELECT id FROM below) ORDER BY m.id FOR UPDATE OF m) AS locked"
        );
        conn.execute(text, params![customer]).await?;
    }
    conn.execute("DELETE FROM customer_usage WHERE customer_id = $1", params![customer]).await?;
    let Some(counted) = self::customer(conn, customer).await?.filter(|counted| counted.limited) else {
        return Ok(());
    };
    let text = "INSERT INTO customer_usage (customer_id, bytes_used, messages_used, bytes_committed)
                VALUES ($1, $2, $3, $4)";
    let Sum { octets, messages, committed_octets, .. } = counted.counted;
    conn.execute(text, params![customer, octets, messages, committed_octets]).await.map(drop)
}
