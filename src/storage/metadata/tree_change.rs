//! What changed in the hierarchy with each of its versions, so that who has an earlier one in memory reads no more than
//! what is new.
//!
//! # Consistency
//! A change is noted in its own transaction, together with the version that it makes and the one that it replaces: the
//! changes of a committed version form a chain without gaps, whatever else was tried and undone. Only the last few
//! thousand are kept; who is further behind reads all customers.

use super::changes::Touched;
use super::customer::{self, NodeRow, TreeLock, tree_version};
use super::sql::Conn;
use crate::base::id::{CustomerId, public_id};
use crate::params;
use crate::storage::Result;

/// A change of more customers than this says that all are to be read.
const CUSTOMERS_MAX: usize = 256;
/// Changes that are kept.
const KEPT: i64 = 4_096;
/// Changes that are looked at first, since one who asks has mostly missed few; and at most.
const LOOKS: [i64; 2] = [16, 1_024];

/// Marks the hierarchy as changed at these customers, which may be gone.
///
/// # Errors
/// When the database fails.
pub async fn tree_changed(conn: &mut Conn, customers: &[i64]) -> Result<()> {
    conn.touch(Touched::Directory);
    let before = tree_version(conn, TreeLock::Exclusive).await?;
    let version = public_id();
    let rows = match customers.len() {
        1..=CUSTOMERS_MAX => customers.iter().map(|&customer| params![&before, &version, customer]).collect(),
        _ => vec![params![&before, &version, None::<i64>]],
    };
    conn.insert_rows("INSERT INTO tree_change (before, version, customer_id)", 3, rows).await?;
    let text = "DELETE FROM tree_change WHERE id <= (SELECT max(id) FROM tree_change) - $1";
    conn.execute(text, params![KEPT]).await?;
    let text = "UPDATE instance SET value = $1 WHERE key = 'tree_version'";
    conn.execute(text, params![version]).await.map(drop)
}

/// The way from one version of the hierarchy to a later one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeChanges {
    /// The version that is left.
    pub from: String,
    /// The version that it leads to.
    pub version: String,
    /// The customers that changed, as they are now; nothing for one that is gone.
    pub customers: Vec<(CustomerId, Option<NodeRow>)>,
}

/// What changed since the last of the versions that are `known`; nothing when the way from them is not known, or when
/// too much changed on it.
///
/// # Errors
/// When the database fails.
pub async fn since(conn: &mut Conn, known: impl Fn(&str) -> bool) -> Result<Option<TreeChanges>> {
    for limit in LOOKS {
        match way(conn, &known, limit).await? {
            Way::Known(changes) => return Ok(Some(changes)),
            Way::Unknown => return Ok(None),
            Way::Longer => {}
        }
    }
    Ok(None)
}

enum Way {
    Known(TreeChanges),
    Longer,
    Unknown,
}

async fn way(conn: &mut Conn, known: impl Fn(&str) -> bool, limit: i64) -> Result<Way> {
    // One statement, so that the customers are as they are in the version that comes out.
    let text = "SELECT t.before, t.version, t.customer_id, i.value, c.id, c.parent_id, c.slug, c.code, c.deleted_at,
                       c.ceiling,
                       CAST(CASE WHEN EXISTS (SELECT 1 FROM hold h WHERE h.customer_id = c.id AND h.switch = 'manage')
                                 THEN 1 ELSE 0 END AS BIGINT)
                FROM (SELECT * FROM tree_change ORDER BY id DESC LIMIT $1) AS t
                     JOIN instance i ON i.key = 'tree_version' LEFT JOIN customer c ON c.id = t.customer_id
                ORDER BY t.id DESC";
    let rows = conn.rows(text, params![limit]).await?;
    let Some(newest) = rows.first() else { return Ok(Way::Unknown) };
    let version = newest.text(3)?;
    let (mut at, mut before, mut customers) = (version.clone(), version.clone(), Vec::new());
    for row in &rows {
        let made = row.text(1)?;
        if made != at {
            // All changes of this version are passed.
            at.clone_from(&before);
        }
        if known(&at) {
            return Ok(Way::Known(TreeChanges { from: at, version, customers }));
        }
        let (Some(customer), true) = (row.int_opt(2)?, made == at) else { return Ok(Way::Unknown) };
        let there = row.int_opt(4)?.map(|_| customer::node(row, 4)).transpose()?;
        customers.push((CustomerId(customer), there));
        before = row.text(0)?;
    }
    if i64::try_from(rows.len()) == Ok(limit) {
        return Ok(Way::Longer);
    }
    let is_known = known(&before);
    Ok(if is_known { Way::Known(TreeChanges { from: before, version, customers }) } else { Way::Unknown })
}
