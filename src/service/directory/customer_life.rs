//! Moving, deleting and undeleting customers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::customers::{Customer, CustomerRequest, depth_max, row, show};
use super::move_effects::{Departure, MoveEffects};
use super::targets::OneCustomer;
use crate::base::id::CustomerId;
use crate::service::audit::names;
use crate::service::authority::Tree;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::customer::{Counts, TreeLock};
use crate::storage::metadata::pool::{self, Pooled};
use crate::storage::metadata::quota::MovedUse;
use crate::storage::metadata::{customer, customer_count, quota as counters, setting};

/// Where to move.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CustomerMoveRequest {
    /// Which.
    path: String,
    /// Below which customer.
    to: String,
}

/// A customer on its way below another.
pub(in crate::service) struct Moving {
    customer: OneCustomer,
    to: OneCustomer,
}

impl Targeted for Moving {
    fn customer(&self) -> CustomerId {
        self.customer.id
    }

    fn label(&self) -> String {
        format!("{} below {}", self.customer.label(), self.to.label())
    }

    fn recorded(&self, tree: &Tree) -> String {
        format!("{} below {}", self.customer.recorded(tree), self.to.recorded(tree))
    }
}

/// What a move does, or would do.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Moved {
    /// Path before.
    from: String,
    /// Path after.
    to: String,
    /// Customers that move, the one itself included.
    customers: usize,
    /// Octets of their mail.
    bytes: i64,
    /// Messages.
    messages: i64,
    #[serde(flatten)]
    effects: MoveEffects,
}

/// `customer.move`.
pub(in crate::service) struct CustomerMove;

impl Operate for CustomerMove {
    declare! { "customer.move", Post, "/v1/customers/{path}/move", CustomerMove, changes,
    "Move a customer below another; a dry run lists the effects" }
    type Request = CustomerMoveRequest;
    type Response = Moved;
    type Target = Moving;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerMoveRequest) -> Result<Moving> {
        Ok(Moving {
            customer: OneCustomer::find(tx, &request.path)?,
            to: OneCustomer::find(tx, &request.to)?,
        })
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a Moving,
        _: &'a CustomerMoveRequest,
    ) -> Result<Vec<Need>> {
        let Some(parent) = target.customer.parent else {
            return Ok(vec![Need::above(tx, target.customer.id, Self::PERMISSION)]);
        };
        let at = tx.caller.tree.common_ancestor(parent, target.to.id);
        Ok(vec![Need { at, permission: Self::PERMISSION, delegable: false, until: None, zone: None }])
    }

    async fn run(tx: &mut Tx<'_>, target: Moving, _: CustomerMoveRequest) -> Result<Moved> {
        let Moving { customer: moving, to } = target;
        let tree = std::sync::Arc::clone(&tx.caller.tree);
        let conflict = |message: String| Err(ServiceError::Conflict { message });
        let Some(parent) = moving.parent else {
            return conflict("the root cannot be moved".to_owned());
        };
        if tree.covers(moving.id, to.id) {
            return conflict(format!("{} is {} or below it", to.path, moving.path));
        }
        let slug = tree.node(moving.id).map(|node| node.slug.to_string()).unwrap_or_default();
        if parent != to.id && tree.child(to.id, &slug).is_some() {
            return conflict(format!("{slug} exists already below {}", to.path));
        }
        let depth = tree.node(to.id).map_or(0, |node| node.depth + 1);
        if depth + tree.height(moving.id) > depth_max(tx) {
            return Err(ServiceError::Limit(format!(
                "the hierarchy is at most {} levels deep",
                depth_max(tx)
            )));
        }
        let subtree = tree.subtree_ids(moving.id);
        let counts = admit_counts(tx, &moving, parent, to.id).await?;
        let used = counters::lock_customers(tx.conn, &subtree).await?;
        let passed = pool::passed_by(tx.conn, moving.id, Pooled::Octets).await?;
        let (old, new) = (tree.path_up(parent), tree.path_up(to.id));
        if let Err(over) = counters::move_use(tx.conn, MovedUse { used, passed }, &old, &new).await? {
            return Err(quota::over(tx.caller, over));
        }
        let no_common = || ServiceError::Internal("two customers have no common ancestor".to_owned());
        let common = tree.common_ancestor(parent, to.id).ok_or_else(no_common)?;
        let lost: Vec<i64> = old.iter().copied().filter(|id| !new.contains(id)).collect();
        let departure = Departure {
            moving: moving.id,
            to: to.id,
            lost: lost.iter().map(|&id| CustomerId(id)).collect(),
            common,
        };
        let (effects, recorded) = departure.carry_out(tx).await?;
        setting::inherit(tx.conn, &subtree, lost, common).await?;
        customer::set_parent(tx.conn, moving.id, to.id).await?;
        customer_count::mailboxes_counted(tx.conn, moving.id, &[]).await?;
        customer_count::add(tx.conn, parent, counts.negated()).await?;
        customer_count::add(tx.conn, to.id, counts).await?;
        quota::overcommit::admit_below(tx, Some(to.id)).await?;
        // The record at the customer has the old place on its path; the new one gets its own.
        tx.also.push(to.id);
        let mut after = serde_json::json!({
            "from": names::customer(&tree, parent),
            "to": names::customer(&tree, to.id),
            "customers": subtree.len(),
            "bytes": used.bytes,
            "messages": used.messages,
        });
        if let (Some(after), Ok(serde_json::Value::Object(effects))) =
            (after.as_object_mut(), serde_json::to_value(&recorded))
        {
            after.extend(effects);
        }
        tx.after = Some(after);
        Ok(Moved {
            to: if to.path == "/" { slug } else { format!("{}/{slug}", to.path) },
            from: moving.path,
            customers: subtree.len(),
            bytes: used.bytes,
            messages: used.messages,
            effects,
        })
    }
}

/// Whether the limits on numbers of objects above the new place admit what comes; what that is, as far as it is told to
/// the customers above.
async fn admit_counts(
    tx: &mut Tx<'_>,
    moving: &OneCustomer,
    from: CustomerId,
    to: CustomerId,
) -> Result<Counts> {
    let live = tx.caller.tree.subtree(moving.id).iter().filter(|node| !node.deleted);
    let live: Vec<i64> = live.map(|node| node.id.0).collect();
    let mut counts = customer::counts(tx.conn, &live).await?;
    counts.mailboxes = quota::pools::passed_mailboxes(tx, moving.id).await?;
    let customers = i64::try_from(live.len()).unwrap_or(i64::MAX);
    for (resource, count) in resources(customers, counts) {
        quota::admit_along(tx, to, Some(from), resource, count).await?;
    }
    Ok(counts)
}

/// Numbers of customers, and of what they have, by what limits them.
fn resources(customers: i64, counts: Counts) -> [(Resource, i64); 5] {
    [
        (Resource::Customers, customers),
        (Resource::Mailboxes, counts.mailboxes),
        (Resource::Aliases, counts.aliases),
        (Resource::Domains, counts.domains),
        (Resource::Administrators, counts.administrators),
    ]
}

/// `customer.delete`: soft, with everything below; the right for it is held above.
pub(in crate::service) struct CustomerDelete;

impl Operate for CustomerDelete {
    declare! { "customer.delete", Delete, "/v1/customers/{path}", CustomerDelete, changes,
    "Delete a customer and everything below; customer undelete brings it back" }
    type Request = CustomerRequest;
    type Response = Deleted;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        _: &'a CustomerRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![Need::above(tx, target.id, Self::PERMISSION)])
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, _: CustomerRequest) -> Result<Deleted> {
        if target.parent.is_none() {
            return Err(ServiceError::Conflict { message: "the root cannot be deleted".to_owned() });
        }
        let live = tx.caller.tree.subtree(target.id).iter().filter(|node| !node.deleted);
        let live: Vec<i64> = live.map(|node| node.id.0).collect();
        let counts = customer::counts(tx.conn, &live).await?;
        let subtree = tx.caller.tree.subtree_ids(target.id);
        // What it passes on is gone for the customers above; nothing is left below.
        let gone = Counts { mailboxes: quota::pools::passed_mailboxes(tx, target.id).await?, ..counts };
        customer::delete(tx.conn, &subtree, tx.now, &tx.operation_id).await?;
        customer_count::forget(tx.conn, &subtree).await?;
        if let Some(parent) = target.parent {
            customer_count::add(tx.conn, parent, gone.negated()).await?;
        }
        let row = row(tx, target.id).await?;
        let deleted = Deleted {
            customer: show(tx, row),
            customers: live.len(),
            domains: counts.domains,
            mailboxes: counts.mailboxes,
            aliases: counts.aliases,
            administrators: counts.administrators,
        };
        tx.before = serde_json::to_value(&deleted).ok();
        Ok(deleted)
    }
}

/// What was deleted, or would be.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Deleted {
    customer: Customer,
    /// Customers, the one itself included.
    customers: usize,
    domains: i64,
    mailboxes: i64,
    /// They lead within their customer only.
    aliases: i64,
    administrators: i64,
}

/// `customer.undelete`: exactly what the deleting operation took.
pub(in crate::service) struct CustomerUndelete;

impl Operate for CustomerUndelete {
    declare! { "customer.undelete", Post, "/v1/customers/{path}/undelete", CustomerDelete, changes,
    "Bring a deleted customer back with what was deleted with it" }
    type Request = CustomerRequest;
    type Response = Customer;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerRequest) -> Result<OneCustomer> {
        OneCustomer::find_deleted(tx, &request.path)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        _: &'a CustomerRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![Need::above(tx, target.id, Self::PERMISSION)])
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, _: CustomerRequest) -> Result<Customer> {
        let tree = std::sync::Arc::clone(&tx.caller.tree);
        let deleted = row(tx, target.id).await?;
        let conflict = |message: String| Err(ServiceError::Conflict { message });
        let parent = target.parent.and_then(|parent| tree.node(parent));
        if let Some(parent) = parent.filter(|parent| parent.deleted) {
            let above = tx.caller.path_of(parent.id).unwrap_or_default();
            return conflict(format!("customer {above} above it is deleted; undelete that one first"));
        }
        if parent.is_some_and(|parent| tree.child(parent.id, &deleted.slug).is_some()) {
            return conflict(format!("customer {} exists already", target.path));
        }
        let operation = deleted.deleted_by.clone().unwrap_or_default();
        customer::undelete(tx.conn, &tree.subtree_ids(target.id), &operation).await?;
        // Octets and messages were charged all the time; numbers of objects count only what is not deleted.
        let tree = tx.inner.authority.tree(tx.conn, TreeLock::None).await?;
        let live = tree.subtree(target.id).iter().filter(|node| !node.deleted);
        let live: Vec<i64> = live.map(|node| node.id.0).collect();
        let mut counts = customer::counts(tx.conn, &live).await?;
        // What it passes on has come back to the customers above; its own limits admitted all of it before.
        let passed = quota::pools::passed_mailboxes(tx, target.id).await?;
        customer_count::mailboxes_counted(tx.conn, target.id, &[]).await?;
        if let Some(parent) = target.parent {
            customer_count::add(tx.conn, parent, Counts { mailboxes: passed, ..counts }).await?;
            quota::admit_returned(tx, &tree, parent, &[(Resource::Mailboxes, passed)]).await?;
        }
        quota::overcommit::admit_below(tx, target.parent).await?;
        counts.mailboxes = 0;
        let returned = resources(i64::try_from(live.len()).unwrap_or(i64::MAX), counts);
        quota::admit_returned(tx, &tree, target.id, &returned).await?;
        let row = row(tx, target.id).await?;
        let restored = show(tx, row);
        tx.after = serde_json::to_value(&restored).ok();
        Ok(restored)
    }
}
