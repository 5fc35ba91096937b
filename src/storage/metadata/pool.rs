//! What customers have committed of octets or mailboxes, with their limits and guarantees: the arithmetic of charges
//! that climb, and counting from scratch what is committed.
//!
//! A charge climbs from below. At a customer with a guarantee only the part above it goes on: what it passes on is
//! what is committed there, or its guarantee if that is more.

use std::collections::BTreeMap;

use super::sql::{Conn, Row, ids};
use crate::base::id::CustomerId;
use crate::storage::{Result, StorageError};

/// What is committed of one resource at one customer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pool {
    /// Its own limit.
    pub max: Option<i64>,
    /// What is reserved for it.
    pub guarantee: Option<i64>,
    /// What it uses itself and what those below pass on.
    pub committed: i64,
}

impl Pool {
    /// What goes on to the customer above.
    pub fn passes(&self) -> i64 {
        self.committed.max(self.guarantee.unwrap_or(0))
    }

    /// What of so much more, or less, would go on to the customer above; nothing when no number holds the sum. It does
    /// not go below zero: a counter that had drifted stops there.
    pub fn passes_of(&self, delta: i64) -> Option<i64> {
        let after = Self { committed: self.committed.checked_add(delta)?.max(0), ..*self };
        after.passes().checked_sub(self.passes())
    }

    /// Adds so much, or takes it away; answers what goes on. Nothing, and no change, as [`Self::passes_of`].
    pub fn add(&mut self, delta: i64) -> Option<i64> {
        let on = self.passes_of(delta)?;
        self.committed = self.committed.saturating_add(delta).max(0);
        Some(on)
    }

    /// Whether so much more does not fit. What does not grow always fits, even above a limit that was lowered.
    pub fn refuses(&self, more: i64) -> bool {
        more > 0 && self.committed.checked_add(more).is_none_or(|sum| self.max.is_some_and(|max| sum > max))
    }

    /// Whether it has grown since `before` to more than its limit.
    pub fn has_burst(&self, before: &Self) -> bool {
        self.committed > before.committed && self.max.is_some_and(|max| self.committed > max)
    }
}

/// What guarantees are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pooled {
    /// Octets of mail; deleted mailboxes and customers keep their charge.
    Octets,
    /// Mailboxes; deleted ones do not count, nor do guarantees of deleted customers.
    Mailboxes,
}

/// A customer with a guarantee, or another that was asked for, and everything below it down to the next such one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// The customer.
    pub id: i64,
    /// That of the group above; nothing for the topmost one.
    pub above: Option<i64>,
    /// What is reserved for it.
    pub guarantee: Option<i64>,
    /// What its group uses itself.
    pub own: i64,
    /// Messages of its group, where octets are counted.
    pub messages: i64,
}

/// A query for the groups at and below customer `$1`, the deepest first; customers `IDS($2)` are groups of their own.
pub(super) fn groups_text(pooled: Pooled) -> String {
    let (guarantee, own, messages, counted) = match pooled {
        Pooled::Octets => {
            ("bytes_guarantee", "coalesce(sum(m.bytes_used), 0)", "coalesce(sum(m.messages_used), 0)", "")
        }
        Pooled::Mailboxes => ("mailboxes_guarantee", "count(m.id)", "0", "AND m.deleted_at IS NULL"),
    };
    let kept = match pooled {
        Pooled::Octets => "g.bytes_guarantee",
        Pooled::Mailboxes => "CASE WHEN g.deleted_at IS NULL THEN g.mailboxes_guarantee END",
    };
    let apart = format!("c.{guarantee} IS NOT NULL OR c.id IN IDS($2)");
    format!(
        "WITH RECURSIVE below (id, head, above, depth) AS (
             SELECT id, id, CAST(NULL AS BIGINT), CAST(0 AS BIGINT) FROM customer WHERE id = $1
             UNION ALL
             SELECT c.id, CASE WHEN {apart} THEN c.id ELSE b.head END,
                    CASE WHEN {apart} THEN b.head ELSE b.above END,
                    CASE WHEN {apart} THEN b.depth + 1 ELSE b.depth END
             FROM below b JOIN customer c ON c.parent_id = b.id)
         SELECT b.head, b.above, {kept} AS guarantee, CAST({own} AS BIGINT) AS own,
                CAST({messages} AS BIGINT) AS messages, b.depth
         FROM below b JOIN customer g ON g.id = b.head
              LEFT JOIN domain d ON d.customer_id = b.id LEFT JOIN mailbox m ON m.domain_id = d.id {counted}
         GROUP BY b.head, b.above, b.depth, g.deleted_at, g.bytes_guarantee, g.mailboxes_guarantee
         ORDER BY 6 DESC, 1"
    )
}

/// Reads a group from the first columns of a row.
pub(super) fn group(row: &Row) -> Result<Group> {
    Ok(Group {
        id: row.int(0)?,
        above: row.int_opt(1)?,
        guarantee: row.int_opt(2)?,
        own: row.int(3)?,
        messages: row.int(4)?,
    })
}

/// The groups at and below a customer, counted now, the deepest first; those of `apart` are groups of their own.
///
/// # Errors
/// When the database fails.
pub async fn groups(conn: &mut Conn, top: CustomerId, apart: &[i64], pooled: Pooled) -> Result<Vec<Group>> {
    let params = vec![top.into(), ids(apart.iter().copied())];
    conn.rows(groups_text(pooled), params).await?.iter().map(group).collect()
}

/// What is committed at each of the groups, by customer.
///
/// # Errors
/// `TooMuch` when no number holds a sum: guarantees below one without a limit may add up to that.
pub fn committed(groups: &[Group]) -> Result<BTreeMap<i64, i64>> {
    let mut sums: BTreeMap<i64, i64> = groups.iter().map(|group| (group.id, group.own)).collect();
    for group in groups {
        let committed = sums.get(&group.id).copied().unwrap_or_default();
        let passed = Pool { max: None, guarantee: group.guarantee, committed }.passes();
        if let Some(sum) = group.above.and_then(|above| sums.get_mut(&above)) {
            *sum = sum.checked_add(passed).ok_or_else(too_much)?;
        }
    }
    Ok(sums)
}

/// Nothing below zero, nothing above what a number holds.
pub(super) fn too_much() -> StorageError {
    StorageError::TooMuch("these guarantees")
}

/// What a customer passes on to the one above, counted now.
///
/// # Errors
/// As [`groups`] and [`committed`].
pub async fn passed_by(conn: &mut Conn, customer: CustomerId, pooled: Pooled) -> Result<i64> {
    let groups = groups(conn, customer, &[], pooled).await?;
    let sums = committed(&groups)?;
    let top = groups.iter().find(|group| group.above.is_none());
    let pool = top.map(|top| Pool {
        max: None,
        guarantee: top.guarantee,
        committed: sums.get(&top.id).copied().unwrap_or_default(),
    });
    Ok(pool.map_or(0, |pool| pool.passes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(max: Option<i64>, guarantee: Option<i64>, committed: i64) -> Pool {
        Pool { max, guarantee, committed }
    }

    #[test]
    fn only_what_is_above_the_guarantee_goes_on() {
        let mut pool = pool(None, Some(100), 0);
        assert_eq!(pool.passes(), 100);
        assert_eq!(pool.add(60), Some(0));
        assert_eq!(pool.add(60), Some(20));
        assert_eq!(pool.add(-50), Some(-20));
        assert_eq!(pool.committed, 70);
        // Below zero there is nothing: the counter had drifted.
        assert_eq!(pool.add(-500), Some(0));
        assert_eq!(pool.committed, 0);
    }

    #[test]
    fn arithmetic_survives_the_ends_of_the_range() {
        let mut full = pool(Some(i64::MAX), None, i64::MAX);
        assert!(full.refuses(1) && full.refuses(i64::MAX));
        assert_eq!(full.add(1), None);
        assert_eq!(full.committed, i64::MAX);
        assert_eq!(full.add(-i64::MAX), Some(-i64::MAX));
        assert!(!full.refuses(i64::MAX));
        let mut reserved = pool(None, Some(i64::MAX), 5);
        assert_eq!(reserved.add(i64::MAX - 5), Some(0));
        assert!(pool(None, None, i64::MAX).refuses(1), "even without a limit");
        assert!(pool(Some(0), None, 0).refuses(1) && !pool(Some(0), None, 7).refuses(0));
        assert!(!pool(Some(0), None, 7).refuses(-1));
    }

    #[test]
    fn guarantees_beyond_all_numbers_are_an_error_and_no_wrap() {
        let group = |id, above, guarantee, own| Group { id, above, guarantee, own, messages: 0 };
        let groups =
            [group(3, Some(1), Some(i64::MAX), 0), group(2, Some(1), Some(1), 0), group(1, None, None, 0)];
        assert!(committed(&groups).is_err());
        let groups = [group(3, Some(2), None, 7), group(2, Some(1), Some(5), 1), group(1, None, None, 2)];
        assert_eq!(committed(&groups).unwrap(), BTreeMap::from([(1, 10), (2, 8), (3, 7)]));
    }
}
