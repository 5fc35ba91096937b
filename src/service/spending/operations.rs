//! Setting, taking away and listing spending limits.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{percent, take_all_back};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::directory::scope::Place;
use crate::service::directory::targets::OneCustomer;
use crate::service::error::{Result, ServiceError};
use crate::service::expiry::{self, Step, keep, kept, parse_steps};
use crate::service::metering::Month;
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::service::reports::bill;
use crate::storage::metadata::expiry::Expiring;
use crate::storage::metadata::spending::{self, SpendingRow};

/// Highest limit, in minor units.
const AMOUNT_MAX: i64 = 1_000_000_000_000_000;
/// Stands for no steps.
const NO_STEPS: &str = "none";

/// A spending limit.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Spending {
    /// Path of the customer; left out where the customer is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// What may be spent in a month, in minor units.
    amount: i64,
    /// ISO 4217 code.
    currency: String,
    /// What happens when all is spent, in order, each with its delay: `disable-login`, `stop-receiving+7d`,
    /// `delete+10d`.
    on_limit: Vec<String>,
    /// The month that the rest is about, such as 2026-11.
    month: String,
    /// What is spent, in minor units, as far as it is counted.
    spent: i64,
    /// The same in percent, rounded down.
    percent: i64,
    /// Since when all is spent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    reached_at: Option<Timestamp>,
    /// How many of the steps were taken.
    taken: usize,
}

impl Spending {
    fn show(row: &SpendingRow, customer: Option<String>) -> Result<Self> {
        let steps: Vec<Step> = kept(&row.steps)?;
        Ok(Self {
            customer,
            amount: row.amount_max,
            currency: row.currency.clone(),
            on_limit: steps.into_iter().map(Step::text).collect(),
            month: Month::of_number(row.month).to_string(),
            spent: row.spent,
            percent: percent(row.spent, row.amount_max),
            reached_at: row.reached_at,
            taken: row.done,
        })
    }
}

/// The spending limit of a customer, if it has one and the caller may read what is billed there.
pub(in crate::service) async fn shown(tx: &mut Tx<'_>, customer: CustomerId) -> Result<Option<Spending>> {
    if !tx.caller.may(Some(customer), SpendingList::PERMISSION) {
        return Ok(None);
    }
    spending::of(tx.conn, customer).await?.map(|row| Spending::show(&row, None)).transpose()
}

/// What a customer may spend.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct SpendingSetRequest {
    /// The customer's path or short code.
    path: String,
    /// What it may spend in a month, in minor units; none takes the limit away, 0 is nothing at all.
    amount: Option<i64>,
    /// ISO 4217 code. Default: that of the prices that hold for the customer.
    currency: Option<String>,
    /// What happens when all is spent, in order, each with a delay if it has one: `disable-login`,
    /// `stop-receiving+7d`, `delete+10d`, or `none`. Default: `disable-login`.
    on_limit: Option<Vec<String>>,
}

impl SpendingSetRequest {
    fn steps(&self) -> Result<Vec<Step>> {
        match self.on_limit.as_deref() {
            Some([only]) if only == NO_STEPS => Ok(Vec::new()),
            texts => parse_steps(texts).map_err(|error| match error {
                ServiceError::Invalid { message, .. } => ServiceError::Invalid { field: "on_limit", message },
                other => other,
            }),
        }
    }
}

/// The limit as it is now.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct SpendingSaid {
    /// Absent when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    spending: Option<Spending>,
}

/// What it takes to say what happens to a customer, at `place` above it.
fn needs_at(place: Option<CustomerId>, customer: CustomerId, steps: &[Step]) -> impl Iterator<Item = Need> {
    let of_steps = match steps {
        [] => Vec::new(),
        steps => expiry::permissions_of(Expiring::Customer(customer), steps),
    };
    let all = std::iter::once(Permission::CustomerLimit).chain(of_steps);
    all.map(move |permission| Need { at: place, permission, delegable: false, until: None, zone: None })
}

/// `spending.set`; the right for it is held above.
pub(in crate::service) struct SpendingSet;

impl Operate for SpendingSet {
    declare! { "spending.set", Put, "/v1/customers/{path}/spending", CustomerLimit, changes,
    "Say what a customer may spend in a month and what happens then; the right for it is held above the customer" }
    type Request = SpendingSetRequest;
    type Response = SpendingSaid;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a SpendingSetRequest) -> Result<OneCustomer> {
        match OneCustomer::find(tx, &request.path) {
            Ok(one) => Ok(one),
            Err(absent) => {
                // A limit that has led to its deletion may be raised.
                let Ok(one) = OneCustomer::find_deleted(tx, &request.path) else { return Err(absent) };
                let row = spending::of(tx.conn, one.id).await?;
                if row.is_some_and(|row| row.done > 0) { Ok(one) } else { Err(absent) }
            }
        }
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        request: &'a SpendingSetRequest,
    ) -> Result<Vec<Need>> {
        let mut needs: Vec<Need> = needs_at(target.parent, target.id, &request.steps()?).collect();
        if let Some(old) = spending::of(tx.conn, target.id).await? {
            // An authority that is no longer above has no say any more.
            let is_above = tx.caller.tree.covers(old.authority, target.id) && old.authority != target.id;
            let place = if is_above { Some(old.authority) } else { target.parent };
            let steps: Vec<Step> = kept(&old.steps)?;
            needs.extend(needs_at(place, target.id, &steps));
        }
        Ok(needs)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: SpendingSetRequest) -> Result<SpendingSaid> {
        let Some(parent) = target.parent else {
            return Err(ServiceError::Conflict { message: "nothing bounds what the root spends".to_owned() });
        };
        let steps = request.steps()?;
        let old = spending::of(tx.conn, target.id).await?;
        tx.before = match &old {
            Some(row) => serde_json::to_value(Spending::show(row, None)?).ok(),
            None => None,
        };
        if let Some(mut old) = old {
            take_all_back(tx, &mut old).await?;
            spending::remove(tx.conn, target.id).await?;
        }
        let Some(amount_max) = request.amount else { return Ok(SpendingSaid { spending: None }) };
        if !(0..=AMOUNT_MAX).contains(&amount_max) {
            let message = format!("expected 0 to {AMOUNT_MAX} minor units");
            return Err(ServiceError::Invalid { field: "amount", message });
        }
        let month = Month::of_hour(tx.now.secs().div_euclid(3_600));
        let holding = bill::currency(tx, target.id, month).await?;
        let currency = request.currency.or(holding).ok_or_else(|| {
            let message = "no prices hold for the customer: say which currency is meant".to_owned();
            ServiceError::Invalid { field: "currency", message }
        })?;
        bill::currency_check(&currency)?;
        let row = SpendingRow {
            customer: target.id,
            amount_max,
            currency,
            steps: keep(&steps)?,
            actor: tx.caller.name(),
            authority: expiry::authority(tx, Expiring::Customer(target.id), parent),
            month: month.number(),
            counted_until: 0,
            spent: 0,
            percent: 0,
            reached_at: None,
            done: 0,
            undo: "[]".to_owned(),
            next_at: None,
        };
        spending::put(tx.conn, &row).await?;
        let after = Spending::show(&row, None)?;
        tx.after = serde_json::to_value(&after).ok();
        Ok(SpendingSaid { spending: Some(after) })
    }
}

/// Which limits.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct SpendingListRequest {
    /// Of this customer and those below; absent: wherever the caller may.
    customer: Option<String>,
}

/// Limits, at most 1,000.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct SpendingLimits {
    items: Vec<Spending>,
}

/// `spending.list`.
pub(in crate::service) struct SpendingList;

impl Operate for SpendingList {
    declare! { "spending.list", Get, "/v1/spending", BillRead, reads,
    "What customers may spend in a month, and what they have spent" }
    type Request = SpendingListRequest;
    type Response = SpendingLimits;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a SpendingListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Self::PERMISSION)
    }

    async fn run(tx: &mut Tx<'_>, place: Place, _: SpendingListRequest) -> Result<SpendingLimits> {
        let rows = spending::among(tx.conn, &place.customer_ids(tx)).await?;
        let mut items = Vec::with_capacity(rows.len());
        for row in rows {
            items.push(Spending::show(&row, tx.caller.path_of(row.customer))?);
        }
        items.sort_by(|one, other| one.customer.cmp(&other.customer));
        Ok(SpendingLimits { items })
    }
}
