//! Ceilings: what anybody can be allowed at a customer and below at most. They are set at the customer above, so that
//! nobody lifts their own.
//!
//! Lifting one gives back what grants say: so it needs, such that it may be passed on, every permission that it gives
//! back.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::customers::CustomerRequest;
use super::grants::{NamedRole, needs_delegable};
use super::targets::OneCustomer;
use crate::base::id::CustomerId;
use crate::service::authority::{Permission, PermissionSet, Role, granted};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::{customer, grant};

/// What ceilings say at a customer.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Ceilings {
    /// What its own ceiling leaves; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<Vec<String>>,
    /// What ceilings here and above allow nobody.
    pub withheld: Vec<String>,
}

/// The permissions of a ceiling, as they are shown.
fn shown(ceiling: PermissionSet) -> Vec<String> {
    ceiling.without(PermissionSet::ABOVE_CEILINGS).names()
}

impl Ceilings {
    /// At this customer.
    pub fn of(tx: &Tx<'_>, id: CustomerId) -> Self {
        let node = tx.caller.tree.node(id);
        let allowed = node.map(|node| node.allowed).unwrap_or_default();
        Self {
            ceiling: node.and_then(|node| node.ceiling).map(shown),
            withheld: PermissionSet::all().without(allowed).names(),
        }
    }
}

/// What is needed to replace the ceiling of a customer.
async fn needs(tx: &mut Tx<'_>, target: &OneCustomer, next: Option<PermissionSet>) -> Result<Vec<Need>> {
    let mut needs = vec![Need::above(tx, target.id, Permission::CustomerCeiling)];
    let now = tx.caller.tree.node(target.id).and_then(|node| node.ceiling).unwrap_or(PermissionSet::all());
    let next = next.unwrap_or(PermissionSet::all()).union(PermissionSet::ABOVE_CEILINGS);
    let lifted = next.without(now);
    if lifted.is_empty() {
        return Ok(needs);
    }
    // Of access to content, which hardly anybody has, what somebody there has back. Who stands above has what it has
    // from elsewhere, and does not matter here.
    let below = tx.caller.tree.subtree_ids(target.id);
    let rows = grant::at(tx.conn, &below).await?;
    let lasting = rows.iter().filter(|row| row.expires_at.is_none_or(|end| tx.now < end));
    let given = lasting.fold(PermissionSet::EMPTY, |set, row| set.union(granted(&tx.caller.tree, row)));
    let content = lifted.intersection(PermissionSet::CONTENT).intersection(given);
    let lifted = lifted.without(PermissionSet::CONTENT).union(content);
    let at = target.parent.unwrap_or(target.id);
    needs.extend(needs_delegable(at, lifted, None));
    Ok(needs)
}

/// A ceiling to set.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct CeilingSetRequest {
    /// The customer's path or short code.
    path: String,
    /// What is allowed at most: names of permissions.
    #[serde(default)]
    permissions: Vec<String>,
    /// Besides, what this role allows now.
    role: Option<String>,
}

/// The permissions of these names.
pub(super) fn permissions(names: &[String]) -> Result<PermissionSet> {
    let one = |name: &String| {
        let wrong = || ServiceError::Invalid {
            field: "permissions",
            message: format!("{name} is no permission; posthouse role show admin lists them"),
        };
        Permission::by_name(name).filter(|&one| one != Permission::Own).ok_or_else(wrong)
    };
    names.iter().map(one).try_fold(PermissionSet::EMPTY, |set, one| Ok(set.with(one?)))
}

impl CeilingSetRequest {
    async fn set(&self, tx: &mut Tx<'_>, at: CustomerId) -> Result<PermissionSet> {
        let mut set = permissions(&self.permissions)?;
        if let Some(role) = &self.role {
            set = set.union(NamedRole::find(tx, role, at).await?.permissions);
        } else if self.permissions.is_empty() {
            let message = format!(
                "say what is left, or name a role such as {}; to lift it, clear it",
                Role::Viewer.name()
            );
            return Err(ServiceError::Invalid { field: "permissions", message });
        }
        Ok(set.without(PermissionSet::ABOVE_CEILINGS))
    }
}

/// `ceiling.set`.
pub(in crate::service) struct CeilingSet;

impl Operate for CeilingSet {
    declare! { "ceiling.set", Put, "/v1/customers/{path}/ceiling", CustomerCeiling, changes,
    "Say what anybody can be allowed at a customer and below at most; the right for it is held above the customer" }
    type Request = CeilingSetRequest;
    type Response = Ceilings;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CeilingSetRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        request: &'a CeilingSetRequest,
    ) -> Result<Vec<Need>> {
        let set = request.set(tx, target.id).await?;
        needs(tx, target, Some(set)).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: CeilingSetRequest) -> Result<Ceilings> {
        let set = request.set(tx, target.id).await?;
        change(tx, &target, Some(set)).await
    }
}

/// `ceiling.clear`.
pub(in crate::service) struct CeilingClear;

impl Operate for CeilingClear {
    declare! { "ceiling.clear", Delete, "/v1/customers/{path}/ceiling", CustomerCeiling, changes,
    "Lift a customer's ceiling; the right for it is held above the customer" }
    type Request = CustomerRequest;
    type Response = Ceilings;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        _: &'a CustomerRequest,
    ) -> Result<Vec<Need>> {
        needs(tx, target, None).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, _: CustomerRequest) -> Result<Ceilings> {
        change(tx, &target, None).await
    }
}

async fn change(tx: &mut Tx<'_>, target: &OneCustomer, set: Option<PermissionSet>) -> Result<Ceilings> {
    tx.before = serde_json::to_value(Ceilings::of(tx, target.id)).ok();
    let text = set.map(|set| set.names().join(" "));
    customer::set_ceiling(tx.conn, target.id, text.as_deref()).await?;
    let above = target.parent.and_then(|parent| tx.caller.tree.node(parent));
    let allowed = above.map_or(PermissionSet::all(), |above| above.allowed);
    let left = set.unwrap_or(PermissionSet::all()).union(PermissionSet::ABOVE_CEILINGS);
    let changed = Ceilings {
        ceiling: set.map(shown),
        withheld: PermissionSet::all().without(allowed.intersection(left)).names(),
    };
    tx.after = serde_json::to_value(&changed).ok();
    Ok(changed)
}

/// `ceiling.show`.
pub(in crate::service) struct CeilingShow;

impl Operate for CeilingShow {
    declare! { "ceiling.show", Get, "/v1/customers/{path}/ceiling", CustomerRead, reads,
    "Show a customer's ceiling, and what ceilings there and above allow nobody" }
    type Request = CustomerRequest;
    type Response = Ceilings;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, _: CustomerRequest) -> Result<Ceilings> {
        Ok(Ceilings::of(tx, target.id))
    }
}
