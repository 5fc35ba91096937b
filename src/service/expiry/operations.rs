//! Setting, moving and taking away expiry dates.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::pass::take_back;
use super::{Action, Step, begin, kept, parse_steps};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::directory::grants::needs_over;
use crate::service::directory::holds;
use crate::service::directory::scope::until;
use crate::service::directory::targets::{OneAdministrator, OneCustomer, OneMailbox};
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Need, Operate, Targeted, Tx, declare};
use crate::storage::metadata::expiry::{self, Expiring};

/// An expiry date.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Expiry {
    #[schema(value_type = String)]
    expires_at: Timestamp,
    /// What happens then, in order, each with its delay: `disable-login`, `stop-receiving+7d`, `delete+30d`.
    on_expiry: Vec<String>,
    /// How many of these steps were taken.
    taken: usize,
}

/// The date of an object as it is shown.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn shown(tx: &mut Tx<'_>, on: Expiring) -> Result<Option<Expiry>> {
    let Some(row) = expiry::of(tx.conn, on).await? else { return Ok(None) };
    let steps: Vec<Step> = kept(&row.steps)?;
    let on_expiry = steps.into_iter().map(Step::text).collect();
    Ok(Some(Expiry { expires_at: row.expires_at, on_expiry, taken: row.done }))
}

/// What may do what these steps do.
pub(in crate::service) fn permissions_of(on: Expiring, steps: &[Step]) -> Vec<Permission> {
    let (hold, delete) = match on {
        Expiring::Customer(_) => (Permission::CustomerHold, Permission::CustomerDelete),
        Expiring::Mailbox(_) => (Permission::MailboxHold, Permission::MailboxDelete),
        Expiring::Administrator(_) => (Permission::AdministratorUpdate, Permission::AdministratorDelete),
    };
    let deletes = steps.iter().any(|step| step.action == Action::Delete);
    std::iter::once(hold).chain(deletes.then_some(delete)).collect()
}

/// The customer whose authority a date that the caller sets now would have.
pub(in crate::service) fn authority(tx: &Tx<'_>, on: Expiring, place: CustomerId) -> CustomerId {
    let permission = permissions_of(on, &[]).first().copied().unwrap_or(Permission::SystemRoot);
    holds::authority(tx, place, permission)
}

/// What is needed to change the date of something at `place`: what the new and the old steps take, there and where the
/// old date was set.
async fn needs(
    tx: &mut Tx<'_>,
    on: Expiring,
    place: Option<CustomerId>,
    steps: &[Step],
) -> Result<Vec<Need>> {
    let mut needs = Vec::new();
    let at = |at, permission| Need { at, permission, delegable: false, until: None, zone: None };
    needs.extend(permissions_of(on, steps).into_iter().map(|permission| at(place, permission)));
    if let Some(old) = expiry::of(tx.conn, on).await? {
        let steps: Vec<Step> = kept(&old.steps)?;
        // An authority that is no longer above has no say any more.
        let is_above = place.is_some_and(|place| tx.caller.tree.covers(old.authority, place));
        let place = if is_above { Some(old.authority) } else { place };
        needs.extend(permissions_of(on, &steps).into_iter().map(|permission| at(place, permission)));
    }
    Ok(needs)
}

/// Moves the date, or takes it away; what the old one has led to is taken back.
async fn set(
    tx: &mut Tx<'_>,
    on: Expiring,
    place: CustomerId,
    (expires_at, steps): (Option<Timestamp>, Vec<Step>),
) -> Result<Expired> {
    let before = shown(tx, on).await?;
    tx.before = serde_json::to_value(&before).ok();
    if let Some(mut old) = expiry::of(tx.conn, on).await? {
        while old.done > 0 {
            take_back(tx, &mut old).await?;
        }
        expiry::remove(tx.conn, on).await?;
    }
    if let Some(expires_at) = expires_at {
        let authority = authority(tx, on, place);
        begin(tx, on, (expires_at, &steps), authority).await?;
    }
    let after = shown(tx, on).await?;
    tx.after = serde_json::to_value(&after).ok();
    Ok(Expired { expiry: after })
}

/// The date as it is now.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Expired {
    /// Absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    expiry: Option<Expiry>,
}

macro_rules! date_request {
    ($name:ident, $key:ident) => {
        /// When it ends, and what happens then.
        #[derive(Clone, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::service) struct $name {
            /// Which.
            $key: String,
            /// When: RFC 3339, or from now such as `90d`; none takes the date away.
            expires_at: Option<String>,
            /// What happens then, in order, each with a delay if it has one: `disable-login`, `stop-receiving+7d`,
            /// `delete+30d`. Default: `disable-login`.
            on_expiry: Option<Vec<String>>,
        }
    };
}

date_request!(CustomerExpireRequest, path);
date_request!(MailboxExpireRequest, address);
date_request!(AdministratorExpireRequest, name);

/// `customer.expire`; the right for it is held above.
pub(in crate::service) struct CustomerExpire;

impl Operate for CustomerExpire {
    declare! { "customer.expire", Put, "/v1/customers/{path}/expiry", CustomerHold, changes,
    "Say when a customer's time is over and what happens then; the right for it is held above the customer" }
    type Request = CustomerExpireRequest;
    type Response = Expired;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerExpireRequest) -> Result<OneCustomer> {
        match OneCustomer::find(tx, &request.path) {
            Ok(one) => Ok(one),
            Err(absent) => {
                // A date that has led to its deletion may be moved.
                let Ok(one) = OneCustomer::find_deleted(tx, &request.path) else { return Err(absent) };
                let row = expiry::of(tx.conn, Expiring::Customer(one.id)).await?;
                if row.is_some_and(|row| row.done > 0) { Ok(one) } else { Err(absent) }
            }
        }
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        request: &'a CustomerExpireRequest,
    ) -> Result<Vec<Need>> {
        let steps = parse_steps(request.on_expiry.as_deref())?;
        needs(tx, Expiring::Customer(target.id), target.parent, &steps).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: CustomerExpireRequest) -> Result<Expired> {
        let Some(parent) = target.parent else {
            return Err(ServiceError::Conflict { message: "the root does not expire".to_owned() });
        };
        let expires_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let steps = parse_steps(request.on_expiry.as_deref())?;
        set(tx, Expiring::Customer(target.id), parent, (expires_at, steps)).await
    }
}

/// `mailbox.expire`.
pub(in crate::service) struct MailboxExpire;

impl Operate for MailboxExpire {
    declare! { "mailbox.expire", Put, "/v1/mailboxes/{address}/expiry", MailboxHold, changes,
    "Say when a mailbox's time is over and what happens then" }
    type Request = MailboxExpireRequest;
    type Response = Expired;
    type Target = OneMailbox;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a MailboxExpireRequest) -> Result<OneMailbox> {
        match OneMailbox::find(tx, &request.address).await {
            Ok(one) => Ok(one),
            Err(absent) => {
                let Ok(one) = OneMailbox::find_deleted(tx, &request.address).await else {
                    return Err(absent);
                };
                let row = expiry::of(tx.conn, Expiring::Mailbox(one.0.id)).await?;
                if row.is_some_and(|row| row.done > 0) { Ok(one) } else { Err(absent) }
            }
        }
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneMailbox,
        request: &'a MailboxExpireRequest,
    ) -> Result<Vec<Need>> {
        let steps = parse_steps(request.on_expiry.as_deref())?;
        needs(tx, Expiring::Mailbox(target.0.id), Some(target.0.customer), &steps).await
    }

    async fn run(tx: &mut Tx<'_>, target: OneMailbox, request: MailboxExpireRequest) -> Result<Expired> {
        let expires_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let steps = parse_steps(request.on_expiry.as_deref())?;
        set(tx, Expiring::Mailbox(target.0.id), target.0.customer, (expires_at, steps)).await
    }
}

/// `administrator.expire`.
pub(in crate::service) struct AdministratorExpire;

impl Operate for AdministratorExpire {
    declare! { "administrator.expire", Put, "/v1/administrators/{name}/expiry", AdministratorUpdate, changes,
    "Say when an administrator's time is over and what happens then" }
    type Request = AdministratorExpireRequest;
    type Response = Expired;
    type Target = OneAdministrator;

    async fn target<'a>(
        tx: &'a mut Tx<'_>,
        request: &'a AdministratorExpireRequest,
    ) -> Result<OneAdministrator> {
        match OneAdministrator::find(tx, &request.name).await {
            Ok(one) => Ok(one),
            Err(absent) => {
                let Ok(one) = OneAdministrator::find_deleted(tx, &request.name).await else {
                    return Err(absent);
                };
                let row = expiry::of(tx.conn, Expiring::Administrator(one.row.id)).await?;
                if row.is_some_and(|row| row.done > 0) { Ok(one) } else { Err(absent) }
            }
        }
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneAdministrator,
        request: &'a AdministratorExpireRequest,
    ) -> Result<Vec<Need>> {
        let steps = parse_steps(request.on_expiry.as_deref())?;
        let on = Expiring::Administrator(target.row.id);
        let mut needs = needs(tx, on, Some(target.customer()), &steps).await?;
        needs.extend(needs_over(tx, target.row.id).await?);
        Ok(needs)
    }

    async fn run(
        tx: &mut Tx<'_>,
        target: OneAdministrator,
        request: AdministratorExpireRequest,
    ) -> Result<Expired> {
        if tx.caller.administrator() == Some(target.row.id) {
            return Err(ServiceError::Conflict { message: "nobody sets a date of their own".to_owned() });
        }
        let expires_at = until("expires_at", request.expires_at.as_deref(), tx.now)?;
        let steps = parse_steps(request.on_expiry.as_deref())?;
        if steps.iter().any(|step| step.action == Action::StopReceiving) {
            let message = "an administrator receives nothing: disable-login and delete are left".to_owned();
            return Err(ServiceError::Invalid { field: "on_expiry", message });
        }
        set(tx, Expiring::Administrator(target.row.id), target.row.customer, (expires_at, steps)).await
    }
}
