//! `posthouse price …`

use clap::Subcommand;

use super::client::Call;
use super::output::{Column, columns};
use super::plan::{Change, Plan};

const LISTS: &[Column] = columns![
    "CUSTOMER" "customer" Text, "FROM" "from" Text, "CURRENCY" "currency" Text, "GIB MONTH" "gib_month" Count,
    "MAILBOX MONTH" "mailbox_month" Count, "1,000 MESSAGES" "messages_1000" Count
];
const SHEET: &[Column] = columns![
    "Month" "month" Text, "Set at" "prices.customer" Text, "From" "prices.from" Text,
    "Currency" "prices.currency" Text, "A GiB for a month" "prices.gib_month" Count,
    "A mailbox for a month" "prices.mailbox_month" Count,
    "A thousand messages received" "prices.messages_1000" Count
];

/// Prices, in minor units of a currency such as cents
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Set the prices of a customer and those below it from a month on
    Set {
        /// The customer's path
        path: String,
        /// From which month on, such as 2026-12
        #[arg(long, value_name = "MONTH")]
        from: String,
        /// The currency, such as EUR
        #[arg(long)]
        currency: String,
        /// A GiB for a month
        #[arg(long, value_name = "PRICE", default_value_t = 0)]
        gib_month: u64,
        /// A mailbox for a month
        #[arg(long, value_name = "PRICE", default_value_t = 0)]
        mailbox_month: u64,
        /// A thousand messages received
        #[arg(long, value_name = "PRICE", default_value_t = 0)]
        messages: u64,
        #[command(flatten)]
        change: Change,
    },
    /// Show the prices that hold for a customer
    Show {
        /// Its path
        path: String,
        /// In which month; the present one if none is given
        #[arg(long, value_name = "MONTH")]
        month: Option<String>,
    },
    /// List the prices that are set at customers, the newest first
    List {
        /// At this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
}

impl Command {
    pub(super) fn plan(self) -> Plan {
        match self {
            Self::Set { path, from, currency, gib_month, mailbox_month, messages, change } => {
                let call = Call::new("price.set").with("path", path.clone()).with("from", from);
                let call = call.with("currency", currency).with("gib_month", gib_month);
                let call = call.with("mailbox_month", mailbox_month).with("messages_1000", messages);
                Plan::Change { call, change, done: format!("prices of {path} set"), columns: &[] }
            }
            Self::Show { path, month } => {
                let call = Call::new("price.show").with("path", path).maybe("month", month);
                Plan::Show { call, columns: SHEET }
            }
            Self::List { customer } => {
                let call = Call::new("price.list").maybe("customer", customer);
                Plan::List { call, columns: LISTS, nothing: "no prices are set" }
            }
        }
    }
}
