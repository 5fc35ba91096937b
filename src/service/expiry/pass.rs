//! Warning, taking steps and taking them back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::effects::{carry_out, record, revert, subject};
use super::{Step, Undo, WARNED_BEFORE, keep, kept, next_at};
use crate::base::clock::Timestamp;
use crate::service::authority::Caller;
use crate::service::context::{Context, Identity};
use crate::service::error::{Result, ServiceError};
use crate::service::notices::{self, Kind};
use crate::service::registry::{Inner, Management, Operate as _, Tx};
use crate::storage::metadata::customer::TreeLock;
use crate::storage::metadata::expiry::{self, Expiring, ExpiryRow};
use crate::storage::metadata::lane::Priority;

/// How often it looks: running sessions end within a second of the date.
const INTERVAL: Duration = Duration::from_millis(500);
/// How far the clock must have been ahead for a step to be taken back.
const TOLERANCE: Duration = Duration::from_secs(60 * 60);
/// Until a step that could not be taken is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(60 * 60);
/// The reason of the holds.
const REASON: &str = "expired";
/// Rounds of one pass: each date may have a warning and every step due.
const ROUNDS_MAX: usize = 64;

fn operation(on: Expiring) -> &'static str {
    match on {
        Expiring::Customer(_) => super::CustomerExpire::NAME,
        Expiring::Mailbox(_) => super::MailboxExpire::NAME,
        Expiring::Administrator(_) => super::AdministratorExpire::NAME,
    }
}

/// Takes the next step of a date.
async fn take(tx: &mut Tx<'_>, row: &mut ExpiryRow) -> Result<()> {
    let steps: Vec<Step> = kept(&row.steps)?;
    let mut undo: Vec<Undo> = kept(&row.undo)?;
    let Some(step) = steps.get(row.done).copied() else { return Ok(()) };
    let Some(subject) = subject(tx, row.on).await? else {
        return Ok(expiry::remove(tx.conn, row.on).await?);
    };
    let by = (row.actor.as_str(), row.authority);
    let taken = carry_out(tx, &subject, step.action, REASON, by).await?;
    if taken != Undo::Nothing {
        record(tx, operation(row.on), &subject, json!({ "taken": step.action.name() })).await?;
        let subject_line = format!("{} has expired: {}", subject.recorded, step.action.name());
        let text = format!(
            "The time of {} was over on {}. What was chosen for this was done: {}.\n\n\
             It is taken back when the date is moved.",
            subject.recorded,
            row.expires_at,
            step.action.name()
        );
        notices::give(tx.conn, subject.to, Kind::Expiry, (&subject_line, &text), tx.now).await?;
    }
    undo.push(taken);
    row.done += 1;
    row.warned = true;
    store(tx, row, &steps, &undo).await
}

/// Takes the last step of a date back: exactly what it did.
pub(super) async fn take_back(tx: &mut Tx<'_>, row: &mut ExpiryRow) -> Result<()> {
    let steps: Vec<Step> = kept(&row.steps)?;
    let mut undo: Vec<Undo> = kept(&row.undo)?;
    let (Some(taken), Some(subject)) = (undo.pop(), subject(tx, row.on).await?) else {
        row.done = 0;
        return store(tx, row, &steps, &undo).await;
    };
    revert(tx, &subject, &taken).await?;
    row.done = row.done.saturating_sub(1);
    if taken != Undo::Nothing {
        let name = steps.get(row.done).map(|step| step.action.name());
        record(tx, operation(row.on), &subject, json!({ "taken_back": name })).await?;
    }
    store(tx, row, &steps, &undo).await
}

async fn store(tx: &mut Tx<'_>, row: &mut ExpiryRow, steps: &[Step], undo: &[Undo]) -> Result<()> {
    row.undo = keep(&undo)?;
    row.next_at = next_at(row)?;
    let last = row.done.checked_sub(1).and_then(|last| steps.get(last));
    row.last_due = last.map(|step| row.expires_at.plus(step.delay()));
    Ok(expiry::put(tx.conn, row).await?)
}

async fn warn(tx: &mut Tx<'_>, row: &mut ExpiryRow) -> Result<()> {
    let steps: Vec<Step> = kept(&row.steps)?;
    let undo: Vec<Undo> = kept(&row.undo)?;
    let Some(subject) = subject(tx, row.on).await? else {
        return Ok(expiry::remove(tx.conn, row.on).await?);
    };
    let subject_line = format!("{} expires on {}", subject.recorded, row.expires_at);
    let mut text = format!("The time of {} is over on {}. Then:\n\n", subject.recorded, row.expires_at);
    for step in &steps {
        let at = row.expires_at.plus(step.delay());
        text.push_str(&format!("    {at}  {}\n", step.action.name()));
    }
    text.push_str("\nWho has set the date can move it.");
    if !subject.is_deleted {
        notices::give(tx.conn, subject.to, Kind::ExpiryWarning, (&subject_line, &text), tx.now).await?;
    }
    row.warned = true;
    store(tx, row, &steps, &undo).await
}

/// Does what dates have come for, in the background.
pub struct ExpiryPass {
    inner: Arc<Inner>,
}

impl ExpiryPass {
    /// For the dates of this management.
    pub fn new(management: &Management) -> Self {
        Self { inner: Arc::clone(&management.inner) }
    }

    /// Looks at regular intervals; never ends by itself and may be dropped at any time.
    pub async fn run(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if let Err(error) = self.pass().await {
                tracing::warn!(%error, "expiry dates could not be looked at; it is tried again");
            }
        }
    }

    /// Does everything that is due; answers how many warnings, steps and steps back there were.
    ///
    /// # Errors
    /// When the database fails; what was done before stays so.
    pub async fn pass(&self) -> Result<u64> {
        let mut done = 0;
        for _ in 0..ROUNDS_MAX {
            let now = self.inner.clock.now();
            let due = self.inner.database.read(move |conn| {
                Box::pin(
                    async move { Ok::<_, ServiceError>(expiry::due(conn, now, now.plus(TOLERANCE)).await?) },
                )
            });
            let due = due.await?;
            if due.is_empty() {
                break;
            }
            for row in due {
                match self.one(row.on, now, false).await {
                    Ok(()) => done += 1,
                    Err(error) => {
                        tracing::warn!(%error, on = ?row.on, "an expiry date could not be followed");
                        self.one(row.on, now, true).await?;
                    }
                }
            }
        }
        Ok(done)
    }

    /// Does the next thing about one date; with `later` notes only that it could not be done.
    async fn one(&self, on: Expiring, now: Timestamp, later: bool) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        self.inner
            .database
            .write(Priority::Interactive, move |conn| {
                let inner = Arc::clone(&inner);
                Box::pin(async move {
                    let tree = inner.authority.tree(conn, TreeLock::Exclusive).await?;
                    let Some(mut row) = expiry::of(conn, on).await? else { return Ok(()) };
                    let is_early = row.last_due.is_some_and(|due| due > now.plus(TOLERANCE));
                    if later {
                        row.next_at = Some(now.plus(RETRY_AFTER)).filter(|_| !is_early);
                        row.last_due = row.last_due.filter(|_| !is_early);
                        return Ok(expiry::put(conn, &row).await?);
                    }
                    let caller = Caller::read(conn, tree, Identity::System, now).await?;
                    let context = Context::of_schedule();
                    let mut tx = Tx::new(conn, &inner, &caller, &context, now);
                    if is_early {
                        take_back(&mut tx, &mut row).await?;
                        if now < row.expires_at.minus(WARNED_BEFORE) && row.done == 0 {
                            row.warned = false;
                            row.next_at = next_at(&row)?;
                            expiry::put(tx.conn, &row).await?;
                        }
                    } else if row.next_at.is_none_or(|at| at > now) {
                        // Somebody else was first.
                    } else if !row.warned && row.done == 0 {
                        warn(&mut tx, &mut row).await?;
                    } else {
                        take(&mut tx, &mut row).await?;
                    }
                    Ok::<_, ServiceError>(())
                })
            })
            .await
    }
}
