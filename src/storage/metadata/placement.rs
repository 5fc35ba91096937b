//! Which mail stores the mailboxes of a customer go to, and which its administrators may name.

use std::collections::{BTreeMap, BTreeSet};

use super::sql::{Conn, ids};
use super::store::StoreRow;
use crate::base::id::{CustomerId, StoreId};
use crate::params;
use crate::storage::Result;

/// What counts for a customer, with what stands above it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Placement {
    /// Default stores on the way up, the nearest first.
    pub defaults: Vec<StoreId>,
    /// The stores that may be named: those that all who say something on the way up allow. Nothing when nobody does.
    pub allowed: Option<BTreeSet<StoreId>>,
}

impl Placement {
    /// Whether administrators of the customer may know and name a store.
    pub fn names(&self, store: StoreId) -> bool {
        self.allowed.as_ref().is_some_and(|allowed| allowed.contains(&store))
    }

    /// The store for a new mailbox: the nearest default that takes mailboxes and is allowed, else the first such
    /// store, `except` left out.
    pub fn choose(&self, stores: &[StoreRow], except: Option<StoreId>) -> Option<StoreId> {
        let can_be = |store: &&StoreRow| {
            store.state.takes_mailboxes()
                && except != Some(store.id)
                && self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&store.id))
        };
        let by_id = |id: &StoreId| stores.iter().filter(can_be).find(|store| store.id == *id);
        let chosen = self.defaults.iter().find_map(by_id).or_else(|| stores.iter().find(can_be));
        chosen.map(|store| store.id)
    }
}

/// What counts for a customer.
///
/// # Errors
/// When the database fails.
pub async fn of(conn: &mut Conn, customer: CustomerId) -> Result<Placement> {
    let text = "WITH RECURSIVE up (id, parent_id, store_id, height) AS (
                    SELECT id, parent_id, store_id, 0 FROM customer WHERE id = $1
                    UNION ALL
                    SELECT c.id, c.parent_id, c.store_id, up.height + 1 FROM up JOIN customer c ON c.id = up.parent_id)
                SELECT id, store_id FROM up ORDER BY height";
    let (mut placement, mut path) = (Placement::default(), Vec::new());
    for row in conn.rows(text, params![customer]).await? {
        path.push(row.int(0)?);
        placement.defaults.extend(row.int_opt(1)?.map(StoreId));
    }
    let mut lists: BTreeMap<i64, BTreeSet<StoreId>> = BTreeMap::new();
    let text = "SELECT customer_id, store_id FROM customer_store WHERE customer_id IN IDS($1)";
    for row in conn.rows(text, vec![ids(path)]).await? {
        lists.entry(row.int(0)?).or_default().insert(StoreId(row.int(1)?));
    }
    for list in lists.into_values() {
        placement.allowed = Some(match placement.allowed {
            Some(allowed) => allowed.intersection(&list).copied().collect(),
            None => list,
        });
    }
    Ok(placement)
}

/// What stands at a customer itself: its default store, and those that it allows.
///
/// # Errors
/// When the database fails.
pub async fn own(conn: &mut Conn, customer: CustomerId) -> Result<(Option<StoreId>, BTreeSet<StoreId>)> {
    let row = conn.row("SELECT store_id FROM customer WHERE id = $1", params![customer]).await?;
    let default = row.map(|row| row.int_opt(0)).transpose()?.flatten().map(StoreId);
    let text = "SELECT store_id FROM customer_store WHERE customer_id = $1";
    let rows = conn.rows(text, params![customer]).await?;
    let allowed = rows.iter().map(|row| row.int(0).map(StoreId)).collect::<Result<_>>()?;
    Ok((default, allowed))
}

/// Sets a customer's default store; nothing: what stands above counts.
///
/// # Errors
/// When the database fails.
pub async fn set_default(conn: &mut Conn, customer: CustomerId, store: Option<StoreId>) -> Result<()> {
    let store = store.map(|store| store.0);
    conn.execute("UPDATE customer SET store_id = $2 WHERE id = $1", params![customer, store]).await.map(drop)
}

/// Sets the stores that a customer allows; none: what is allowed above.
///
/// # Errors
/// When the database fails.
pub async fn set_allowed(conn: &mut Conn, customer: CustomerId, stores: &BTreeSet<StoreId>) -> Result<()> {
    conn.execute("DELETE FROM customer_store WHERE customer_id = $1", params![customer]).await?;
    let rows = stores.iter().map(|store| params![customer, *store]).collect();
    conn.insert_rows("INSERT INTO customer_store (customer_id, store_id)", 2, rows).await
}
