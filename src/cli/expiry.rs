//! `… expire`, which customers, mailboxes and administrators have alike.

use clap::Args;
use serde_json::Value;

use super::client::Call;
use super::output::{Column, columns};
use super::plan::{Change, Plan};

const SHEET: &[Column] = columns!["Expires" "expiry.expires_at" Time, "Then" "expiry.on_expiry" List];

#[derive(Args, Debug)]
pub(super) struct Expire {
    /// Its path, address or name
    name: String,
    /// When: RFC 3339, or a time from now such as 90d; none takes the date away, and back what it led to
    time: String,
    /// What happens then, in order, with a delay if it has one: disable-login,stop-receiving+7d,delete+30d
    #[arg(long, value_name = "STEPS", value_delimiter = ',')]
    on_expiry: Vec<String>,
    #[command(flatten)]
    change: Change,
}

impl Expire {
    pub(super) fn plan(self, operation: &'static str, field: &'static str) -> Plan {
        let Self { name, time, on_expiry, change } = self;
        let never = time.eq_ignore_ascii_case("none");
        let done = if never { format!("{name} does not expire") } else { format!("{name} expires: {time}") };
        let call = Call::new(operation).with(field, name);
        let call = call.with("expires_at", if never { Value::Null } else { time.into() });
        let call = if on_expiry.is_empty() { call } else { call.with("on_expiry", on_expiry) };
        Plan::Change { call, change, done, columns: SHEET }
    }
}
