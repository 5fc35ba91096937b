//! Limits, guarantees and overcommit of customers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::customers::{Customer, VOLATILE, row, show};
use super::page::etag;
use super::targets::OneCustomer;
use crate::service::error::{Resource, Result, ServiceError};
use crate::service::quota;
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::customer::{self, CustomerLimits, CustomerRow};
use crate::storage::metadata::customer_count;
use crate::storage::metadata::quota::{self as counters, Limited};

/// Limits of a customer.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mailboxes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    aliases: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domains: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    customers: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    administrators: Option<i64>,
    /// Octets that are reserved for it at the customers above.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_guarantee: Option<i64>,
    /// Mailboxes that are reserved for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mailboxes_guarantee: Option<i64>,
    /// What the limits on octets of the customers right below may add up to, in percent of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_overcommit_percent: Option<i64>,
    /// As that, of mailboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    mailboxes_overcommit_percent: Option<i64>,
}

impl From<CustomerLimits> for Limits {
    fn from(limits: CustomerLimits) -> Self {
        Self {
            bytes: limits.bytes,
            messages: limits.messages,
            mailboxes: limits.mailboxes,
            aliases: limits.aliases,
            domains: limits.domains,
            customers: limits.customers,
            administrators: limits.administrators,
            bytes_guarantee: limits.bytes_guarantee,
            mailboxes_guarantee: limits.mailboxes_guarantee,
            bytes_overcommit_percent: limits.bytes_overcommit_percent,
            mailboxes_overcommit_percent: limits.mailboxes_overcommit_percent,
        }
    }
}

/// Tells an absent member (unchanged) from null (no limit).
pub(in crate::service) fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// A limit of a customer: its name, its value, and what is said of it.
pub(in crate::service) type Said<'l> = (&'static str, &'l mut Option<i64>, Option<Option<i64>>);

/// Declares what says limits of a customer, besides fields of its own: absent ones stay, null is no own limit, 0 is
/// nothing at all. With its `limits` goes every limit of a customer, beside what is said of it.
macro_rules! saying_limits {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident { $($own:tt)* }) => {
        $(#[$attribute])*
        $visibility struct $name {
            $($own)*
            /// Octets.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            bytes: Option<Option<i64>>,
            /// Messages.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            messages: Option<Option<i64>>,
            /// Mailboxes.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            mailboxes: Option<Option<i64>>,
            /// Aliases.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            aliases: Option<Option<i64>>,
            /// Domains.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            domains: Option<Option<i64>>,
            /// Customers below.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            customers: Option<Option<i64>>,
            /// Administrators.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            administrators: Option<Option<i64>>,
            /// Octets to reserve for it; at most its limit.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            bytes_guarantee: Option<Option<i64>>,
            /// Mailboxes to reserve for it; at most its limit.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            mailboxes_guarantee: Option<Option<i64>>,
            /// What the limits on octets of the customers right below may add up to, in percent of its own; each needs
            /// one then.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            bytes_overcommit_percent: Option<Option<i64>>,
            /// As that, of mailboxes.
            #[serde(default, deserialize_with = "crate::service::directory::customer_limits::given")]
            #[schema(value_type = Option<i64>)]
            mailboxes_overcommit_percent: Option<Option<i64>>,
        }

        impl $name {
            fn limits<'l>(
                &self,
                of: &'l mut $crate::storage::metadata::customer::CustomerLimits,
            ) -> [$crate::service::directory::customer_limits::Said<'l>; 11] {
                [
                    ("bytes", &mut of.bytes, self.bytes),
                    ("messages", &mut of.messages, self.messages),
                    ("mailboxes", &mut of.mailboxes, self.mailboxes),
                    ("aliases", &mut of.aliases, self.aliases),
                    ("domains", &mut of.domains, self.domains),
                    ("customers", &mut of.customers, self.customers),
                    ("administrators", &mut of.administrators, self.administrators),
                    ("bytes_guarantee", &mut of.bytes_guarantee, self.bytes_guarantee),
                    ("mailboxes_guarantee", &mut of.mailboxes_guarantee, self.mailboxes_guarantee),
                    (
                        "bytes_overcommit_percent",
                        &mut of.bytes_overcommit_percent,
                        self.bytes_overcommit_percent,
                    ),
                    (
                        "mailboxes_overcommit_percent",
                        &mut of.mailboxes_overcommit_percent,
                        self.mailboxes_overcommit_percent,
                    ),
                ]
            }
        }
    };
}
pub(in crate::service) use saying_limits;

saying_limits! {
    /// The limits to set.
    #[derive(Clone, Deserialize, ToSchema)]
    #[serde(deny_unknown_fields)]
    pub(in crate::service) struct CustomerLimitRequest {
        /// Its path or short code.
        path: String,
    }
}

/// Takes over a limit if one is given.
pub(super) fn set_limit(
    field: &'static str,
    slot: &mut Option<i64>,
    given: Option<Option<i64>>,
) -> Result<()> {
    match given {
        Some(Some(limit)) if limit < 0 => {
            Err(ServiceError::Invalid { field, message: "a limit is not negative".to_owned() })
        }
        Some(limit) => {
            *slot = limit;
            Ok(())
        }
        None => Ok(()),
    }
}

/// `customer.limit`.
pub(in crate::service) struct CustomerLimit;

impl Operate for CustomerLimit {
    declare! { "customer.limit", Patch, "/v1/customers/{path}/limits", CustomerLimit, changes,
    "Set a customer's limits; the right for it is held above the customer" }
    type Request = CustomerLimitRequest;
    type Response = Customer;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a CustomerLimitRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        _: &'a CustomerLimitRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![Need::above(tx, target.id, Self::PERMISSION)])
    }

    async fn etag<'a>(tx: &'a mut Tx<'_>, target: &'a OneCustomer) -> Result<Option<String>> {
        let row = row(tx, target.id).await?;
        etag(&show(tx, row), &VOLATILE).map(Some)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: CustomerLimitRequest) -> Result<Customer> {
        let mut row = row(tx, target.id).await?;
        let before = row.limits;
        tx.before = serde_json::to_value(Limits::from(before)).ok();
        for (field, slot, given) in request.limits(&mut row.limits) {
            set_limit(field, slot, given)?;
        }
        tx.after = serde_json::to_value(Limits::from(row.limits)).ok();
        let above = target.parent.map(|parent| tx.caller.tree.path_up(parent)).unwrap_or_default();
        set_limits(tx, &row, above, Some(before)).await?;
        quota::overcommit::admit_below(tx, Some(row.id)).await?;
        quota::overcommit::admit_below(tx, target.parent).await?;
        Ok(show(tx, row))
    }
}

/// Writes the limits of a row, which had others `before` or is new; charges what is reserved to the customers above,
/// from below up.
pub(super) async fn set_limits(
    tx: &mut Tx<'_>,
    row: &CustomerRow,
    above: Vec<i64>,
    before: Option<CustomerLimits>,
) -> Result<()> {
    let (old, new) = (before.unwrap_or_default(), row.limits);
    quota::overcommit::consistent(&new)?;
    let tree = std::sync::Arc::clone(&tx.caller.tree);
    if new.mailboxes_guarantee != old.mailboxes_guarantee
        && let Some(parent) = row.parent
    {
        let passed = quota::pools::passed_mailboxes(tx, row.id).await?;
        customer::set_limits(tx.conn, row.id, new).await?;
        let more = quota::pools::passed_mailboxes(tx, row.id).await? - passed;
        // What climbs through a guarantee needs to know what is committed there.
        customer_count::mailboxes_counted(tx.conn, row.id, &[]).await?;
        quota::count(tx, parent, Resource::Mailboxes, more).await?;
        // What is there by now is how it is afterwards.
        quota::admit_returned(tx, &tree, parent, &[(Resource::Mailboxes, more)]).await?;
    } else {
        customer::set_limits(tx.conn, row.id, new).await?;
    }
    let charged = |limits: &CustomerLimits| (limits.bytes, limits.messages, limits.bytes_guarantee);
    if charged(&old) != charged(&new) {
        let subtree = match before {
            Some(_) => tree.subtree_ids(row.id),
            None => vec![row.id.0],
        };
        let change = Limited {
            id: row.id,
            subtree,
            above,
            limited: new.bytes.is_some() || new.messages.is_some() || new.bytes_guarantee.is_some(),
            guarantee: (old.bytes_guarantee, new.bytes_guarantee),
        };
        if let Err(over) = counters::follow_customer_limits(tx.conn, &change).await? {
            return Err(quota::over(tx.caller, over));
        }
    }
    Ok(())
}
