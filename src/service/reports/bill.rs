//! Price lists, and what customers owe for a month.
//!
//! A list holds for the customer at which it is set and for all below it that have none of their own, from a month on.
//! A bill is the sum of its rounded lines: one for each customer, resource, and place where the customer was in that
//! month. Half a minor unit is rounded up. A month that is over keeps its bill: what was used is frozen, and no list
//! can be set for it any more.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::usage::{Below, month_of, nearest};
use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::directory::scope::Place;
use crate::service::directory::targets::OneCustomer;
use crate::service::error::{Result, ServiceError};
use crate::service::metering::{Month, OpenMonth, month_sums};
use crate::service::registry::{Need, Operate, Tx, declare};
use crate::storage::metadata::metering::{self, Counted, Path};
use crate::storage::metadata::price::{self, PriceList};
use crate::storage::metadata::sql::Conn;

/// Highest price, in minor units.
const PRICE_MAX: i64 = 1_000_000_000_000;
const GIB: i128 = 1 << 30;

/// Prices.
#[derive(Clone, Serialize, ToSchema)]
pub(in crate::service) struct Prices {
    /// Path of the customer at which they are set; absent when that is above what the caller may see.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// From which month on.
    from: String,
    /// ISO 4217 code.
    currency: String,
    /// Minor units for a GiB for a month.
    gib_month: i64,
    /// Minor units for a mailbox for a month.
    mailbox_month: i64,
    /// Minor units for a thousand messages received.
    messages_1000: i64,
}

impl Prices {
    fn show(tx: &Tx<'_>, list: &PriceList) -> Self {
        Self {
            customer: tx.caller.path_of(CustomerId(list.customer)),
            from: Month::of_number(list.month).to_string(),
            currency: list.currency.clone(),
            gib_month: list.gib_month,
            mailbox_month: list.mailbox_month,
            messages_1000: list.messages_1000,
        }
    }
}

/// Prices to set.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct PriceSetRequest {
    /// The customer's path or short code.
    path: String,
    /// From which month on, such as 2026-12; one that is over cannot be priced anew.
    from: String,
    /// ISO 4217 code.
    currency: String,
    /// Minor units for a GiB for a month.
    gib_month: i64,
    /// Minor units for a mailbox for a month.
    mailbox_month: i64,
    /// Minor units for a thousand messages received.
    messages_1000: i64,
}

/// `price.set`: what a customer pays constrains it, so it is said above it.
pub(in crate::service) struct PriceSet;

impl Operate for PriceSet {
    declare! { "price.set", Put, "/v1/customers/{path}/prices", PriceUpdate, changes,
    "Set the prices of a customer and those below it from a month on; the right for it is held above the customer" }
    type Request = PriceSetRequest;
    type Response = Prices;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a PriceSetRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn needs<'a>(
        tx: &'a mut Tx<'_>,
        target: &'a OneCustomer,
        _: &'a PriceSetRequest,
    ) -> Result<Vec<Need>> {
        Ok(vec![Need::above(tx, target.id, Self::PERMISSION)])
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: PriceSetRequest) -> Result<Prices> {
        let from: Month = request.from.parse()?;
        let present = Month::of_hour(tx.now.secs().div_euclid(3_600));
        let frozen = metering::frozen_month(tx.conn).await?.map(Month::of_number);
        if from < present || frozen.is_some_and(|frozen| from <= frozen) {
            let message = format!("{from} is over; prices can be set from {present} on");
            return Err(ServiceError::Conflict { message });
        }
        currency_check(&request.currency)?;
        for (field, price) in [
            ("gib_month", request.gib_month),
            ("mailbox_month", request.mailbox_month),
            ("messages_1000", request.messages_1000),
        ] {
            if !(0..=PRICE_MAX).contains(&price) {
                let message = format!("a price is 0 to {PRICE_MAX} minor units");
                return Err(ServiceError::Invalid { field, message });
            }
        }
        let before = price::holding(tx.conn, &[target.id.0], from.number()).await?;
        tx.before = before.first().and_then(|list| serde_json::to_value(Prices::show(tx, list)).ok());
        let list = PriceList {
            customer: target.id.0,
            month: from.number(),
            currency: request.currency,
            gib_month: request.gib_month,
            mailbox_month: request.mailbox_month,
            messages_1000: request.messages_1000,
        };
        price::set(tx.conn, &list, tx.now).await?;
        let after = Prices::show(tx, &list);
        tx.after = serde_json::to_value(&after).ok();
        Ok(after)
    }
}

/// Whose prices, and when.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct PriceShowRequest {
    /// The customer's path or short code.
    path: String,
    /// In which month; absent: the present one.
    month: Option<String>,
}

/// The prices that hold.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct PricesHolding {
    month: String,
    /// Absent where none are set, neither there nor above.
    #[serde(skip_serializing_if = "Option::is_none")]
    prices: Option<Prices>,
}

/// `price.show`.
pub(in crate::service) struct PriceShow;

impl Operate for PriceShow {
    declare! { "price.show", Get, "/v1/customers/{path}/prices", BillRead, reads,
    "The prices that hold for a customer, its own or those of the nearest customer above" }
    type Request = PriceShowRequest;
    type Response = PricesHolding;
    type Target = OneCustomer;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a PriceShowRequest) -> Result<OneCustomer> {
        OneCustomer::find(tx, &request.path)
    }

    async fn run(tx: &mut Tx<'_>, target: OneCustomer, request: PriceShowRequest) -> Result<PricesHolding> {
        let month = month_of(tx, request.month.as_deref())?;
        let up = tx.caller.tree.path_up(target.id);
        let lists = price::holding(tx.conn, &up, month.number()).await?;
        let found = up.iter().find_map(|&id| lists.iter().find(|list| list.customer == id));
        Ok(PricesHolding { month: month.to_string(), prices: found.map(|list| Prices::show(tx, list)) })
    }
}

/// Which lists.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct PriceListRequest {
    /// At this customer and below; absent: wherever the caller may.
    customer: Option<String>,
}

/// Lists, the newest first.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct PriceLists {
    items: Vec<Prices>,
}

/// `price.list`.
pub(in crate::service) struct PriceListRun;

impl Operate for PriceListRun {
    declare! { "price.list", Get, "/v1/prices", BillRead, reads, "The price lists that are set at customers" }
    type Request = PriceListRequest;
    type Response = PriceLists;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a PriceListRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::BillRead)
    }

    async fn run(tx: &mut Tx<'_>, place: Place, _: PriceListRequest) -> Result<PriceLists> {
        let lists = price::all(tx.conn, &place.customer_ids(tx)).await?;
        Ok(PriceLists { items: lists.iter().map(|list| Prices::show(tx, list)).collect() })
    }
}

/// Refuses what is no ISO 4217 code.
///
/// # Errors
/// `Invalid`.
pub(in crate::service) fn currency_check(code: &str) -> Result<()> {
    if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
        return Ok(());
    }
    let message = format!("expected a code such as EUR, got {code}");
    Err(ServiceError::Invalid { field: "currency", message })
}

/// A customer with all below it, and a month.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct BillRequest {
    /// The bill of this customer and all below it; absent: of all whose bills the caller may read.
    customer: Option<String>,
    /// Which month, in UTC, such as 2026-11; absent: the present one, as far as it is over.
    month: Option<String>,
}

/// A line of a bill.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct BillLine {
    /// Path of the customer, as it was then.
    customer: String,
    /// `storage`, `mailboxes` or `messages`.
    resource: &'static str,
    /// Octets times hours, mailboxes times hours, or messages.
    quantity: i64,
    /// Minor units for a GiB for the month, a mailbox for the month, or a thousand messages.
    unit_price: i64,
    /// Minor units.
    amount: i64,
    /// ISO 4217 code.
    currency: String,
}

/// A sum.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct BillTotal {
    currency: String,
    /// Minor units.
    amount: i64,
}

/// The bill.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct Bill {
    /// Such as 2026-11.
    month: String,
    /// Whether the month is over and nothing will change any more.
    is_final: bool,
    lines: Vec<BillLine>,
    /// The sums of the lines, by currency.
    totals: Vec<BillTotal>,
}

/// `quantity × price / divisor`, half a unit rounded up; nothing when no number holds it.
fn amount(quantity: i64, price: i64, divisor: i128) -> Option<i64> {
    let product = i128::from(quantity).checked_mul(i128::from(price))?;
    i64::try_from(product.checked_add(divisor / 2)?.div_euclid(divisor)).ok()
}

/// The priced resources of one customer in one place.
fn priced(sum: &Counted, list: &PriceList, month: Month) -> Option<Vec<(&'static str, i64, i64, i64)>> {
    let hours = i128::from(month.hours());
    let mut lines = Vec::new();
    for (resource, quantity, price, divisor) in [
        ("storage", sum.byte_hours, list.gib_month, hours * GIB),
        ("mailboxes", sum.mailbox_hours, list.mailbox_month, hours),
        ("messages", sum.messages_in, list.messages_1000, 1_000),
    ] {
        if quantity != 0 && price != 0 {
            lines.push((resource, quantity, price, amount(quantity, price, divisor)?));
        }
    }
    Some(lines)
}

/// What a customer with all below it owes for a month so far, by currency, at the prices that hold for the customer
/// itself: lists that are set below it are between it and its own customers.
///
/// # Errors
/// When the database fails, or no number holds a sum.
pub(in crate::service) async fn owed(
    conn: &mut Conn,
    open: &OpenMonth,
    customer: CustomerId,
    month: Month,
) -> Result<BTreeMap<String, i64>> {
    let overflow = || ServiceError::Limit("a bill is more than can be counted".to_owned());
    let paths = metering::paths(conn, customer.0).await?;
    let keys: Vec<i64> = paths.keys().copied().collect();
    let sums = month_sums(conn, open, month, &keys).await?.sums;
    let down_to = |path: &Path| -> Vec<i64> {
        let levels = path.customers().position(|id| id == customer.0).map_or(0, |at| at + 1);
        path.customers().take(levels).collect()
    };
    let above: BTreeSet<i64> = paths.values().flat_map(down_to).collect();
    let above: Vec<i64> = above.into_iter().collect();
    let lists = price::holding(conn, &above, month.number()).await?;
    let lists: HashMap<CustomerId, PriceList> =
        lists.into_iter().map(|list| (CustomerId(list.customer), list)).collect();
    let mut totals: BTreeMap<String, i64> = BTreeMap::new();
    for (key, sum) in &sums {
        let Some(list) = paths.get(key).and_then(|path| nearest(down_to(path), &lists)) else { continue };
        for (_, _, _, amount) in priced(sum, list, month).ok_or_else(overflow)? {
            let total = totals.entry(list.currency.clone()).or_default();
            *total = total.checked_add(amount).ok_or_else(overflow)?;
        }
    }
    Ok(totals)
}

/// The currency of the prices that hold for a customer in a month, if any do.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn currency(
    tx: &mut Tx<'_>,
    customer: CustomerId,
    month: Month,
) -> Result<Option<String>> {
    let up = tx.caller.tree.path_up(customer);
    let lists = price::holding(tx.conn, &up, month.number()).await?;
    let found = up.iter().find_map(|&id| lists.iter().find(|list| list.customer == id));
    Ok(found.map(|list| list.currency.clone()))
}

/// `report.bill`.
pub(in crate::service) struct BillRun;

impl Operate for BillRun {
    declare! { "report.bill", Get, "/v1/reports/bill", BillRead, reads,
    "What a customer and all below it owe for a month, by the nearest price lists" }
    type Request = BillRequest;
    type Response = Bill;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a BillRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::BillRead)
    }

    async fn run(tx: &mut Tx<'_>, place: Place, request: BillRequest) -> Result<Bill> {
        let month = month_of(tx, request.month.as_deref())?;
        let overflow = || ServiceError::Limit("a bill is more than can be counted".to_owned());
        let (mut lines, mut is_final) = (Vec::new(), true);
        for below in Below::read(tx, &place, month).await? {
            is_final = below.sums.is_final;
            let above: HashSet<i64> = below.paths.values().flat_map(Path::customers).collect();
            let above: Vec<i64> = above.into_iter().collect();
            let lists = price::holding(tx.conn, &above, month.number()).await?;
            let lists: HashMap<CustomerId, PriceList> =
                lists.into_iter().map(|list| (CustomerId(list.customer), list)).collect();
            for (key, sum) in &below.sums.sums {
                let Some(path) = below.paths.get(key) else { continue };
                let Some(list) = nearest(path.customers(), &lists) else { continue };
                let (customer, _) = below.label(path);
                for (resource, quantity, unit_price, amount) in
                    priced(sum, list, month).ok_or_else(overflow)?
                {
                    let (customer, currency) = (customer.clone(), list.currency.clone());
                    lines.push(BillLine { customer, resource, quantity, unit_price, amount, currency });
                }
            }
        }
        lines.sort_by(|one, other| {
            (&one.customer, one.resource, one.quantity).cmp(&(
                &other.customer,
                other.resource,
                other.quantity,
            ))
        });
        let mut totals: BTreeMap<&str, i64> = BTreeMap::new();
        for line in &lines {
            let total = totals.entry(&line.currency).or_default();
            *total = total.checked_add(line.amount).ok_or_else(overflow)?;
        }
        let total = |(currency, amount): (&str, i64)| BillTotal { currency: currency.to_owned(), amount };
        let totals = totals.into_iter().map(total).collect();
        Ok(Bill { month: month.to_string(), is_final, lines, totals })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_rounded_half_up_and_never_wrap() {
        let hours = 720_i128;
        for (quantity, price, wanted) in [
            // A GiB for the whole month, for half of it, for an hour of it.
            ((1 << 30) * 720, 99, Some(99)),
            ((1 << 30) * 360, 99, Some(50)),
            ((1 << 30), 99, Some(0)),
            ((1 << 30), 360, Some(1)),
            ((1 << 30), 359, Some(0)),
            (0, 99, Some(0)),
            (i64::MAX, 1, Some(11_930_465)),
            (i64::MAX, PRICE_MAX, None),
        ] {
            assert_eq!(amount(quantity, price, hours * GIB), wanted, "{quantity} at {price}");
        }
        assert_eq!(amount(i64::MAX, i64::MAX, 1), None);
    }
}
