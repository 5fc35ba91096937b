//! What customers used in a month, with subtotals at every level.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::id::CustomerId;
use crate::service::authority::Permission;
use crate::service::directory::scope::Place;
use crate::service::error::{Result, ServiceError};
use crate::service::metering::{Month, MonthSums, month_sums};
use crate::service::registry::{Operate, Tx, declare};
use crate::storage::metadata::metering::{self, Counted, Path};

/// A customer with all below it, and a month.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct UsageReportRequest {
    /// Report on this customer and all below it; absent: on all that the caller may report on.
    customer: Option<String>,
    /// Which month, in UTC, such as 2026-11; absent: the present one, as far as it is over.
    month: Option<String>,
}

/// What was used.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct UsageLine {
    /// Path of the customer, as it was then.
    customer: String,
    /// Octets of mail times hours, everything below included.
    byte_hours: i64,
    /// Mailboxes times hours.
    mailbox_hours: i64,
    /// Messages received.
    messages_in: i64,
    /// Their octets.
    octets_in: i64,
    /// Of the octets times hours, those of the customer's own domains; so with what follows.
    own_byte_hours: i64,
    own_mailbox_hours: i64,
    own_messages_in: i64,
    own_octets_in: i64,
    /// Octets on average.
    bytes_average: i64,
}

/// The report.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct UsageReport {
    /// Such as 2026-11.
    month: String,
    /// How many hours of it are counted.
    hours: i64,
    /// Whether it is over and will not change any more.
    is_final: bool,
    /// Customers that used anything, those above first. One that was moved has a line for each place where it was.
    customers: Vec<UsageLine>,
}

/// The month that is asked for.
pub(super) fn month_of(tx: &Tx<'_>, asked: Option<&str>) -> Result<Month> {
    match asked {
        Some(text) => text.parse(),
        None => Ok(Month::of_hour(tx.now.secs().div_euclid(3_600))),
    }
}

/// What was used below one customer that the caller may report on, by place.
pub(super) struct Below {
    /// The customer's path, as the caller sees it.
    label: String,
    /// Where it stands in the paths of places.
    top: i64,
    /// The places.
    pub paths: BTreeMap<i64, Path>,
    /// What was used there.
    pub sums: MonthSums,
}

impl Below {
    /// Reads what was used in a month at and below the customers meant.
    pub async fn read(tx: &mut Tx<'_>, place: &Place, month: Month) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for &top in &place.tops {
            let paths = metering::paths(tx.conn, top.0).await?;
            let keys: Vec<i64> = paths.keys().copied().collect();
            let sums = month_sums(tx.conn, month, &keys).await?;
            let label = tx.caller.path_of(top).unwrap_or_default();
            all.push(Self { label, top: top.0, paths, sums });
        }
        Ok(all)
    }

    /// The customers on a path from the one asked for down, with their paths then as the caller sees them. What was
    /// above is cut off.
    pub fn visible(&self, path: &Path) -> Vec<(i64, String)> {
        let at = path.ids.iter().position(|&id| id == self.top).unwrap_or(path.ids.len());
        let mut label = self.label.clone();
        let below = path.ids.iter().zip(&path.names).skip(at).enumerate();
        below
            .map(|(depth, (&id, name))| {
                if depth > 0 {
                    let upper = label.trim_end_matches('/');
                    label = if upper.is_empty() { name.clone() } else { format!("{upper}/{name}") };
                }
                (id, label.clone())
            })
            .collect()
    }
}

/// `report.usage`.
pub(in crate::service) struct UsageReportRun;

impl Operate for UsageReportRun {
    declare! { "report.usage", Get, "/v1/reports/usage", ReportRead, reads,
    "What a customer and all below it used in a month: octets and mailboxes over time, messages received" }
    type Request = UsageReportRequest;
    type Response = UsageReport;
    type Target = Place;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a UsageReportRequest) -> Result<Place> {
        Place::find(tx, request.customer.as_deref(), Permission::ReportRead)
    }

    async fn run(tx: &mut Tx<'_>, place: Place, request: UsageReportRequest) -> Result<UsageReport> {
        let month = month_of(tx, request.month.as_deref())?;
        let overflow = || ServiceError::Internal("what was used is more than can be counted".to_owned());
        let (mut hours, mut is_final) = (0, true);
        // By label and customer: with everything below, and own.
        let mut sums: BTreeMap<(String, i64), [Counted; 2]> = BTreeMap::new();
        for below in Below::read(tx, &place, month).await? {
            (hours, is_final) = (below.sums.hours, below.sums.is_final);
            for (key, sum) in &below.sums.sums {
                let Some(path) = below.paths.get(key) else { continue };
                let visible = below.visible(path);
                let owner = visible.len().saturating_sub(1);
                for (depth, (id, label)) in visible.into_iter().enumerate() {
                    let [all, own] = sums.entry((label, id)).or_default();
                    *all = all.plus(sum).ok_or_else(overflow)?;
                    if depth == owner {
                        *own = own.plus(sum).ok_or_else(overflow)?;
                    }
                }
            }
        }
        let customers = sums.into_iter().map(|((customer, _), [all, own])| UsageLine {
            customer,
            byte_hours: all.byte_hours,
            mailbox_hours: all.mailbox_hours,
            messages_in: all.messages_in,
            octets_in: all.octets_in,
            own_byte_hours: own.byte_hours,
            own_mailbox_hours: own.mailbox_hours,
            own_messages_in: own.messages_in,
            own_octets_in: own.octets_in,
            bytes_average: if hours > 0 { all.byte_hours / hours } else { 0 },
        });
        Ok(UsageReport { month: month.to_string(), hours, is_final, customers: customers.collect() })
    }
}

/// The nearest of what customers have, from below up along a path.
pub(super) fn nearest<'l, T>(path: &[i64], lists: &'l HashMap<CustomerId, T>) -> Option<&'l T> {
    path.iter().rev().find_map(|&id| lists.get(&CustomerId(id)))
}
