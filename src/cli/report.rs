//! `posthouse report …`, `posthouse audit …`, `posthouse trace …`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Call, Client};
use super::event::{document, export};
use super::failure::Failure;
use super::job::Follow;
use super::output::{Column, Kind, Output, columns, csv_field, member, note, show};
use super::plan::{Change, Plan, partly};

/// Quota of mailboxes, and the totals of domains.
const QUOTA: &[Column] = columns![
    "ADDRESS" "address" Text, "USED" "used" Size, "LIMIT" "limit" Size, "%" "percent" Percent,
    "MESSAGES" "messages" Count, "LAST LOGIN" "last_login_at" Time
];
const FINDINGS: &[Column] = columns![
    "WHAT" "kind" Text, "RECORD" "record" Text, "AT" "at" Time, "BATCH" "batch" Text
];
const QUOTA_DOMAINS: &[Column] = columns![
    "DOMAIN" "domain" Text, "MAILBOXES" "mailboxes" Count, "USED" "used" Size, "LIMIT" "limit" Size,
    "%" "percent" Percent, "MESSAGES" "messages" Count
];
const QUOTA_CUSTOMERS: &[Column] = columns![
    "CUSTOMER" "customer" Text, "MAILBOXES" "mailboxes" Count, "USED" "used" Size, "COMMITTED" "committed" Size,
    "LIMIT" "limit" Size, "%" "percent" Percent, "MESSAGES" "messages" Count
];
const QUOTA_TOTAL: &[Column] = columns![
    "DOMAINS" "domains" Count, "MAILBOXES" "mailboxes" Count, "USED" "used" Size, "MESSAGES" "messages" Count
];
/// Columns of the CSV form: kind, name, then these members as they are; sizes in octets.
const QUOTA_CSV: [&str; 10] = [
    "customer",
    "mailboxes",
    "used",
    "limit",
    "percent",
    "messages",
    "messages_limit",
    "last_login_at",
    "committed",
    "guarantee",
];

const STORAGE: &[Column] = columns![
    "CUSTOMER" "customer" Text, "MAIL" "octets" Size, "DELETED" "undelete_octets" Size, "ONCE" "body_octets" Size,
    "STORED" "stored_octets" Size, "DATABASE" "database_octets" Size, "LOCAL" "local_octets" Size,
    "REMOTE" "remote_octets" Size, "SAVED" "saved_octets" Size, "%" "saved_percent" Percent
];
const STORAGE_STORES: &[Column] = columns![
    "STORE" "store" Text, "MAIL" "octets" Size, "DELETED" "undelete_octets" Size, "ONCE" "body_octets" Size,
    "STORED" "stored_octets" Size, "DATABASE" "database_octets" Size, "LOCAL" "local_octets" Size,
    "REMOTE" "remote_octets" Size, "SAVED" "saved_octets" Size, "%" "saved_percent" Percent
];
/// As [`QUOTA_CSV`].
const STORAGE_CSV: [&str; 12] = [
    "mailboxes",
    "messages",
    "octets",
    "undelete_octets",
    "bodies",
    "body_octets",
    "stored_octets",
    "database_octets",
    "local_octets",
    "remote_octets",
    "saved_octets",
    "saved_percent",
];

const USAGE: &[Column] = columns![
    "CUSTOMER" "customer" Text, "AVERAGE MAIL" "bytes_average" Size, "BYTE HOURS" "byte_hours" Count,
    "MAILBOX HOURS" "mailbox_hours" Count, "MESSAGES IN" "messages_in" Count, "MAIL IN" "octets_in" Size
];
/// As [`QUOTA_CSV`].
const USAGE_CSV: [&str; 9] = [
    "bytes_average",
    "byte_hours",
    "mailbox_hours",
    "messages_in",
    "octets_in",
    "own_byte_hours",
    "own_mailbox_hours",
    "own_messages_in",
    "own_octets_in",
];
const BILL: &[Column] = columns![
    "CUSTOMER" "customer" Text, "RESOURCE" "resource" Text, "QUANTITY" "quantity" Count,
    "UNIT PRICE" "unit_price" Count, "AMOUNT" "amount" Count, "MINOR UNITS OF" "currency" Text
];
const BILL_TOTALS: &[Column] = columns!["TOTAL" "amount" Count, "MINOR UNITS OF" "currency" Text];
/// As [`QUOTA_CSV`].
const BILL_CSV: [&str; 5] = ["resource", "quantity", "unit_price", "amount", "currency"];

/// Mailboxes asked for at a time.
const REPORT_PAGE_MAILBOXES: u64 = 1_000;

/// Records of an export that are asked for at a time.
const EXPORT_PAGE: u64 = 500;

const AUDIT: &[Column] = columns![
    "TIME" "at" Time, "ACTOR" "actor" Text, "OPERATION" "operation" Text, "TARGET" "target" Text,
    "OUTCOME" "outcome" Text
];
const TRACE: &[Column] = columns![
    "TIME" "at" Time, "RECIPIENT" "recipient" Text, "SENDER" "sender" Text, "SIZE" "size" Size,
    "SOURCE" "source" Text, "OUTCOME" "outcome" Text, "DETAIL" "detail" Text
];

/// The form of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For spreadsheets; sizes in octets
    Csv,
    /// One document
    Json,
}

/// Reports
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Use and limits of mailboxes, with totals of domains and customers
    Quota {
        /// Of this domain
        #[arg(long)]
        domain: Option<String>,
        /// Of this customer and those below; with --domain, whose domain
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Only mailboxes, domains and customers that use at least this part of their limit
        #[arg(long, value_name = "PERCENT")]
        over: Option<u32>,
        /// The report's form
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// What was used in a month: mail and mailboxes over time, messages received
    Usage {
        /// By this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Which month, such as 2026-11; the present one if none is given
        #[arg(long, value_name = "MONTH")]
        month: Option<String>,
        /// The report's form
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// What is owed for a month, by the price lists; amounts in minor units
    Bill {
        /// By this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Which month, such as 2026-11; the present one if none is given
        #[arg(long, value_name = "MONTH")]
        month: Option<String>,
        /// The bill's form
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
    /// What mail takes: as received, each body once, as kept and where, and what is saved
    Storage {
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// The report's form
        #[arg(long, value_enum, default_value = "table")]
        format: Format,
    },
}

/// The audit trail
#[derive(Subcommand, Debug)]
pub(super) enum AuditCommand {
    /// What was done, or refused, newest first
    Search {
        /// At this customer and below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Only what you did yourself
        #[arg(long)]
        mine: bool,
        /// Not before: RFC 3339, or how long ago, such as 2d
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Before: RFC 3339, or how long ago
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// By actors whose name contains this
        #[arg(long)]
        actor: Option<String>,
        /// Only this operation, such as mailbox.create; mailbox. means all of mailboxes
        #[arg(long)]
        operation: Option<String>,
        /// Only targets that contain this
        #[arg(long)]
        target: Option<String>,
        /// Only records that contain this
        #[arg(long)]
        text: Option<String>,
        /// Only this outcome: done, refused, or a reason such as forbidden
        #[arg(long)]
        outcome: Option<String>,
        /// Most records shown
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u64,
    },
    /// The same as lines of JSON for other systems, newest first; the last line says that it is complete
    Export {
        /// At this customer and below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Only what you did yourself
        #[arg(long)]
        mine: bool,
        /// Not before: RFC 3339, or how long ago, such as 2d
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Before: RFC 3339, or how long ago
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Only this operation, such as mailbox.create; mailbox. means all of mailboxes
        #[arg(long)]
        operation: Option<String>,
        /// Only this outcome: done, refused, or a reason such as forbidden
        #[arg(long)]
        outcome: Option<String>,
    },
    /// Print a proof of one record, for people without access
    Prove {
        /// The record's id, which audit search --json shows
        record: String,
    },
    /// Check a proof; needs no daemon
    CheckProof {
        /// The file with the proof
        file: PathBuf,
        /// A file with the public key (hexadecimal) that must have signed it
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Check that no record was changed, removed or inserted since it was made
    Verify {
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        #[command(flatten)]
        following: Follow,
    },
}

/// Where is my mail
#[derive(Args, Debug)]
pub(super) struct Trace {
    /// An address, or a Message-ID
    #[arg(value_name = "ADDRESS|MESSAGE-ID")]
    what: String,
    /// Only domains of this customer and below
    #[arg(long, value_name = "PATH")]
    customer: Option<String>,
    /// How far to look back: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", default_value = "2d")]
    since: String,
    /// Most deliveries shown
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Quota { domain, customer, over, format } => {
                let call = Call::new("report.quota").maybe("domain", domain).maybe("customer", customer);
                Plan::Report { call: call.maybe("over", over), format }
            }
            Self::Usage { customer, month, format } => {
                let call = Call::new("report.usage").maybe("customer", customer).maybe("month", month);
                Plan::Report { call, format }
            }
            Self::Bill { customer, month, format } => {
                let call = Call::new("report.bill").maybe("customer", customer).maybe("month", month);
                Plan::Report { call, format }
            }
            Self::Storage { customer, format } => {
                Plan::Report { call: Call::new("report.storage").maybe("customer", customer), format }
            }
        }
    }
}

impl AuditCommand {
    pub(super) fn plan(self) -> Result<Plan, Failure> {
        Ok(match self {
            Self::Search { customer, mine, since, until, actor, operation, target, text, outcome, limit } => {
                let call = Call::new("audit.search").maybe("customer", customer).flag("mine", mine);
                let call = call.maybe("since", since).maybe("until", until).maybe("actor", actor);
                let call = call.maybe("operation", operation).maybe("target", target).maybe("text", text);
                let call = call.maybe("outcome", outcome).with("limit", limit);
                Plan::List { call, columns: AUDIT, nothing: "no records" }
            }
            Self::Verify { customer, following } => {
                let call = Call::new("audit.verify").maybe("customer", customer);
                Plan::Job { call, change: Change { dry_run: false }, following }
            }
            Self::Export { customer, mine, since, until, operation, outcome } => {
                let call = Call::new("audit.search").maybe("customer", customer).flag("mine", mine);
                let call = call.maybe("since", since).maybe("until", until).maybe("outcome", outcome);
                let call = call.maybe("operation", operation).with("limit", EXPORT_PAGE);
                Plan::Own { call, show: export }
            }
            Self::Prove { record } => {
                Plan::Own { call: Call::new("audit.prove").with("record", record), show: document }
            }
            Self::CheckProof { .. } => {
                return Err(Failure::usage("this command asks nothing of the daemon"));
            }
        })
    }
}

/// Whoever changed the trail is somebody to talk to: the exit code tells scripts of it.
pub(super) fn show_trail(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let findings = lines(answer, "findings");
    if output.is_json() {
        output.document(answer)?;
    } else {
        if !findings.is_empty() {
            output.table(FINDINGS, findings)?;
        }
        let count = |name| show(Kind::Count, member(answer, name));
        let outside = match member(answer, "verified_until") {
            None => "nothing is published yet".to_owned(),
            at => format!("compared with what was published until {}", show(Kind::Time, at)),
        };
        let (records, found, waiting) = (count("records"), count("found"), count("waiting"));
        output.line(&format!(
            "{records} records checked, {found} findings; {outside}; {waiting} not sealed yet"
        ))?;
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { partly() })
}

impl Trace {
    pub(super) fn plan(self) -> Plan {
        let Self { what, customer, since, limit } = self;
        let call = Call::new("trace.search")
            .with("query", what)
            .maybe("customer", customer)
            .with("since", since)
            .with("limit", limit);
        Plan::List { call, columns: TRACE, nothing: "no such delivery; look further back with --since 14d" }
    }
}

/// A part of a report: what its lines are, the member that names one, its columns, and its lines.
type Part<'r> = (&'static str, &'static str, &'static [Column], &'r [Value]);

/// Shows a report.
pub(super) fn report(
    client: &Client,
    output: &Output,
    call: &Call,
    format: Format,
) -> Result<ExitCode, Failure> {
    let is_quota = call.operation == "report.quota";
    let report = if is_quota { whole_report(client, call)? } else { client.run(call, false)? };
    let total = report.get("total").map(std::slice::from_ref).unwrap_or_default();
    let totals = lines(&report, "totals");
    let parts: &[Part<'_>] = match call.operation {
        "report.quota" => &[
            ("mailbox", "address", QUOTA, lines(&report, "mailboxes")),
            ("domain", "domain", QUOTA_DOMAINS, lines(&report, "domains")),
            ("customer", "customer", QUOTA_CUSTOMERS, lines(&report, "customers")),
            ("total", "", QUOTA_TOTAL, total),
        ],
        "report.usage" => &[("customer", "customer", USAGE, lines(&report, "customers"))],
        "report.bill" => {
            &[("line", "customer", BILL, lines(&report, "lines")), ("total", "", BILL_TOTALS, totals)]
        }
        _ => &[
            ("customer", "customer", STORAGE, lines(&report, "customers")),
            ("store", "store", STORAGE_STORES, lines(&report, "stores")),
        ],
    };
    let members: &[&str] = match call.operation {
        "report.quota" => &QUOTA_CSV,
        "report.usage" => &USAGE_CSV,
        "report.bill" => &BILL_CSV,
        _ => &STORAGE_CSV,
    };
    match format {
        Format::Json => output.document(&report)?,
        _ if output.is_json() => output.document(&report)?,
        Format::Csv => csv(output, parts, members)?,
        Format::Table => table(output, parts)?,
    }
    for (member, what) in [("domains_left_out", "domains"), ("customers_left_out", "customers")] {
        if let Some(count) = report.get(member) {
            note(format_args!(
                "{count} more {what} are in the sums and have no line; --customer narrows the report"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// All pages as one report; the totals stand on the first one.
fn whole_report(client: &Client, call: &Call) -> Result<Value, Failure> {
    let call = call.clone().with("limit", REPORT_PAGE_MAILBOXES);
    let mut report = client.run(&call, false)?;
    let mut mailboxes = lines(&report, "items").to_vec();
    let mut cursor = report.get("cursor").cloned();
    while let Some(at) = cursor.filter(|cursor| !cursor.is_null()) {
        let page = client.run(&call.clone().with("cursor", at), false)?;
        mailboxes.extend_from_slice(lines(&page, "items"));
        cursor = page.get("cursor").cloned();
    }
    if let Some(members) = report.as_object_mut() {
        members.remove("items");
        members.remove("cursor");
        members.insert("mailboxes".to_owned(), mailboxes.into());
    }
    Ok(report)
}

fn lines<'r>(report: &'r Value, name: &str) -> &'r [Value] {
    report.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn table(output: &Output, parts: &[Part<'_>]) -> Result<(), Failure> {
    let mut is_first = true;
    for (_, _, columns, lines) in parts {
        if lines.is_empty() {
            continue;
        }
        if !is_first {
            output.line("")?;
        }
        is_first = false;
        output.table(columns, lines)?;
    }
    if is_first {
        note("nothing to report");
    }
    Ok(())
}

/// A line for each line of all parts; the first column tells what it is, the second names it.
fn csv(output: &Output, parts: &[Part<'_>], members: &[&str]) -> Result<(), Failure> {
    output.line(&format!("kind,name,{}", members.join(",")))?;
    for (kind, name, _, lines) in parts {
        for line in *lines {
            let text = |name: &str| match member(line, name) {
                Some(Value::Null) | None => String::new(),
                value => csv_field(&show(Kind::Text, value)),
            };
            let fields: Vec<String> = members.iter().map(|member| text(member)).collect();
            output.line(&format!("{kind},{},{}", text(name), fields.join(",")))?;
        }
    }
    Ok(())
}
