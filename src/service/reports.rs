//! Reports: who uses how much of what.

pub(in crate::service) mod bill;
pub(in crate::service) mod storage;
mod subtotals;
#[cfg(test)]
mod tests;
pub(in crate::service) mod usage;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use subtotals::{Own, left_out, shown};

use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::service::authority::{Permission, Tree};
use crate::service::directory::page::{Cursors, limit};
use crate::service::directory::scope::Place;
use crate::service::directory::targets::OneDomain;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Operate, Targeted, Tx, declare};
use crate::storage::metadata::report::{self, DomainUse, MailboxUse};
use crate::storage::metadata::scope::{Customers, Position};

/// Lines of domains, and of customers, in one report; how many are left out is told, and totals are of all.
const LINES_MAX: usize = 10_000;
/// Highest percentage that can be asked for.
const PERCENT_MAX: i64 = 1_000_000;

/// A domain, or a customer with all below it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::service) struct QuotaReportRequest {
    /// Report on this domain.
    domain: Option<String>,
    /// Report on this customer and all below it; with a domain: whose domain, where several have one of this name.
    customer: Option<String>,
    /// Only mailboxes, domains and customers that use at least so many percent of a limit of their own; no totals then.
    over: Option<i64>,
    /// Most mailboxes, at most 1,000; default 100.
    limit: Option<i64>,
    /// Cursor of the page.
    cursor: Option<String>,
}

/// A mailbox in a quota report.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct MailboxLine {
    address: String,
    customer: String,
    /// Octets.
    used: i64,
    /// Octets; absent means no own limit.
    limit: Option<i64>,
    /// Of the own limit on octets, rounded down.
    percent: Option<i64>,
    messages: i64,
    messages_limit: Option<i64>,
    #[schema(value_type = Option<String>)]
    last_login_at: Option<Timestamp>,
}

/// A domain's totals.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct DomainLine {
    domain: String,
    customer: String,
    mailboxes: i64,
    /// Octets.
    used: i64,
    limit: Option<i64>,
    percent: Option<i64>,
    messages: i64,
    messages_limit: Option<i64>,
}

/// A customer's totals, with everything below it.
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct CustomerLine {
    customer: String,
    mailboxes: i64,
    /// Octets; with a limit what is counted against it, deleted mailboxes that can be brought back included.
    used: i64,
    /// Octets that count against the limit, where guarantees below make that more than is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    committed: Option<i64>,
    /// Octets that are reserved for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    guarantee: Option<i64>,
    limit: Option<i64>,
    /// Of the limit, what counts against it.
    percent: Option<i64>,
    messages: i64,
    messages_limit: Option<i64>,
}

/// Sums over everything the report covers.
#[derive(Default, Serialize, ToSchema)]
pub(in crate::service) struct TotalLine {
    domains: i64,
    mailboxes: i64,
    /// Octets.
    used: i64,
    messages: i64,
}

/// The report. Domains, customers and the total stand on the first page only; with `over` there is no total, since it
/// would be of what is not listed.
#[derive(Default, Serialize, ToSchema)]
pub(in crate::service) struct QuotaReport {
    items: Vec<MailboxLine>,
    /// The first 10,000 by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    domains: Option<Vec<DomainLine>>,
    /// How many domains have no line, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    domains_left_out: Option<i64>,
    /// Customers that have a domain or a limit; none in the report of a domain. Where there are more than 10,000, those
    /// highest up.
    #[serde(skip_serializing_if = "Option::is_none")]
    customers: Option<Vec<CustomerLine>>,
    /// How many customers have no line, where there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    customers_left_out: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<TotalLine>,
    /// Cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// What a report is about.
pub(in crate::service) enum Subject {
    Place(Place),
    Domain { id: DomainId, customer: CustomerId, name: String },
}

impl Targeted for Subject {
    fn customer(&self) -> CustomerId {
        match self {
            Self::Place(place) => place.customer(),
            Self::Domain { customer, .. } => *customer,
        }
    }

    fn label(&self) -> String {
        match self {
            Self::Place(place) => place.label(),
            Self::Domain { name, .. } => name.clone(),
        }
    }

    fn recorded(&self, tree: &Tree) -> String {
        match self {
            Self::Place(place) => place.recorded(tree),
            Self::Domain { .. } => self.label(),
        }
    }
}

/// `report.quota`.
pub(in crate::service) struct QuotaReportRun;

impl Operate for QuotaReportRun {
    declare! { "report.quota", Get, "/v1/reports/quota", ReportRead, reads,
    "Use and limits of the mailboxes of a domain, or of a customer and all below it" }
    type Request = QuotaReportRequest;
    type Response = QuotaReport;
    type Target = Subject;

    async fn target<'a>(tx: &'a mut Tx<'_>, request: &'a QuotaReportRequest) -> Result<Subject> {
        match (&request.domain, &request.customer) {
            (None, customer) => {
                Ok(Subject::Place(Place::find(tx, customer.as_deref(), Permission::ReportRead)?))
            }
            (Some(name), customer) => {
                let OneDomain(row) = OneDomain::find(tx, name, customer.as_deref()).await?;
                Ok(Subject::Domain { id: row.id, customer: row.customer, name: row.name })
            }
        }
    }

    async fn run(tx: &mut Tx<'_>, target: Subject, request: QuotaReportRequest) -> Result<QuotaReport> {
        let limit = limit(request.limit)?;
        if request.over.is_some_and(|over| !(0..=PERCENT_MAX).contains(&over)) {
            let message = format!("expected a percentage from 0 to {PERCENT_MAX}");
            return Err(ServiceError::Invalid { field: "over", message });
        }
        let filter = QuotaReportRequest { cursor: None, limit: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after: Option<Position> = cursors.read(request.cursor.as_deref())?;
        let (customers, domain) = match &target {
            Subject::Place(place) => (place.customers(tx), None),
            Subject::Domain { id, customer, .. } => (Customers::Few(vec![customer.0]), Some(*id)),
        };
        let mut report = match after {
            Some(_) => QuotaReport::default(),
            None => sums(tx, &target, (&customers, domain), request.over).await?,
        };
        let mut rows =
            report::mailboxes(tx.conn, (&customers, domain), request.over, after, limit + 1).await?;
        let more = rows.len() as i64 > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let last = rows.last().filter(|_| more).map(|(_, position)| position);
        report.cursor = last.map(|position| cursors.make(position)).transpose()?;
        report.items = rows.into_iter().map(|(row, _)| mailbox_line(tx, row)).collect();
        Ok(report)
    }
}

/// What stands on the first page only.
async fn sums(
    tx: &mut Tx<'_>,
    target: &Subject,
    coverage: report::Coverage<'_>,
    over: Option<i64>,
) -> Result<QuotaReport> {
    let all = report::domains(tx.conn, coverage).await?;
    let total = if over.is_none() { Some(total(&all)?) } else { None };
    let (mut customers, mut customers_left_out) = (Vec::new(), None);
    if let Subject::Place(place) = target {
        let covered = place.customer_ids(tx);
        (customers, customers_left_out) = customer_lines(tx, (coverage.0, covered), &all, over).await?;
    }
    let mut lines: HashMap<DomainId, DomainUse> = all.into_iter().map(|line| (line.id, line)).collect();
    lines.retain(|_, line| {
        is_over(over, (line.bytes_used, line.bytes_max), (line.messages_used, line.messages_max))
    });
    let names = match over {
        None => report::domain_names(tx.conn, coverage, LINES_MAX).await?,
        Some(_) => {
            let keys: Vec<i64> = lines.keys().map(|id| id.0).collect();
            report::names(tx.conn, &keys, LINES_MAX).await?
        }
    };
    let named = names.into_iter().filter_map(|(id, name)| Some((name, lines.get(&id)?)));
    let domains: Vec<DomainLine> = named.map(|(name, line)| domain_line(tx, name, line)).collect();
    let domains_left_out = left_out(lines.len().saturating_sub(domains.len()));
    Ok(QuotaReport {
        domains: Some(domains),
        domains_left_out,
        customers: Some(customers),
        customers_left_out,
        total,
        ..QuotaReport::default()
    })
}

fn percent(used: i64, limit: Option<i64>) -> Option<i64> {
    let limit = limit.filter(|limit| *limit > 0)?;
    i64::try_from(i128::from(used) * 100 / i128::from(limit)).ok()
}

/// Whether so much of one of the limits is used; without a number of percent everything counts.
fn is_over(percent: Option<i64>, octets: (i64, Option<i64>), messages: (i64, Option<i64>)) -> bool {
    let Some(percent) = percent else { return true };
    [octets, messages].into_iter().any(|(used, limit)| {
        limit.is_some_and(|limit| i128::from(used) * 100 >= i128::from(limit) * i128::from(percent))
    })
}

/// The covered customers that have a domain at or below them, or a limit, in the order of the tree; and how many of
/// them are left out.
async fn customer_lines(
    tx: &mut Tx<'_>,
    (customers, covered): (&Customers, Vec<i64>),
    domains: &[DomainUse],
    over: Option<i64>,
) -> Result<(Vec<CustomerLine>, Option<i64>)> {
    let limited = report::limited_customers(tx.conn, customers).await?;
    let tree = &tx.caller.tree;
    let mut own = Own::new(tree);
    for line in domains {
        own.add(line.customer, [1, line.mailboxes, line.bytes_used, line.messages_used]);
    }
    let sums = own.add_up();
    let line = |id: CustomerId| {
        let limits = limited.get(&id);
        let [domains, mailboxes, bytes, messages] = sums.of(id);
        if domains == 0 && limits.is_none() {
            return None;
        }
        // Where there is a limit, what is counted against it decides.
        let used = limits.map_or(bytes, |use_| use_.bytes_used);
        let counts = limits.map_or(bytes, |use_| use_.bytes_committed);
        let messages = limits.map_or(messages, |use_| use_.messages_used);
        let limit = limits.and_then(|use_| use_.bytes_max);
        let messages_limit = limits.and_then(|use_| use_.messages_max);
        is_over(over, (counts, limit), (messages, messages_limit)).then(|| CustomerLine {
            customer: String::new(),
            mailboxes,
            used,
            committed: Some(counts).filter(|&counts| counts != used),
            guarantee: limits.and_then(|use_| use_.bytes_guarantee),
            limit,
            percent: percent(counts, limit),
            messages,
            messages_limit,
        })
    };
    let listed = covered.into_iter().map(CustomerId).filter(|&id| line(id).is_some()).collect();
    let (listed, left_out) = shown(tree, listed, LINES_MAX);
    let named = |id: CustomerId| {
        let customer = tx.caller.path_of(id).unwrap_or_default();
        line(id).map(|line| CustomerLine { customer, ..line })
    };
    Ok((listed.into_iter().filter_map(named).collect(), left_out))
}

fn mailbox_line(tx: &Tx<'_>, row: MailboxUse) -> MailboxLine {
    MailboxLine {
        address: format!("{}@{}", row.local, row.domain),
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        used: row.bytes_used,
        limit: row.bytes_max,
        percent: percent(row.bytes_used, row.bytes_max),
        messages: row.messages_used,
        messages_limit: row.messages_max,
        last_login_at: row.last_login_at,
    }
}

fn domain_line(tx: &Tx<'_>, name: String, row: &DomainUse) -> DomainLine {
    DomainLine {
        domain: name,
        customer: tx.caller.path_of(row.customer).unwrap_or_default(),
        mailboxes: row.mailboxes,
        used: row.bytes_used,
        limit: row.bytes_max,
        percent: percent(row.bytes_used, row.bytes_max),
        messages: row.messages_used,
        messages_limit: row.messages_max,
    }
}

fn total(lines: &[DomainUse]) -> Result<TotalLine> {
    let overflow = || ServiceError::Internal("the sum of what mailboxes use overflows".to_owned());
    lines.iter().try_fold(TotalLine::default(), |sum, line| {
        Ok(TotalLine {
            domains: sum.domains + 1,
            mailboxes: sum.mailboxes.checked_add(line.mailboxes).ok_or_else(overflow)?,
            used: sum.used.checked_add(line.bytes_used).ok_or_else(overflow)?,
            messages: sum.messages.checked_add(line.messages_used).ok_or_else(overflow)?,
        })
    })
}
