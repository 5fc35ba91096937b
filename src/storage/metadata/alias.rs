//! Aliases: addresses that stand for others.

use super::sql::Conn;
use crate::base::id::DomainId;
use crate::params;
use crate::storage::Result;

/// Most targets of one alias.
pub const TARGETS_MAX: usize = 1_000;

/// Where the alias with this local part leads; nothing when there is no such alias.
pub async fn targets(conn: &mut Conn, domain: DomainId, local: &str) -> Result<Vec<String>> {
    let text = "SELECT t.address FROM alias a JOIN alias_target t ON t.alias_id = a.id
                WHERE a.domain_id = $1 AND a.local_part = $2 ORDER BY t.address LIMIT 1000";
    conn.rows(text, params![domain, local]).await?.iter().map(|row| row.text(0)).collect()
}
