//! Expiry dates: what happens to customers, administrators and mailboxes when their time is over.
//!
//! A date is set with steps, each with a delay: switching login off, switching receiving off, deleting. Those concerned
//! are warned 14 days before. The steps are taken in order when their time has come, and taken back, the last first,
//! when the date is moved: exactly the holds that they set are released, exactly what they deleted comes back.
//!
//! # Clocks
//! What should have happened follows from the date and the present alone. A clock that goes back a little changes
//! nothing. One that was far ahead and is corrected takes back what was done too early; deletions are soft, and what is
//! deleted in the future is not purged.
//!
//! # Authority
//! Who sets a date can do what its steps do, for customers above them; the holds belong to the customer whose authority
//! it was, and only that one or one above moves the date again. Nobody sets a date of their own.

mod effects;
mod operations;
mod pass;
mod steps;

use serde::{Deserialize, Serialize};

use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::error::{Result, ServiceError};
use crate::service::registry::Tx;
use crate::storage::metadata::expiry::{self, Expiring, ExpiryRow};

pub(in crate::service) use effects::{carry_out, record, revert, subject};
pub(in crate::service) use operations::{
    AdministratorExpire, CustomerExpire, Expiry, MailboxExpire, authority, permissions_of, shown,
};
pub use pass::ExpiryPass;
pub(in crate::service) use steps::{Action, Step, parse_steps};

/// How long before the date those concerned are warned.
const WARNED_BEFORE: std::time::Duration = std::time::Duration::from_secs(14 * 86_400);

/// What takes a step back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::service) enum Undo {
    /// Releases the hold with this public id, if it is still there.
    Hold(String),
    /// Lets the administrator in again.
    Enable,
    /// Brings back what this operation deleted.
    Undelete(String),
    /// There was nothing to do.
    Nothing,
}

/// Reads steps, or what takes them back, from the database.
///
/// # Errors
/// When it is neither.
pub(in crate::service) fn kept<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| ServiceError::Internal(format!("steps that were kept: {error}")))
}

/// The form in the database.
///
/// # Errors
/// Never, for steps and what takes them back.
pub(in crate::service) fn keep(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| ServiceError::Internal(error.to_string()))
}

/// When there is something to do for a date next: the warning, then each step.
fn next_at(row: &ExpiryRow) -> Result<Option<Timestamp>> {
    if !row.warned && row.done == 0 {
        return Ok(Some(row.expires_at.minus(WARNED_BEFORE)));
    }
    let steps: Vec<Step> = kept(&row.steps)?;
    Ok(steps.get(row.done).map(|step| row.expires_at.plus(step.delay())))
}

/// Sets a date that there was not before, in the transaction that makes the object.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn begin(
    tx: &mut Tx<'_>,
    on: Expiring,
    (expires_at, steps): (Timestamp, &[Step]),
    authority: CustomerId,
) -> Result<()> {
    let mut row = ExpiryRow {
        on,
        expires_at,
        steps: keep(&steps)?,
        actor: tx.caller.name(),
        authority,
        warned: false,
        done: 0,
        undo: "[]".to_owned(),
        next_at: None,
        last_due: None,
    };
    row.next_at = next_at(&row)?;
    Ok(expiry::put(tx.conn, &row).await?)
}
