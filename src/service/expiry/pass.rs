//! Warning, taking steps and taking them back.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::{Action, Step, Undo, WARNED_BEFORE, keep, kept, next_at};
use crate::base::clock::Timestamp;
use crate::base::id::CustomerId;
use crate::service::audit::{self, Event, names};
use crate::service::authority::Caller;
use crate::service::context::{Context, Identity};
use crate::service::directory::administrator_state::{AdministratorDelete, AdministratorUndelete};
use crate::service::directory::customer_life::{CustomerDelete, CustomerUndelete};
use crate::service::directory::mailbox_deletion::MailboxDelete;
use crate::service::directory::mailboxes::MailboxUndelete;
use crate::service::directory::targets::OneAdministrator;
use crate::service::error::{Result, ServiceError};
use crate::service::notices::{self, Kind, To};
use crate::service::registry::{Bound, Inner, Located, Management, Nested, Operate as _, Tx};
use crate::storage::metadata::customer::{self, TreeLock};
use crate::storage::metadata::expiry::{self, Expiring, ExpiryRow};
use crate::storage::metadata::hold::{self, HoldOn};
use crate::storage::metadata::lane::Priority;
use crate::storage::metadata::{administrator, mailbox};

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

/// What a date is about, as it is now.
struct Subject {
    place: CustomerId,
    /// In notices and in the audit trail.
    recorded: String,
    /// As it is found by name.
    name: String,
    /// See [`Located::key`].
    key: String,
    is_deleted: bool,
    deleted_by: Option<String>,
    to: To,
}

async fn subject(tx: &mut Tx<'_>, on: Expiring) -> Result<Option<Subject>> {
    let tree = Arc::clone(&tx.caller.tree);
    Ok(match on {
        Expiring::Customer(id) => {
            let Some(row) = customer::by_id(tx.conn, id).await? else { return Ok(None) };
            Some(Subject {
                place: id,
                recorded: format!("customer {}", names::customer(&tree, id)),
                name: row.code,
                key: format!("customer {id}"),
                is_deleted: row.deleted_at.is_some(),
                deleted_by: row.deleted_by,
                to: To::Customer(id),
            })
        }
        Expiring::Mailbox(id) => {
            let Some(row) = mailbox::by_id(tx.conn, id).await? else { return Ok(None) };
            Some(Subject {
                place: row.customer,
                recorded: format!("mailbox {}", row.address()),
                name: row.address(),
                key: format!("mailbox {id}"),
                is_deleted: row.deleted_at.is_some(),
                deleted_by: row.deleted_by,
                to: To::Mailbox(id),
            })
        }
        Expiring::Administrator(id) => {
            let living = administrator::by_id(tx.conn, id).await?;
            let is_deleted = living.is_none();
            let row = match living {
                Some(row) => Some(row),
                None => administrator::by_id_even_deleted(tx.conn, id).await?,
            };
            let Some(row) = row else { return Ok(None) };
            let one = OneAdministrator::new(tx, row);
            let login = names::administrator(&tree, one.row.customer, &one.login);
            Some(Subject {
                place: one.row.customer,
                recorded: format!("administrator {login}"),
                name: one.login,
                key: format!("administrator {id}"),
                is_deleted,
                deleted_by: None,
                to: To::Administrator(id),
            })
        }
    })
}

impl Subject {
    fn bound(&self) -> Bound {
        let (place, recorded, key) = (self.place, self.recorded.clone(), self.key.clone());
        Bound { on: Located { place, recorded, key }, on_behalf: None }
    }
}

fn switch(action: Action) -> &'static str {
    if action == Action::StopReceiving { "receive" } else { "login" }
}

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
    let taken = match (row.on, step.action) {
        _ if subject.is_deleted => Undo::Nothing,
        (_, Action::Delete) => delete(tx, row.on, &subject).await?,
        (Expiring::Customer(id), action) => {
            let on = HoldOn::Customer(id);
            Undo::Hold(hold::insert(tx.conn, on, (switch(action), REASON), by, tx.now).await?)
        }
        (Expiring::Mailbox(id), action) => {
            let on = HoldOn::Mailbox(id);
            Undo::Hold(hold::insert(tx.conn, on, (switch(action), REASON), by, tx.now).await?)
        }
        (Expiring::Administrator(id), _) => {
            let enabled = administrator::by_id(tx.conn, id).await?.is_some_and(|row| row.enabled);
            if enabled {
                administrator::set_enabled(tx.conn, id, false).await?;
            }
            if enabled { Undo::Enable } else { Undo::Nothing }
        }
    };
    if taken != Undo::Nothing {
        record(tx, row.on, &subject, json!({ "taken": step.action.name() })).await?;
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
    match &taken {
        Undo::Hold(id) => {
            if let Some(row) = hold::by_public_id(tx.conn, id).await? {
                hold::delete(tx.conn, &row).await?;
            }
        }
        Undo::Enable => {
            if let Expiring::Administrator(id) = row.on {
                administrator::set_enabled(tx.conn, id, true).await?;
            }
        }
        Undo::Undelete(by) => {
            let same = subject.deleted_by.as_ref().is_none_or(|other| other == by);
            if subject.is_deleted && same {
                undelete(tx, row.on, &subject).await?;
            }
        }
        Undo::Nothing => {}
    }
    row.done = row.done.saturating_sub(1);
    if taken != Undo::Nothing {
        let name = steps.get(row.done).map(|step| step.action.name());
        record(tx, row.on, &subject, json!({ "taken_back": name })).await?;
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

async fn delete(tx: &mut Tx<'_>, on: Expiring, subject: &Subject) -> Result<Undo> {
    let (operation, field) = match on {
        Expiring::Customer(_) => (Nested::of::<CustomerDelete>(), "path"),
        Expiring::Mailbox(_) => (Nested::of::<MailboxDelete>(), "address"),
        Expiring::Administrator(_) => (Nested::of::<AdministratorDelete>(), "name"),
    };
    (operation.carry_out)(tx, json!({ field: subject.name }), subject.bound()).await?;
    let by = match on {
        Expiring::Customer(id) => customer::by_id(tx.conn, id).await?.and_then(|row| row.deleted_by),
        Expiring::Mailbox(id) => mailbox::by_id(tx.conn, id).await?.and_then(|row| row.deleted_by),
        Expiring::Administrator(_) => None,
    };
    Ok(Undo::Undelete(by.unwrap_or_default()))
}

async fn undelete(tx: &mut Tx<'_>, on: Expiring, subject: &Subject) -> Result<()> {
    let (operation, field) = match on {
        Expiring::Customer(_) => (Nested::of::<CustomerUndelete>(), "path"),
        Expiring::Mailbox(_) => (Nested::of::<MailboxUndelete>(), "address"),
        Expiring::Administrator(_) => (Nested::of::<AdministratorUndelete>(), "name"),
    };
    (operation.carry_out)(tx, json!({ field: subject.name }), subject.bound()).await.map(drop)
}

async fn record(tx: &mut Tx<'_>, on: Expiring, subject: &Subject, after: serde_json::Value) -> Result<()> {
    let event = Event {
        at: tx.now,
        operation: operation(on),
        place: Some(subject.place),
        target: &subject.recorded,
        before: None,
        after: Some(after.to_string()),
        outcome: "done",
    };
    let record = audit::record(tx.caller, tx.context, event);
    Ok(crate::storage::metadata::audit::insert(tx.conn, &[record]).await?)
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
