//! What customers used in a month, with subtotals at every level.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::LINES_MAX;
use super::subtotals::left_out;
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
    /// Where there are more than 10,000, those highest up; what the others used is in their sums.
    customers: Vec<UsageLine>,
    /// How many lines are left out, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    customers_left_out: Option<i64>,
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
            let sums = month_sums(tx.conn, &tx.inner.open_month, month, &keys).await?;
            let label = tx.caller.path_of(top).unwrap_or_default();
            all.push(Self { label, top: top.0, paths, sums });
        }
        Ok(all)
    }

    /// The path of a place as it was then and as the caller sees it; what was above is cut off. With it, how many
    /// customers there are on it below the one asked for.
    pub fn label(&self, path: &Path) -> (String, usize) {
        let at = path.customers().position(|id| id == self.top).unwrap_or(usize::MAX);
        let below: Vec<&str> = path.names.split('/').skip(at.saturating_add(1)).collect();
        let upper = self.label.trim_end_matches('/');
        let label = match (below.as_slice(), upper) {
            ([], _) => self.label.clone(),
            (below, "") => below.join("/"),
            (below, upper) => format!("{upper}/{}", below.join("/")),
        };
        (label, below.len())
    }
}

/// A place, or one that is above some.
struct Node {
    id: i64,
    label: String,
    /// Levels below the customer asked for.
    depth: usize,
    /// Where the one above stands; always before it.
    above: Option<usize>,
    /// With everything below, once it was added up.
    all: Counted,
    own: Counted,
}

/// Places below one customer with what was used there, each behind the one above it.
#[derive(Default)]
struct Nodes<'p> {
    nodes: Vec<Node>,
    /// By the keys of the customers from the root down.
    known: HashMap<&'p str, usize>,
}

impl<'p> Nodes<'p> {
    /// Where a place stands; it and those above it get nodes where they have none.
    fn place(&mut self, below: &Below, path: &'p Path) -> usize {
        let cut = |text: &'p str| text.rsplit_once('/').map_or("", |(above, _)| above);
        let (label, mut depth) = below.label(path);
        let (mut ids, mut label) = (path.ids.trim_end_matches('/'), label.as_str());
        let (mut missing, mut above) = (Vec::new(), None);
        loop {
            if let Some(&known) = self.known.get(ids) {
                above = Some(known);
                break;
            }
            missing.push((ids, label, depth));
            if depth == 0 {
                break;
            }
            depth -= 1;
            ids = cut(ids);
            label = match depth {
                0 => &below.label,
                _ => label.rsplit_once('/').map_or("", |(above, _)| above),
            };
        }
        for (ids, label, depth) in missing.into_iter().rev() {
            let id = ids.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or_default();
            let (all, own) = (Counted::default(), Counted::default());
            let place = self.nodes.len();
            self.nodes.push(Node { id, label: label.to_owned(), depth, above, all, own });
            self.known.insert(ids, place);
            above = Some(place);
        }
        above.unwrap_or_default()
    }

    /// Adds up what was used; nothing when no number holds a sum.
    fn add_up(below: &'p Below) -> Option<Vec<Node>> {
        let mut places = Self::default();
        for (key, sum) in &below.sums.sums {
            let Some(path) = below.paths.get(key) else { continue };
            let place = places.place(below, path);
            if let Some(node) = places.nodes.get_mut(place) {
                node.all = node.all.plus(sum)?;
                node.own = node.own.plus(sum)?;
            }
        }
        for place in (0..places.nodes.len()).rev() {
            let Some((above, all)) = places.nodes.get(place).map(|node| (node.above, node.all)) else {
                continue;
            };
            if let Some(above) = above.and_then(|above| places.nodes.get_mut(above)) {
                above.all = above.all.plus(&all)?;
            }
        }
        Some(places.nodes)
    }
}

/// Puts lines into order. One customer with one path has one line, whatever those above it were; where there are too
/// many lines, those highest up are left, and how many there were besides is told.
fn listed(mut nodes: Vec<Node>) -> Option<(Vec<Node>, Option<i64>)> {
    nodes.sort_by(|one, other| (&one.label, one.id).cmp(&(&other.label, other.id)));
    let mut lines: Vec<Node> = Vec::with_capacity(nodes.len());
    for node in nodes {
        match lines.last_mut().filter(|last| last.id == node.id && last.label == node.label) {
            Some(last) => {
                last.all = last.all.plus(&node.all)?;
                last.own = last.own.plus(&node.own)?;
            }
            None => lines.push(node),
        }
    }
    let left_out = left_out(lines.len().saturating_sub(LINES_MAX));
    if left_out.is_some() {
        lines.sort_by_key(|line| line.depth);
        lines.truncate(LINES_MAX);
        lines.sort_by(|one, other| (&one.label, one.id).cmp(&(&other.label, other.id)));
    }
    Some((lines, left_out))
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
        let overflow = || ServiceError::Limit("what was used is more than can be counted".to_owned());
        let (mut hours, mut is_final, mut nodes) = (0, true, Vec::new());
        for below in Below::read(tx, &place, month).await? {
            (hours, is_final) = (below.sums.hours, below.sums.is_final);
            nodes.extend(Nodes::add_up(&below).ok_or_else(overflow)?);
        }
        let (lines, customers_left_out) = listed(nodes).ok_or_else(overflow)?;
        let customers = lines.into_iter().map(|Node { label, all, own, .. }| UsageLine {
            customer: label,
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
        let customers = customers.collect();
        Ok(UsageReport { month: month.to_string(), hours, is_final, customers, customers_left_out })
    }
}

/// The nearest of what customers have, from below up along a path.
pub(super) fn nearest<T>(
    path: impl IntoIterator<Item = i64, IntoIter: DoubleEndedIterator>,
    lists: &HashMap<CustomerId, T>,
) -> Option<&T> {
    path.into_iter().rev().find_map(|id| lists.get(&CustomerId(id)))
}
