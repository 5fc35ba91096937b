//! `posthouse spending …`

use clap::Subcommand;
use serde_json::Value;

use super::client::Call;
use super::output::{Column, columns};
use super::plan::{Change, Plan};

const LIMITS: &[Column] = columns![
    "CUSTOMER" "customer" Text, "AMOUNT" "amount" Count, "CURRENCY" "currency" Text, "MONTH" "month" Text,
    "SPENT" "spent" Count, "PERCENT" "percent" Percent, "REACHED" "reached_at" Time, "THEN" "on_limit" List,
    "STEPS TAKEN" "taken" Count
];

/// What customers may spend in a month, in minor units of a currency such as cents
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Say what a customer may spend in a month
    Set {
        /// The customer's path
        path: String,
        /// The amount; none takes the limit away, and back what it led to
        amount: String,
        /// The currency, such as EUR; that of the customer's prices if none is given
        #[arg(long)]
        currency: Option<String>,
        /// What happens when all is spent, in order, with a delay if it has one:
        /// disable-login,stop-receiving+7d,delete+10d; none just warns
        #[arg(long, value_name = "STEPS", value_delimiter = ',')]
        on_limit: Vec<String>,
        #[command(flatten)]
        change: Change,
    },
    /// List limits, and what is spent
    List {
        /// At this customer and those below
        #[arg(long, value_name = "PATH")]
        customer: Option<String>,
    },
}

impl Command {
    pub(super) fn plan(self) -> Result<Plan, super::failure::Failure> {
        Ok(match self {
            Self::Set { path, amount, currency, on_limit, change } => {
                let amount = match amount.as_str() {
                    "none" => Value::Null,
                    text => text.parse::<i64>().map(Value::from).map_err(|_| {
                        super::failure::Failure::usage("an amount is a number of minor units, or none")
                    })?,
                };
                let done = match &amount {
                    Value::Null => format!("{path} may spend what it likes"),
                    amount => format!("{path} may spend {amount} a month"),
                };
                let call = Call::new("spending.set").with("path", path).with("amount", amount);
                let call = call.maybe("currency", currency);
                let call = if on_limit.is_empty() { call } else { call.with("on_limit", on_limit) };
                Plan::Change { call, change, done, columns: &[] }
            }
            Self::List { customer } => {
                let call = Call::new("spending.list").maybe("customer", customer);
                Plan::List { call, columns: LIMITS, nothing: "no limits are set" }
            }
        })
    }
}
