//! Settings: what is set or locked at customers, domains and mailboxes. What follows from it below is decided in
//! `service/settings`.

use std::collections::BTreeSet;

use super::changes::Touched;
use super::hold::HoldOn;
use super::sql::{Conn, Row, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId, MailboxId};
use crate::params;
use crate::storage::{Result, StorageError};

/// What is set or locked for one key at one object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Where.
    pub on: HoldOn,
    /// The key.
    pub key: String,
    /// The value, if one is set here.
    pub value: Option<String>,
    /// The customer whose authority locked it here, if it is locked.
    pub lock: Option<CustomerId>,
}

/// A mailbox, its domain and its customer; what does not apply is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct At {
    /// The mailbox.
    pub mailbox: Option<MailboxId>,
    /// The domain.
    pub domain: Option<DomainId>,
    /// The customer.
    pub customer: Option<CustomerId>,
}

impl At {
    /// A customer.
    pub fn customer(customer: CustomerId) -> Self {
        Self { customer: Some(customer), ..Self::default() }
    }

    /// A domain of a customer.
    pub fn domain(domain: DomainId, customer: CustomerId) -> Self {
        Self { domain: Some(domain), ..Self::customer(customer) }
    }

    /// A mailbox of a domain of a customer.
    pub fn mailbox(mailbox: MailboxId, domain: DomainId, customer: CustomerId) -> Self {
        Self { mailbox: Some(mailbox), ..Self::domain(domain, customer) }
    }
}

/// The columns of a mark.
const COLUMNS: &str = "s.customer_id, s.domain_id, s.mailbox_id, s.key, s.value, s.lock_customer_id";
/// In the place of a key: a hold, whose switch stands in the place of the value.
const HOLD: &str = "hold";

fn from_row(row: &Row) -> Result<Mark> {
    let on = match (row.int_opt(0)?, row.int_opt(1)?, row.int_opt(2)?) {
        (Some(id), ..) => HoldOn::Customer(CustomerId(id)),
        (None, Some(id), _) => HoldOn::Domain(DomainId(id)),
        (None, None, Some(id)) => HoldOn::Mailbox(MailboxId(id)),
        (None, None, None) => return Err(StorageError::Corrupt("a setting of nothing".to_owned())),
    };
    let lock = row.int_opt(5)?.map(CustomerId);
    Ok(Mark { on, key: row.text(3)?, value: row.text_opt(4)?, lock })
}

/// The statement that reads the marks, and holds if asked for, from the root down.
fn along_text(keys: &[&'static str], with_holds: bool) -> String {
    let quoted: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
    let wanted =
        if quoted.is_empty() { String::new() } else { format!(" AND s.key IN ({})", quoted.join(", ")) };
    let mut text = format!(
        "WITH RECURSIVE up (id, parent_id, height) AS (
             SELECT id, parent_id, 0 FROM customer WHERE id = $3
             UNION ALL
             SELECT c.id, c.parent_id, up.height + 1 FROM up JOIN customer c ON c.id = up.parent_id)
         SELECT {COLUMNS}, up.height FROM up JOIN setting s ON s.customer_id = up.id{wanted}
         UNION ALL SELECT {COLUMNS}, -1 FROM setting s WHERE s.domain_id = $2{wanted}
         UNION ALL SELECT {COLUMNS}, -2 FROM setting s WHERE s.mailbox_id = $1{wanted}"
    );
    if with_holds {
        let held = format!("h.customer_id, h.domain_id, h.mailbox_id, '{HOLD}', h.switch, NULL, 0 FROM");
        text.push_str(&format!(
            " UNION ALL SELECT {held} up JOIN hold h ON h.customer_id = up.id
              UNION ALL SELECT {held} hold h WHERE h.domain_id = $2
              UNION ALL SELECT {held} hold h WHERE h.mailbox_id = $1"
        ));
    }
    text.push_str(" ORDER BY 7 DESC");
    text
}

/// What is set or locked on the path to an object, from the root down, for these keys; without any, for all.
///
/// # Errors
/// When the database fails.
pub async fn along(conn: &mut Conn, at: At, keys: &[&'static str]) -> Result<Vec<Mark>> {
    let params = params![at.mailbox, at.domain, at.customer];
    conn.rows(along_text(keys, false), params).await?.iter().map(from_row).collect()
}

/// The switches that holds on the path to an object have off, and what is set there as [`along`] tells it: in one
/// statement, since every login and every recipient asks.
///
/// # Errors
/// When the database fails.
pub async fn along_with_holds(
    conn: &mut Conn,
    at: At,
    keys: &[&'static str],
) -> Result<(BTreeSet<String>, Vec<Mark>)> {
    let params = params![at.mailbox, at.domain, at.customer];
    let rows = conn.rows(along_text(keys, true), params).await?;
    let all: Vec<Mark> = rows.iter().map(from_row).collect::<Result<_>>()?;
    let (held, marks): (Vec<Mark>, Vec<Mark>) = all.into_iter().partition(|mark| mark.key == HOLD);
    Ok((held.into_iter().filter_map(|mark| mark.value).collect(), marks))
}

/// What is set or locked at an object itself for a key.
///
/// # Errors
/// When the database fails.
pub async fn own(conn: &mut Conn, on: HoldOn, key: &str) -> Result<Option<Mark>> {
    let (column, id) = on.column();
    let text = format!("SELECT {COLUMNS} FROM setting s WHERE s.{column} = $1 AND s.key = $2");
    conn.row(text, params![id, key]).await?.as_ref().map(from_row).transpose()
}

/// What is set or locked for these keys at customers, wherever; as many as there are.
///
/// # Errors
/// When the database fails.
pub async fn at_customers(conn: &mut Conn, keys: &[&'static str]) -> Result<Vec<Mark>> {
    let quoted: Vec<String> = keys.iter().map(|key| format!("'{key}'")).collect();
    let text = format!(
        "SELECT {COLUMNS} FROM setting s WHERE s.customer_id IS NOT NULL AND s.key IN ({})",
        quoted.join(", ")
    );
    conn.rows(text, Vec::new()).await?.iter().map(from_row).collect()
}

/// Sets and locks, or takes away, what stands at an object for a key.
///
/// # Errors
/// When the database fails.
pub async fn put(conn: &mut Conn, mark: &Mark, now: Timestamp) -> Result<()> {
    let (column, id) = mark.on.column();
    conn.touch(match mark.on {
        HoldOn::Mailbox(id) => Touched::Mailbox(id),
        HoldOn::Customer(_) | HoldOn::Domain(_) => Touched::Directory,
    });
    let (key, value) = (mark.key.as_str(), mark.value.as_deref());
    if value.is_none() && mark.lock.is_none() {
        let text = format!("DELETE FROM setting WHERE {column} = $1 AND key = $2");
        return conn.execute(text, params![id, key]).await.map(drop);
    }
    let text = format!(
        "UPDATE setting SET value = $3, lock_customer_id = $4, changed_at = $5 WHERE {column} = $1 AND key = $2"
    );
    if conn.execute(text, params![id, key, value, mark.lock, now]).await? == 0 {
        let text = format!(
            "INSERT INTO setting ({column}, key, value, lock_customer_id, changed_at) VALUES ($1, $2, $3, $4, $5)"
        );
        conn.execute(text, params![id, key, value, mark.lock, now]).await?;
    }
    Ok(())
}

/// Hands the locks on these customers, and on what they have, that the authority of customers they leave has set to the
/// one that stays above them.
///
/// # Errors
/// When the database fails.
pub async fn inherit(
    conn: &mut Conn,
    subtree: &[i64],
    lost: impl IntoIterator<Item = i64>,
    heir: CustomerId,
) -> Result<()> {
    let text = "UPDATE setting SET lock_customer_id = $3
                WHERE lock_customer_id IN IDS($2) AND (customer_id IN IDS($1)
                    OR domain_id IN (SELECT id FROM domain WHERE customer_id IN IDS($1))
                    OR mailbox_id IN (SELECT m.id FROM mailbox m JOIN domain d ON d.id = m.domain_id
                                      WHERE d.customer_id IN IDS($1)))";
    let params = vec![ids(subtree.iter().copied()), ids(lost), heir.into()];
    conn.execute(text, params).await.map(drop)
}

/// As [`inherit`], for domains that come to another customer: what their own customer has locked is the new one's now,
/// what customers above it have locked belongs to the one that stays above.
///
/// # Errors
/// When the database fails.
pub async fn inherit_domains(
    conn: &mut Conn,
    domains: &[DomainId],
    (from, to): (CustomerId, CustomerId),
    lost: impl IntoIterator<Item = i64>,
    common: CustomerId,
) -> Result<()> {
    let (own, above): (Vec<i64>, Vec<i64>) = lost.into_iter().partition(|&id| id == from.0);
    for (lost, heir) in [(own, to), (above, common)] {
        let text = "UPDATE setting SET lock_customer_id = $3
                    WHERE lock_customer_id IN IDS($2) AND (domain_id IN IDS($1)
                        OR mailbox_id IN (SELECT id FROM mailbox WHERE domain_id IN IDS($1)))";
        let domains = ids(domains.iter().map(|domain| domain.0));
        conn.execute(text, vec![domains, ids(lost), heir.into()]).await?;
    }
    Ok(())
}
