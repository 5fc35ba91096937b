//! Aliases: addresses that stand for others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::changes::Touched;
use super::domain::DomainRow;
use super::scope::{self, Contents, Customers, Position};
use super::sql::{Conn, Row, ids};
use crate::base::address::DETAIL_SEPARATOR;
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId, public_id};
use crate::params;
use crate::storage::{Result, StorageError};

/// Most targets of one alias.
pub const TARGETS_MAX: usize = 1_000;

/// Where the alias with this local part leads; nothing when there is no such alias.
pub async fn targets(conn: &mut Conn, domain: DomainId, local: &str) -> Result<Vec<String>> {
    let text = "SELECT t.address FROM alias a JOIN alias_target t ON t.alias_id = a.id
                WHERE a.domain_id = $1 AND a.local_part = $2 ORDER BY t.address LIMIT 1000";
    conn.rows(text, params![domain, local]).await?.iter().map(|row| row.text(0)).collect()
}

/// An alias with its targets.
#[derive(Clone, Debug)]
pub struct AliasRow {
    /// Key.
    pub id: i64,
    /// Random public id.
    pub public_id: String,
    /// Its domain.
    pub domain: DomainId,
    /// Name of the domain.
    pub domain_name: String,
    /// The customer that owns the domain.
    pub customer: CustomerId,
    /// Local part, in lower case.
    pub local_part: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Where it leads, by address.
    pub targets: Vec<String>,
}

impl AliasRow {
    /// `localpart@domain`.
    pub fn address(&self) -> String {
        format!("{}@{}", self.local_part, self.domain_name)
    }
}

/// The columns of [`AliasRow`].
macro_rules! columns {
    () => {
        "a.id, a.public_id, d.id, d.name, d.customer_id, a.local_part, a.created_at
         FROM alias a JOIN domain d ON d.id = a.domain_id "
    };
}

async fn with_targets(conn: &mut Conn, rows: Vec<Row>) -> Result<Vec<AliasRow>> {
    let mut aliases = Vec::with_capacity(rows.len());
    for row in rows {
        aliases.push(AliasRow {
            id: row.int(0)?,
            public_id: row.text(1)?,
            domain: DomainId(row.int(2)?),
            domain_name: row.text(3)?,
            customer: CustomerId(row.int(4)?),
            local_part: row.text(5)?,
            created_at: Timestamp(row.int(6)?),
            targets: Vec::new(),
        });
    }
    let text =
        "SELECT alias_id, address FROM alias_target WHERE alias_id IN IDS($1) ORDER BY alias_id, address";
    let mut targets: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for row in conn.rows(text, vec![ids(aliases.iter().map(|alias| alias.id))]).await? {
        targets.entry(row.int(0)?).or_default().push(row.text(1)?);
    }
    for alias in &mut aliases {
        alias.targets = targets.remove(&alias.id).unwrap_or_default();
    }
    Ok(aliases)
}

/// The aliases at an address, in verified and pending domains that are not deleted.
///
/// # Errors
/// When the database fails.
pub async fn all_by_address(conn: &mut Conn, local: &str, domain: &str) -> Result<Vec<AliasRow>> {
    let text = concat!(
        "SELECT ",
        columns!(),
        "WHERE d.name = $1 AND d.deleted_at IS NULL AND a.local_part = $2 ORDER BY d.state DESC, a.id LIMIT 1000"
    );
    let rows = conn.rows(text, params![domain, local]).await?;
    with_targets(conn, rows).await
}

const PAGE: Contents = Contents {
    statement: Cow::Borrowed(concat!(
        "SELECT ",
        columns!(),
        "WHERE a.domain_id = $1 AND a.local_part > $2 ORDER BY a.local_part LIMIT $3"
    )),
    any: Cow::Borrowed("EXISTS (SELECT 1 FROM alias a WHERE a.domain_id = d.id)"),
    // Each step looks for the next in the index.
    domains: Some(
        "WITH RECURSIVE step (id) AS (
             SELECT min(domain_id) FROM alias
             UNION ALL
             SELECT (SELECT min(a.domain_id) FROM alias a WHERE a.domain_id > step.id) FROM step
             WHERE step.id IS NOT NULL)
         SELECT id FROM step WHERE id IS NOT NULL LIMIT $1",
    ),
};

/// Aliases of these customers, or of one domain, behind a position, by domain and local part.
///
/// # Errors
/// When the database fails.
pub async fn page(
    conn: &mut Conn,
    place: (&Customers, Option<DomainId>),
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<AliasRow>> {
    let rows = scope::rows(conn, &PAGE, place, after, limit).await?;
    with_targets(conn, rows).await
}

/// Makes an alias; false when the domain has one of this name.
///
/// # Errors
/// When the database fails.
pub async fn insert(
    conn: &mut Conn,
    domain: DomainId,
    local: &str,
    targets: &[String],
    now: Timestamp,
) -> Result<bool> {
    let text = "INSERT INTO alias (public_id, domain_id, local_part, created_at) VALUES ($1, $2, $3, $4)
                ON CONFLICT DO NOTHING RETURNING id";
    let Some(row) = conn.row(text, params![public_id(), domain, local, now]).await? else { return Ok(false) };
    let id = row.int(0)?;
    let rows = targets.iter().map(|target| params![id, target]);
    conn.insert_rows("INSERT INTO alias_target (alias_id, address)", 2, rows.collect()).await?;
    conn.touch(Touched::Directory);
    Ok(true)
}

/// Lets an alias lead elsewhere.
///
/// # Errors
/// When the database fails.
pub async fn set_targets(conn: &mut Conn, id: i64, targets: &[String]) -> Result<()> {
    conn.touch(Touched::Directory);
    conn.execute("DELETE FROM alias_target WHERE alias_id = $1", params![id]).await?;
    let rows = targets.iter().map(|target| params![id, target]);
    conn.insert_rows("INSERT INTO alias_target (alias_id, address)", 2, rows.collect()).await
}

/// Deletes an alias for good.
///
/// # Errors
/// When it is gone or the database fails.
pub async fn delete(conn: &mut Conn, id: i64) -> Result<()> {
    conn.touch(Touched::Directory);
    conn.execute("DELETE FROM alias_target WHERE alias_id = $1", params![id]).await?;
    let changed = conn.execute("DELETE FROM alias WHERE id = $1", params![id]).await?;
    if changed == 0 { Err(StorageError::Gone("alias")) } else { Ok(()) }
}

/// What leads to a mailbox.
#[derive(Clone, Default, Debug)]
pub struct LeadingTo {
    /// Addresses of aliases.
    pub aliases: Vec<String>,
    /// Names of domains whose catch-all it is.
    pub catch_alls: Vec<String>,
}

/// The aliases and catch-alls of a customer that lead to `local@domain`, with or without a detail; at most 1,000 of
/// each. Targets are of the same customer, so nothing else can.
///
/// # Errors
/// When the database fails.
pub async fn leading_to(
    conn: &mut Conn,
    customer: CustomerId,
    local: &str,
    domain: &str,
) -> Result<LeadingTo> {
    let texts = [
        "SELECT DISTINCT a.local_part || '@' || d.name AS place FROM domain d JOIN alias a ON a.domain_id = d.id
         JOIN alias_target t ON t.alias_id = a.id
         WHERE d.customer_id = $1 AND d.deleted_at IS NULL
           AND (t.address = $2 OR (substr(t.address, 1, length($3)) = $3
                AND substr(t.address, length(t.address) - length($4) + 1) = $4))
         ORDER BY place LIMIT 1000",
        "SELECT d.name FROM domain d
         WHERE d.customer_id = $1 AND d.deleted_at IS NULL
           AND (d.catch_all = $2 OR (substr(d.catch_all, 1, length($3)) = $3
                AND substr(d.catch_all, length(d.catch_all) - length($4) + 1) = $4))
         ORDER BY d.name LIMIT 1000",
    ];
    let mut found = LeadingTo::default();
    for (text, list) in texts.into_iter().zip([&mut found.aliases, &mut found.catch_alls]) {
        let params = params![
            customer,
            format!("{local}@{domain}"),
            format!("{local}{DETAIL_SEPARATOR}"),
            format!("@{domain}")
        ];
        for row in conn.rows(text, params).await? {
            list.push(row.text(0)?);
        }
    }
    Ok(found)
}

/// How much leads into a domain.
#[derive(Clone, Copy, Default, Debug)]
pub struct LeadingInto {
    /// Aliases of other domains.
    pub aliases: i64,
    /// Other domains whose catch-all stands there.
    pub catch_alls: i64,
}

/// How many aliases and catch-alls of the same customer's other domains lead into a domain.
///
/// # Errors
/// When the database fails.
pub async fn leading_into(conn: &mut Conn, home: &DomainRow) -> Result<LeadingInto> {
    let text = "SELECT
            (SELECT count(DISTINCT a.id) FROM domain d JOIN alias a ON a.domain_id = d.id
             JOIN alias_target t ON t.alias_id = a.id
             WHERE d.customer_id = $1 AND d.id <> $2 AND d.deleted_at IS NULL
               AND substr(t.address, length(t.address) - length($3) + 1) = $3),
            (SELECT count(*) FROM domain d WHERE d.customer_id = $1 AND d.id <> $2 AND d.deleted_at IS NULL
               AND substr(d.catch_all, length(d.catch_all) - length($3) + 1) = $3)";
    let row = conn.row(text, params![home.customer, home.id, format!("@{}", home.name)]).await?;
    let row = row.ok_or(StorageError::Gone("counts"))?;
    Ok(LeadingInto { aliases: row.int(0)?, catch_alls: row.int(1)? })
}
