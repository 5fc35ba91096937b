//! What steps do, and how exactly that is taken back: for expiry dates, and for spending limits.

use std::sync::Arc;

use serde_json::json;

use super::{Action, Undo};
use crate::base::id::CustomerId;
use crate::service::audit::{self, Event, names};
use crate::service::directory::administrator_state::{AdministratorDelete, AdministratorUndelete};
use crate::service::directory::customer_life::{CustomerDelete, CustomerUndelete};
use crate::service::directory::mailbox_deletion::MailboxDelete;
use crate::service::directory::mailboxes::MailboxUndelete;
use crate::service::directory::targets::OneAdministrator;
use crate::service::error::Result;
use crate::service::notices::To;
use crate::service::registry::{Bound, Located, Nested, Tx};
use crate::storage::metadata::expiry::Expiring;
use crate::storage::metadata::hold::{self, HoldOn};
use crate::storage::metadata::{administrator, customer, mailbox};

/// What steps are about, as it is now.
pub(in crate::service) struct Subject {
    on: Expiring,
    place: CustomerId,
    /// In notices and in the audit trail.
    pub recorded: String,
    /// As it is found by name.
    name: String,
    /// See [`Located::key`].
    key: String,
    pub is_deleted: bool,
    deleted_by: Option<String>,
    pub to: To,
}

/// Finds it; nothing when it was purged.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn subject(tx: &mut Tx<'_>, on: Expiring) -> Result<Option<Subject>> {
    let tree = Arc::clone(&tx.caller.tree);
    Ok(match on {
        Expiring::Customer(id) => {
            let Some(row) = customer::by_id(tx.conn, id).await? else { return Ok(None) };
            Some(Subject {
                on,
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
                on,
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
                on,
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

/// Does what a step does to what is not deleted yet; answers what takes it back. Holds have this reason and
/// are `by` who set them.
///
/// # Errors
/// When it cannot be done, or the database fails.
pub(in crate::service) async fn carry_out(
    tx: &mut Tx<'_>,
    subject: &Subject,
    action: Action,
    reason: &str,
    by: (&str, CustomerId),
) -> Result<Undo> {
    let held = (switch(action), reason);
    Ok(match (subject.on, action) {
        _ if subject.is_deleted => Undo::Nothing,
        (_, Action::Delete) => delete(tx, subject).await?,
        (Expiring::Customer(id), _) => {
            Undo::Hold(hold::insert(tx.conn, HoldOn::Customer(id), held, by, tx.now).await?)
        }
        (Expiring::Mailbox(id), _) => {
            Undo::Hold(hold::insert(tx.conn, HoldOn::Mailbox(id), held, by, tx.now).await?)
        }
        (Expiring::Administrator(id), _) => {
            let enabled = administrator::by_id(tx.conn, id).await?.is_some_and(|row| row.enabled);
            if enabled {
                administrator::set_enabled(tx.conn, id, false).await?;
            }
            if enabled { Undo::Enable } else { Undo::Nothing }
        }
    })
}

/// Takes back exactly what a step did, as far as it is still there.
///
/// # Errors
/// When it cannot be done, or the database fails.
pub(in crate::service) async fn revert(tx: &mut Tx<'_>, subject: &Subject, taken: &Undo) -> Result<()> {
    match taken {
        Undo::Hold(id) => {
            if let Some(row) = hold::by_public_id(tx.conn, id).await? {
                hold::delete(tx.conn, &row).await?;
            }
        }
        Undo::Enable => {
            if let Expiring::Administrator(id) = subject.on {
                administrator::set_enabled(tx.conn, id, true).await?;
            }
        }
        Undo::Undelete(by) => {
            let same = subject.deleted_by.as_ref().is_none_or(|other| other == by);
            if subject.is_deleted && same {
                undelete(tx, subject).await?;
            }
        }
        Undo::Nothing => {}
    }
    Ok(())
}

async fn delete(tx: &mut Tx<'_>, subject: &Subject) -> Result<Undo> {
    let (operation, field) = match subject.on {
        Expiring::Customer(_) => (Nested::of::<CustomerDelete>(), "path"),
        Expiring::Mailbox(_) => (Nested::of::<MailboxDelete>(), "address"),
        Expiring::Administrator(_) => (Nested::of::<AdministratorDelete>(), "name"),
    };
    (operation.carry_out)(tx, json!({ field: subject.name }), subject.bound()).await?;
    let by = match subject.on {
        Expiring::Customer(id) => customer::by_id(tx.conn, id).await?.and_then(|row| row.deleted_by),
        Expiring::Mailbox(id) => mailbox::by_id(tx.conn, id).await?.and_then(|row| row.deleted_by),
        Expiring::Administrator(_) => None,
    };
    Ok(Undo::Undelete(by.unwrap_or_default()))
}

async fn undelete(tx: &mut Tx<'_>, subject: &Subject) -> Result<()> {
    let (operation, field) = match subject.on {
        Expiring::Customer(_) => (Nested::of::<CustomerUndelete>(), "path"),
        Expiring::Mailbox(_) => (Nested::of::<MailboxUndelete>(), "address"),
        Expiring::Administrator(_) => (Nested::of::<AdministratorUndelete>(), "name"),
    };
    (operation.carry_out)(tx, json!({ field: subject.name }), subject.bound()).await.map(drop)
}

/// Records that a step was taken, or taken back, under the operation that asked for it.
///
/// # Errors
/// When the database fails.
pub(in crate::service) async fn record(
    tx: &mut Tx<'_>,
    operation: &'static str,
    subject: &Subject,
    after: serde_json::Value,
) -> Result<()> {
    let event = Event {
        at: tx.now,
        operation,
        place: Some(subject.place),
        target: &subject.recorded,
        before: None,
        after: Some(after.to_string()),
        outcome: "done",
    };
    let record = audit::record(tx.caller, tx.context, event);
    Ok(crate::storage::metadata::audit::insert(tx.conn, &[record]).await?)
}
