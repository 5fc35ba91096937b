//! `posthouse report …`, `posthouse audit …`, `posthouse trace …`

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::Failure;
use super::output::{Column, Output, columns, csv_field, member, show};
use super::plan::Plan;

/// Quota of mailboxes, and the totals of domains and customers.
const QUOTA: &[Column] = columns![
    "ADDRESS" "address" Text, "USED" "bytes_used" Size, "LIMIT" "bytes_max" Size, "%" "percent" Percent,
    "MESSAGES" "messages" Count, "LAST LOGIN" "last_login_at" Time
];
const QUOTA_DOMAINS: &[Column] = columns![
    "DOMAIN" "domain" Text, "USED" "bytes_used" Size, "LIMIT" "bytes_max" Size, "%" "percent" Percent,
    "MESSAGES" "messages" Count, "MAILBOXES" "mailboxes" Count
];
const QUOTA_CUSTOMERS: &[Column] = columns![
    "CUSTOMER" "customer" Text, "USED" "bytes_used" Size, "LIMIT" "bytes_max" Size, "%" "percent" Percent,
    "MESSAGES" "messages" Count, "MAILBOXES" "mailboxes" Count
];
/// Columns of the CSV form: kind, name, then these members as they are.
const QUOTA_CSV: [&str; 7] =
    ["bytes_used", "bytes_max", "percent", "messages", "messages_max", "mailboxes", "last_login_at"];

const AUDIT: &[Column] = columns![
    "TIME" "at" Time, "ACTOR" "actor" Text, "OPERATION" "operation" Text, "TARGET" "target" Text,
    "OUTCOME" "outcome" Text
];
const TRACE: &[Column] = columns![
    "TIME" "at" Time, "RECIPIENT" "recipient" Text, "SENDER" "sender" Text, "SIZE" "octets" Size,
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
        #[arg(long, required_unless_present = "customer", conflicts_with = "customer")]
        domain: Option<String>,
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Only mailboxes that use more than this part of their limit
        #[arg(long, value_name = "PERCENT")]
        over: Option<u32>,
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
}

/// Where is my mail
#[derive(Args, Debug)]
pub(super) struct Trace {
    /// An address, or a Message-ID
    #[arg(value_name = "ADDRESS|MESSAGE-ID")]
    what: String,
    /// How far to look back: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", default_value = "2d")]
    since: String,
    /// Most deliveries shown
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        let Self::Quota { domain, customer, over, format } = self;
        let call = Call::new("report.quota").maybe("domain", domain).maybe("customer", customer);
        Plan::Report { call: call.maybe("over", over), format }
    }
}

impl AuditCommand {
    pub(super) fn plan(self) -> Plan {
        let Self::Search { customer, mine, since, until, actor, operation, target, text, outcome, limit } =
            self;
        let call = Call::new("audit.search").maybe("customer", customer).flag("mine", mine);
        let call = call.maybe("since", since).maybe("until", until).maybe("actor", actor);
        let call = call.maybe("operation", operation).maybe("target", target).maybe("text", text);
        let call = call.maybe("outcome", outcome).with("limit", limit);
        Plan::List { call, columns: AUDIT, nothing: "no records" }
    }
}

impl Trace {
    pub(super) fn plan(self) -> Plan {
        let Self { what, since, limit } = self;
        let is_message_id = what.starts_with('<');
        let field = if is_message_id { "message_id" } else { "address" };
        let call = Call::new("trace").with(field, what).with("since", since).with("limit", limit);
        Plan::List { call, columns: TRACE, nothing: "no such delivery; look further back with --since 14d" }
    }
}

/// Shows the quota report.
pub(super) fn quota(
    client: &Client,
    output: &Output,
    call: &Call,
    format: Format,
) -> Result<ExitCode, Failure> {
    let report = client.run(call, false)?;
    match format {
        Format::Json => output.document(&report)?,
        _ if output.is_json() => output.document(&report)?,
        Format::Csv => csv(output, &report)?,
        Format::Table => table(output, &report)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn lines<'r>(report: &'r Value, name: &str) -> &'r [Value] {
    report.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn table(output: &Output, report: &Value) -> Result<(), Failure> {
    let mut is_first = true;
    for (columns, name) in [(QUOTA, "mailboxes"), (QUOTA_DOMAINS, "domains"), (QUOTA_CUSTOMERS, "customers")]
    {
        let lines = lines(report, name);
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
        eprintln!("nothing to report");
    }
    Ok(())
}

/// One line for each mailbox, domain and customer; the first column tells which it is.
fn csv(output: &Output, report: &Value) -> Result<(), Failure> {
    output.line(&format!("kind,name,{}", QUOTA_CSV.join(",")))?;
    for (kind, list) in [("mailbox", "mailboxes"), ("domain", "domains"), ("customer", "customers")] {
        let name_member = if kind == "mailbox" { "address" } else { kind };
        for line in lines(report, list) {
            let text = |name: &str| match member(line, name) {
                Some(Value::Null) | None => String::new(),
                value => csv_field(&show(super::output::Kind::Text, value)),
            };
            let fields: Vec<String> = QUOTA_CSV.into_iter().map(text).collect();
            output.line(&format!("{kind},{},{}", text(name_member), fields.join(",")))?;
        }
    }
    Ok(())
}
