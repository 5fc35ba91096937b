//! Domains that go to another customer: offers, what leads across, and the move itself.

use super::changes::Touched;
use super::invitation;
use super::sql::{Conn, ids};
use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::params;
use crate::storage::Result;

/// Offers a domain to the customer with this short code, in place of any other.
///
/// # Errors
/// When the database fails.
pub async fn offer(conn: &mut Conn, domain: DomainId, code: &str, now: Timestamp) -> Result<()> {
    withdraw(conn, domain).await?;
    let text = "INSERT INTO domain_offer (domain_id, to_code, created_at) VALUES ($1, $2, $3)";
    conn.execute(text, params![domain, code, now]).await.map(drop)
}

/// Takes an offer back; false when there was none.
///
/// # Errors
/// When the database fails.
pub async fn withdraw(conn: &mut Conn, domain: DomainId) -> Result<bool> {
    Ok(conn.execute("DELETE FROM domain_offer WHERE domain_id = $1", params![domain]).await? > 0)
}

/// The short code of the customer to which a domain was offered since `since`.
///
/// # Errors
/// When the database fails.
pub async fn offered_to(conn: &mut Conn, domain: DomainId, since: Timestamp) -> Result<Option<String>> {
    let text = "SELECT to_code FROM domain_offer WHERE domain_id = $1 AND created_at >= $2";
    conn.row(text, params![domain, since]).await?.map(|row| row.text(0)).transpose()
}

/// Domains of this name that were offered to the customer with this short code since `since`, the verified
/// one first.
///
/// # Errors
/// When the database fails.
pub async fn offered(conn: &mut Conn, name: &str, code: &str, since: Timestamp) -> Result<Vec<DomainId>> {
    let text = "SELECT d.id FROM domain_offer o JOIN domain d ON d.id = o.domain_id
                WHERE o.to_code = $2 AND d.name = $1 AND d.deleted_at IS NULL AND o.created_at >= $3
                ORDER BY d.state DESC, d.id LIMIT 1000";
    let rows = conn.rows(text, params![name, code, since]).await?;
    rows.iter().map(|row| row.int(0).map(DomainId)).collect()
}

/// A domain with the domains that stand for it, deleted ones too: they go together.
///
/// # Errors
/// When the database fails.
pub async fn together(conn: &mut Conn, domain: DomainId) -> Result<Vec<(DomainId, String)>> {
    let text = "SELECT id, name FROM domain WHERE id = $1 OR alias_of = $1 ORDER BY id LIMIT 10000";
    let rows = conn.rows(text, params![domain]).await?;
    rows.iter().map(|row| Ok((DomainId(row.int(0)?), row.text(1)?))).collect()
}

/// Aliases and catch-alls that lead from these domains of a customer to others of it, or from those into
/// these; at most 100 names.
///
/// # Errors
/// When the database fails.
pub async fn leading_across(
    conn: &mut Conn,
    customer: CustomerId,
    domains: &[(DomainId, String)],
) -> Result<Vec<String>> {
    let keys: Vec<i64> = domains.iter().map(|(id, _)| id.0).collect();
    let is_inside = |address: &str| {
        let domain = address.rsplit_once('@').map_or("", |(_, domain)| domain);
        domains.iter().any(|(_, name)| name == domain)
    };
    let text = "SELECT CAST(1 AS BIGINT), d.id, a.local_part || '@' || d.name, t.address
                FROM domain d JOIN alias a ON a.domain_id = d.id JOIN alias_target t ON t.alias_id = a.id
                WHERE d.customer_id = $1 AND d.deleted_at IS NULL
                UNION ALL
                SELECT CAST(2 AS BIGINT), d.id, 'catch-all of ' || d.name, d.catch_all FROM domain d
                WHERE d.customer_id = $1 AND d.deleted_at IS NULL AND d.catch_all IS NOT NULL";
    let mut across = Vec::new();
    for row in conn.rows(text, params![customer]).await? {
        let (name, address) = (row.text(2)?, row.text(3)?);
        if keys.contains(&row.int(1)?) != is_inside(&address) && !across.contains(&name) && across.len() < 100
        {
            across.push(name);
        }
    }
    across.sort_unstable();
    Ok(across)
}

/// Gives domains to another customer; codes for addresses in them end. The caller has locked their mailboxes
/// and moved their charge.
///
/// # Errors
/// When the database fails.
pub async fn set_customer(conn: &mut Conn, domains: &[DomainId], customer: CustomerId) -> Result<()> {
    let keys = || ids(domains.iter().map(|domain| domain.0));
    conn.execute("DELETE FROM domain_offer WHERE domain_id IN IDS($1)", vec![keys()]).await?;
    invitation::delete_in_domains(conn, domains.iter().copied()).await?;
    let text = "UPDATE domain SET customer_id = $2 WHERE id IN IDS($1)";
    conn.execute(text, vec![keys(), customer.into()]).await?;
    conn.touch(Touched::Directory);
    Ok(())
}
