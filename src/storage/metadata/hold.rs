//! Holds: reasons for which a switch is off.

use super::changes::Touched;
use super::sql::{Conn, Row, ids};
use super::tree_change::tree_changed;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId, MailboxId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// The switch whose holds stop grants: the tree in memory knows which customers have one.
pub const MANAGE: &str = "manage";

/// What a hold is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldOn {
    /// A customer and everything below.
    Customer(CustomerId),
    /// A domain.
    Domain(DomainId),
    /// A mailbox.
    Mailbox(MailboxId),
}

impl HoldOn {
    pub(super) fn column(self) -> (&'static str, i64) {
        match self {
            Self::Customer(id) => ("customer_id", id.0),
            Self::Domain(id) => ("domain_id", id.0),
            Self::Mailbox(id) => ("mailbox_id", id.0),
        }
    }
}

/// A hold.
#[derive(Clone, Debug)]
pub struct HoldRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// What it is on.
    pub on: HoldOn,
    /// What it switches off.
    pub switch: String,
    /// Why.
    pub reason: String,
    /// Who set it.
    pub actor: String,
    /// The customer whose authority set it.
    pub authority: CustomerId,
    /// When it was set.
    pub created_at: Timestamp,
}

/// The columns of [`HoldRow`].
macro_rules! columns {
    () => {
        "SELECT id, public_id, customer_id, domain_id, mailbox_id, switch, reason, actor, authority_customer_id,
                created_at FROM hold "
    };
}

pub(super) use columns;

pub(super) fn from_row(row: &Row) -> Result<HoldRow> {
    let on = match (row.int_opt(2)?, row.int_opt(3)?, row.int_opt(4)?) {
        (Some(id), ..) => HoldOn::Customer(CustomerId(id)),
        (None, Some(id), _) => HoldOn::Domain(DomainId(id)),
        (None, None, Some(id)) => HoldOn::Mailbox(MailboxId(id)),
        (None, None, None) => return Err(StorageError::Corrupt("a hold on nothing".to_owned())),
    };
    Ok(HoldRow {
        id: row.int(0)?,
        public_id: row.text(1)?,
        on,
        switch: row.text(5)?,
        reason: row.text(6)?,
        actor: row.text(7)?,
        authority: CustomerId(row.int(8)?),
        created_at: Timestamp(row.int(9)?),
    })
}

/// The holds on one object itself, oldest first.
pub async fn on(conn: &mut Conn, on: HoldOn) -> Result<Vec<HoldRow>> {
    let (column, id) = on.column();
    let text = format!(concat!(columns!(), "WHERE {} = $1 ORDER BY id LIMIT 1000"), column);
    conn.rows(text, params![id]).await?.iter().map(from_row).collect()
}

/// The hold with this public id.
pub async fn by_public_id(conn: &mut Conn, public_id: &str) -> Result<Option<HoldRow>> {
    let text = concat!(columns!(), "WHERE public_id = $1");
    conn.row(text, params![public_id]).await?.as_ref().map(from_row).transpose()
}

/// Sets a hold and answers its public id.
pub async fn insert(
    conn: &mut Conn,
    on: HoldOn,
    (switch, reason): (&str, &str),
    (actor, authority): (&str, CustomerId),
    now: Timestamp,
) -> Result<String> {
    let (column, id) = on.column();
    let public_id = public_id();
    let text = format!(
        "INSERT INTO hold (public_id, {column}, switch, reason, actor, authority_customer_id, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)"
    );
    conn.execute(text, params![&public_id, id, switch, reason, actor, authority, now]).await?;
    touch(conn, on, switch).await?;
    Ok(public_id)
}

/// Releases a hold.
pub async fn delete(conn: &mut Conn, row: &HoldRow) -> Result<()> {
    let changed = conn.execute("DELETE FROM hold WHERE id = $1", params![row.id]).await?;
    touch(conn, row.on, &row.switch).await?;
    if changed == 0 { Err(StorageError::Gone("hold")) } else { Ok(()) }
}

/// Hands the holds on these customers, and on what they have, that were set by the authority of customers they leave
/// to the one that stays above them.
///
/// # Errors
/// When the database fails.
pub async fn inherit(
    conn: &mut Conn,
    subtree: &[i64],
    lost: impl IntoIterator<Item = i64>,
    heir: CustomerId,
) -> Result<()> {
    let text = "UPDATE hold SET authority_customer_id = $3
                WHERE authority_customer_id IN IDS($2) AND (customer_id IN IDS($1)
                    OR domain_id IN (SELECT id FROM domain WHERE customer_id IN IDS($1))
                    OR mailbox_id IN (SELECT m.id FROM mailbox m JOIN domain d ON d.id = m.domain_id
                                      WHERE d.customer_id IN IDS($1)))";
    let params = vec![ids(subtree.iter().copied()), ids(lost), heir.into()];
    conn.execute(text, params.clone()).await?;
    // Expiry dates own holds, now or later.
    let text = "UPDATE expiry SET authority_customer_id = $3
                WHERE authority_customer_id IN IDS($2) AND (customer_id IN IDS($1)
                    OR administrator_id IN (SELECT id FROM administrator WHERE customer_id IN IDS($1))
                    OR mailbox_id IN (SELECT m.id FROM mailbox m JOIN domain d ON d.id = m.domain_id
                                      WHERE d.customer_id IN IDS($1)))";
    conn.execute(text, params).await.map(drop)
}

/// As [`inherit`], for domains that come to another customer: what their own customer had set is the new one's now,
/// what customers above it had set belongs to the one that stays above.
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
    let lost: Vec<i64> = lost.into_iter().collect();
    let own = lost.iter().copied().filter(|&id| id == from.0);
    let above = lost.iter().copied().filter(|&id| id != from.0);
    for (lost, heir) in [(ids(own), to), (ids(above), common)] {
        let text = "UPDATE hold SET authority_customer_id = $3
                    WHERE authority_customer_id IN IDS($2) AND (domain_id IN IDS($1)
                        OR mailbox_id IN (SELECT id FROM mailbox WHERE domain_id IN IDS($1)))";
        conn.execute(text, vec![ids(domains.iter().map(|domain| domain.0)), lost, heir.into()]).await?;
    }
    Ok(())
}

async fn touch(conn: &mut Conn, on: HoldOn, switch: &str) -> Result<()> {
    conn.touch(match on {
        HoldOn::Mailbox(id) => Touched::Mailbox(id),
        HoldOn::Customer(_) | HoldOn::Domain(_) => Touched::Directory,
    });
    match on {
        HoldOn::Customer(id) if switch == MANAGE => tree_changed(conn, &[id.0]).await,
        _ => Ok(()),
    }
}
