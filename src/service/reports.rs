//! Reports: who uses how much of what.

pub(in crate::service) mod bill;
pub(in crate::service) mod storage;
#[cfg(test)]
mod tests;
pub(in crate::service) mod usage;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::base::clock::Timestamp;
use crate::base::id::{CustomerId, DomainId};
use crate::service::authority::{Permission, Tree};
use crate::service::directory::page::{Cursors, limit};
use crate::service::directory::scope::Place;
use crate::service::directory::targets::OneDomain;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::{Operate, Targeted, Tx, declare};
use crate::storage::metadata::report::{self, Coverage, DomainUse, MailboxUse};

/// Domains whose totals stand in one report.
const DOMAINS_MAX: i64 = 10_000;

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
#[derive(Serialize, ToSchema)]
pub(in crate::service) struct QuotaReport {
    items: Vec<MailboxLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domains: Option<Vec<DomainLine>>,
    /// Customers that have a domain or a limit; none in the report of a domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    customers: Option<Vec<CustomerLine>>,
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
        let filter = QuotaReportRequest { cursor: None, limit: None, ..request.clone() };
        let cursors = Cursors::new(tx, &filter);
        let after: Option<(String, String)> = cursors.read(request.cursor.as_deref())?;
        let coverage = match &target {
            Subject::Place(place) => Coverage { customers: place.customer_ids(tx), domain: None },
            Subject::Domain { id, customer, .. } => {
                Coverage { customers: vec![customer.0], domain: Some(*id) }
            }
        };
        let (domains, customers, total) = match after {
            Some(_) => (None, None, None),
            None => {
                let mut lines = report::domains(tx.conn, &coverage, DOMAINS_MAX).await?;
                let total = if request.over.is_none() { Some(total(&lines)?) } else { None };
                let mut customers = Vec::new();
                if coverage.domain.is_none() {
                    customers = customer_lines(tx, &coverage.customers, &lines, request.over).await?;
                }
                lines.retain(|line| {
                    let octets = (line.bytes_used, line.bytes_max);
                    is_over(request.over, octets, (line.messages_used, line.messages_max))
                });
                let domains = lines.into_iter().map(|line| domain_line(tx, line)).collect();
                (Some(domains), Some(customers), total)
            }
        };
        let mut rows = report::mailboxes(tx.conn, &coverage, request.over, after, limit + 1).await?;
        let more = rows.len() as i64 > limit;
        rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let last = rows.last().filter(|_| more).map(|row| (row.domain.clone(), row.local.clone()));
        let cursor = last.map(|position| cursors.make(&position)).transpose()?;
        Ok(QuotaReport {
            items: rows.into_iter().map(|row| mailbox_line(tx, row)).collect(),
            domains,
            customers,
            total,
            cursor,
        })
    }
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

/// The covered customers that have a domain at or below them, or a limit, in the order of the tree.
async fn customer_lines(
    tx: &mut Tx<'_>,
    covered: &[i64],
    domains: &[DomainUse],
    over: Option<i64>,
) -> Result<Vec<CustomerLine>> {
    let limited = report::limited_customers(tx.conn, covered).await?;
    let mut sums: HashMap<CustomerId, [i64; 3]> = HashMap::new();
    for line in domains {
        for node in tx.caller.tree.path(line.customer) {
            let [mailboxes, bytes, messages] = sums.entry(node.id).or_default();
            *mailboxes = mailboxes.saturating_add(line.mailboxes);
            *bytes = bytes.saturating_add(line.bytes_used);
            *messages = messages.saturating_add(line.messages_used);
        }
    }
    let mut lines = Vec::new();
    for id in covered.iter().copied().map(CustomerId) {
        let limits = limited.get(&id);
        let (Some(sums), limits) = (sums.get(&id).copied().or(limits.map(|_| [0; 3])), limits) else {
            continue;
        };
        let [mailboxes, bytes, messages] = sums;
        // Where there is a limit, what is counted against it decides.
        let used = limits.map_or(bytes, |use_| use_.bytes_used);
        let counts = limits.map_or(bytes, |use_| use_.bytes_committed);
        let messages = limits.map_or(messages, |use_| use_.messages_used);
        let limit = limits.and_then(|use_| use_.bytes_max);
        let messages_limit = limits.and_then(|use_| use_.messages_max);
        if is_over(over, (counts, limit), (messages, messages_limit)) {
            lines.push(CustomerLine {
                customer: tx.caller.path_of(id).unwrap_or_default(),
                mailboxes,
                used,
                committed: Some(counts).filter(|&counts| counts != used),
                guarantee: limits.and_then(|use_| use_.bytes_guarantee),
                limit,
                percent: percent(counts, limit),
                messages,
                messages_limit,
            });
        }
    }
    Ok(lines)
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

fn domain_line(tx: &Tx<'_>, row: DomainUse) -> DomainLine {
    DomainLine {
        domain: row.name,
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
