//! `posthouse whoami`, `session …`, `server …`, `quota …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::Value;

use super::client::{Call, Client};
use super::failure::Failure;
use super::job::Follow;
use super::output::{Column, Kind, Output, clean, columns, member, note, show};
use super::plan::{Change, Destruction, Plan, partly};

const ME: &[Column] = columns!["Name" "name" Text, "Authenticated by" "authenticated" Text];
const GRANT: &[Column] = columns![
    "At" "customer" Text, "May pass on" "delegable" Truth, "Ends" "expires_at" Time, "Permissions" "permissions" List
];
const IN_ZONE: &[Column] = columns![
    "In zone" "zone" Text, "May pass on" "delegable" Truth, "Ends" "expires_at" Time, "Permissions" "permissions" List
];
const SESSIONS: &[Column] = columns![
    "ID" "id" Text, "MAILBOX" "address" Text, "OPENED BY" "administrator" Text, "SERVICE" "service" Text,
    "SOURCE" "source" Text, "SINCE" "started_at" Time
];
const CLOSED: &[Column] = columns!["Sessions" "closed" Count];
const DRIFTS: &[Column] = columns![
    "KIND" "kind" Text, "NAME" "name" Text, "RESOURCE" "resource" Text, "RECORDED" "recorded" Count,
    "COUNTED" "counted" Count
];

/// Mail sessions that are open now
#[derive(Subcommand, Debug)]
pub(super) enum SessionCommand {
    /// List open sessions
    List {
        /// Of this mailbox
        #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["domain", "customer"])]
        mailbox: Option<String>,
        /// Of this domain
        #[arg(long, conflicts_with = "customer")]
        domain: Option<String>,
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
    /// Close a session, or all of a mailbox
    Close {
        /// The session's id, or the mailbox's address
        #[arg(value_name = "ID|ADDRESS")]
        what: String,
        #[command(flatten)]
        destruction: Destruction,
    },
}

/// Quota accounting
#[derive(Subcommand, Debug)]
pub(super) enum QuotaCommand {
    /// Recount everything while mail flows, and compare with what is accounted
    Verify {
        /// Of this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
        /// Set what is accounted to what was counted
        #[arg(long)]
        repair: bool,
        #[command(flatten)]
        change: Change,
        #[command(flatten)]
        following: Follow,
    },
}

/// `posthouse whoami`
pub(super) fn whoami() -> Plan {
    Plan::Own { call: Call::new("whoami"), show: show_identity }
}

fn show_identity(client: &Client, output: &Output, call: &Call) -> Result<ExitCode, Failure> {
    let answer = client.run(call, false)?;
    if output.is_json() {
        output.document(&answer)?;
        return Ok(ExitCode::SUCCESS);
    }
    output.sheet(ME, &answer)?;
    let list = |name: &str| answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let (grants, zones) = (list("grants"), list("zones"));
    let at = grants.iter().map(|grant| (GRANT, grant)).chain(zones.iter().map(|zone| (IN_ZONE, zone)));
    for (columns, grant) in at {
        output.line("")?;
        output.sheet(columns, grant)?;
    }
    if grants.is_empty() && zones.is_empty() {
        note("no grants");
    }
    tell_notices(&answer);
    Ok(ExitCode::SUCCESS)
}

/// Says what has not been read, on standard error: it is not what was asked for.
fn tell_notices(answer: &Value) {
    let count = member(answer, "notices.count").and_then(Value::as_i64).unwrap_or_default();
    let newest = member(answer, "notices.newest").and_then(Value::as_array);
    if count == 0 {
        return;
    }
    note(format!("{count} unread: posthouse notice list --unread"));
    for notice in newest.into_iter().flatten() {
        note(format!("  {}  {}", shown(notice, "at"), shown(notice, "subject")));
    }
}

fn shown(object: &Value, name: &str) -> String {
    clean(member(object, name).and_then(Value::as_str).unwrap_or_default())
}

impl SessionCommand {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::List { mailbox, domain, customer } => {
                let call = Call::new("session.list").maybe("address", mailbox).maybe("domain", domain);
                let call = call.maybe("customer", customer);
                Plan::List { call, columns: SESSIONS, nothing: "no sessions" }
            }
            Self::Close { what, destruction } => {
                let field = if what.contains('@') { "address" } else { "id" };
                let call = Call::new("session.close").with(field, what.clone());
                let question = format!("Close the sessions of {what}?");
                let done = format!("sessions of {what} closed");
                Plan::Destroy { call, destruction, effects: CLOSED, question, done }
            }
        }
    }
}

impl QuotaCommand {
    pub(super) fn plan(self) -> Plan {
        let Self::Verify { customer, repair, change, following } = self;
        // Counting without repair is what a dry run of it is.
        let call = Call::new("quota.verify").maybe("customer", customer);
        let call = call.flag("repair", repair && !change.dry_run);
        let change = Change { dry_run: false };
        Plan::Job { call, change, following }
    }
}

/// Drift is a defect: the exit code tells scripts of it.
pub(super) fn show_drift(output: &Output, answer: &Value) -> Result<ExitCode, Failure> {
    let drifts = answer.get("drifts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if output.is_json() {
        output.document(answer)?;
    } else if drifts.is_empty() {
        let counted = show(Kind::Count, member(answer, "mailboxes"));
        output.line(&format!("{counted} mailboxes counted, no drift"))?;
    } else {
        output.table(DRIFTS, drifts)?;
    }
    Ok(if drifts.is_empty() { ExitCode::SUCCESS } else { partly() })
}
